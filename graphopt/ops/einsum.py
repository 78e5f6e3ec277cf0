"""Einsum."""

from __future__ import annotations

import re

from graphopt.ir.dims import Dim
from graphopt.ir.types import Shape, TensorType, Type
from graphopt.ops.context import InferContext
from graphopt.ops.registry import ANCHOR, register


def parse_equation(c: InferContext) -> tuple[list[str], str, int]:
    """Operand and result subscripts with the ellipsis written as ``...``, and how many dimensions the ellipsis stands
    for."""
    text = re.sub(r"\s+", "", str(c.attr("equation")))
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(c.node.inputs):
        raise c.invalid(f"Einsum equation {text!r} has {len(terms)} operands, the node {len(c.node.inputs)}")
    wide = 0
    for i, term in enumerate(terms):
        letters = term.replace("...", "")
        if not re.fullmatch(r"[A-Za-z]*", letters):
            raise c.invalid(f"Einsum equation {text!r} is malformed")
        rest = c.rank(i) - len(letters)
        if rest < 0 or (rest and "..." not in term):
            raise c.invalid(f"Einsum term {term!r} does not fit an operand of rank {c.rank(i)}")
        wide = max(wide, rest)
    if not arrow:
        joined = "".join(t.replace("...", "") for t in terms)
        right = "".join(sorted(x for x in set(joined) if joined.count(x) == 1))
        right = ("..." if "..." in left else "") + right
    return terms, right, wide


@register("Einsum", traits=(ANCHOR,))
def _einsum(c: InferContext) -> list[Type]:
    terms, right, _ = parse_equation(c)
    sizes: dict[str, Dim] = {}
    wide: list[Shape] = []
    for i, term in enumerate(terms):
        shape = c.shape(i)
        before, dots, after = term.partition("...")
        end = len(shape) - len(after)
        if dots:
            wide.append(shape[len(before) : end])
        for letter, dim in [*zip(before, shape), *zip(after, shape[end:])]:
            have = sizes.setdefault(letter, dim)
            if have == dim or dim == 1:
                continue
            if have != 1:
                c.assume_equal(have, dim, f"Einsum subscript {letter}")
            sizes[letter] = have if isinstance(have, int) and have != 1 else dim
    before, dots, after = right.partition("...")
    if any(x not in sizes for x in before + after):
        raise c.invalid(f"Einsum result {right!r} names an unknown subscript")
    middle = c.broadcast(*wide) if dots else ()
    return [TensorType(c.dtype(0), (*(sizes[x] for x in before), *middle, *(sizes[x] for x in after)))]
