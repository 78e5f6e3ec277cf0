"""Strassen's way to multiply matrices with fewer products, in Winograd's form: sums of quadrants before, and of products after.

A product of two 2 x 2 matrices, of numbers or of blocks, takes 7 products instead of 8 and 15 additions (Strassen, "Gaussian
elimination is not optimal", 1969; the form with the fewest additions is Winograd's, in Higham, "Accuracy and Stability of Numerical
Algorithms", 2nd edition, section 23.1). Each level of recursion does the same to each of these products. Blocks are combined
element by element, so that all functions here work on anything that is added and subtracted: expressions of vectors, arrays.

All of them give their results one by one, and ask for operands when these are needed: what is emitted in this order keeps few
vectors in registers at a time.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

Term = TypeVar("Term")
Keep = Callable[[Term], Term]
"""Gives a sum a place of its own."""

PRODUCTS = 7
"""Products of one level."""
QUADRANTS = 4


def left_factors(element: Callable[[int], Term], levels: int, keep: Keep[Term]) -> Iterator[tuple[int, Term]]:
    """What the first matrix gives to each of ``7**levels`` products, with the product's number.

    Args:
        element: the block of a number, as `quadrant_place` orders them; called several times for each.
        levels: of recursion, 0 for a plain product.
        keep: applied to every sum.
    """

    def sums(quadrant: Callable[[int], list[Term]]) -> Iterator[tuple[int, list[Term]]]:
        for product, place in ((0, 0), (1, 1), (3, 3)):
            yield product, quadrant(place)
        s1 = _combined(operator.add, quadrant(2), quadrant(3), keep)
        yield 4, s1
        s2 = _combined(operator.sub, s1, quadrant(0), keep)
        yield 5, s2
        yield 2, _combined(operator.sub, quadrant(1), s2, keep)
        yield 6, _combined(operator.sub, quadrant(0), quadrant(2), keep)

    return _factors(element, levels, sums)


def right_factors(element: Callable[[int], Term], levels: int, keep: Keep[Term]) -> Iterator[tuple[int, Term]]:
    """The same of the second matrix."""

    def sums(quadrant: Callable[[int], list[Term]]) -> Iterator[tuple[int, list[Term]]]:
        for product, place in ((0, 0), (1, 2), (2, 3)):
            yield product, quadrant(place)
        t1 = _combined(operator.sub, quadrant(1), quadrant(0), keep)
        yield 4, t1
        t2 = _combined(operator.sub, quadrant(3), t1, keep)
        yield 5, t2
        yield 3, _combined(operator.sub, quadrant(2), t2, keep)
        yield 6, _combined(operator.sub, quadrant(3), quadrant(1), keep)

    return _factors(element, levels, sums)


def quadrants(product: Callable[[int], Term], levels: int, keep: Keep[Term]) -> Iterator[tuple[int, list[Term]]]:
    """The quadrants of the result, each with its number and its ``4**(levels - 1)`` blocks.

    Args:
        product: the product of a number; called once for each.
        levels: of recursion, 1 at least.
        keep: applied to every sum.
    """
    each = PRODUCTS ** (levels - 1)

    def inner(number: int) -> list[Term]:
        if levels == 1:
            return [product(number)]
        found = dict(quadrants(lambda i: product(number * each + i), levels - 1, keep))
        return [block for quadrant in range(QUADRANTS) for block in found[quadrant]]

    def added(a: list[Term], b: list[Term]) -> list[Term]:
        return _combined(operator.add, a, b, keep)

    first = inner(0)
    yield 0, added(first, inner(1))
    u2 = added(first, inner(5))
    fourth = inner(4)
    yield 1, added(added(u2, fourth), inner(2))
    u3 = added(u2, inner(6))
    yield 3, added(u3, fourth)
    yield 2, added(u3, inner(3))


def quadrant_place(number: int, levels: int) -> tuple[int, int]:
    """Row and column, among ``2**levels`` of each, of the block ``number`` of a matrix: quadrants, and those of each inside it."""
    row = column = 0
    for level in reversed(range(levels)):
        quadrant = number // QUADRANTS**level % QUADRANTS
        row, column = 2 * row + quadrant // 2, 2 * column + quadrant % 2
    return row, column


def _factors(
    element: Callable[[int], Term],
    levels: int,
    sums: Callable[[Callable[[int], list[Term]]], Iterator[tuple[int, list[Term]]]],
) -> Iterator[tuple[int, Term]]:
    if levels == 0:
        yield 0, element(0)
        return
    blocks, each = QUADRANTS ** (levels - 1), PRODUCTS ** (levels - 1)

    def quadrant(number: int) -> list[Term]:
        return [element(number * blocks + i) for i in range(blocks)]

    for product, combined in sums(quadrant):
        for number, factor in _factors(combined.__getitem__, levels - 1, sums):
            yield product * each + number, factor


def _combined(by: Callable[[Any, Any], Any], a: Sequence[Term], b: Sequence[Term], keep: Keep[Term]) -> list[Term]:
    return [keep(by(x, y)) for x, y in zip(a, b)]
