"""What a conversion to 16 bits will do: which nodes change, which stay in float32 and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from graphopt.ir.graph import Graph, Node, Value
from graphopt.passes.precision.narrow_form import NarrowForm, is_float32
from graphopt.passes.precision.narrow_format import NarrowFormat

Io = Literal["keep", "cast"]
Kind = Literal["asked", "data", "sensitivity", "plan", "rule", "schema"]


@dataclass(frozen=True)
class Kept:
    """Why a node stays in float32.

    Attributes:
        kind: ``asked`` for by the user, ``data``: what ran through it in calibration, ``sensitivity``: the outputs' error,
            ``plan``: a plan that a user wrote or kept, ``rule``: its operator or its operands, ``schema``: ONNX has no such form
            of the operator.
        reason: in words.
    """

    kind: Kind
    reason: str


@dataclass
class PrecisionPlan:
    """A conversion to be made.

    Attributes:
        graph: to convert.
        format: the 16-bit format.
        io: whether inputs and outputs of the graph keep float32, or are cast with the rest.
        narrow: nodes that compute in 16 bits, with the operands and results that are so.
        kept: nodes that stay in float32.
    """

    graph: Graph
    format: NarrowFormat
    io: Io
    narrow: dict[Node, NarrowForm] = field(default_factory=dict)
    kept: dict[Node, Kept] = field(default_factory=dict)

    def narrow_values(self) -> set[Value]:
        """Values that are float32 now and in 16 bits then; constants are not among them."""
        found = {v for node, form in self.narrow.items() for i in form.results if (v := node.outputs[i]) is not None}
        found.update(v for node in self.narrow for sub in node.subgraphs for v in sub.inputs if is_float32(v))
        if self.io == "cast":
            found.update(v for v in self.graph.inputs if is_float32(v))
        return found
