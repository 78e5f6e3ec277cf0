"""Kernels that multiply and add in float16, on an emulated ARM processor, against float64: what additions in float16 may lose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt.backends.base.dialect import llvm_for, written_in
from graphopt.backends.base.template import Computed, KernelCall, Packed, Yes, asked, packed_array
from graphopt.backends.base.tvm_api import cpu_pass_context, tvm
from graphopt.backends.build.whole_module import BuiltWhole
from graphopt.backends.specs.types import MOST_FILTERED_HALVES, MOST_HALVES
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.platforms import platform_of
from graphopt.driver.compiling import to_program
from graphopt.driver.importing import import_onnx
from graphopt.ir.graph import Value
from graphopt.ir.layout import PLAIN, Layout, channel_blocks
from graphopt.ir.options import DEFAULT_OPTIONS
from graphopt.passes.partition.partition import partition
from tests.support import qemu

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(qemu.why_unavailable() is not None, reason=str(qemu.why_unavailable())),
]

TARGET = parse_target("arm:cortex-a76", 1)
CAPS = TARGET.caps
TEMPLATES: dict[str, Any] = {t.name: t for t in platform_of(TARGET).templates()}
B8, B16 = channel_blocks(8), channel_blocks(16)
ROUNDING = 2.0**-11
"""Half of the distance of two neighbouring float16, of the larger one."""

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Half:
    """One operator on float16.

    Attributes:
        template: that is to compute it.
        op: the operator.
        inputs: shapes of what is known at run time.
        weights: shapes of constants, behind the inputs.
        products: in a sum.
        attrs: attributes.
        layouts: of the first input and of the result.
        relu: whether an activation follows.
        spread: of the numbers: 1 for normally distributed ones.
        positive: whether inputs are.
    """

    template: str
    op: str
    inputs: tuple[Shape, ...]
    weights: tuple[Shape, ...]
    products: int
    attrs: Mapping[str, Any] = field(default_factory=dict)
    layouts: tuple[Layout, Layout] = (PLAIN, PLAIN)
    relu: bool = False
    spread: float = 1.0
    positive: bool = False

    def arrays(self) -> tuple[list[Array], list[Array]]:
        """Seeded inputs and constants, float16."""
        rng = np.random.default_rng(self.products)

        def draw(shape: Shape, scale: float, positive: bool = False) -> Array:
            numbers = scale * rng.standard_normal(shape)
            return (np.abs(numbers) if positive else numbers).astype(np.float16)

        scale = 1 / math.sqrt(self.products)
        return (
            [draw(s, self.spread, self.positive) for s in self.inputs],
            [draw(s, scale if len(s) > 1 else 1.0) for s in self.weights],
        )

    def model(self, kind: Any) -> Any:
        """As an ONNX model of an element type."""
        constants = [numpy_helper.from_array(a.astype(kind), f"w{i}") for i, a in enumerate(self.arrays()[1])]
        names = [f"x{i}" for i in range(len(self.inputs))], [c.name for c in constants]
        nodes = [helper.make_node(self.op, [*names[0], *names[1]], ["a" if self.relu else "y"], **self.attrs)]
        if self.relu:
            nodes.append(helper.make_node("Relu", ["a"], ["y"]))
        element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        inputs = [helper.make_tensor_value_info(n, element, s) for n, s in zip(names[0], self.inputs)]
        graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", element, None)], constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)

    def call(self) -> KernelCall:
        """The group as templates see it where float16 is added in float16."""
        fused = partition(import_onnx(self.model(np.float16)), replace(DEFAULT_OPTIONS, adds_halves=True))
        (group,) = fused.groups
        data = group.anchor.inputs[0]
        assert data is not None
        pairs = zip((data, group.outputs[0]), self.layouts)
        fused.layouts.update({value: layout for value, layout in pairs if not layout.is_plain})
        return KernelCall(fused, group)

    def want(self, arrays: Sequence[Array]) -> Array:
        """In float64, by ONNX's reference."""
        feed = {f"x{i}": a.astype(np.float64) for i, a in enumerate(arrays)}
        return np.asarray(ReferenceEvaluator(self.model(np.float64)).run(None, feed)[0])

    def run(self, config: Any = None, cpu: str = "cortex-a76", arrays: Sequence[Array] | None = None) -> Array:
        """The kernel's result under emulation, in the plain layout."""
        template, call = TEMPLATES[self.template], self.call()
        assert isinstance(asked(template, call, CAPS), Yes), asked(template, call, CAPS)
        with written_in(llvm_for(CAPS)):
            emitted = template.emit(call, config or template.default(call, CAPS), CAPS, "f")
        feed = dict(zip(call.fused.graph.inputs, arrays or self.arrays()[0]))
        operands = [_operand(call, feed, operand) for operand in emitted.inputs]
        module = tvm.IRModule({"f": emitted.function.with_attr("global_symbol", "f")})
        with cpu_pass_context():
            compiled = tvm.compile(module, target=TARGET.tvm_target())
        library = BuiltWhole(TARGET, platform_of(TARGET), executable=compiled).library_bytes()
        shape = tuple(int(d) for d in call.group.outputs[0].shape)  # type: ignore[arg-type]
        layout = self.layouts[1]
        (got,) = qemu.run_under_qemu(
            library, operands, [(layout.physical_shape(shape), "float16")], cpu, "f", mode="prim", timeout=300
        )
        return got[layout.physical_index(np.indices(shape))].astype(np.float64)


