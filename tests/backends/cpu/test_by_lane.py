"""Multiply-adds by lane: kernels with the tiles of ARM cores give the right sums, and their loops hold what they should.

Tiles are right or wrong whatever they are compiled for, so sums are computed by code for this machine.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.backends.base.caps import Caps
from graphopt.backends.cpu.attention import lane_steps
from graphopt.backends.cpu.cost import direct, strassen, winograd
from graphopt.backends.cpu.kernels import (
    conv2d_direct,
    conv2d_winograd,
    grouped_pointwise,
    matmul_batched,
    matmul_packed,
    patch_upsample,
    pinned,
    strassen_operands,
)
from graphopt.backends.cpu.kernels.attention import AttentionConfig
from graphopt.backends.cpu.kernels.matmul_batched import BatchedSpec
from graphopt.backends.cpu.kernels.tiling import register_tiles
from graphopt.backends.specs.attention import AttentionSpec
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.matmul import MatmulSpec
from graphopt.backends.specs.types import SINGLE
from graphopt.backends.targets.grammar import parse_target
from tests.backends.cpu import (
    test_attention,
    test_conv2d_direct,
    test_conv2d_winograd,
    test_conv_transpose,
    test_grouped,
    test_matmul_batched,
    test_matmul_packed,
    test_recurrent,
)
from tests.support import assembly, recurrent
from tests.support.conv_kernels import inputs_of, oracle

HERE = "x86-64-v2"
CORES = ("arm:neoverse-n1", "arm:cortex-a55")
MOSTLY_ONE = ("arm:neoverse-n1", pytest.param("arm:cortex-a55", marks=pytest.mark.slow))
"""Both cores, the second one in slow runs only: their tiles differ in size."""


@pytest.fixture
def registers_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps vectors in ARM's registers keeps them in those of x86."""
    monkeypatch.setattr(pinned, "REGISTERS", "x")


def caps_of(core: str) -> Caps:
    return parse_target(core, 1).caps


@pytest.mark.usefixtures("registers_of_this_machine")
@pytest.mark.parametrize("core", MOSTLY_ONE)
@pytest.mark.parametrize("name", test_conv2d_direct.SPECS)
@pytest.mark.few(12)
def test_direct_convolutions(name: str, core: str) -> None:
    spec = test_conv2d_direct.SPECS[name]
    config = direct.default_config(spec, caps_of(core))
    x, weight = inputs_of(spec)
    got = test_conv2d_direct.run(spec, HERE, x, weight, config=config)
    test_conv2d_direct.assert_close(got, oracle(x, weight, spec), spec.reduction)


@pytest.mark.usefixtures("registers_of_this_machine")
@pytest.mark.parametrize("size", [(11, 30), (1, 1), (2, 3), (40, 9)])
@pytest.mark.parametrize("block", [1, 8])
def test_direct_convolutions_of_open_planes(block: int, size: tuple[int, int]) -> None:
    spec = test_conv2d_direct.spec_of(
        8, size, 24, (3, 3), strides=(1, 2), pads=(1, 1, 1, 1), in_block=block, out_block=8
    )
    height, width = (conv2d_direct.tirx.Var(name, "int64") for name in "hw")
    open_spec = replace(spec, in_height=height, in_width=width)
    config = direct.default_config(open_spec, caps_of("arm:neoverse-n1"))
    assert config.by_lane == 4
    x, weight = inputs_of(spec)
    module = test_conv2d_direct.build(conv2d_direct.emit(open_spec, config, name="conv"), HERE)
    out = test_conv2d_direct.tvm.runtime.tensor(np.full(spec.output_shape, np.nan, np.float32))
    packed = test_conv2d_direct.tile.packing(open_spec, config)(weight)
    arrays = (test_conv2d_direct.to_physical(x, block), packed)
    module["conv"](*(test_conv2d_direct.tvm.runtime.tensor(a) for a in arrays), out)
    got = test_conv2d_direct.to_logical(out.numpy(), 8)
    test_conv2d_direct.assert_close(got, oracle(x, weight, spec), spec.reduction)


