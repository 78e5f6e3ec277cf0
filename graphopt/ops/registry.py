"""The table of operators: what shape inference and passes know of each. Code generation keeps its own table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graphopt.ir.types import Type

if TYPE_CHECKING:
    from graphopt.ops.context import InferContext

InferFn = Callable[["InferContext"], "list[Type]"]

ELEMENTWISE = "elementwise"  # output element i depends on the (broadcast) input elements i only
BROADCAST = "broadcast"  # element-wise with numpy broadcasting of several inputs
REDUCTION = "reduction"
MOVEMENT = "movement"  # output elements are copies of input elements
ANCHOR = "anchor"  # matmul-like: worth a kernel of its own with an epilogue
RANDOM = "random"  # result is not a function of the inputs
COMMUTATIVE = "commutative"


@dataclass
class OpInfo:
    """What is known of one operator of ai.onnx."""

    name: str
    infer: InferFn | None = None
    traits: frozenset[str] = field(default_factory=frozenset)


_TABLE: dict[str, OpInfo] = {}


def register(*names: str, traits: tuple[str, ...] = ()) -> Callable[[InferFn], InferFn]:
    """Decorator: the function infers the output types of the named ai.onnx operators."""

    def add(fn: InferFn) -> InferFn:
        for name in names:
            _TABLE[name] = OpInfo(name, fn, frozenset(traits))
        return fn

    return add


def lookup(op: str) -> OpInfo | None:
    """The entry of an ai.onnx operator, None if this table has none."""
    return _TABLE.get(op)


def has_trait(op: str, trait: str, domain: str = "") -> bool:
    """Whether the operator is known to have the trait."""
    info = None if domain else _TABLE.get(op)
    return info is not None and trait in info.traits


def names() -> list[str]:
    """All operators with an entry."""
    return sorted(_TABLE)
