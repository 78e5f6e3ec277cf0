"""Kernels of dot products: right on any machine, by a function that does in plain LLVM IR what the instruction does; and the
instruction itself in the assembly for processors that have it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt.backends.base.dot_product import DOT_PRODUCTS, VDPBF16PS
from graphopt.backends.base.element_type import ELEMENT_TYPES
from graphopt.backends.base.tvm_api import cpu_pass_context, tvm
from graphopt.backends.cpu.cost import direct
from graphopt.backends.cpu.kernels import conv2d_direct, matmul_packed
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.matmul import MatmulSpec
from graphopt.backends.specs.types import KernelTypes
from graphopt.backends.targets.grammar import parse_target
from graphopt.ir.dtypes import DType
from tests.support.run_node import node

BF16 = ELEMENT_TYPES[DType.bf16]
TYPES = KernelTypes(BF16, BF16, output=BF16)
WITH_BF16 = ("x86:znver5", "x86:sapphirerapids")


def _in_plain_ir(name: str, lanes: int) -> str:
    """Both elements of each group widened, multiplied and added, the later one first."""
    ints, floats = f"<{lanes} x i32>", f"<{lanes} x float>"
    sixteen, upper = (f"<{', '.join([f'i32 {value}'] * lanes)}>" for value in (16, -65536))
    return f"""
define {floats} @{name}({floats} %sums, {ints} %a, {ints} %b) alwaysinline {{
  %a0 = shl {ints} %a, {sixteen}
  %b0 = shl {ints} %b, {sixteen}
  %a1 = and {ints} %a, {upper}
  %b1 = and {ints} %b, {upper}
  %x0 = bitcast {ints} %a0 to {floats}
  %y0 = bitcast {ints} %b0 to {floats}
  %x1 = bitcast {ints} %a1 to {floats}
  %y1 = bitcast {ints} %b1 to {floats}
  %p1 = fmul {floats} %x1, %y1
  %s1 = fadd {floats} %sums, %p1
  %p0 = fmul {floats} %x0, %y0
  %s0 = fadd {floats} %s1, %p0
  ret {floats} %s0
}}
"""


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dot product on processors that lack it."""
    monkeypatch.setitem(
        DOT_PRODUCTS, VDPBF16PS.name, replace(VDPBF16PS, available=lambda caps: True, text=_in_plain_ir)
    )


def _model(nodes: list[onnx.NodeProto], shape: tuple[int, ...], weights: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array((rng.standard_normal(s) / np.prod(s[1:]) ** 0.5).astype(ml_dtypes.bfloat16), name)
        for name, s in weights.items()
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.BFLOAT16, shape)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.BFLOAT16, None)], constants,
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    return onnx.shape_inference.infer_shapes(made)


def _agrees(model: onnx.ModelProto, shape: tuple[int, ...], kernels: int, threads: int = 1) -> None:
    """``kernels`` kernels use the dot product, and results are within two steps of bfloat16 of the reference."""
    compiled = graphopt.compile(model, "x86-64-v3", threads=threads)
    assert sum("vdpbf16ps" in k.config for k in compiled.program.kernels) == kernels
    x = np.random.default_rng(1).standard_normal(shape).astype(ml_dtypes.bfloat16)
    (got,) = compiled.run({"x": x}).values()
    (want,) = ReferenceEvaluator(model).run(None, {"x": x})
    got, want = got.astype(np.float64), np.asarray(want).astype(np.float64)
    assert np.abs(got - want).max() <= 2 * float(ml_dtypes.finfo(ml_dtypes.bfloat16).eps) * np.abs(want).max()
    assert want.std() > 0.1


