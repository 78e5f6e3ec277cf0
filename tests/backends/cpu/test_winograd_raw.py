"""Winograd convolution that transforms weights on the way: against float64, and against the form with transformed weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper, numpy_helper

import graphopt
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.conv2d_winograd import WinogradConv2d
from graphopt.backends.cpu.cost.winograd import default_config
from graphopt.backends.cpu.kernels import winograd_tile as tile
from graphopt.backends.cpu.kernels.winograd_tile import WinogradConfig
from graphopt.backends.cpu.kernels.winograd_transforms import WholeFiltering
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.templates.storing import StoreStyle
from tests.backends.cpu.test_conv2d_direct import caps_of, spec_of
from tests.backends.cpu.test_conv2d_winograd import BOUND, ONE, SPECS, error, run
from tests.backends.cpu.test_conv3d import conv3d
from tests.support.conv_kernels import LEVELS, inputs_of, oracle
from tests.support.tolerance import assert_close


def raw_config(
    spec: Conv2dSpec, m: int, lanes: int = 8, vectors: int = 2, points: int = 5, group: int = 1, depth: int = 16
) -> WinogradConfig:
    images, rows, columns = spec.assumed
    tiles = images * -(-rows // m) * -(-columns // m)
    return WinogradConfig(m, lanes, vectors, points, tiles, group, by_group=True, depth=depth)


@pytest.mark.parametrize("m", [2, 4])
def test_transforms_compute_a_correlation(m: int) -> None:
    rng = np.random.default_rng(0)
    d, g = rng.standard_normal(m + 2), rng.standard_normal(3)
    # the row transforms are written with operators only, so they work on numbers as well as on expressions
    filtering: Any = WholeFiltering(m)
    products = np.array(filtering.input_row(list(d))) * np.array(filtering.weight_row(list(g)))
    got = np.array(filtering.output_row(list(products)))
    scale = filtering.result(1.0) ** 0.5  # of rows and columns
    np.testing.assert_allclose(got * scale, np.correlate(d, g), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SPECS)
def test_against_float64(name: str, level: str) -> None:
    spec = SPECS[name]
    x, weight = inputs_of(spec)
    lanes = min(spec.types.lanes(caps_of(level)), spec.out_block)
    config = raw_config(spec, 4, lanes, depth=spec.in_block)
    assert error(run(spec, level, x, weight, config), oracle(x, weight, spec)) < BOUND[4]


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize(("group", "depth"), [(1, 16), (2, 32), (4, 48), (3, 80), (9, 128)])
def test_any_configuration_is_right(m: int, group: int, depth: int) -> None:
    """144 output channels are 9 panels, 80 input channels 5 blocks: groups and depths that divide them, and others."""
    spec = spec_of(80, (13, 10), 144, (3, 3), batch=2, **ONE)
    x, weight = inputs_of(spec)
    config = raw_config(spec, m, group=group, depth=depth)
    assert error(run(spec, "x86-64-v3", x, weight, config), oracle(x, weight, spec)) < 1.5 * BOUND[m]


@pytest.mark.parametrize(("m", "bound"), [(2, 2e-6), (4, 2.5e-5)])
def test_error_of_a_long_sum(m: int, bound: float) -> None:
    """The bounds of the form with transformed weights."""
    spec = spec_of(512, (9, 9), 32, (3, 3), **ONE)
    x, weight = inputs_of(spec)
    got = run(spec, "x86-64-v3", x, weight, raw_config(spec, m, points=6, depth=64))
    assert error(got, oracle(x, weight, spec)) < bound


@pytest.mark.parametrize("style", StoreStyle)
def test_epilogue(style: StoreStyle) -> None:
    spec = spec_of(16, (6, 9), 32, (3, 3), **ONE)
    x, weight = inputs_of(spec)
    bias = np.linspace(-3, 5, 32, dtype=np.float32)

    def relu(value: Any, index: tuple[Any, ...], operands: Any) -> Any:
        return tirx.max(value + operands[0][index[1]], tirx.const(0, "float32"))

    want = np.maximum(oracle(x, weight, spec) + bias[:, None, None], 0)
    config = raw_config(spec, 4)
    assert error(run(spec, "x86-64-v3", x, weight, config, relu, bias, style), want) < BOUND[4]


@settings(max_examples=12, deadline=None)
@given(
    channels=st.sampled_from([8, 24, 40, 48, 72]),
    filters=st.sampled_from([8, 24, 40, 56]),
    plane=st.tuples(st.integers(1, 15), st.integers(1, 15)),
    batch=st.integers(1, 2),
    m=st.sampled_from([2, 4]),
    vectors=st.integers(1, 3),
    group=st.integers(1, 3),
    blocks=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_both_forms_agree(
    channels: int, filters: int, plane: tuple[int, int], batch: int, m: int, vectors: int, group: int, blocks: int,
    seed: int,
) -> None:  # fmt: skip
    spec = spec_of(channels, plane, filters, (3, 3), batch=batch, pads=(1, 1, 1, 1), in_block=8, out_block=8)
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, channels, *plane)).astype(np.float32)
    weight = rng.standard_normal((filters, channels, 3, 3)).astype(np.float32)
    config = raw_config(spec, m, vectors=vectors, points=4, group=group, depth=8 * blocks)
    stored = run(spec, "x86-64-v3", x, weight, replace(config, depth=0))
    assert error(run(spec, "x86-64-v3", x, weight, config), stored) < 2 * BOUND[m]


def test_raw_weights_take_no_more_room() -> None:
    spec = spec_of(64, (14, 14), 128, (3, 3), **ONE)
    _, weight = inputs_of(spec)
    packed = tile.packing(spec, raw_config(spec, 4, group=2, depth=32))(weight)
    assert packed.nbytes == weight.nbytes
    assert packed.shape == tile.packed_weight_shape(spec, raw_config(spec, 4, group=2, depth=32))


def test_narrow_weights_are_widened() -> None:
    """The kernel transforms float32, as what is transformed when compiling is."""
    spec = spec_of(32, (8, 8), 16, (3, 3), **ONE)
    weight = inputs_of(spec)[1].astype(np.float16)
    packing = tile.packing(spec, raw_config(spec, 4))
    np.testing.assert_array_equal(packing(weight), packing(weight.astype(np.float32)), strict=True)


def test_deep_layers_of_small_planes_are_transformed_on_the_way() -> None:
    """Where fetching transformed weights takes longer than transforming them; not where all threads would transform them again."""
    caps = replace(caps_of("x86-64-v3"), cores=2, l2_bytes=1 << 19)
    deep = Conv2dSpec(1, 512, 14, 14, 512, (3, 3), pads=(1, 1, 1, 1), in_block=16, out_block=16)
    wide = Conv2dSpec(1, 64, 112, 112, 64, (3, 3), pads=(1, 1, 1, 1), in_block=16, out_block=16)
    assert default_config(deep, caps).depth
    assert not default_config(wide, caps).depth
    open_plane = replace(deep, in_height=tirx.Var("h", "int64"))
    small, large = (default_config(replace(open_plane, nominal=(1, rows, rows)), caps) for rows in (14, 224))
    assert small.depth
    assert not large.depth


def network(shape: list[int], weight: np.ndarray, bias: np.ndarray) -> ModelProto:
    around = [1] * (2 * (len(shape) - 2))
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], kernel_shape=weight.shape[2:], pads=around),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Add", ["r", "x"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(2, 80, 9, 7), (1, 32, 4, 7, 6)], ids=["two axes", "three axes"])
def test_a_residual_layer(shape: tuple[int, ...], threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def config_of(spec: Conv2dSpec, caps: Any) -> WinogradConfig:
        return raw_config(spec, 4, group=2, depth=32)

    kernel = replace(WinogradConv2d.kernel, default_config=config_of, seconds=lambda spec, config, caps: 1e-12)
    monkeypatch.setattr(WinogradConv2d, "kernel", kernel)
    rng = np.random.default_rng(3)
    channels, spatial = shape[1], len(shape) - 2
    x = rng.standard_normal(shape).astype(np.float32)
    weight = rng.standard_normal((channels, channels, *[3] * spatial)).astype(np.float32)
    bias = rng.standard_normal(channels).astype(np.float32)
    model = graphopt.compile(network(list(shape), weight, bias).SerializeToString(), "native", threads=threads)
    assert model.program is not None
    assert any("depth=32" in str(k.config) for k in model.program.kernels)
    wide = (slice(None), slice(None), *[None] * (3 - spatial))
    lead = (1,) * (3 - spatial)
    one, pads = (1, 1, 1), (*[0] * (3 - spatial), *[1] * spatial) * 2
    conv = conv3d(x[wide], weight[wide].reshape(channels, channels, *lead, *[3] * spatial), bias, one, pads, one)
    want = np.maximum(conv.reshape(shape), 0) + x
    assert_close(model.run({"x": x})["y"], want.astype(np.float32), reduction=channels * 3**spatial * 100)
