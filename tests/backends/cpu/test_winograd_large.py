"""Winograd convolution of other kernels than 3 x 3 with stride 1, on 64-bit ARM: against float64 under emulation, and its parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from graphopt.backends.base.element_type import HALF
from graphopt.backends.cpu.cost.winograd import configurations, default_config, predicted_cycles
from graphopt.backends.cpu.kernels import conv2d_winograd as kernel
from graphopt.backends.cpu.kernels import winograd_tile as tile
from graphopt.backends.cpu.kernels.phases import of_phases, packing_of_phases
from graphopt.backends.cpu.kernels.winograd_pieces import joined
from graphopt.backends.cpu.kernels.winograd_transforms import Filtering
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.templates.storing import ExtraOperand, StoreStyle
from tests.backends.cpu.test_conv2d_direct import spec_of
from tests.backends.cpu.test_conv2d_winograd import BOUND, error
from tests.backends.cpu.test_winograd_arm import CAPS, EMULATED, biased_relu, run_biased_relu
from tests.support.assembly import compiled, loops
from tests.support.conv_kernels import inputs_of, oracle

FIVE = {"pads": (2, 2, 2, 2), "in_block": 16, "out_block": 16}
STEM = {"strides": (2, 2), "pads": (3, 3, 3, 3), "out_block": 16}
SPECS = {
    "5x5": spec_of(32, (14, 14), 48, (5, 5), **FIVE),
    "5x5, divides by nothing": spec_of(16, (17, 11), 32, (5, 5), **FIVE),
    "5x5, asymmetric pads": spec_of(16, (9, 12), 16, (5, 5), **{**FIVE, "pads": (0, 4, 1, 3)}),
    "5x5, no pads": spec_of(16, (8, 5), 16, (5, 5), **{**FIVE, "pads": (0, 0, 0, 0)}),
    "5x5, padding exceeds input": spec_of(16, (2, 1), 16, (5, 5), **{**FIVE, "pads": (6, 7, 5, 9)}),
    "5x5, one pixel": spec_of(16, (1, 1), 16, (5, 5), **FIVE),
    "5x5, batch": spec_of(16, (5, 6), 80, (5, 5), batch=3, **FIVE),
    "5x5, blocks differ": spec_of(24, (7, 9), 12, (5, 5), **{**FIVE, "in_block": 8, "out_block": 4}),
    "stem": spec_of(3, (30, 38), 64, (7, 7), **STEM),
    "stem, even pads": spec_of(3, (26, 22), 32, (7, 7), **{**STEM, "pads": (2, 2, 2, 2)}),
    "stem, asymmetric pads": spec_of(3, (26, 22), 16, (7, 7), **{**STEM, "pads": (2, 3, 3, 2)}),
    "stem, no pads": spec_of(3, (14, 18), 16, (7, 7), **{**STEM, "pads": (0, 0, 0, 0)}),
    "stem, padding exceeds input": spec_of(3, (2, 2), 16, (7, 7), **{**STEM, "pads": (9, 8, 7, 11)}),
    "stem, gray": spec_of(1, (12, 40), 16, (7, 7), **STEM),
    "stem, four planes, batch": spec_of(4, (18, 10), 48, (8, 8), batch=3, **STEM),
    "stem of 6x6": spec_of(3, (20, 26), 32, (6, 6), **{**STEM, "pads": (2, 2, 2, 2)}),
    "stem of 5x5": spec_of(3, (20, 26), 32, (5, 5), **{**STEM, "pads": (2, 2, 2, 2)}),
    "stem of 9x9": spec_of(3, (20, 26), 32, (9, 9), **{**STEM, "pads": (4, 4, 4, 4)}),
}


class TestRight:
    pytestmark = EMULATED

    @pytest.mark.parametrize("name", sorted(SPECS))
    def test_shapes(self, name: str) -> None:
        self._check(SPECS[name], StoreStyle.unrolled)

    @pytest.mark.parametrize("name", ["5x5, divides by nothing", "stem"])
    @pytest.mark.parametrize("style", [StoreStyle.rolled, StoreStyle.scalar])
    def test_epilogues_in_loops(self, style: StoreStyle, name: str) -> None:
        self._check(SPECS[name], style)

    def _check(self, spec: Conv2dSpec, style: StoreStyle) -> None:
        assert tile.supports(spec, CAPS) is None
        x, weight = inputs_of(spec)
        bias = np.random.default_rng(1).standard_normal(spec.out_channels).astype(np.float32)
        want = np.maximum(oracle(x, weight, spec) + bias.astype(np.float64)[:, None, None], 0)
        got = run_biased_relu(spec, default_config(spec, CAPS), x, weight, bias, style)
        assert error(got, want) < BOUND[4]


@pytest.mark.parametrize(("m", "taps"), [(2, 3), (4, 3), (3, 4), (2, 5)])
def test_transforms_compute_a_correlation(m: int, taps: int) -> None:
    """Written with operators only, they work on numbers as well as on expressions; pieces are the whole."""
    rng = np.random.default_rng(0)
    filtering = Filtering(m, taps)
    d, g = rng.standard_normal((filtering.side, filtering.side)), rng.standard_normal((taps, taps))
    weight = filtering.weight(g[None, None]).reshape(filtering.side, filtering.side)

    def both_ways(row: Callable[[list[Any]], list[Any]], array: np.ndarray) -> np.ndarray:
        half = np.array(row(list(array)))
        across: np.ndarray = np.array(row(list(half.T))).T
        return across

    got = both_ways(filtering.output_row, both_ways(filtering.input_row, d) * weight)
    want = [[np.sum(d[i : i + taps, j : j + taps] * g) for j in range(m)] for i in range(m)]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    row = list(d[0])
    for pieces, whole in (
        (filtering.input_pieces(), filtering.input_row(row)),
        (filtering.output_pieces(), filtering.output_row(row)),
    ):
        found = joined(pieces)(row)
        np.testing.assert_allclose([found[i] for i in range(len(whole))], whole, rtol=1e-12, atol=1e-12)
    assert filtering.output_row([float(i == filtering.constant) for i in range(filtering.side)]) == [1.0] * m


@pytest.mark.parametrize("name", [name for name in SPECS if name.startswith("stem")])
def test_phases_are_the_same_convolution(name: str) -> None:
    spec = SPECS[name]
    phases = of_phases(spec)
    x, weight = inputs_of(spec)
    n, c, h, w = x.shape
    cut = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 3, 5, 2, 4).reshape(n, 4 * c, h // 2, w // 2)
    shape = (spec.out_channels, 4 * c, *phases.kernel)
    turned = packing_of_phases(spec, _AsIs(shape))(weight)
    assert (phases.out_height, phases.out_width) == (spec.out_height, spec.out_width)
    if min(phases.pads) >= 0:  # below or to the right a window may not reach all of the data
        np.testing.assert_allclose(oracle(cut, turned, phases), oracle(x, weight, spec), rtol=1e-9, atol=1e-9)


class _AsIs(tile.Packing):
    """Leaves weights as they are."""

    def packed(self, array: np.ndarray) -> np.ndarray:
        return array


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPECS["stem"], in_height=31),
        replace(SPECS["stem"], strides=(2, 1)),
        replace(SPECS["stem"], dilations=(2, 2)),
        replace(SPECS["stem"], in_channels=5),
        replace(SPECS["stem"], kernel=(7, 5)),
        replace(SPECS["stem"], kernel=(3, 3)),
        replace(SPECS["5x5"], strides=(2, 2)),
        replace(SPECS["5x5"], kernel=(7, 7)),
        replace(SPECS["5x5"], types=replace(SPECS["5x5"].types, accumulator=HALF)),
    ],
)
def test_what_is_left_to_others(spec: Conv2dSpec) -> None:
    assert tile.supports(spec, CAPS) is not None


@pytest.mark.parametrize("name", SPECS)
def test_only_where_transforms_fit_the_registers(name: str) -> None:
    assert tile.supports(SPECS[name], parse_target("x86-64-v3", 1).caps) is not None


@pytest.mark.parametrize("name", ["5x5", "stem"])
def test_every_configuration_has_a_cost(name: str) -> None:
    spec = SPECS[name]
    for caps in (CAPS, parse_target("arm:neoverse-n1", 4).caps):
        found = list(configurations(spec, caps))
        assert default_config(spec, caps) in found
        assert all(0 < predicted_cycles(spec, config, caps) < float("inf") for config in found)
        assert not any(config.depth for config in found)


def test_transforms_stay_in_registers() -> None:
    """Those of phases, whose elements come one by one, and those of results: nothing is copied, and nothing goes to the stack."""
    spec = spec_of(3, (224, 224), 64, (7, 7), **STEM)
    config = default_config(spec, CAPS)
    function = kernel.emit(spec, config, biased_relu, [ExtraOperand("bias", (64,))])
    found = [loop for loop in loops(compiled(function, "arm:neoverse-n1")) if loop.count(r"f(?:add|sub)\s+v") >= 40]
    assert len(found) == 3
    for loop in found:
        assert not loop.copies, loop.instructions
        assert not loop.spills, loop.instructions
