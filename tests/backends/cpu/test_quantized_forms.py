"""Quantized models as PyTorch, tf2onnx and ONNX Runtime write them reach kernels of integers, and give what ONNX Runtime gives.

Each form is a branch of one model, which is compiled once. The oracle runs without its optimiser: exact arithmetic of the pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from tests.support.ort import run_ort
from tests.support.run_node import node

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
LEVEL = "x86-64-v3"


class Branches:
    """Branches that read ``x`` (batch, 16 channels, 6, 6) or ``rows`` and end in a quantized result each."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {
            "sx": np.asarray(0.03, np.float32), "zx": np.asarray(3, np.int8), "sy": np.asarray(0.05, np.float32),
            "zy": np.asarray(-4, np.int8), "low": np.asarray(-127, np.int8), "high": np.asarray(127, np.int8),
        }  # fmt: skip
        self.outputs: list[str] = []

    def weight(self, name: str, *shape: int, axis: int = 0) -> None:
        """Weights as floats, as integers by the axis, and their scales, for a branch."""
        w = (RNG.standard_normal(shape) * 0.1).astype(np.float32)
        others = tuple(i for i in range(len(shape)) if i != axis)
        scale = (np.abs(w).max(others) / 127).astype(np.float32)
        spread = scale.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        integers = np.clip(np.rint(w / spread), -127, 127).astype(np.int8)
        self.constants |= {
            f"{name}_f": w,
            f"{name}_q": integers,
            f"{name}_s": scale,
            f"{name}_z": np.zeros(len(scale), np.int8),
        }

    def add(self, name: str, *nodes: onnx.NodeProto) -> None:
        """A branch whose last value is ``<name>_c``."""
        self.outputs.append(f"{name}_y")
        self.nodes += [*nodes, node("QuantizeLinear", f"{name}_c sy zy", f"{name}_y")]

    def model(self, x: Array, rows: Array) -> onnx.ModelProto:
        feeds = {"x": x, "rows": rows}
        pairs = []
        for v in feeds:
            pairs += [
                node("QuantizeLinear", f"{v} sx zx", f"{v}_q"),
                node("DequantizeLinear", f"{v}_q sx zx", f"{v}_d"),
            ]
        graph = helper.make_graph(
            [*pairs, *self.nodes], "g",
            [helper.make_tensor_value_info(k, TensorProto.FLOAT, v.shape) for k, v in feeds.items()],
            [helper.make_tensor_value_info(o, TensorProto.INT8, None) for o in self.outputs],
            [numpy_helper.from_array(v, k) for k, v in self.constants.items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return onnx.shape_inference.infer_shapes(model)


def conv(name: str, weight: str, **attrs: Any) -> onnx.NodeProto:
    return node("Conv", f"x_d {weight}", f"{name}_c", pads=[1] * 4, **attrs)


def forms() -> Branches:
    """One branch a form."""
    b = Branches()
    for name in ("stored", "bare", "floats", "clipped"):
        b.weight(name, 24, 16, 3, 3)
    b.add(
        "stored", node("DequantizeLinear", "stored_q stored_s stored_z", "stored_d", axis=0), conv("stored", "stored_d")
    )
    b.add("bare", node("DequantizeLinear", "bare_q bare_s", "bare_d", axis=0), conv("bare", "bare_d"))
    made = node(
        "QuantizeLinear", "floats_f floats_s floats_z", "floats_i", axis=0
    )  # QAT of PyTorch: folded when compiling
    b.add(
        "floats",
        made,
        node("DequantizeLinear", "floats_i floats_s floats_z", "floats_d", axis=0),
        conv("floats", "floats_d"),
    )
    made = node("QuantizeLinear", "clipped_f clipped_s clipped_z", "clipped_i", axis=0)
    cut = node("Clip", "clipped_i low high", "clipped_k")  # its narrow range
    b.add("clipped", made, cut, node("DequantizeLinear", "clipped_k clipped_s clipped_z", "clipped_d", axis=0),
          conv("clipped", "clipped_d"))  # fmt: skip
    b.weight("hwio", 3, 3, 16, 24, axis=3)  # tf2onnx
    made = node("QuantizeLinear", "hwio_f hwio_s hwio_z", "hwio_i", axis=3)
    b.add("hwio", made, node("DequantizeLinear", "hwio_i hwio_s hwio_z", "hwio_d", axis=3),
          node("Transpose", "hwio_d", "hwio_t", perm=[3, 2, 0, 1]), conv("hwio", "hwio_t"))  # fmt: skip
    b.constants |= {"unsigned_q": RNG.integers(0, 256, (24, 16, 3, 3)).astype(np.uint8),
                    "unsigned_s": np.asarray([0.002], np.float32), "unsigned_z": np.asarray(131, np.uint8)}  # fmt: skip
    b.add(
        "unsigned",
        node("DequantizeLinear", "unsigned_q unsigned_s unsigned_z", "unsigned_d"),
        conv("unsigned", "unsigned_d"),
    )
    b.weight("flat", 24, 16)  # a Linear as a convolution
    b.constants["space"] = np.asarray([2, 3])
    b.add("flat", node("DequantizeLinear", "flat_q flat_s", "flat_d", axis=0), node("Unsqueeze", "flat_d space", "flat_u"),
          node("Conv", "x_d flat_u", "flat_c"))  # fmt: skip
    b.weight("linear", 20, 32)
    b.constants["linear_b"] = RNG.standard_normal(20).astype(np.float32)
    b.add("linear", node("DequantizeLinear", "linear_q linear_s", "linear_d", axis=0),
          node("Transpose", "linear_d", "linear_t", perm=[1, 0]), node("MatMul", "rows_d linear_t", "linear_m"),
          node("Add", "linear_m linear_b", "linear_c"))  # fmt: skip
    b.weight("gemm", 20, 32)
    b.add(
        "gemm",
        node("DequantizeLinear", "gemm_q gemm_s", "gemm_d", axis=0),
        node("Gemm", "rows_d gemm_d", "gemm_c", transB=1),
    )
    return b


def test_forms() -> None:
    branches = forms()
    x = RNG.standard_normal((1, 16, 6, 6)).astype(np.float32)
    rows = RNG.standard_normal((5, 32)).astype(np.float32)
    model = branches.model(x, rows)
    compiled = graphopt.compile(model, LEVEL, threads=1)
    assert compiled.program is not None
    kernels = [
        f"{k.template}:{k.config}" for k in compiled.program.kernels if k.template in ("conv2d-direct", "matmul-packed")
    ]
    assert len(kernels) == len(branches.outputs)
    assert all("vpmaddwd" in k for k in kernels), kernels
    feeds = {"x": x, "rows": rows}
    for name, got, want in zip(branches.outputs, compiled.run(feeds).values(), run_ort(model, feeds)):
        assert want.std() > 3, name
        apart = np.abs(got.astype(np.int64) - want.astype(np.int64))  # sums of floats lie beside a tie at times
        assert apart.max() <= 1, name
        assert (apart > 0).mean() < 0.01, name


@pytest.mark.parametrize("dims", [1, 2])
def test_channels_last_and_convolutions_along_one_axis(dims: int) -> None:
    """Two layers, data [batch, space, channels] between transpositions, or [batch, channels, length]."""
    b = Branches()
    kernel = (3,) * dims
    b.weight("one", 24, 16, *kernel)
    b.weight("two", 16, 24, *kernel)
    to_front, to_back = ([0, 3, 1, 2], [0, 2, 3, 1]) if dims == 2 else ([0, 1, 2], [0, 1, 2])
    layers = []
    for i, (name, source) in enumerate((("one", "x_d"), ("two", "d"))):
        layers += [
            node("DequantizeLinear", f"{name}_q {name}_s", f"{name}_d", axis=0),
            node("Transpose", source, f"{name}_t", perm=to_front),
            node("Conv", f"{name}_t {name}_d", f"{name}_v", pads=[1] * 2 * dims),
            node("Relu", f"{name}_v", f"{name}_r"),
            node("Transpose", f"{name}_r", f"{name}_c", perm=to_back),
        ]
        if not i:
            layers += [node("QuantizeLinear", "one_c sy zy", "q"), node("DequantizeLinear", "q sy zy", "d")]
    b.add("two", *layers)
    shape = (1, 7, 6, 16) if dims == 2 else (1, 16, 9)
    x, rows = RNG.standard_normal(shape).astype(np.float32), np.zeros((1, 1), np.float32)
    model = b.model(x, rows)
    compiled = graphopt.compile(model, LEVEL, threads=1)
    assert compiled.program is not None
    kernels = [f"{k.template}:{k.config}" for k in compiled.program.kernels if k.template.startswith("conv2d")]
    assert sum("vpmaddwd" in k for k in kernels) == 2, kernels
    want = run_ort(model, {"x": x, "rows": rows})[0]
    got = compiled.run({"x": x, "rows": rows})["two_y"]
    assert want.std() > 2
    assert np.abs(got.astype(np.int64) - want.astype(np.int64)).max() <= 1