def _operand(call: KernelCall, feed: Mapping[Value, Array], operand: Any) -> Array:
    if isinstance(operand, Packed | Computed):
        return packed_array(operand)
    if not isinstance(operand, Value):
        return np.asarray(operand)
    if operand.data is not None:
        return np.ascontiguousarray(operand.data)
    x, layout = feed[operand], call.layout(operand)
    return np.ascontiguousarray(x[layout.logical_index(np.indices(layout.physical_shape(x.shape)))])


def _pads(extent: int) -> dict[str, Any]:
    return {"kernel_shape": [extent, extent], "pads": [extent // 2] * 4}


_DOUBLED = {"strides": [2, 2], "pads": [1] * 4}
CASES = [
    Half("conv2d-direct", "Conv", ((1, 16, 7, 9),), ((24, 16, 3, 3), (24,)), 144, _pads(3), (B16, B8), relu=True),
    Half("conv2d-direct", "Conv", ((1, 48, 5, 9),), ((40, 48, 3, 3), (40,)), 432, _pads(3), (B16, B8)),
    Half("conv2d-direct", "Conv", ((1, 512, 3, 5),), ((16, 512, 3, 3),), 4608, _pads(3), (B16, B16)),
    Half("conv2d-direct", "Conv", ((1, 2048, 1, 7),), ((24, 2048, 1, 1), (24,)), 2048, {}, (B16, B8), positive=True),
    Half("conv2d-direct", "Conv", ((1, 32, 9, 11),), ((16, 32, 5, 5),), 800, _pads(5), (B16, B16)),
    Half("conv2d-direct", "Conv", ((1, 8, 23, 25),), ((8, 8, 21, 21),), 3528, _pads(21), (B8, B8)),
    Half("conv2d-direct", "Conv", ((2, 3, 19, 23),), ((10, 3, 7, 7), (10,)), 147, {**_pads(7), "strides": [2, 2]}),
    Half("conv2d-direct", "Conv", ((1, 200, 5, 7),), ((9, 200, 1, 1), (9,)), 200, {}, relu=True),
    Half("conv2d-depthwise", "Conv", ((1, 16, 6, 13),), ((16, 1, 3, 3), (16,)), 9, {**_pads(3), "group": 16}, (B16, B16)),
    Half("conv2d-depthwise", "Conv", ((1, 8, 27, 29),), ((8, 1, 27, 27),), 729, {**_pads(27), "group": 8}, (B8, B8)),
    Half("conv2d-depthwise-plain", "Conv", ((1, 5, 13, 19),), ((5, 1, 5, 5),), 25, {**_pads(5), "group": 5}),
    Half("conv2d-grouped", "Conv", ((1, 32, 5, 9),), ((32, 8, 3, 3),), 72, {**_pads(3), "group": 4}, (B16, B16)),
    Half("conv2d-grouped", "Conv", ((1, 64, 5, 9),), ((64, 32, 3, 3),), 288, {**_pads(3), "group": 2}, (B16, B16)),
    Half("conv2d-grouped-1x1", "Conv", ((1, 12, 5, 7),), ((9, 4, 1, 1),), 4, {"group": 3}, relu=True),
    Half("conv-transpose-patch", "ConvTranspose", ((1, 6, 5, 11),), ((6, 3, 2, 2),), 6, {"strides": [2, 2]}),
    Half("conv-transpose", "ConvTranspose", ((1, 8, 5, 7),), ((8, 16, 3, 3),), 32, _DOUBLED, (B8, B8)),
    Half("conv-transpose", "ConvTranspose", ((1, 160, 5, 7),), ((160, 8, 3, 3),), 640, _DOUBLED, (B8, B8)),
    Half("matmul-packed", "MatMul", ((2, 13, 37),), ((37, 29),), 37, relu=True),
    Half("matmul-packed", "Gemm", ((13, 145),), ((21, 145), (21,)), 145, {"transB": 1}),
    Half("matmul-packed", "Gemm", ((11, 4608),), ((4608, 19), (19,)), 4608),
    Half("matmul-packed", "Gemm", ((1, 25088),), ((25088, 40), (40,)), 25088, positive=True),
    Half("matmul-batched", "MatMul", ((2, 3, 13, 11), (3, 11, 19)), (), 11, relu=True),
    Half("matmul-batched", "MatMul", ((5, 1000), (1000, 23)), (), 1000),
    Half("matmul-batched", "Gemm", ((7, 318), (21, 318)), (), 318, {"transB": 1}),
]  # fmt: skip


def _id(case: Half) -> str:
    return f"{case.template}-{case.products}"


def _error(got: Array, want: Array) -> float:
    """Root mean square of the error, over that of a rounding error of the greatest size relative to the results."""
    return float(np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)) / ROUNDING)