@pytest.mark.usefixtures("registers_of_this_machine")
@pytest.mark.parametrize("name", test_conv2d_winograd.SPECS)
@pytest.mark.parametrize("raw", [False, True], ids=["stored", "raw"])
def test_winograd_convolutions(name: str, raw: bool) -> None:
    spec, caps = test_conv2d_winograd.SPECS[name], caps_of("arm:neoverse-n1")
    choices = [c for c in winograd.configurations(spec, caps) if bool(c.depth) is raw]
    if not choices:
        pytest.skip("no such configuration of this shape")
    config = min(choices, key=lambda c: winograd.predicted_cycles(spec, c, caps))
    assert config.by_lane == 4
    x, weight = inputs_of(spec)
    got = test_conv2d_winograd.run(spec, HERE, x, weight, config)
    assert test_conv2d_winograd.error(got, oracle(x, weight, spec)) < test_conv2d_winograd.BOUND[config.m]


@pytest.mark.parametrize("core", MOSTLY_ONE)
@pytest.mark.parametrize("shape", [*test_matmul_packed.SHAPES, (6, 40, 3), (9, 33, 6), (1, 64, 5)], ids=str)
def test_products_with_constants(shape: tuple[int, int, int], core: str) -> None:
    spec = MatmulSpec(*shape)
    config = matmul_packed.default_config(spec, caps_of(core))
    assert config.by_lane == 4
    a, b = test_matmul_packed.inputs_of(*shape)
    got = test_matmul_packed.Compiled(spec, HERE, config)(a, b)
    test_matmul_packed.assert_close(got, a.astype(np.float64) @ b, shape[2])


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shape", test_matmul_batched.SHAPES, ids=str)
def test_batched_products(shape: tuple[int, int, int], turned: bool) -> None:
    spec = BatchedSpec((2,), (2,), (2,), *shape, turned, not turned)
    config = matmul_batched.default_batched(spec, caps_of("arm:neoverse-n1"))
    assert config.product.by_lane == (1 if turned else 4)
    a, b = test_matmul_batched.noise(*spec.a_shape), test_matmul_batched.noise(*spec.b_shape, seed=1)
    left, right = (t.swapaxes(-1, -2) if flag else t for t, flag in ((a, turned), (b, not turned)))
    function = test_matmul_batched.build(spec, HERE, config)
    test_matmul_batched.check(function, a, b, left.astype(np.float64) @ right)


@pytest.mark.parametrize(("m_tile", "n_vectors", "v_vectors"), [(5, 4, 4), (7, 3, 2), (1, 2, 1)])
def test_attention_of_sizes_that_nothing_divides(m_tile: int, n_vectors: int, v_vectors: int) -> None:
    spec = AttentionSpec(1, 2, 2, 13, 37, 6, 21, 0.4)
    by_lane = lane_steps(caps_of("arm:neoverse-n1"), SINGLE.accumulator)
    test_attention.compute(spec, AttentionConfig(m_tile, n_vectors, v_vectors, 4, 2, by_lane=by_lane), HERE)


@pytest.mark.parametrize("name", test_conv_transpose.PATCHES)
def test_patches(name: str) -> None:
    spec = test_conv_transpose.PATCHES[name]
    x, weight = test_conv_transpose.inputs_of(spec)
    config = patch_upsample.default_config(spec, caps_of("arm:neoverse-n1"))
    got = test_conv_transpose.compute(spec, HERE, x, weight, config=config)
    test_conv_transpose.assert_close(got, test_conv_transpose.patch_oracle(x, weight), spec.in_channels)


@pytest.mark.parametrize("name", test_grouped.POINTWISE)
def test_grouped_pointwise_convolutions(name: str) -> None:
    spec = test_grouped.POINTWISE[name]
    x, weight = inputs_of(spec)
    config = grouped_pointwise.default_config(spec, caps_of("arm:neoverse-n1"))
    got = test_grouped.compute(spec, HERE, x, weight, config=config)
    test_grouped.assert_close(got, oracle(x, weight, spec), spec.reduction)


