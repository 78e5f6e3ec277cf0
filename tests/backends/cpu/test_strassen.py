"""Strassen's products against float64: parts that nothing divides, padding, strides, configurations; where they are chosen.

Kernels are right or wrong whatever they are compiled for, so sums are computed by code for this machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.cost.strassen import configurations, default_config, predicted_cycles
from graphopt.backends.cpu.kernels import pinned, strassen_operands
from graphopt.backends.cpu.kernels import strassen_tile as tile
from graphopt.backends.cpu.kernels.strassen_transforms import left_factors, quadrant_place, quadrants, right_factors
from graphopt.backends.cpu.strassen import StrassenConv2d
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.matmul import MatmulSpec
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand, StoreStyle
from tests.support.conv_kernels import build, call, inputs_of, oracle, to_logical, to_physical
from tests.support.onnx_graphs import model_of, rand

HERE = "x86-64-v2"
CORES = ("arm:neoverse-n1", "arm:cortex-a55")
BOUND = {1: 4e-6, 2: 1.2e-5}
"""Largest error relative to the largest element of sums of up to 100 products, by levels; a plain product is at 5e-7."""

SHAPES = [  # m, n, k
    (2, 4, 16),
    (3, 12, 16),
    (13, 36, 48),
    (32, 100, 64),
    (37, 64, 80),
    (64, 48, 16),
    (131, 20, 32),
]
ONE = {"in_block": 16, "out_block": 16}
THREE = {**ONE, "pads": (1, 1, 1, 1)}


@pytest.fixture(autouse=True)
def registers_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps vectors in ARM's registers keeps them in those of x86."""
    monkeypatch.setattr(pinned, "REGISTERS", "x")


def conv(channels: int, plane: tuple[int, int], out: int, kernel: tuple[int, int], **more: Any) -> Conv2dSpec:
    return Conv2dSpec(more.pop("batch", 1), channels, *plane, out, kernel, **more)


CONVOLUTIONS = {
    "1x1": conv(64, (7, 9), 48, (1, 1), **ONE),
    "one block": conv(16, (5, 7), 16, (1, 1), **ONE),
    "batch": conv(32, (3, 5), 32, (1, 1), batch=3, **ONE),
    "strides": conv(32, (9, 11), 32, (1, 1), strides=(2, 3), **ONE),
    "blocks of 8": conv(24, (6, 5), 40, (1, 1), in_block=8, out_block=8),
    "blocks differ": conv(32, (6, 5), 24, (1, 1), in_block=16, out_block=8),
    "3x3": conv(64, (9, 8), 32, (3, 3), **THREE),
    "3x3, strides": conv(32, (13, 10), 32, (3, 3), strides=(2, 2), **THREE),
    "asymmetric pads": conv(32, (7, 9), 16, (3, 3), **{**ONE, "pads": (0, 2, 1, 3)}),
    "no pads": conv(32, (7, 6), 16, (3, 2), **ONE),
    "dilations": conv(32, (11, 12), 16, (3, 3), dilations=(2, 3), **{**ONE, "pads": (2, 3, 2, 3)}),
    "padding exceeds input": conv(32, (2, 1), 16, (3, 3), **{**ONE, "pads": (4, 5, 3, 7)}),
}


