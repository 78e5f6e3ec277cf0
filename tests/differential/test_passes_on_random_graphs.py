"""Every pass and level on generated graphs of element-wise and movement operators."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphopt.driver.importing import import_onnx
from graphopt.driver.optimizing import export_onnx, optimize
from graphopt.ir.printer import format_graph
from tests.support.evaluate import random_inputs
from tests.support.ort import run_ort
from tests.support.tolerance import assert_close

UNARY = ("Relu", "Neg", "Abs", "Sigmoid", "Tanh", "Identity", "Exp", "Dropout")
BINARY = ("Add", "Sub", "Mul", "Max")
KINDS = (
    "unary",
    "binary",
    "const",
    "transpose",
    "reshape",
    "concat",
    "split",
    "slice",
    "cast",
    "reduce",
    "pad",
    "unsqueeze",
)


class Builder:
    """Grows a graph of tensors small enough to stay exact and quick."""

    def __init__(self, draw):
        self.draw = draw
        self.nodes: list[onnx.NodeProto] = []
        self.consts: list[onnx.TensorProto] = []
        self.shapes: dict[str, tuple[int, ...]] = {"x": (2, 3, 4), "z": (4, 3)}

    def add(self, op, inputs, shape, count=1, **attrs):
        outs = [f"v{len(self.shapes) + i}" for i in range(count)]
        self.nodes.append(helper.make_node(op, inputs, outs, **attrs))
        self.shapes.update(dict.fromkeys(outs, shape))
        return outs[0]

    def const(self, array):
        name = f"c{len(self.consts)}"
        self.consts.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def value(self):
        return self.draw(st.sampled_from(sorted(self.shapes)))

    def step(self):
        kind, v = self.draw(st.sampled_from(KINDS)), self.value()
        shape = self.shapes[v]
        axis = self.draw(st.integers(-len(shape), len(shape) - 1)) if shape else 0
        at = axis % max(len(shape), 1)
        if kind == "unary":
            op = self.draw(st.sampled_from(UNARY))
            v = self.add("Tanh", [v], shape) if op == "Exp" else v
            self.add(op, [v], shape)
        elif kind == "binary":
            same = sorted(n for n, s in self.shapes.items() if s == shape)
            self.add(self.draw(st.sampled_from(BINARY)), [v, self.draw(st.sampled_from(same))], shape)
        elif kind == "const":
            number = self.draw(st.sampled_from([0.0, -0.0, 1.0, 2.0, -0.5]))
            wide = self.draw(st.sampled_from([(), shape[-1:], (1,) * len(shape)]))
            operands = [v, self.const(np.full(wide, number, np.float32))]
            self.add(self.draw(st.sampled_from(BINARY)), operands[:: self.draw(st.sampled_from([1, -1]))], shape)
        elif kind == "transpose":
            perm = self.draw(st.permutations(range(len(shape))))
            # helper.make_node takes no empty list; without the attribute a scalar is transposed the same way
            self.add("Transpose", [v], tuple(shape[p] for p in perm), **({"perm": list(perm)} if perm else {}))
        elif kind == "reshape":
            total = int(np.prod(shape))
            new = self.draw(
                st.sampled_from([(total,), (2, total // 2) if total % 2 == 0 else (1, total), (1, total, 1), shape])
            )
            self.add("Reshape", [v, self.const(np.array(new))], new)
        elif kind == "concat" and shape and int(np.prod(shape)) < 200:
            self.add("Concat", [v, v], (*shape[:at], 2 * shape[at], *shape[at + 1 :]), axis=axis)
        elif kind == "split" and shape and shape[at] % 2 == 0:
            self.add("Split", [v], (*shape[:at], shape[at] // 2, *shape[at + 1 :]), count=2, axis=axis, num_outputs=2)
        elif kind == "slice" and shape:
            start = self.draw(st.integers(0, max(shape[at] - 1, 0)))
            ends = self.const(np.array([2**40]))
            self.add("Slice", [v, self.const(np.array([start])), ends, self.const(np.array([axis]))],
                     (*shape[:at], shape[at] - start, *shape[at + 1 :]))  # fmt: skip
        elif kind == "cast":
            mid = self.draw(st.sampled_from([TensorProto.DOUBLE, TensorProto.FLOAT]))
            self.nodes.append(helper.make_node("Cast", [v], [f"k{len(self.nodes)}"], to=mid))
            self.add("Cast", [f"k{len(self.nodes) - 1}"], shape, to=TensorProto.FLOAT)
        elif kind == "reduce" and shape:
            op = self.draw(st.sampled_from(["ReduceSum", "ReduceMax", "ReduceMean"]))
            keep = self.draw(st.booleans())
            made = (*shape[:at], *([1] if keep else []), *shape[at + 1 :])
            self.add(op, [v, self.const(np.array([axis]))], made, keepdims=int(keep))
        elif kind == "pad" and shape and int(np.prod(shape)) < 200:
            amount = self.draw(st.integers(0, 2))
            self.add("Pad", [v, self.const(np.array([amount, 0])), "", self.const(np.array([axis]))],
                     (*shape[:at], shape[at] + amount, *shape[at + 1 :]))  # fmt: skip
        elif kind == "unsqueeze" and len(shape) < 4:
            self.add("Unsqueeze", [v, self.const(np.array([at]))], (*shape[:at], 1, *shape[at:]))


@st.composite
def models(draw):
    b = Builder(draw)
    for _ in range(draw(st.integers(2, 14))):
        b.step()
    made = sorted(set(b.shapes) - {"x", "z"})
    outs = draw(st.lists(st.sampled_from(made or ["x"]), min_size=1, max_size=3, unique=True))
    graph = helper.make_graph(
        b.nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, b.shapes[n]) for n in ("x", "z")],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, b.shapes[n]) for n in outs],
        b.consts,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    return model


def check(model, **options):
    graph = import_onnx(model)
    feeds = random_inputs(graph, seed=1)
    after = optimize(graph, verify_each=True, **options)
    want, got = run_ort(model, feeds), run_ort(export_onnx(after), feeds)
    assert [v.name for v in after.outputs] == [o.name for o in model.graph.output]
    for value, a, b in zip(graph.outputs, got, want):
        assert_close(a, b, reduction=64, depth=8, what=value.name)
    return after


RELAXED = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@RELAXED
@given(models())
def test_levels_keep_the_results(model):
    for level in (1, 2, 3):
        after = check(model, level=level)
        assert format_graph(optimize(after, level)) == format_graph(after), f"O{level} is not idempotent"


PASSES = ("dead-code", "cse", "merge-constants", "remove-no-ops", "merge-casts", "merge-views",
          "remove-neutral-arithmetic", "fold-constants", "move-transposes", "recognise-activations")  # fmt: skip


@pytest.mark.parametrize("name", PASSES)
@settings(RELAXED, max_examples=15)
@given(models())
def test_single_passes_keep_the_results(name, model):
    check(model, passes=[name])
