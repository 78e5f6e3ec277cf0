"""What mutations start from: the ONNX package's models of one operator, small nets of several, and the digit classifier."""

from __future__ import annotations

import functools
from importlib import resources

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.support.onnx_cases import onnx_cases

MAX_BYTES = 20_000
"""Larger files are left out: few mutations of them hit anything but weights."""


@functools.cache
def seed_models() -> tuple[bytes, ...]:
    """Serialized models, in a fixed order."""
    nodes = []
    for case in sorted(onnx_cases("node"), key=lambda case: case.name):
        for model in (case.model, case.with_constant_operands().model):
            if model.ByteSize() <= MAX_BYTES:
                nodes.append(model.SerializeToString())
    return (*dict.fromkeys(nodes), *[net.SerializeToString() for net in small_nets()] * 20, digits())


def digits() -> bytes:
    """The bundled classifier."""
    found = next(f for f in resources.files("graphopt.models.digits").iterdir() if f.name.endswith(".onnx"))
    return found.read_bytes()


def small_nets() -> list[ModelProto]:
    """Nets in which edges, names and shapes have something to do with each other."""
    rng = np.random.default_rng(0)

    def constant(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    def longs(name: str, *values: int) -> TensorProto:
        return numpy_helper.from_array(np.array(values, np.int64), name)

    def net(nodes: list[onnx.NodeProto], x: list[int | str], y: list[int | str], *constants: TensorProto) -> ModelProto:
        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in (("x", x), ("y", y))]
        graph = helper.make_graph(nodes, "net", infos[:1], infos[1:], list(constants))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)

    node = helper.make_node
    branches = [helper.make_graph([node(op, ["h"], [f"{op}_b"])], op, [], [helper.make_empty_tensor_value_info(f"{op}_b")])
                for op in ("Relu", "Neg")]  # fmt: skip
    for branch in branches:
        branch.output[0].CopyFrom(helper.make_tensor_value_info(branch.output[0].name, TensorProto.FLOAT, [2, 4]))
    return [
        net(
            [
                node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
                node("BatchNormalization", ["c", "s", "o", "m", "v"], ["n"]),
                node("Relu", ["n"], ["r"]),
                node("GlobalAveragePool", ["r"], ["g"]),
                node("Flatten", ["g"], ["f"]),
                node("Gemm", ["f", "u", "t"], ["y"], transB=1),
            ],
            ["N", 3, 8, 8], ["N", 5], constant("w", 4, 3, 3, 3), *(constant(n, 4) for n in "bsom"),
            numpy_helper.from_array(np.ones(4, np.float32), "v"), constant("u", 5, 4), constant("t", 5),
        ),
        net(
            [
                node("Shape", ["x"], ["shape"]),
                node("Gather", ["shape", "zero"], ["rows"], axis=0),
                node("Concat", ["rows", "two", "minus"], ["to"], axis=0),
                node("Reshape", ["x", "to"], ["parts"]),
                node("Transpose", ["parts"], ["turned"], perm=[0, 2, 1]),
                node("MatMul", ["parts", "turned"], ["scores"]),
                node("Softmax", ["scores"], ["y"], axis=-1),
            ],
            ["N", 8], ["N", 2, 2], longs("zero", 0), longs("two", 2), longs("minus", -1),
        ),
        net(
            [
                node("Slice", ["x", "from", "to", "axes"], ["h"]),
                node("ReduceSum", ["h"], ["sum"], keepdims=0),
                node("Greater", ["sum", "none"], ["more"]),
                node("If", ["more"], ["i"], then_branch=branches[0], else_branch=branches[1]),
                node("Pad", ["i", "pads"], ["p"]),
                node("TopK", ["p", "k"], ["y", "at"], axis=1),
            ],
            [4, 4], [2, 3], longs("from", 1), longs("to", 3), longs("axes", 0), longs("pads", 0, 1, 0, 0), longs("k", 3),
            numpy_helper.from_array(np.float32(0), "none"),
        ),
        net(
            [
                node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
                node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
                node("Split", ["d", "sizes"], ["a", "b"], axis=1),
                node("Tile", ["a", "times"], ["t"]),
                node("Mul", ["t", "b"], ["m"]),
                node("Expand", ["m", "to"], ["y"]),
            ],
            [2, 6], [3, 2, 4], numpy_helper.from_array(np.float32(0.1), "scale"), numpy_helper.from_array(np.int8(3), "zero"),
            longs("sizes", 2, 4), longs("times", 1, 2), longs("to", 3, 2, 4),
        ),
    ]  # fmt: skip