CONVOLUTIONS: dict[str, tuple[dict[str, Any], tuple[int, ...], str]] = {
    "3x3": ({"pads": [1] * 4}, (32, 16, 3, 3), "Relu"),
    "pointwise": ({}, (40, 16, 1, 1), "Sigmoid"),
    "strided and dilated": (
        {"strides": [2, 1], "dilations": [1, 2], "pads": [2, 1, 0, 3]},
        (24, 16, 3, 3),
        "HardSwish",
    ),
    "few channels": ({"pads": [2] * 4}, (8, 16, 5, 5), "Relu"),
}


@pytest.mark.parametrize("extents", [(13, 17), (1, 7)], ids=str)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(anywhere: None, name: str, extents: tuple[int, int]) -> None:
    attributes, shape, activation = CONVOLUTIONS[name]
    nodes = [
        node("Conv", "x first", "a", pads=[1] * 4),  # of three channels that lie planes apart; makes blocks of channels
        node("Conv", "a weight bias", "b", **attributes),
        node(activation, "b", "y"),
    ]
    image = (2, 3, extents[0] + 4, extents[1] + 4)
    weights = {"first": (16, 3, 3, 3), "weight": shape, "bias": shape[:1]}
    _agrees(_model(nodes, image, weights), image, 2, threads=2)


@pytest.mark.parametrize(
    ("rows", "depth", "columns"),
    [(9, 40, 33), (1, 130, 70), (64, 2, 16), (33, 3000, 24), (1, 4000, 333), (3, 4000, 250)],
    ids=str,
)
def test_products(anywhere: None, rows: int, depth: int, columns: int) -> None:
    nodes = [node("MatMul", "x weight", "a"), node("Add", "a bias", "b"), node("Gelu", "b", "y")]
    model = _model(nodes, (rows, depth), {"weight": (depth, columns), "bias": (columns,)})
    _agrees(model, (rows, depth), 1)


def test_a_transposed_weight(anywhere: None) -> None:
    nodes = [node("Gemm", "x weight bias", "y", transB=1)]
    _agrees(_model(nodes, (7, 36), {"weight": (21, 36), "bias": (21,)}), (7, 36), 1)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("sizes", [(9, 40, 33), (1, 8, 70), (64, 2, 16), (3, 64, 7)], ids=str)
def test_products_of_values(anywhere: None, sizes: tuple[int, int, int], turned: bool) -> None:
    rows, depth, columns = sizes
    left, right = (2, 3, rows, depth), (1, 3, columns, depth) if turned else (1, 3, depth, columns)
    nodes = [node("MatMul", "x t" if turned else "x w", "y")]
    if turned:
        nodes.insert(0, node("Transpose", "w", "t", perm=[0, 1, 3, 2]))
    inputs = {"x": left, "w": right}
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(n, TensorProto.BFLOAT16, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.BFLOAT16, None)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    compiled = graphopt.compile(onnx.shape_inference.infer_shapes(model), "x86-64-v3", threads=2)
    assert sum("vdpbf16ps" in k.config for k in compiled.program.kernels) == 1
    rng = np.random.default_rng(1)
    feed = {n: rng.standard_normal(s).astype(ml_dtypes.bfloat16) for n, s in inputs.items()}
    a, b = (feed[n].astype(np.float64) for n in ("x", "w"))
    want = a @ (b.swapaxes(-1, -2) if turned else b)
    got = compiled.run(feed)["y"].astype(np.float64)
    assert np.abs(got - want).max() <= float(ml_dtypes.finfo(ml_dtypes.bfloat16).eps) * np.abs(want).max()


