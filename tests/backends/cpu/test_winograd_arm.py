"""Winograd convolution for 64-bit ARM: against float64 under emulation, and what its transforms are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from graphopt.backends.base.tvm_api import cpu_pass_context, tirx, tvm
from graphopt.backends.build.whole_module import BuiltWhole
from graphopt.backends.cpu.cost.winograd import configurations, default_config
from graphopt.backends.cpu.kernels import conv2d_winograd as kernel
from graphopt.backends.cpu.kernels import winograd_tile as tile
from graphopt.backends.cpu.kernels.winograd_pieces import joined
from graphopt.backends.cpu.kernels.winograd_transforms import Filtering, WholeFiltering
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.platforms import platform_of
from graphopt.backends.templates.storing import ExtraOperand, StoreStyle
from tests.backends.cpu.test_conv2d_direct import spec_of
from tests.backends.cpu.test_conv2d_winograd import BOUND, SPECS, error
from tests.support import qemu
from tests.support.assembly import Loop, compiled, loops
from tests.support.conv_kernels import inputs_of, oracle, to_logical, to_physical

TARGET = parse_target("arm:neoverse-n1", 1)
CAPS = TARGET.caps
EMULATED = [
    pytest.mark.qemu,
    pytest.mark.skipif(qemu.why_unavailable() is not None, reason=str(qemu.why_unavailable())),
]


def biased_relu(value: tirx.Expr, index: tuple[tirx.Expr, ...], operands: Sequence[tirx.Buffer]) -> tirx.Expr:
    """What follows most convolutions."""
    added = value + operands[0][index[1]]
    return tirx.max(added, tirx.const(0, "float32"))


def _config(spec: Conv2dSpec, m: int, raw: bool = False) -> tile.WinogradConfig:
    """The first that the cost model proposes."""
    return next(c for c in configurations(spec, CAPS) if c.m == m and (c.depth > 0) == raw and c.by_lane > 1)


def run_biased_relu(
    spec: Conv2dSpec,
    config: tile.WinogradConfig,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    style: StoreStyle,
) -> np.ndarray:
    """The result under emulation, as NCHW."""
    function = kernel.emit(spec, config, biased_relu, [ExtraOperand("bias", bias.shape)], "f", style)
    with cpu_pass_context():
        module = tvm.IRModule({"f": function.with_attr("global_symbol", "f")})
        executable = tvm.compile(module, target=TARGET.tvm_target())
    library = BuiltWhole(TARGET, platform_of(TARGET), executable=executable).library_bytes()
    arrays = [to_physical(x, spec.in_block), tile.packing(spec, config)(weight), bias]
    outputs = [(spec.output_shape, "float32")]
    (got,) = qemu.run_under_qemu(library, arrays, outputs, "neoverse-n1", "f", mode="prim", timeout=300)
    return to_logical(got, spec.out_block)


def _case(name: str) -> tuple[Conv2dSpec, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A problem, its inputs and the result in float64."""
    spec = SPECS[name]
    x, weight = inputs_of(spec)
    bias = np.random.default_rng(1).standard_normal(spec.out_channels).astype(np.float32)
    want = np.maximum(oracle(x, weight, spec) + bias.astype(np.float64)[:, None, None], 0)
    return spec, x, weight, bias, want


class TestRight:
    pytestmark = EMULATED

    @pytest.mark.parametrize("m", [2, 4])
    @pytest.mark.parametrize("name", sorted(SPECS))
    def test_shapes(self, name: str, m: int) -> None:
        spec, x, weight, bias, want = _case(name)
        got = run_biased_relu(spec, _config(spec, m), x, weight, bias, StoreStyle.unrolled)
        assert error(got, want) < BOUND[m]

    @pytest.mark.parametrize("m", [2, 4])
    @pytest.mark.parametrize("style", [StoreStyle.rolled, StoreStyle.scalar])
    def test_epilogues_in_loops(self, style: StoreStyle, m: int) -> None:
        spec, x, weight, bias, want = _case("divides by nothing")
        got = run_biased_relu(spec, _config(spec, m), x, weight, bias, style)
        assert error(got, want) < BOUND[m]

    @pytest.mark.parametrize("m", [2, 4])
    def test_weights_transformed_on_the_way(self, m: int) -> None:
        spec, x, weight, bias, want = _case("square")
        got = run_biased_relu(spec, _config(spec, m, raw=True), x, weight, bias, StoreStyle.unrolled)
        assert error(got, want) < BOUND[m]


def _transforms(spec: Conv2dSpec) -> list[Loop]:
    """The loops of a kernel over vectors of channels that transform patches, or whole tiles of results."""
    config = next(c for c in configurations(spec, CAPS) if (c.m, c.oc_vectors, c.by_group) == (4, 2, False))
    function = kernel.emit(spec, config, biased_relu, [ExtraOperand("bias", (spec.out_channels,))])
    return [loop for loop in loops(compiled(function, "arm:neoverse-n1")) if loop.count(r"f(?:add|sub)\s+v") >= 60]


@pytest.mark.parametrize("channels", [16, 96])
def test_transforms_stay_in_registers(channels: int) -> None:
    """Those of a patch, of one with padding, and of results: nothing is copied, and nothing goes to the stack."""
    spec = spec_of(channels, (55, 55), 64, (3, 3), pads=(1, 1, 1, 1), in_block=16, out_block=16)
    found = _transforms(spec)
    assert len(found) == 3
    for loop in found:
        assert not loop.copies, loop.instructions
        assert loop.count(r"st?u?[rp]\s+q\d+.*\[sp") == 0, loop.instructions
        into = loop.count(r"fmax\w*\s") == 0
        assert loop.products == (48 if into else 30)
        assert loop.count(r"f(?:add|sub)\s+v") <= (108 if into else 86)
        assert len(loop.instructions) <= (275 if into else 210)


def test_products_begin_with_the_first_and_are_written_out() -> None:
    """All of 16 channels with a register tile, to the stores: nothing is cleared, copied, or spilled."""
    spec = spec_of(16, (55, 55), 64, (3, 3), pads=(1, 1, 1, 1), in_block=16, out_block=16)
    config = default_config(spec, CAPS)
    tile_products = config.points * config.oc_vectors
    hot = max(loops(compiled(kernel.emit(spec, config), "arm:neoverse-n1")), key=lambda loop: loop.products)
    assert hot.products == 15 * tile_products
    assert hot.count(r"fmul\s+v") == tile_products
    assert hot.count("movi") == 0
    assert not hot.copies
    assert not hot.spills
    assert len(hot.instructions) <= 1.25 * 16 * tile_products


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("kind", [Filtering, WholeFiltering])
def test_pieces_are_the_transforms(kind: type[Filtering], m: int) -> None:
    """Written with operators only, they work on numbers as well as on expressions."""
    filtering = kind(m)
    d = list(np.random.default_rng(0).standard_normal(m + 2))
    for pieces, whole in (
        (filtering.input_pieces(), filtering.input_row(d)),
        (filtering.output_pieces(), filtering.output_row(d)),
    ):
        found = joined(pieces)(d)
        assert sorted(found) == list(range(len(whole)))
        np.testing.assert_allclose([found[i] for i in range(len(whole))], whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("filtering", [Filtering(2), Filtering(4)])
def test_one_row_of_products_goes_to_all_results(filtering: Filtering) -> None:
    assert filtering.constant is not None
    unit = [float(i == filtering.constant) for i in range(filtering.m + 2)]
    assert filtering.output_row(unit) == [1.0] * filtering.m
