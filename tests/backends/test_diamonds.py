"""Diamonds computed in an anchor's kernel, against ONNX's reference evaluator."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from graphopt.backends.base.template import KernelCall
from graphopt.backends.templates.epilogue import MAX_EXPRESSION, Epilogue
from graphopt.driver.compiling import compile, to_program
from tests.support.tolerance import assert_close
from tests.support.writing import IDIOMS, Writing

SKIPPED = ("recognise-activations", "recognise-gelu", "recognise-attention")
INPUTS = {"x": (1, 8, 6, 6), "rows": (5, 16), "heads": (1, 2, 4, 8)}


def _attention(w: Writing) -> str:
    return w("Attention", "heads", "heads", "heads")


ANCHORS: dict[str, Callable[[Writing], str]] = {
    "Conv": lambda w: w("Conv", "x", w.weight(16, 8, 3, 3), w.weight(16), pads=[1] * 4),
    "depthwise": lambda w: w("Conv", "x", w.weight(8, 1, 3, 3), pads=[1] * 4, group=8),
    "ConvTranspose": lambda w: w("ConvTranspose", "x", w.weight(8, 8, 2, 2), w.weight(8), strides=[2, 2]),
    "MatMul": lambda w: w("MatMul", "rows", w.weight(16, 24)),
    "Gemm": lambda w: w("Gemm", "rows", w.weight(24, 16), w.weight(24), transB=1),
    "product of values": lambda w: w("MatMul", "rows", w("Transpose", "rows", perm=[1, 0])),
    "Attention": _attention,
    "MaxPool": lambda w: w("MaxPool", "x", kernel_shape=[3, 3], pads=[1] * 4),
    "AveragePool": lambda w: w("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2]),
    "GlobalAveragePool": lambda w: w("GlobalAveragePool", "x"),
    "Softmax": lambda w: w("Softmax", "rows", axis=-1),
    "LayerNormalization": lambda w: w("LayerNormalization", "rows", w.weight(16), w.weight(16)),
    "ReduceMean": lambda w: w("ReduceMean", "x", w.constant(np.array([2, 3]))),
    "ReduceMax": lambda w: w("ReduceMax", "rows", w.constant(np.array([1])), keepdims=1),
}
OF_SHAPE = {
    "MatMul": (5, 24),
    "Gemm": (5, 24),
    "Conv": (1, 16, 6, 6),
    "depthwise": (1, 8, 6, 6),
    "MaxPool": (1, 8, 6, 6),
}
"""Anchors whose results also meet operands that are broadcast, with the results' shapes."""


def data(inputs: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Numbers with a good part beyond where activations bend."""
    rng = np.random.default_rng(0)
    return {name: (2 * rng.standard_normal(shape)).astype(np.float32) for name, shape in inputs.items()}


def check(model: onnx.ModelProto, depth: int) -> None:
    """Compare all results of the model."""
    feed = data(INPUTS)
    want = ReferenceEvaluator(model).run(None, feed)
    got = compile(model, "native", threads=1, skip=SKIPPED).run(feed)
    for info, wanted in zip(model.graph.output, want):
        # results of diamonds are differences of large numbers at places
        assert_close(got[info.name], wanted, reduction=128, depth=depth, what=info.name)


def test_activations_in_parts() -> None:
    writing = Writing()
    for i, idiom in enumerate(IDIOMS.values()):
        anchor = list(ANCHORS)[i % len(ANCHORS)]
        writing.result(idiom(writing, ANCHORS[anchor](writing)))
    check(writing.model(INPUTS, 23), depth=8)


def random_net(seed: int, nodes: int) -> onnx.ModelProto:
    """Every anchor with random element-wise nodes behind it, some of whose results leave the model."""
    pick = random.Random(seed)
    w = Writing(seed)
    for anchor, begin in ANCHORS.items():
        values, masks = [begin(w)], [""]
        for _ in range(nodes):
            x, y = pick.choice(values[-4:]), pick.choice(values)
            kind = pick.randrange(9)
            if kind < 3:
                values.append(w(pick.choice(["Sigmoid", "Tanh", "Relu", "Neg", "Abs", "HardSigmoid", "Softsign"]), x))
            elif kind < 6:
                values.append(w(pick.choice(["Add", "Mul", "Sub", "Max", "Min"]), x, y))
            elif kind == 6:
                values.append(w(pick.choice(["Add", "Mul"]), x, _operand(w, anchor, pick)))
            elif kind == 7:
                masks.append(w(pick.choice(["Less", "GreaterOrEqual"]), x, w.constant(pick.choice([0.0, 0.5]))))
                values.append(w("Where", pick.choice(masks[1:]), x, y))
            else:
                number = w("Cast", w("Greater", x, y), to=TensorProto.FLOAT)
                values.append(w("Sub", y, number))
        if pick.random() < 0.3:
            w.result(pick.choice(values))
        w.result(values[-1], w("Sum", *values[-4:]))
    return w.model(INPUTS, 23)


def _operand(w: Writing, anchor: str, pick: random.Random) -> str:
    """A number, or what is broadcast along some axes of the anchor's result."""
    shape = OF_SHAPE.get(anchor)
    if shape is None or pick.random() < 0.3:
        return w.constant(pick.choice([0.5, -1.0, 3.0]))
    return w.weight(*(1 if pick.random() < 0.5 else d for d in shape))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_random_nodes_behind_every_anchor(seed: int) -> None:
    check(random_net(seed, 8), depth=16)


def test_the_length_of_an_epilogue_shows_without_operands() -> None:
    """A pool adds nothing to its result. Were that a number while the epilogue is weighed, TVM would fold what follows, and an
    expression that takes TVM minutes would count as short."""
    writing = Writing()
    made = ANCHORS["MaxPool"](writing)
    for _ in range(8):
        made = IDIOMS["silu"](writing, made)
    writing.result(made)
    _, fused, program = to_program(writing.model(INPUTS), "x86-64-v3")
    (group,) = fused.groups
    epilogue = Epilogue(KernelCall(fused, group), program.target.caps, {})
    assert epilogue.weight > MAX_EXPRESSION
    assert epilogue.stepwise
