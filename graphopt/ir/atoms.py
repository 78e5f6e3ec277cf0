"""What symbolic dimensions are made of: symbols, and functions of dimensions that are no polynomials.

Dimensions are compared, hashed and ordered all the time, and an expression may be a part of many others; so each
carries a digest of its structure, made once of its parts' digests. Texts are for people: they are made when asked for,
and cut where an expression is so large that nobody reads it.
"""

from __future__ import annotations

import hashlib
import json
import operator
import re
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from graphopt.errors import UnsupportedOpError

if TYPE_CHECKING:
    from graphopt.ir.dims import Dim

INFIX = {"floordiv": "//", "mod": "%", "eq": "==", "lt": "<"}
FUNCTIONS: dict[str, Callable[..., int]] = {
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "max": max,
    "min": min,
    "eq": lambda a, b: int(a == b),
    "lt": lambda a, b: int(a < b),
    "where": lambda c, a, b: a if c else b,
}
TEXT_LIMIT = 200
"""Atoms of an expression, counted as often as they are written, beyond which its text is cut."""
DEPTH_LIMIT = 150
"""Deepest nesting of functions; deeper dimensions come of absurd models only, and everything that walks them recurses."""
_NAME = re.compile(r"@?[^\W\d][\w.:\-]*")


class SymbolKind(Enum):
    """Where the value of a symbol comes from. Names say nothing about it: a model may call a dimension ``u0``."""

    named = "named"  # the model's or the user's name for an extent of an input
    unnamed = "unnamed"  # an extent of an input that has no name
    measured = "measured"  # an extent that depends on data, such as the number of non-zero elements
    element = "element"  # an element of a tensor; the only kind that may be negative
    computed = "computed"  # an extent that the program computes from others


class Symbol:
    """A named unknown integer. Names are unique in a model, whatever the kinds (see ``Graph.fresh_symbol``)."""

    __slots__ = ("digest", "kind", "name")
    size = 1
    depth = 0

    def __init__(self, name: str, kind: SymbolKind = SymbolKind.named) -> None:
        self.name = name
        self.kind = kind
        self.digest = digest("symbol", kind.value.encode(), name.encode("utf-8", "surrogatepass"))

    @property
    def order(self) -> tuple[str, bytes]:
        """Sorts atoms: by text, as people expect."""
        return self.name, self.digest

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Symbol) and self.digest == other.digest)

    def __hash__(self) -> int:
        return hash_of(self.digest)

    def __str__(self) -> str:
        """The name, in quotes where it could be taken for an expression."""
        return self.name if _NAME.fullmatch(self.name) else json.dumps(self.name, ensure_ascii=False)

    def __repr__(self) -> str:
        return f"Symbol({self.name!r}, {self.kind.value})"


class Apply:
    """A non-polynomial function of dimensions: ``fn`` is a key of ``dims.FUNCTIONS``.

    Raises:
        UnsupportedOpError: functions nested absurdly deep.
    """

    __slots__ = ("_text", "args", "depth", "digest", "fn", "size")

    def __init__(self, fn: str, args: tuple[Dim, ...]) -> None:
        self.fn = fn
        self.args = args
        symbolic = [a for a in args if not isinstance(a, int)]
        self.size: int = 1 + sum(a.size for a in symbolic)
        self.depth: int = 1 + max((a.depth for a in symbolic), default=0)
        if self.depth > DEPTH_LIMIT:
            raise UnsupportedOpError(
                f"a dimension is a function of functions, {self.depth} deep",
                code="dimension-too-deep",
                hint="fix the input shapes with --shape, so that it is known when compiling",
            )
        self.digest = digest(fn, *(b"%d" % a if isinstance(a, int) else a.digest for a in args))
        self._text: str | None = None

    @property
    def order(self) -> tuple[str, bytes]:
        """Sorts atoms: by text where it is complete."""
        return (str(self) if self.size <= TEXT_LIMIT else f"{self.fn}("), self.digest

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Apply) and self.digest == other.digest)

    def __hash__(self) -> int:
        return hash_of(self.digest)

    def __str__(self) -> str:
        if self._text is None:
            self._text = self._written() if self.size <= TEXT_LIMIT else f"{self.fn}(...)"
        return self._text

    def __repr__(self) -> str:
        return f"Apply({self})"

    def _written(self) -> str:
        infix = INFIX.get(self.fn)
        if infix:
            left, right = (str(d) if (d >= 0 if isinstance(d, int) else d.is_name) else f"({d})" for d in self.args)
            return f"{left}{infix}{right}"
        return f"{self.fn}({', '.join(map(str, self.args))})"


Atom: TypeAlias = Symbol | Apply
Monomial: TypeAlias = tuple[Atom, ...]


def is_name(atom: Atom) -> bool:
    """Whether the text of an atom needs no parentheses."""
    return isinstance(atom, Symbol) or atom.fn not in INFIX


def digest(kind: str, *parts: bytes) -> bytes:
    """16 bytes that tell structures apart."""
    state = hashlib.blake2b(kind.encode(), digest_size=16)
    for part in parts:
        state.update(b"%d:" % len(part))
        state.update(part)
    return state.digest()


def hash_of(structure: bytes) -> int:
    """A hash that doesn't depend on the process."""
    return int.from_bytes(structure[:7], "little")