def matrices(m: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(m + n + k)
    return rng.standard_normal((m, k), dtype=np.float32), rng.standard_normal((k, n), dtype=np.float32)


def multiplied(
    spec: MatmulSpec, config: tile.StrassenConfig, a: np.ndarray, b: np.ndarray, epilogue: EpilogueFn | None = None,
    extra: np.ndarray | None = None, style: StoreStyle = StoreStyle.unrolled, turned: bool = False,
) -> np.ndarray:  # fmt: skip
    operands = () if extra is None else (ExtraOperand("extra", extra.shape),)
    kernel = build(strassen_operands.emit_matmul(spec, config, epilogue, operands, "mm", style), HERE)
    packed = tile.packing(spec, config, turned)(b.T if turned else b)
    assert packed.shape == tile.packed_weight_shape(spec, config)
    return call(kernel, [a, packed, *([] if extra is None else [extra])], (spec.static_m or 0, spec.n))


def convolved(spec: Conv2dSpec, config: tile.StrassenConfig, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    kernel = build(strassen_operands.emit_conv2d(spec, config, name="conv"), HERE)
    packed = StrassenConv2d.kernel.packing(spec, config)(weight)
    shape = tuple(int(extent) for extent in spec.output_shape)  # type: ignore[arg-type]
    return to_logical(call(kernel, [to_physical(x, spec.in_block), packed], shape), spec.out_block)


def error(got: np.ndarray, want: np.ndarray) -> float:
    assert got.shape == want.shape
    assert not np.isnan(got).any()
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.mark.parametrize("levels", [0, 1, 2, 3])
def test_the_factors_products_make_the_product(levels: int) -> None:
    parts = 2**levels
    rng = np.random.default_rng(levels)
    a, b = rng.standard_normal((3 * parts, 2 * parts)), rng.standard_normal((2 * parts, 4 * parts))

    def block(matrix: np.ndarray, number: int) -> np.ndarray:
        row, column = quadrant_place(number, levels)
        rows, columns = matrix.shape[0] // parts, matrix.shape[1] // parts
        found: np.ndarray = matrix[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns]
        return found

    left = dict(left_factors(lambda i: block(a, i), levels, lambda term: term))
    right = dict(right_factors(lambda i: block(b, i), levels, lambda term: term))
    assert left.keys() == right.keys() == set(range(7**levels))
    if levels == 0:
        np.testing.assert_allclose(left[0] @ right[0], a @ b)
        return
    got = np.empty((3 * parts, 4 * parts))
    for quadrant, blocks in quadrants(lambda i: left[i] @ right[i], levels, lambda term: term):
        for i, found in enumerate(blocks):
            block(got, quadrant * 4 ** (levels - 1) + i)[...] = found
    np.testing.assert_allclose(got, a @ b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products(shape: tuple[int, int, int], levels: int) -> None:
    spec = MatmulSpec(*shape)
    caps = parse_target(CORES[0], 1).caps
    config = min(
        (c for c in configurations(spec, caps) if c.levels == levels), key=lambda c: predicted_cycles(spec, c, caps)
    )
    assert config.by_lane == 4
    a, b = matrices(*shape)
    assert error(multiplied(spec, config, a, b), a.astype(np.float64) @ b) < BOUND[levels]


@pytest.mark.parametrize(
    "config",
    [
        tile.StrassenConfig(2, 4, 3, 5, 10, group=2),
        tile.StrassenConfig(2, 4, 2, 4, 3, group=3, by_group=True, parallel=True),
        tile.StrassenConfig(1, 4, 1, 7, 4, group=4, parallel=True, by_lane=4),
        tile.StrassenConfig(1, 4, 5, 2, 19, by_group=True),
        tile.StrassenConfig(2, 4, 7, 3, 1, by_lane=4),
    ],
    ids=str,
)
@pytest.mark.parametrize("style", StoreStyle)
def test_every_configuration_with_an_epilogue(config: tile.StrassenConfig, style: StoreStyle) -> None:
    spec = MatmulSpec(37, 92, 48)
    a, b = matrices(37, 92, 48)
    bias = np.linspace(-3, 5, 92, dtype=np.float32)

    def relu(value: Any, index: tuple[Any, ...], operands: Sequence[Any]) -> Any:
        return tirx.max(value + operands[0][index[1]], tirx.const(0, "float32"))

    want = np.maximum(a.astype(np.float64) @ b + bias, 0)
    turned = config.levels == 1
    assert error(multiplied(spec, config, a, b, relu, bias, style, turned), want) < BOUND[config.levels]


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str, core: str) -> None:
    spec, caps = CONVOLUTIONS[name], parse_target(core, 1).caps
    assert StrassenConv2d.kernel.supports(spec, caps) is None
    config = StrassenConv2d.kernel.default_config(spec, caps)
    x, weight = inputs_of(spec)
    assert error(convolved(spec, config, x, weight), oracle(x, weight, spec)) < BOUND[config.levels]


@pytest.mark.parametrize("levels", [1, 2])
def test_convolutions_in_blocks_of_rows(levels: int) -> None:
    """Rows of padding in some blocks, rows that aren't there in the last, columns that aren't there."""
    spec = conv(64, (11, 7), 48, (3, 3), batch=2, **THREE)
    x, weight = inputs_of(spec)
    for block, group, by_group in ((3, 1, False), (5, 2, True)):
        config = tile.StrassenConfig(levels, 4, 2, 3, block, group, by_group, True, 4)
        assert error(convolved(spec, config, x, weight), oracle(x, weight, spec)) < BOUND[levels]


@pytest.mark.parametrize("levels", [1, 2])
def test_error_of_a_long_sum(levels: int) -> None:
    """Measured bounds: a plain product of the same is at 1.4e-6."""
    spec = MatmulSpec(64, 64, 4096)
    a, b = matrices(64, 64, 4096)
    config = tile.StrassenConfig(levels, 4, 4, 5, 16, 1)
    assert error(multiplied(spec, config, a, b), a.astype(np.float64) @ b) < {1: 4e-6, 2: 8e-6}[levels]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (MatmulSpec(1, 64, 64), "two at least"),
        (MatmulSpec(tirx.Var("m", "int64"), 64, 64), "known number of rows"),
        (MatmulSpec(64, 66, 64), "whole vectors"),
        (MatmulSpec(64, 64, 60), "whole vectors"),
    ],
    ids=["one row", "open rows", "columns", "steps"],
)
def test_what_it_cannot_compute(spec: MatmulSpec, reason: str) -> None:
    assert reason in (tile.supports(spec, parse_target(CORES[0], 1).caps) or "")


def test_x86_keeps_its_plain_products() -> None:
    assert "not measured" in (tile.supports(MatmulSpec(128, 512, 512), parse_target("x86-64-v4", 1).caps) or "")


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("core", CORES)
def test_configurations_are_bounded_and_hold_the_default(core: str, threads: int) -> None:
    caps = parse_target(core, threads).caps
    for shape in ((49, 2048, 512), (3136, 64, 256), (784, 128, 1152)):
        spec = MatmulSpec(*shape)
        found = list(configurations(spec, caps))
        assert default_config(spec, caps) in found
        assert len(found) <= 1500


@pytest.mark.parametrize(("rows", "chosen"), [(2, False), (256, True)])
def test_where_it_is_chosen(rows: int, chosen: bool) -> None:
    """Behind few rows the sums of weights aren't worth their bytes; ``exact`` leaves it out."""
    model = model_of({"x": f"float[{rows},512]"}, "h = MatMul(x, w)\ny = Relu(h)", w=rand(512, 512))

    def templates(**options: Any) -> set[str]:
        compiled = graphopt.compile(model, CORES[0], threads=1, **options)
        assert compiled.program is not None
        return {kernel.template for kernel in compiled.program.kernels}

    assert ("matmul-strassen" in templates()) is chosen
    assert "matmul-strassen" not in templates(exact=True)