@pytest.mark.parametrize("packed", [False, True])
def test_scores_of_attention(anywhere: None, packed: bool) -> None:
    sizes = {"q": (1, 4, 9, 10), "k": (1, 2, 13, 10), "v": (1, 2, 13, 6)}
    if packed:
        sizes = {n: (s[0], s[2], s[1] * s[3]) for n, s in sizes.items()}
    heads = {"q_num_heads": 4, "kv_num_heads": 2} if packed else {}
    graph = helper.make_graph(
        [node("Attention", "q k v", "y", **heads)], "g",
        [helper.make_tensor_value_info(n, TensorProto.BFLOAT16, s) for n, s in sizes.items()],
        [helper.make_tensor_value_info("y", TensorProto.BFLOAT16, None)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    compiled = graphopt.compile(onnx.shape_inference.infer_shapes(model), "x86-64-v3", threads=1)
    assert sum("vdpbf16ps" in k.config for k in compiled.program.kernels) == 1
    rng = np.random.default_rng(1)
    feed = {n: rng.standard_normal(s).astype(ml_dtypes.bfloat16) for n, s in sizes.items()}
    (want,) = ReferenceEvaluator(_in_float32(model)).run(None, {n: a.astype(np.float32) for n, a in feed.items()})
    got = compiled.run(feed)["y"].astype(np.float64)
    assert np.abs(got - want).max() <= float(ml_dtypes.finfo(ml_dtypes.bfloat16).eps) * np.abs(want).max()


def _in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for value in (*wide.graph.input, *wide.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    return wide


def test_an_odd_depth_has_no_groups(anywhere: None) -> None:
    _agrees(_model([node("MatMul", "x weight", "y")], (5, 41), {"weight": (41, 20)}), (5, 41), 0)


def _assembly(function: Any, target: str) -> str:
    with cpu_pass_context():
        compiled = tvm.compile(tvm.IRModule({"kernel": function}), parse_target(target, 1).tvm_target())
    return str(compiled.mod.inspect_source("asm"))


def _hot_loops(assembly: str) -> list[str]:
    """The basic blocks with dot products, from label or jump to jump."""
    blocks = re.split(r"^\.LBB\w+:.*$|^\tj\w+\t.*$", assembly, flags=re.MULTILINE)
    return [block for block in blocks if "vdpbf16ps" in block]


@pytest.mark.parametrize("target", WITH_BF16)
def test_the_instruction_is_inlined_and_sums_stay_in_registers(target: str) -> None:
    caps = parse_target(target, 1).caps
    conv = Conv2dSpec(1, 64, 28, 28, 64, (3, 3), pads=(1, 1, 1, 1), in_block=16, out_block=16, types=TYPES)
    product = MatmulSpec(140, 512, 512, TYPES)
    for function, tile in (
        (conv2d_direct.emit(conv, config := direct.default_config(conv, caps), name="kernel"), config.accumulators),
        (
            matmul_packed.emit(product, chosen := matmul_packed.default_config(product, caps), name="kernel"),
            chosen.m_tile * chosen.n_vectors,
        ),
    ):
        assembly = _assembly(function, target)
        assert "TVMBackendAllocWorkspace" not in assembly
        assert not re.search(r"call\w*\s+\S*graphopt_vdpbf16ps", assembly)
        loops = _hot_loops(assembly)
        assert max(block.count("vdpbf16ps") for block in loops) >= tile
        spilled = [line for block in loops for line in block.splitlines() if "zmm" in line and "(%rsp)" in line]
        assert not spilled, spilled[:5]


def test_float32_and_other_processors_have_none() -> None:
    conv = Conv2dSpec(1, 64, 28, 28, 64, (3, 3), in_block=16, out_block=16)
    assert direct.default_config(conv, parse_target("x86:znver5", 1).caps).dot == ""
    assert direct.default_config(replace(conv, types=TYPES), parse_target("x86-64-v4", 1).caps).dot == ""


def test_the_artefact_names_the_instruction_it_needs(tmp_path: Any) -> None:
    model = _model([node("MatMul", "x weight", "y")], (4, 32), {"weight": (32, 32)})
    compiled = graphopt.compile(model, "x86:znver5", threads=1)
    assert any("vdpbf16ps" in k.config for k in compiled.program.kernels)
    compiled.save(tmp_path / "model.gopt")
    if parse_target("native").caps.bf16:
        return
    with pytest.raises(graphopt.GraphOptError, match="avx512"):
        graphopt.load(tmp_path / "model.gopt")
