"""Winograd convolution against float64: shapes that divide by nothing, borders, batches, configurations, instruction sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from graphopt.backends.base.tvm_api import tirx, tvm
from graphopt.backends.cpu.cost.winograd import configurations, default_config, predicted_cycles
from graphopt.backends.cpu.kernels import conv2d_winograd as kernel
from graphopt.backends.cpu.kernels import winograd_tile as tile
from graphopt.backends.cpu.kernels.winograd_transforms import WEIGHT_TRANSFORM, Filtering
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand, StoreStyle
from tests.backends.cpu.test_conv2d_direct import build, caps_of, spec_of
from tests.support.conv_kernels import LEVELS, inputs_of, oracle, to_logical, to_physical

ONE = {"pads": (1, 1, 1, 1), "in_block": 16, "out_block": 16}
SPECS = {
    "square": spec_of(32, (14, 14), 48, (3, 3), **ONE),
    "divides by nothing": spec_of(16, (37, 13), 32, (3, 3), **ONE),
    "asymmetric pads": spec_of(16, (9, 11), 16, (3, 3), **{**ONE, "pads": (0, 2, 1, 3)}),
    "no pads": spec_of(16, (11, 10), 16, (3, 3), **{**ONE, "pads": (0, 0, 0, 0)}),
    "padding exceeds input": spec_of(16, (2, 1), 16, (3, 3), **{**ONE, "pads": (4, 5, 3, 7)}),
    "one pixel": spec_of(16, (1, 1), 16, (3, 3), **ONE),
    "batch": spec_of(16, (7, 6), 80, (3, 3), batch=5, **ONE),
    "blocks of 8": spec_of(24, (12, 9), 40, (3, 3), **{**ONE, "in_block": 8, "out_block": 8}),
    "blocks differ": spec_of(48, (12, 9), 24, (3, 3), **{**ONE, "out_block": 8}),
    "many tiles": spec_of(16, (70, 66), 16, (3, 3), **ONE),
}
BOUND = {2: 2e-6, 4: 1.2e-5}
"""Largest error relative to the largest output with few channels, by m: a few and some twenty times float32's epsilon per
stage, as the constants up to 8 of the larger transform amplify what is rounded."""


def run(
    spec: Conv2dSpec,
    level: str,
    x: np.ndarray,
    weight: np.ndarray,
    config: tile.WinogradConfig | None = None,
    epilogue: EpilogueFn | None = None,
    extra: np.ndarray | None = None,
    style: StoreStyle = StoreStyle.unrolled,
) -> np.ndarray:
    """Compiles, runs and returns the output as NCHW; the output starts as NaN so that no element may be left out."""
    caps = caps_of(level)
    assert tile.supports(spec, caps) is None
    config = config or default_config(spec, caps)
    operands = () if extra is None else (ExtraOperand("extra", extra.shape),)
    conv = build(kernel.emit(spec, config, epilogue, operands, "conv", style), level)
    sizes = replace(spec, batch=x.shape[0], in_height=x.shape[2], in_width=x.shape[3])
    out = tvm.runtime.tensor(np.full(sizes.output_shape, np.nan, np.float32))
    arrays = [to_physical(x, spec.in_block), tile.packing(spec, config)(weight)]
    arrays += [] if extra is None else [extra]
    conv["conv"](*(tvm.runtime.tensor(a) for a in arrays), out)
    return to_logical(out.numpy(), spec.out_block)


def run_sizes(
    spec: Conv2dSpec, config: tile.WinogradConfig, sizes: Sequence[tuple[int, int, int]], level: str = "x86-64-v3"
) -> list[np.ndarray]:
    """The results of one kernel of open sizes for several batches, heights and widths."""
    conv = build(kernel.emit(spec, config, name="conv"), level)
    results = []
    for batch, height, width in sizes:
        fixed = replace(spec, batch=batch, in_height=height, in_width=width)
        x, weight = inputs_of(fixed)
        out = tvm.runtime.tensor(np.full(fixed.output_shape, np.nan, np.float32))
        arrays = [to_physical(x, spec.in_block), tile.packing(spec, config)(weight)]
        conv["conv"](*(tvm.runtime.tensor(a) for a in arrays), out)
        results.append(to_logical(out.numpy(), spec.out_block))
    return results


def error(got: np.ndarray, want: np.ndarray) -> float:
    assert got.shape == want.shape
    assert not np.isnan(got).any()
    return float(np.abs(got - want).max(initial=0) / np.abs(want).max(initial=1e-30))


@pytest.mark.parametrize("m", [2, 4])
def test_transforms_compute_a_correlation(m: int) -> None:
    rng = np.random.default_rng(0)
    d, g = rng.standard_normal(m + 2), rng.standard_normal(3)
    # the row transforms are written with operators only, so they work on numbers as well as on expressions
    filtering = Filtering(m)
    products = np.array(filtering.input_row(list(d))) * (WEIGHT_TRANSFORM[m] @ g)
    np.testing.assert_allclose(filtering.output_row(list(products)), np.correlate(d, g), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SPECS)
def test_against_float64(name: str, level: str) -> None:
    spec = SPECS[name]
    x, weight = inputs_of(spec)
    config = default_config(spec, caps_of(level))
    assert error(run(spec, level, x, weight, config), oracle(x, weight, spec)) < BOUND[config.m]


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize(("by_group", "private"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize(("block", "group"), [(1, 1), (5, 3), (12, 2), (30, 5)])
def test_any_configuration_is_right(m: int, by_group: bool, private: bool, block: int, group: int) -> None:
    spec = spec_of(16, (13, 10), 144, (3, 3), **ONE)
    tiles = -(-13 // m) * -(-10 // m)
    config = tile.WinogradConfig(m, 8, 2, 5, tiles if by_group else block, group, by_group, private)
    x, weight = inputs_of(spec)
    assert error(run(spec, "x86-64-v3", x, weight, config), oracle(x, weight, spec)) < BOUND[m]


@pytest.mark.parametrize(("m", "bound"), [(2, 2e-6), (4, 2.5e-5)])
def test_error_of_a_long_sum(m: int, bound: float) -> None:
    """The bounds are measured ones: direct convolution of the same is at 2e-6."""
    spec = spec_of(512, (9, 9), 32, (3, 3), **ONE)
    x, weight = inputs_of(spec)
    got = run(spec, "x86-64-v3", x, weight, tile.WinogradConfig(m, 8, 2, 6, 9, 1))
    assert error(got, oracle(x, weight, spec)) < bound


@pytest.mark.parametrize("style", StoreStyle)
def test_epilogue(style: StoreStyle) -> None:
    spec = spec_of(16, (6, 9), 32, (3, 3), **ONE)
    x, weight = inputs_of(spec)
    bias = np.linspace(-3, 5, 32, dtype=np.float32)

    def relu(value: Any, index: tuple[Any, ...], operands: Any) -> Any:
        return tirx.max(value + operands[0][index[1]], tirx.const(0, "float32"))

    want = np.maximum(oracle(x, weight, spec) + bias[:, None, None], 0)
    assert error(run(spec, "x86-64-v3", x, weight, None, relu, bias, style), want) < BOUND[4]


@pytest.mark.parametrize("private", [False, True])
def test_symbolic_sizes(private: bool) -> None:
    """Blocks of four tiles and their remainders, whose groups of panels threads share, are no more nor fewer than there are."""
    n, h, w = (tirx.Var(name, "int64") for name in "nhw")
    spec = Conv2dSpec(n, 16, h, w, 40, (3, 3), pads=(1, 1, 1, 1), in_block=16, out_block=8)
    for config in (
        tile.WinogradConfig(4, 8, 2, 3, 4, 2, by_group=True, private=private),
        tile.WinogradConfig(4, 8, 1, 5, 7, 3, by_group=True, depth=0 if private else 16),
        tile.WinogradConfig(2, 8, 1, 4, 12, 3),
    ):
        sizes = [(1, 1, 1), (0, 4, 4), (1, 8, 8), (1, 9, 7), (2, 17, 4), (3, 40, 33)]
        for (batch, height, width), got in zip(sizes, run_sizes(spec, config, sizes)):
            fixed = replace(spec, batch=batch, in_height=height, in_width=width)
            x, weight = inputs_of(fixed)
            assert error(got, oracle(x, weight, fixed)) < BOUND[config.m]


def test_open_planes_that_are_likely_to_be_small_share_channels() -> None:
    n, h, w = (tirx.Var(name, "int64") for name in "nhw")
    spec = Conv2dSpec(n, 256, h, w, 256, (3, 3), pads=(1, 1, 1, 1), in_block=8, out_block=8)
    caps = replace(caps_of("x86-64-v3"), cores=2)
    small, large = (default_config(replace(spec, nominal=(1, side, side)), caps) for side in (14, 112))
    assert small.by_group
    assert small.block == {2: 49, 4: 16}[small.m]
    assert large.by_group, "a plane may turn out smaller than is likely"
    assert large.block < (112 // large.m) ** 2


def test_symbolic_batch_of_single_tiles() -> None:
    spec = Conv2dSpec(tirx.Var("n", "int64"), 16, 3, 4, 32, (3, 3), pads=(1, 1, 1, 1), in_block=16, out_block=16)
    config = default_config(spec, caps_of("x86-64-v3"))
    fixed = replace(spec, batch=7)
    x, weight = inputs_of(fixed)
    assert error(run(spec, "x86-64-v3", x, weight, config), oracle(x, weight, fixed)) < BOUND[config.m]


def test_default_is_the_cheapest_candidate() -> None:
    caps = caps_of("x86-64-v3")
    for spec in SPECS.values():
        best = default_config(spec, caps)
        assert predicted_cycles(spec, best, caps) == min(
            predicted_cycles(spec, c, caps) for c in configurations(spec, caps)
        )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kernel": (5, 5)}, "3 x 3"),
        ({"strides": (1, 2)}, "3 x 3"),
        ({"dilations": (2, 2)}, "3 x 3"),
        ({"groups": 2}, "3 x 3"),
        ({"in_block": 1}, "blocks"),
        ({"in_channels": 20}, "multiple"),
        ({"pads": (0, -1, 0, 0)}, "negative"),
    ],
)
def test_refusals(change: dict[str, Any], reason: str) -> None:
    refused = tile.supports(replace(SPECS["square"], **change), caps_of("x86-64-v3"))
    assert refused is not None
    assert reason in refused


def test_weights_of_another_shape() -> None:
    with pytest.raises(ValueError, match="expected"):
        tile.packing(SPECS["square"], tile.WinogradConfig(2, 8, 2, 6, 6))(np.zeros((48, 32, 5, 5), np.float32))
