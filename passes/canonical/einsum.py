"""Einsum of two operands as a matrix product, for which there are kernels, and what recognises attention knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.errors import GraphOptError
from graphopt.ir.dims import Dim
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Value
from graphopt.ops.context import InferContext
from graphopt.ops.einsum import parse_equation
from graphopt.rewrite.passes import register_pass
from graphopt.rewrite.pattern import NoMatch, any_, op
from graphopt.rewrite.rewrite_pass import RewritePass
from graphopt.rewrite.rule import Match, Rule

_LIKELY = 128
"""Positions assumed along an axis of unknown extent, to compare plans."""
_REREAD = 8
"""A product of one row reads a matrix for it alone: as much work as so many elements copied for each of the matrix."""


@dataclass(frozen=True)
class ProductPlan:
    """``out = transposed(left @ right)``, each operand transposed and its axes joined first.

    Attributes:
        swapped: whether the left matrices are the second operand.
        batch: subscripts of matrices, in order; operands that lack one are broadcast over it.
        rows, columns, summed: subscripts of the rows of the left matrices, of the columns of the right ones, and of what both have.
    """

    swapped: bool
    batch: tuple[str, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    summed: tuple[str, ...]

    @property
    def result(self) -> tuple[str, ...]:
        """Subscripts of the product."""
        return (*self.batch, *self.rows, *self.columns)

    def order(self, term: str, left: bool) -> tuple[str, ...]:
        """Subscripts of an operand, in the order in which the product wants them."""
        matrix = (*self.rows, *self.summed) if left else (*self.summed, *self.columns)
        return (*(s for s in self.batch if s in term), *matrix)


def plans(terms: Sequence[str], out: str) -> Iterator[ProductPlan]:
    """All products that compute an equation whose subscripts occur once in a term: with the result as it is, then transposed."""
    both = set(terms[0]) & set(terms[1])
    for swapped in (False, True):
        left, right = reversed(terms) if swapped else terms
        summed = tuple(s for s in left if s in both and s not in out)
        for begin in range(len(out) + 1):
            for middle in range(begin, len(out) + 1):
                batch, rows, columns = tuple(out[:begin]), tuple(out[begin:middle]), tuple(out[middle:])
                if not any(s in right for s in rows) and not any(s in left for s in columns):
                    yield ProductPlan(swapped, batch, rows, columns, summed)
        shared = tuple(s for s in out if s in both)
        own = [tuple(s for s in out if s in term and s not in both) for term in (left, right)]
        yield ProductPlan(swapped, shared, own[0], own[1], summed)


class EinsumAsMatMul(Rule):
    """Einsum(a, b) -> MatMul(a, b), between transpositions and reshapes where the equation needs some.

    Does not fire when there aren't two operands of floats, when a subscript occurs twice in a term or in one operand alone without
    being in the result, when nothing is summed, when an operand is broadcast along a subscript, or when axes of unknown extents
    would have to be joined.
    """

    a, b = any_(), any_()
    root = op("Einsum", a, b, keep={"equation"})

    def check(self, m: Match) -> None:
        """A plan exists."""
        self._plan(m)

    def rewrite(self, m: Match, e: Editor) -> Value:
        """The cheapest product."""
        terms, out, sizes, plan = self._plan(m)
        operands = [(m[self.a], terms[0]), (m[self.b], terms[1])]
        left, right = reversed(operands) if plan.swapped else operands
        matrices = [
            _arranged(e, value, term, plan, sizes, is_left)
            for (value, term), is_left in ((left, True), (right, False))
        ]  # fmt: skip
        product = e.node("MatMul", matrices, like=[m.root]).out
        shape = _result_shape(plan, left[1], sizes)
        if shape is not None:
            product = e.node("Reshape", [product, e.constant(_target(shape), "shape")]).out
        return _transposed(e, product, plan.result, out)

    def _plan(self, m: Match) -> tuple[list[str], str, dict[str, Dim], ProductPlan]:
        node = m.root
        m.require(len(node.inputs) == 2, "there aren't two operands", node)
        m.require(all(v.dtype.is_float for v in (m[self.a], m[self.b])), "the operands aren't floating point", node)
        assert node.graph is not None
        try:
            terms, out, wide = parse_equation(InferContext(node, node.graph))
        except GraphOptError as error:
            raise NoMatch(error.message, node) from error
        terms = [_spelled(t, len(v.shape), wide) for t, v in zip(terms, (m[self.a], m[self.b]))]
        out = _spelled(out, len(node.out.shape), wide)
        m.require(all(len(set(t)) == len(t) for t in (*terms, out)), "a subscript occurs twice", node)
        both = set(terms[0]) & set(terms[1])
        m.require(set(terms[0]) ^ set(terms[1]) <= set(out), "a subscript of one operand is summed", node)
        m.require(bool(both - set(out)), "nothing is summed", node)
        sizes: dict[str, Dim] = dict(zip(terms[0], m[self.a].shape))
        for subscript, dim in zip(terms[1], m[self.b].shape):
            m.require(sizes.setdefault(subscript, dim) == dim, "an operand is broadcast, or may be", node)
        constant = [m[self.a].is_const, m[self.b].is_const]
        possible = [p for p in plans(terms, out) if _is_expressible(p, terms, sizes)]
        m.require(bool(possible), "axes of unknown extents would be joined", node)
        return terms, out, sizes, min(possible, key=lambda p: _cost(p, terms, out, sizes, constant))


def _spelled(term: str, rank: int, wide: int) -> str:
    """A term with a character for each axis of the ellipsis, numbered from the right."""
    before, dots, after = term.partition("...")
    count = rank - len(before) - len(after) if dots else 0
    return before + "".join(chr(0x100 + wide - count + n) for n in range(count)) + after


def _size(subscripts: Sequence[str], sizes: dict[str, Dim]) -> int:
    """Positions along several axes, likely ones where they aren't known."""
    total = 1
    for s in subscripts:
        dim = sizes[s]
        total *= dim if isinstance(dim, int) else _LIKELY
    return total


