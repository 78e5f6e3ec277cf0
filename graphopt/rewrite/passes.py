"""Pass and PassContext: the unit of transformation and what it is given beside the graph."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

import onnx

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph, Node
from graphopt.ops.infer import infer_node
from graphopt.rewrite.remarks import Remark, Remarks


@dataclass
class PassContext:
    """What passes share during one run.

    Attributes:
        remarks: sink of reasons.
        max_fold_elements: a folded constant may exceed its inputs' size by at most this many elements.
        max_fold_work: multiply-adds spent at most on computing one constant.
        max_opset: operators that ONNX has only since a later opset are not introduced; None lifts the limit.
        lowerable: whether the target compiles a node as it is; None where there is no target.
        pass_name: the running pass, set by the pipeline.
    """

    remarks: Remarks = field(default_factory=Remarks)
    max_fold_elements: int = 1 << 20
    max_fold_work: int = 1 << 30
    max_opset: int | None = None
    lowerable: Callable[[Node], bool] | None = None
    pass_name: str = ""

    def editor(self, graph: Graph) -> Editor:
        """An editor that infers the types of what it makes."""
        return Editor(graph, infer_node)

    def refuse(self, node: Node, reason: str, rule: str = "") -> None:
        """Record why something was not done to ``node``."""
        self.remarks.add(Remark(self.pass_name, rule, node.label, reason))

    def applied(self, node: Node, text: str, rule: str = "") -> None:
        """Record what was done to ``node``."""
        self.remarks.add(Remark(self.pass_name, rule, node.label, text, applied=True))

    def allows(self, op: str) -> bool:
        """Whether an ai.onnx operator may be introduced under ``max_opset``."""
        return self.max_opset is None or first_version(op) <= self.max_opset


class Pass(ABC):
    """A transformation of a graph. Subclasses are frozen dataclasses whose fields are the pass's options."""

    name: ClassVar[str]

    @abstractmethod
    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Transform ``graph`` and its subgraphs in place, through ``ctx.editor`` only."""

    def spec(self) -> str:
        """The text that ``parse_pass`` turns into an equal pass."""
        changed = []
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            default = f.default_factory() if callable(f.default_factory) else f.default
            if value != default:
                changed.append(f"{f.name.replace('_', '-')}={_option_text(value)}")
        return f"{self.name}{{{','.join(changed)}}}" if changed else self.name


P = TypeVar("P", bound="type[Pass]")
_REGISTRY: dict[str, type[Pass]] = {}


def register_pass(cls: P) -> P:
    """Class decorator: make the pass known by its name."""
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__} must be a dataclass: its fields are the options")
    _REGISTRY[cls.name] = cls
    return cls


def registered_passes() -> dict[str, type[Pass]]:
    """Passes whose modules have been imported, by name, sorted. ``graphopt.passes.catalogue`` imports graphopt's own."""
    return dict(sorted(_REGISTRY.items()))


def description(cls: type[Pass]) -> str:
    """The first line of the pass's docstring."""
    return (cls.__doc__ or "").strip().splitlines()[0] if cls.__doc__ else ""


def graphs(graph: Graph) -> Iterator[Graph]:
    """The graph and all subgraphs, outer before inner."""
    yield graph
    for node in list(graph.nodes):
        for sub in node.subgraphs:
            yield from graphs(sub)


@functools.cache
def _first_versions() -> dict[str, int]:
    first: dict[str, int] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain:
            first[schema.name] = min(schema.since_version, first.get(schema.name, schema.since_version))
    return first


def first_version(op: str) -> int:
    """The ai.onnx opset that introduced an operator."""
    return _first_versions()[op]


def _option_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list, frozenset)):
        return "[" + ",".join(_option_text(v) for v in value) + "]"
    return str(value)
