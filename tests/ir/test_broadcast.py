"""Extents of broadcast dimensions against numpy's rule, for every small value of the symbols."""

from __future__ import annotations

import itertools

import pytest

from graphopt.ir.atoms import SymbolKind
from graphopt.ir.broadcast import broadcast_dim, fit, fit_one_way, is_one, never_stretched
from graphopt.ir.constraints import sides
from graphopt.ir.dims import Dim, dim_max, dim_min, equal_int, floordiv, subs, symbol, where

N, M = symbol("N"), symbol("M")
DIMS: list[Dim] = [
    1,
    5,
    0,
    N,
    M,
    N + M,
    2 * N,
    N + 2,
    floordiv(N + 1, 2),
    dim_min(N, 3),
    dim_max(N, 3),
    broadcast_dim(N, M),
]
VALUES = [dict(zip("NM", v)) for v in itertools.product((0, 1, 2, 3, 5), repeat=2)]


def at(dim: Dim, values: dict[str, int]) -> int:
    found = subs(dim, dict(values))
    assert isinstance(found, int)
    return found


@pytest.mark.parametrize(("a", "b"), list(itertools.product(DIMS, repeat=2)))
def test_two_dimensions(a: Dim, b: Dim) -> None:
    result, sides, one_way = broadcast_dim(a, b), fit(a, b), fit_one_way(a, b)
    for values in VALUES:
        x, y = at(a, values), at(b, values)
        fits = x == y or 1 in (x, y)
        assert (at(sides[0], values) == at(sides[1], values)) == fits
        assert (at(one_way[0], values) == at(one_way[1], values)) == (x in (1, y))
        if fits:
            assert at(result, values) == (y if x == 1 else x)
            if never_stretched(a, result) and a != 1:
                assert x == at(result, values)


@pytest.mark.parametrize(("a", "b"), list(itertools.product(DIMS, repeat=2)))
def test_comparisons_are_decided_rightly(a: Dim, b: Dim) -> None:
    equal, chosen = equal_int(a, b), where(equal_int(a, b), a, b)
    for values in VALUES:
        assert at(equal, values) == (at(a, values) == at(b, values))
        assert at(chosen, values) == at(b, values)
    for number, values in itertools.product((-1, 1, 4), VALUES):
        assert at(equal_int(a, number), values) == (at(a, values) == number)
    assert all(at(is_one(a), values) == (at(a, values) == 1) for values in VALUES)


def test_a_dimension_is_never_minus_one() -> None:
    assert where(equal_int(N, -1), 1, N) == N
    assert where(equal_int(symbol("v0", SymbolKind.element), -1), 1, N) != N, "an element of a tensor may be negative"


def test_what_is_known_of_ones() -> None:
    assert is_one(2 * N) == is_one(N + 2) == 0
    assert is_one(dim_min(N, 128)) == is_one(N)
    assert broadcast_dim(N, 2 * M) == 2 * M
    assert broadcast_dim(broadcast_dim(N, M), M) == broadcast_dim(M, N)


def test_constraints_are_told_as_they_are_meant() -> None:
    assert sides(*fit(N, M)) == (N, M)
    assert sides(*fit(5, M)) == (M, 5)
    assert sides(*fit_one_way(N, M)) == (N, M)
    assert sides(N, M) == (N, M)
