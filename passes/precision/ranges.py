"""Numbers beyond the range of the format: constants such as -1e9 and -inf in masks, and what is computed from them."""

from __future__ import annotations

from graphopt.ir.graph import Graph, Node, Value
from graphopt.ops.registry import LINEAR, MOVEMENT, has_trait
from graphopt.passes.precision.narrow_form import is_float32
from graphopt.passes.precision.narrow_format import NarrowFormat

Signs = frozenset[str]
"""Whether a value may lie beyond the range below ("-") and above ("+")."""

_NONE: Signs = frozenset()
_BOTH: Signs = frozenset("+-")

_BOUNDED = frozenset((
    "Atan", "BatchNormalization", "Cos", "Erf", "GroupNormalization", "HardSigmoid", "Hardmax", "InstanceNormalization",
    "LayerNormalization", "LpNormalization", "MeanVarianceNormalization", "OneHot", "RMSNormalization", "Reciprocal",
    "Sigmoid", "Sign", "Sin", "Softmax", "Softsign", "Tanh",
))  # fmt: skip
"""Operators whose results are in range whatever their operands are, but for poles."""

_NOT_BELOW = frozenset(("Exp", "GlobalMaxPool", "MaxPool", "ReduceMax", "Relu", "Softplus"))
"""Operators that leave nothing far below zero; of a maximum it is assumed that some element is in range."""


def beyond_range(graph: Graph, form: NarrowFormat) -> dict[Node, str]:
    """Nodes that read numbers beyond the range, with the reason."""
    found = _Ranges(form)
    found.visit(graph)
    return found.reasons


class _Ranges:
    def __init__(self, form: NarrowFormat) -> None:
        self.form = form
        self.signs: dict[Value, Signs] = {}
        self.because: dict[Value, str] = {}
        self.reasons: dict[Node, str] = {}

    def of(self, value: Value | None) -> Signs:
        if value is None or not is_float32(value):
            return _NONE
        if value not in self.signs:
            below, above = self.form.beyond(value.data) if value.data is not None else (False, False)
            self.signs[value] = frozenset("-" * below + "+" * above)
            if value.data is not None and (below or above):
                number = f"{self.form.overflows(value.data):.6g}"
                self.because[value] = f"%{value.name} holds {number}, beyond {self.form}"
        return self.signs[value]

    def visit(self, graph: Graph) -> None:
        for node in graph.nodes:
            for sub in node.subgraphs:
                self.visit(sub)
            if node.subgraphs:
                self.pass_on(node, [v for sub in node.subgraphs for v in sub.outputs if self.of(v)])
                continue
            operands = (
                self.unclipped(node) if node.op == "Clip" else [v for v in node.inputs if v is not None and self.of(v)]
            )
            if operands:
                self.reasons[node] = self.because[operands[0]]
                self.result(node, operands)

    def pass_on(self, node: Node, sources: list[Value]) -> None:
        """Results of control flow: as those of its subgraphs, taken together."""
        if sources:
            self.reasons[node] = self.because[sources[0]]
            signs = frozenset(s for v in sources for s in self.of(v))
            self.mark(node, signs, self.because[sources[0]])

    def unclipped(self, node: Node) -> list[Value]:
        """Operands of a Clip that matter: a lower bound far below is none at all."""
        x, low, high = (node.input(i) for i in range(3))
        matters = [x] if self.of(x) else []
        matters += [low] if "+" in self.of(low) else []
        matters += [high] if "-" in self.of(high) else []
        return [v for v in matters if v is not None]

    def result(self, node: Node, operands: list[Value]) -> None:
        self.mark(node, self.signs_of(node), self.because[operands[0]])

    def mark(self, node: Node, signs: Signs, because: str) -> None:
        for out in node.outputs:
            if signs and is_float32(out):
                assert out is not None
                self.signs[out], self.because[out] = signs, because

    def signs_of(self, node: Node) -> Signs:
        """On which sides the results may be beyond the range."""
        each = [self.of(v) for v in node.inputs]
        union = frozenset(s for signs in each for s in signs)
        if node.domain:
            return _BOTH
        if node.op in _BOUNDED:
            return _NONE
        if node.op in _NOT_BELOW:
            return union - {"-"}
        if node.op == "LogSoftmax":
            return frozenset("-")
        if node.op == "Attention" and sum(v is not None for v in node.outputs) == 1:
            return each[2]  # weighted means of values, whatever a mask holds
        if node.op == "Clip":
            return self.clipped(node)
        if node.op == "Neg":
            return _swapped(union)
        if node.op == "Abs":
            return frozenset("+")
        if node.op == "Sub":
            return each[0] | _swapped(each[1])
        if node.op == "Div":
            return _BOTH if each[0] else _NONE
        if node.op in ("Max", "Min"):
            side = "+" if node.op == "Max" else "-"
            return (union & {side}) | frozenset.intersection(*each)
        if has_trait(node, MOVEMENT) or node.op in ("Add", "Sum", "Mean", "Where", "Identity", "ReduceMin", "Pad"):
            return union
        return _BOTH

    def clipped(self, node: Node) -> Signs:
        signs = set(self.of(node.input(0)))
        for index, side in ((1, "-"), (2, "+")):
            bound = node.input(index)
            if bound is not None and not self.of(bound):
                signs.discard(side)
            elif bound is not None:
                signs |= self.of(bound) & ({"+"} if side == "-" else {"-"})
        return frozenset(signs)


def _swapped(signs: Signs) -> Signs:
    return frozenset({"+": "-", "-": "+"}[s] for s in signs)


def rounded_constants(node: Node, form: NarrowFormat) -> str | None:
    """Why a constant operand can't be in the format: it is too small for it, or whole numbers that it rounds.

    What a product adds at its end is let be: it is small beside the sum, or the sum is small as well.
    """
    for index, value in enumerate(node.inputs):
        if value is None or value.data is None or not is_float32(value) or (index == 2 and has_trait(node, LINEAR)):
            continue
        if form.vanishes(value.data):
            size = float(abs(value.data[value.data != 0]).max())
            return f"%{value.name} is at most {size:.3g}, and most of it below {form.smallest:.2g} vanishes in {form}"
        if form.loses_whole_numbers(value.data):
            return f"%{value.name} holds whole numbers that {form} rounds"
    return None