def _bound(products: int) -> float:
    """What sums of so many products lose: as many errors, each evenly distributed up to half a unit of the sum so far, whose size
    grows with the root of their number; and the rounding of the result."""
    return (1 + math.sqrt(products / 2)) / math.sqrt(3)


@pytest.mark.parametrize("case", CASES, ids=_id)
@pytest.mark.few(10)
def test_sums_lose_what_the_additions_of_one_part_lose(case: Half) -> None:
    """However many parts follow: each is as exact, relative to its size, and they are added up in float32."""
    got, want = case.run(), case.want(case.arrays()[0])
    assert np.isfinite(got).all()
    part = min(case.products, MOST_HALVES)
    assert _error(got, want) < 0.8 * _bound(part)
    assert (got != want.astype(np.float16)).any() or case.products < 10


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize(("channels", "made"), [(16, 24), (64, 16), (272, 8)])
def test_winograds_convolution_loses_some_bits_more(channels: int, made: int, m: int) -> None:
    """Its transforms cancel what they add: of tiles of 4 x 4 outputs three times as much as the sums."""
    layouts = (B16, B8)
    case = Half(
        "conv2d-winograd",
        "Conv",
        ((1, channels, 13, 9),),
        ((made, channels, 3, 3), (made,)),
        9 * channels,
        _pads(3),
        layouts,
    )
    call = case.call()
    config = next(c for c in TEMPLATES["conv2d-winograd"].space(call, CAPS) if c.m == m)
    error = _error(case.run(config), case.want(case.arrays()[0]))
    assert error < {2: 1.0, 4: 3.0}[m] * _bound(min(channels, MOST_FILTERED_HALVES))


@pytest.mark.parametrize(
    "case",
    [
        Half("matmul-strassen", "MatMul", ((1, 33, 704),), ((704, 56),), 704),
        Half(
            "conv2d-strassen", "Conv", ((1, 64, 9, 7),), ((32, 64, 3, 3), (32,)), 576, _pads(3), (B16, B16), relu=True
        ),
    ],
    ids=_id,
)
def test_strassens_products_lose_some_bits_more(case: Half) -> None:
    """Sums of operands make products larger that cancel one another; their parts are shorter."""
    assert _error(case.run(), case.want(case.arrays()[0])) < 3.0 * _bound(MOST_FILTERED_HALVES)