def _cost(plan: ProductPlan, terms: Sequence[str], out: str, sizes: dict[str, Dim], constant: Sequence[bool]) -> int:
    """Elements that are moved, besides what is multiplied."""
    total = 0
    for number, term in enumerate(terms):
        moved = plan.order(term, left=(number == 1) == plan.swapped) != tuple(term)
        total += 0 if constant[number] or not moved else _size(term, sizes)
    total += _size(out, sizes) if plan.result != tuple(out) else 0
    if _size(plan.rows, sizes) == 1:
        total += _size((*plan.batch, *plan.summed, *plan.columns), sizes) * _REREAD
    if _size(plan.columns, sizes) == 1:
        total += _size((*plan.batch, *plan.rows, *plan.summed), sizes) * _REREAD
    return total


def _is_expressible(plan: ProductPlan, terms: Sequence[str], sizes: dict[str, Dim]) -> bool:
    """Whether each reshape has at most one extent that isn't known."""
    left, right = reversed(terms) if plan.swapped else terms
    shapes = [
        _matrix_shape(plan, left, sizes, True),
        _matrix_shape(plan, right, sizes, False),
        _result_shape(plan, left, sizes),
    ]
    return all(s is None or (sum(not isinstance(d, int) for d in s) <= 1 and 0 not in s) for s in shapes)


def _matrix_shape(plan: ProductPlan, term: str, sizes: dict[str, Dim], left: bool) -> list[Dim] | None:
    """Extents of an operand of the product, None where its axes are these already."""
    own = plan.rows if left else plan.columns
    present = [s for s in plan.batch if s in term]
    first = plan.batch.index(present[0]) if present else len(plan.batch)
    batch = plan.batch[first:]
    if len(own) == 1 and len(plan.summed) == 1 and len(present) == len(batch):
        return None
    if len(plan.summed) == 1 and left and not batch and own:
        return None  # a matrix product takes leading axes of the left operand as they are
    outer: Dim = 1
    for s in own:
        outer = outer * sizes[s]
    inner: Dim = 1
    for s in plan.summed:
        inner = inner * sizes[s]
    return [*(sizes[s] if s in present else 1 for s in batch), *((outer, inner) if left else (inner, outer))]


def _result_shape(plan: ProductPlan, left: str, sizes: dict[str, Dim]) -> list[Dim] | None:
    """Extents of the product with its axes apart, None where they are."""
    whole = len(plan.rows) == 1 or _matrix_shape(plan, left, sizes, True) is None
    return None if whole and len(plan.columns) == 1 else [sizes[s] for s in plan.result]


def _arranged(e: Editor, value: Value, term: str, plan: ProductPlan, sizes: dict[str, Dim], left: bool) -> Value:
    """An operand as the product wants it."""
    turned = _transposed(e, value, tuple(term), plan.order(term, left))
    shape = _matrix_shape(plan, term, sizes, left)
    return turned if shape is None else e.node("Reshape", [turned, e.constant(_target(shape), "shape")]).out


def _transposed(e: Editor, value: Value, have: Sequence[str], want: Sequence[str]) -> Value:
    perm = [list(have).index(s) for s in want]
    return value if perm == list(range(len(perm))) else e.node("Transpose", [value], {"perm": perm}).out


def _target(shape: Sequence[Dim]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """What Reshape is told: at most one extent isn't known."""
    return np.asarray([d if isinstance(d, int) else -1 for d in shape], np.int64)


@register_pass
@dataclass(frozen=True)
class LowerEinsum(RewritePass):
    """Turns Einsum of two operands into MatMul."""

    name: ClassVar[str] = "lower-einsum"
    rules: ClassVar[tuple[Rule, ...]] = (EinsumAsMatMul(),)
