"""Einsum as one reduction over the subscripts that the result lacks."""

from __future__ import annotations

from graphopt.backends.lower.linear import converted
from graphopt.backends.lower.pointwise import cast
from graphopt.backends.lower.registry import LowerContext, Lowered, lowers
from graphopt.backends.tensors.tensor import Expr, Index, Tensor
from graphopt.ops.einsum import parse_equation


@lowers("Einsum")
def _einsum(c: LowerContext) -> Lowered:
    terms, right, wide = parse_equation(c)
    operands = c.operands
    labels = [_labels(term, t.rank, wide) for term, t in zip(terms, operands)]
    out = _labels(right, len(c.out_shape()), wide)
    sizes: dict[str, Expr] = {}
    for names, t in zip(labels, operands):
        for name, d in zip(names, t.shape):
            if name not in sizes or (isinstance(sizes[name], int) and sizes[name] == 1):
                sizes[name] = d
    summed = [name for name in sizes if name not in out]
    dtype = c.out_dtype()

    def body(i: Index, r: Index) -> Expr:
        at = dict(zip([*out, *summed], [*i, *r]))

        def read(t: Tensor, names: list[str]) -> Expr:
            return t(*(0 if isinstance(d, int) and d == 1 else at[n] for n, d in zip(names, t.shape)))

        total: Expr = None
        for t, names in zip(operands, labels):
            value = cast(read(t, names), dtype)
            total = value if total is None else total * value
        return total

    if not summed:
        return converted(Tensor(c.out_shape(), dtype, lambda *i: body(i, ())), dtype)
    tile = -2 if len(out) > 1 else None
    return converted(c.k.reduce(c.out_shape(), dtype, [sizes[s] for s in summed], body, tile_axis=tile), dtype)


def _labels(term: str, rank: int, wide: int) -> list[str]:
    """A name for every axis of a term; the axes of an ellipsis are numbered from the right, as they broadcast."""
    before, dots, after = term.partition("...")
    count = rank - len(before) - len(after) if dots else 0
    return [*before, *(f"#{wide - count + n}" for n in range(count)), *after]