@pytest.mark.parametrize("m", [2, 4])
def test_patches_of_great_numbers_stay_in_range(m: int) -> None:
    """Transformed they grow by up to 26, where the result is a number of float16: each pass over a patch divides them."""
    case = Half("conv2d-winograd", "Conv", ((1, 32, 13, 9),), ((16, 32, 3, 3),), 288, _pads(3), (B16, B16))
    (x,), (weight,) = case.arrays()
    x = (np.sign(x.astype(np.float32)) * np.random.default_rng(0).uniform(30000, 40000, x.shape)).astype(np.float16)
    object.__setattr__(case, "arrays", lambda: ([x], [(weight.astype(np.float32) / 8).astype(np.float16)]))
    config = next(c for c in TEMPLATES["conv2d-winograd"].space(case.call(), CAPS) if c.m == m)
    got, small = case.run(config), case.run(config, arrays=[x / np.float16(1024)])
    assert 10000 < np.abs(got).max() < 65504
    np.testing.assert_allclose(
        got, 1024 * small, rtol=2 * ROUNDING, atol=4
    )  # which begins to lose bits at the lower end


def test_weights_that_are_transformed_on_the_way_are_none_of_float16() -> None:
    """Their factors would go beyond its range."""
    case = Half("conv2d-winograd", "Conv", ((1, 64, 5, 5),), ((64, 64, 3, 3),), 576, _pads(3), (B16, B16))
    assert not any(config.depth for config in TEMPLATES["conv2d-winograd"].space(case.call(), CAPS))


def test_greatest_elements_are_exact_and_nan_wins() -> None:
    case = Half("pooling", "MaxPool", ((1, 16, 9, 13),), (), 1, {"kernel_shape": [3, 3], "strides": [2, 2]}, (B16, B16))
    whole = Half("global-pooling", "GlobalMaxPool", ((1, 16, 9, 13),), (), 1, {}, (B16, B16))
    x = case.arrays()[0][0]
    x[0, 3, 4, 5], x[0, 4], x[0, 5, 2, 2] = np.nan, -np.inf, 65504
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))[:, :, ::2, ::2]
    np.testing.assert_array_equal(case.run(arrays=[x]), windows.max((4, 5)))
    np.testing.assert_array_equal(whole.run(arrays=[x]), x.max((2, 3), keepdims=True))


def test_the_largest_numbers_stay_finite_as_long_as_parts_of_sums_do() -> None:
    """Parts of a sum that are added in float32 may together go beyond the range of float16, if the result doesn't."""
    case = Half("matmul-packed", "Gemm", ((3, 4 * MOST_HALVES),), ((4 * MOST_HALVES, 8),), 4 * MOST_HALVES)
    a = np.full(case.inputs[0], 400, np.float16)
    a[:, 2 * MOST_HALVES :] = -400
    object.__setattr__(case, "arrays", lambda: ([a], [np.full(case.weights[0], 1, np.float16)]))
    np.testing.assert_array_equal(case.run(), np.zeros((3, 8)))
    a[:] = 400
    assert np.isinf(case.run()).all()  # 230400 is beyond float16


def test_subnormal_numbers_keep_their_bits() -> None:
    case = Half("matmul-packed", "MatMul", ((5, 16),), ((16, 8),), 16)
    a = np.zeros((5, 16), np.float16)
    a[:, 0] = np.float16(2.0**-24) * np.arange(1, 6)
    w = np.ones((16, 8), np.float16)
    object.__setattr__(case, "arrays", lambda: ([a], [w]))
    np.testing.assert_array_equal(case.run(), np.repeat(a[:, :1].astype(np.float64), 8, 1))


def test_a_core_without_the_instructions_stops() -> None:
    """What shows that kernels have them."""
    with pytest.raises(qemu.QemuError) as caught:
        CASES[0].run(cpu="cortex-a72")
    assert caught.value.illegal_instruction


@pytest.mark.parametrize(
    ("target", "options", "halves"),
    [
        ("arm:cortex-a76", {}, True),
        ("arm:cortex-a55", {}, True),
        ("arm:neoverse-n1", {}, True),
        ("arm:cortex-a76", {"exact": True}, False),
        ("arm:cortex-a76,-fullfp16", {}, False),
        ("arm:cortex-a72", {}, False),
        ("arm", {}, False),
        ("x86-64-v4", {}, False),
    ],
)
def test_who_adds_in_float16(target: str, options: dict[str, Any], halves: bool) -> None:
    model = CASES[1].model(np.float16)
    _, _, program = to_program(import_onnx(model), target, threads=1, **options)
    local = [line for f in program.functions.values() for line in f.script().splitlines() if "alloc_local" in line]
    assert any("float16" in line for line in local) == halves
