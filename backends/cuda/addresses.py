"""What an element's place in memory depends on: the sums of products of loop variables that most indices are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.tensors.tensor import Expr, as_expr


@dataclass(frozen=True)
class Address:
    """``constant + sum of factor * variable``, in elements.

    Attributes:
        constant: the number that is added.
        factors: of each variable, none of them 0.
    """

    constant: int
    factors: tuple[tuple[Any, int], ...]

    def factor(self, variable: Any) -> int:
        """What one step of a variable adds."""
        return next((f for v, f in self.factors if v.same_as(variable)), 0)


def address_of(shape: Sequence[Expr], index: Sequence[Expr], bound: Mapping[Any, Expr]) -> Address | None:
    """Where the element at ``index`` of a row-major buffer lies; None if that is no sum of products with known factors.

    Args:
        shape: the buffer's extents.
        index: one expression a dimension.
        bound: variables that stand for expressions.
    """
    total: dict[Any, int] = {}
    constant = 0
    stride: int | None = 1
    for place in reversed(range(len(index))):
        terms = _terms(index[place], bound)
        if terms is None or (stride is None and terms != (0, {})):
            return None
        if stride is None:
            continue  # nothing moves along an axis whose distance is unknown
        constant += stride * terms[0]
        for variable, factor in terms[1].items():
            total[variable] = total.get(variable, 0) + stride * factor
        extent = shape[place]
        known = extent if isinstance(extent, int) else int(extent.value) if isinstance(extent, tirx.IntImm) else None
        stride = None if known is None else stride * known
    return Address(constant, _sorted(total))


def divided(value: Expr, divisor: Expr) -> tuple[Expr, Expr]:
    """Quotient and remainder of a position, which isn't negative: TVM rounds down at the cost of comparisons if it can't tell."""
    if isinstance(divisor, int) and divisor == 1:
        return value, 0
    if isinstance(divisor, int):
        return tirx.floordiv(value, as_expr(divisor)), tirx.floormod(value, as_expr(divisor))
    return tirx.truncdiv(value, divisor), tirx.truncmod(value, divisor)


def index_of(flat: Expr, shape: Sequence[Expr]) -> list[Expr]:
    """The index of element number ``flat`` of a row-major tensor."""
    index: list[Expr] = []
    for d in reversed(shape[1:]):
        flat, rest = divided(flat, d)
        index.append(rest)
    return [flat, *reversed(index)] if shape else []


def _sorted(total: Mapping[Any, int]) -> tuple[tuple[Any, int], ...]:
    return tuple(sorted(((v, f) for v, f in total.items() if f), key=lambda entry: hash(entry[0])))


def _terms(e: Expr, bound: Mapping[Any, Expr]) -> tuple[int, dict[Any, int]] | None:
    if isinstance(e, int):
        return e, {}
    if isinstance(e, tirx.IntImm):
        return int(e.value), {}
    if isinstance(e, tirx.Var):
        return _terms(bound[e], bound) if e in bound else (0, {e: 1})
    if isinstance(e, tirx.Cast) and str(e.ty.dtype) in ("int32", "int64"):
        return _terms(e.value, bound)
    if isinstance(e, (tirx.Add, tirx.Sub)):
        a, b = _terms(e.a, bound), _terms(e.b, bound)
        if a is None or b is None:
            return None
        sign = 1 if isinstance(e, tirx.Add) else -1
        total = dict(a[1])
        for variable, factor in b[1].items():
            total[variable] = total.get(variable, 0) + sign * factor
        return a[0] + sign * b[0], total
    if isinstance(e, tirx.Mul):
        a, b = _terms(e.a, bound), _terms(e.b, bound)
        if a is None or b is None or (a[1] and b[1]):
            return None
        number, (constant, factors) = (a[0], b) if not a[1] else (b[0], a)
        return number * constant, {v: number * f for v, f in factors.items()}
    return None
