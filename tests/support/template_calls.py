"""A call for every kernel template of CPUs, with what an independent evaluation says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import ModelProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import KernelCall
from graphopt.driver.importing import import_onnx
from graphopt.ir.layout import PLAIN, Layout, channel_blocks
from graphopt.passes.partition.partition import partition
from tests.support.ort import run_ort

B8 = channel_blocks(8)
Array = np.ndarray


@dataclass(frozen=True)
class Case:
    """One operator on small operands whose sizes divide by nothing.

    Attributes:
        template: the name of the template that is to compute it.
        op: the operator.
        inputs: shapes of what is known at run time.
        weights: shapes of constants, behind the inputs.
        attrs: attributes.
        layouts: of the first input and of the result.
        relu: whether an activation follows.
        axes: of a reduction.
        numbered: the inputs that are whole numbers, below 2.
        by_lane: whether it is for processors that multiply by lane alone.
    """

    template: str
    op: str
    inputs: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[int, ...], ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    layouts: tuple[Layout, Layout] = (PLAIN, PLAIN)
    relu: bool = False
    axes: tuple[int, ...] = ()
    numbered: tuple[int, ...] = ()
    by_lane: bool = False

    def caps(self, caps: Caps) -> Caps:
        """Capabilities that it needs, otherwise those of a target."""
        return replace(caps, multiplies_by_lane=True, vector_bits=128) if self.by_lane else caps

    def arrays(self) -> tuple[list[Array], list[Array]]:
        """Seeded inputs and constants."""
        rng = np.random.default_rng(len(self.template))

        def draw(shape: tuple[int, ...]) -> Array:
            return rng.standard_normal(shape).astype(np.float32)

        drawn = [rng.integers(0, 2, s) if i in self.numbered else draw(s) for i, s in enumerate(self.inputs)]
        return drawn, [draw(s) / np.float32(max(1, np.prod(s[1:]) ** 0.5)) for s in self.weights]

    def model(self) -> ModelProto:
        """The operator as a model ``x0, x1, ... -> y``."""
        constants = self.arrays()[1]
        names = [f"x{i}" for i in range(len(self.inputs))], [f"w{i}" for i in range(len(constants))]
        stored = [numpy_helper.from_array(a, n) for a, n in zip(constants, names[1])]
        if self.axes:
            names[1].append("axes")
            stored.append(numpy_helper.from_array(np.array(self.axes), "axes"))
        nodes = [helper.make_node(self.op, [*names[0], *names[1]], ["a" if self.relu else "y"], **self.attrs)]
        if self.relu:
            nodes.append(helper.make_node("Relu", ["a"], ["y"]))
        graph = helper.make_graph(
            nodes, "g", [
                helper.make_tensor_value_info(n, 7 if i in self.numbered else 1, s)
                for i, (n, s) in enumerate(zip(names[0], self.inputs))
            ],
            [helper.make_tensor_value_info("y", 1, None)], stored,
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)

    def call(self) -> KernelCall:
        """The group as templates see it."""
        fused = partition(import_onnx(self.model()))
        (group,) = fused.groups
        data = group.anchor.inputs[0]
        assert data is not None
        fused.layouts.update(
            {v: layout for v, layout in zip((data, group.outputs[0]), self.layouts) if not layout.is_plain}
        )
        return KernelCall(fused, group)

    def want(self) -> Array:
        """The result in the plain layout."""
        feed = {f"x{i}": a for i, a in enumerate(self.arrays()[0])}
        if self.op in ("Attention", "RMSNormalization", "RoiAlign"):  # newer than the runtime
            return np.asarray(ReferenceEvaluator(self.model()).run(None, feed)[0])
        return run_ort(self.model(), feed)[0]


_3X3 = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
_3X3X3 = {"kernel_shape": [3, 3, 3], "pads": [1] * 6}
BLOCKED = (B8, B8)
CASES = [
    Case("conv2d-direct", "Conv", ((1, 16, 7, 9),), ((24, 16, 3, 3), (24,)), _3X3, BLOCKED, relu=True),
    Case("conv2d-direct", "Conv", ((2, 3, 11, 6),), ((10, 3, 3, 3),), {**_3X3, "strides": [2, 1]}),
    Case("conv2d-winograd", "Conv", ((1, 16, 9, 7),), ((24, 16, 3, 3), (24,)), _3X3, BLOCKED, relu=True),
    Case("conv2d-direct", "Conv", ((1, 8, 4, 7, 9),), ((16, 8, 3, 3, 3), (16,)), _3X3X3, BLOCKED, relu=True),
    Case("conv2d-winograd", "Conv", ((1, 8, 3, 7, 9),), ((16, 8, 3, 3, 3), (16,)), _3X3X3, BLOCKED),
    Case("conv2d-strassen", "Conv", ((1, 64, 5, 7),), ((24, 64, 1, 1), (24,)), {}, BLOCKED, relu=True, by_lane=True),
    Case("conv2d-strassen", "Conv", ((1, 64, 9, 7),), ((24, 64, 3, 3),), {**_3X3, "strides": [2, 2]}, BLOCKED, by_lane=True),
    Case("conv-transpose-patch", "ConvTranspose", ((1, 6, 5, 11),), ((6, 3, 2, 2),), {"strides": [2, 2]}),
    Case("conv-transpose", "ConvTranspose", ((1, 8, 5, 7),), ((8, 16, 3, 3),), {"strides": [2, 2], "pads": [1] * 4}, BLOCKED),
    Case("conv-transpose", "ConvTranspose", ((1, 5, 4, 6),), ((5, 7, 3, 3),), {"strides": [2, 2]}),
    Case("conv2d-depthwise", "Conv", ((1, 16, 6, 13),), ((16, 1, 3, 3), (16,)), {**_3X3, "group": 16}, BLOCKED, relu=True),
    Case("conv2d-depthwise-plain", "Conv", ((1, 5, 13, 19),), ((5, 1, 3, 3),), {**_3X3, "group": 5}),
    Case("conv2d-grouped", "Conv", ((1, 32, 5, 9),), ((32, 8, 3, 3),), {**_3X3, "group": 4}, BLOCKED),
    Case("conv2d-grouped-1x1", "Conv", ((1, 12, 5, 7),), ((9, 4, 1, 1),), {"kernel_shape": [1, 1], "group": 3}, relu=True),
    Case("matmul-packed", "MatMul", ((2, 13, 37),), ((37, 29),), relu=True),
    Case("matmul-packed", "Gemm", ((1, 37),), ((21, 37), (21,)), {"transB": 1}),
    Case("matmul-strassen", "MatMul", ((2, 13, 64),), ((64, 48),), relu=True, by_lane=True),
    Case("matmul-strassen", "Gemm", ((19, 64),), ((32, 64), (32,)), {"transB": 1}, by_lane=True),
    Case("matmul-batched", "MatMul", ((2, 3, 13, 11), (3, 11, 19)), relu=True),
    Case("matmul-batched", "Gemm", ((7, 18), (21, 18)), (), {"transB": 1}),
    Case("pooling", "MaxPool", ((1, 16, 9, 13),), (), {**_3X3, "strides": [2, 2]}, BLOCKED),
    Case("pooling", "AveragePool", ((1, 8, 6, 11),), (), _3X3, BLOCKED, relu=True),
    Case("pooling-plain", "AveragePool", ((1, 5, 17, 21),), (), {**_3X3, "strides": [1, 2]}),
    Case("global-pooling", "GlobalAveragePool", ((2, 16, 5, 7),), (), {}, BLOCKED),
    Case("global-pooling", "GlobalMaxPool", ((2, 16, 3, 5, 7),), (), {}, BLOCKED),
    Case("lrn-blocked", "LRN", ((1, 16, 5, 7),), (), {"size": 5}, BLOCKED),
    Case("layout-copy", "Identity", ((1, 24, 5, 7),), (), {}, (PLAIN, B8)),
    Case("layout-copy", "Identity", ((1, 24, 5, 7),), (), {}, (B8, PLAIN)),
    Case("layout-copy", "Identity", ((2, 24, 3, 5, 7),), (), {}, (PLAIN, B8)),
    Case("softmax-rows", "Softmax", ((7, 45),), (), {"axis": -1}),
    Case("softmax-columns", "Softmax", ((3, 11, 40),), (), {"axis": 1}),
    Case("norm-rows", "LayerNormalization", ((5, 43),), ((43,), (43,)), {"axis": -1}),
    Case("reduce-rows", "ReduceMean", ((7, 45),), (), {"keepdims": 1}, axes=(1,)),
    Case("reduce-columns", "ReduceMax", ((7, 9, 40),), (), {"keepdims": 0}, axes=(1,)),
    Case("attention", "Attention", ((1, 2, 9, 12), (1, 2, 11, 12), (1, 2, 11, 20))),
    Case("roi-align", "RoiAlign", ((2, 24, 7, 9), (5, 4), (5,)), (),
         {"output_height": 3, "output_width": 2, "sampling_ratio": 2, "spatial_scale": 2.0}, numbered=(2,)),
    Case("recurrent", "LSTM", ((5, 3, 7),), ((1, 44, 7), (1, 44, 11), (1, 88)), {"hidden_size": 11}),
    Case("recurrent", "GRU", ((4, 5, 3),), ((2, 57, 3), (2, 57, 19)), {"hidden_size": 19, "direction": "bidirectional"}),
]  # fmt: skip