@pytest.mark.parametrize(("op", "features", "hidden", "optional", "attrs"), test_recurrent.CASES[::2])
def test_recurrent_layers(
    op: str, features: int, hidden: int, optional: str, attrs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = parse_target(HERE, 1)
    target = replace(here, caps=replace(here.caps, multiplies_by_lane=True, vector_registers=32))
    monkeypatch.setattr("graphopt.backends.targets.grammar.parse_target", lambda *_: target)
    directions, layout = 2 if attrs.get("direction") == "bidirectional" else 1, attrs.get("layout", 0)
    feeds = recurrent.arrays(op, 5, 9, features, hidden, directions, optional, layout)
    compiled = graphopt.compile(recurrent.model_of(op, "T", "N", feeds, hidden, **attrs), HERE)
    assert compiled.program is not None
    assert "by_lane=4" in compiled.program.kernels[0].config
    for time, batch in ((5, 9), (3, 1), (2, 4)):
        given = recurrent.arrays(op, time, batch, features, hidden, directions, optional, layout)
        test_recurrent.check(compiled, op, given | recurrent.weights_of(feeds), **attrs)


def _function(name: str, caps: Caps) -> Any:
    """A kernel of a template, large enough for its best tile."""
    if name in CONVOLUTIONS:
        spec = CONVOLUTIONS[name]
        if name == "winograd":
            return conv2d_winograd.emit(spec, winograd.default_config(spec, caps))
        if name == "grouped":
            return grouped_pointwise.emit(spec, grouped_pointwise.default_config(spec, caps))
        return conv2d_direct.emit(spec, direct.default_config(spec, caps))
    if name == "matmul":
        product = MatmulSpec(128, 256, 256)
        return matmul_packed.emit(product, matmul_packed.default_config(product, caps))
    if name == "strassen":
        product = MatmulSpec(128, 256, 512)
        return strassen_operands.emit_matmul(product, strassen.default_config(product, caps))
    if name == "batched":
        products = BatchedSpec((4,), (4,), (4,), 64, 64, 64)
        return matmul_batched.emit(products, matmul_batched.default_batched(products, caps))
    patch = patch_upsample.PatchSpec(1, 32, 40, 40, 16, (2, 2))
    return patch_upsample.emit(patch, patch_upsample.default_config(patch, caps))


CONVOLUTIONS = {
    "direct 3x3": Conv2dSpec(1, 64, 28, 28, 64, (3, 3), pads=(1, 1, 1, 1), in_block=16, out_block=16),
    "direct 1x1": Conv2dSpec(1, 128, 28, 28, 128, (1, 1), in_block=16, out_block=16),
    "direct, plain": Conv2dSpec(1, 3, 97, 97, 32, (3, 3), strides=(2, 2), out_block=16),
    "winograd": Conv2dSpec(1, 64, 28, 28, 64, (3, 3), pads=(1, 1, 1, 1), in_block=16, out_block=16),
    "grouped": test_grouped.pointwise(64, 96, 4, (20, 20)),
}


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize(
    "name",
    [*CONVOLUTIONS, "matmul", "batched", "strassen", "transposed"],
)
def test_the_loop_of_multiply_adds(name: str, core: str) -> None:
    """Three quarters of the loop are multiply-adds, all by lane; no vector is copied or waits on the stack."""
    loop = assembly.loops(assembly.compiled(_function(name, caps_of(core)), core))[0]
    by_lane = loop.count(r"fmla\s+v\d+\.4s, v\d+\.4s, v\d+\.s\[\d\]")
    assert by_lane == loop.products >= 24, loop
    assert loop.copies == loop.spills == 0, loop
    assert by_lane >= 0.75 * len(loop.instructions), loop


def test_tiles_leave_registers_for_factors_and_columns() -> None:
    for core in CORES:
        caps = caps_of(core)
        for points, vectors in register_tiles(caps, 8, 32, by_lane=4):
            assert points * vectors + points + 2 <= caps.vector_registers
