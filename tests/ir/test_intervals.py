"""Bounds of dimensions hold for every size within the bounds of their symbols, and so does what they decide."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir.constraints import bounds_of
from graphopt.ir.dims import Dim, apply, dim_max, dim_min, equal_int, floordiv, mod, subs, symbol, where
from graphopt.ir.intervals import Interval, interval, settled

N, M = symbol("n"), symbol("m")


def dimensions() -> st.SearchStrategy[Dim]:
    leaves = st.one_of(st.sampled_from([N, M]), st.integers(-4, 9))

    def grown(inner: st.SearchStrategy[Dim]) -> st.SearchStrategy[Dim]:
        pair = st.tuples(inner, inner)
        return st.one_of(
            pair.map(lambda p: p[0] + p[1]),
            pair.map(lambda p: p[0] - p[1]),
            pair.map(lambda p: p[0] * p[1]),
            pair.map(lambda p: dim_min(*p)),
            pair.map(lambda p: dim_max(*p)),
            pair.map(lambda p: apply("lt", *p)),
            pair.map(lambda p: equal_int(*p)),
            st.tuples(inner, st.integers(1, 5)).map(lambda p: floordiv(*p)),
            st.tuples(inner, st.integers(1, 5)).map(lambda p: mod(*p)),
            st.tuples(inner, inner, inner).map(lambda p: where(*p)),
        )

    return st.recursive(leaves, grown, max_leaves=8)


@settings(max_examples=300, deadline=None)
@given(dimensions(), st.integers(0, 4), st.integers(0, 5), st.integers(0, 4), st.integers(0, 5))
def test_bounds_hold_and_what_they_decide_is_equal(dim: Dim, low: int, width: int, low2: int, width2: int) -> None:
    bounds = {"n": Interval(low, low + width), "m": Interval(low2, low2 + width2)}
    within, simple = interval(dim, bounds), settled(dim, bounds)
    for n, m in itertools.product(range(low, low + width + 1), range(low2, low2 + width2 + 1)):
        value = subs(dim, {"n": n, "m": m})
        assert isinstance(value, int)
        assert value in within
        assert subs(simple, {"n": n, "m": m}) == value


def test_open_bounds_decide_what_they_can() -> None:
    assert settled(dim_min(N, 512), {"n": Interval(None, 512)}) == N
    assert settled(dim_min(N, 512), {"n": Interval(None, 513)}) == dim_min(N, 512)
    assert settled(dim_max(N, 1), {"n": Interval(1)}) == N
    assert settled(equal_int(N, 1), {"n": Interval(2)}) == 0
    assert settled(floordiv(N, 16) + mod(M, 16), {"n": Interval(0, 15), "m": Interval(0, 15)}) == M
    assert settled(floordiv(N, 16), {"n": Interval(0, 16)}) == floordiv(N, 16)


def test_constraints_bound_symbols() -> None:
    assert bounds_of([(N, dim_min(N, 128))]) == {"n": Interval(0, 128)}
    assert bounds_of([(apply("lt", 512, N), 0), (apply("lt", N, 3), 0)]) == {"n": Interval(3, 512)}
    assert bounds_of([(apply("lt", N - 2, 1), 0), (apply("lt", N, 9), 1)]) == {"n": Interval(3, 8)}
    assert bounds_of([(equal_int(N, 0), 0)]) == {"n": Interval(1)}
    assert bounds_of([(apply("lt", N + M, 3), 0), (apply("lt", N * N, 3), 0)]) == {}
    assert bounds_of([(apply("lt", 2 * N, 3), 0)]) == {"n": Interval(2)}
    assert bounds_of([(apply("lt", floordiv(N + 80, 160) - 1, 2), 0)]) == {"n": Interval(400)}
    assert bounds_of([(apply("lt", 4, floordiv(N, 3)), 0)]) == {"n": Interval(0, 14)}


def chains() -> st.SearchStrategy[Dim]:
    """Lengths after convolutions: quotients of sums with quotients."""

    def grown(inner: st.SearchStrategy[Dim]) -> st.SearchStrategy[Dim]:
        numbers = st.tuples(inner, st.integers(-3, 3), st.integers(-9, 9), st.integers(1, 5))
        return numbers.map(lambda p: floordiv(p[0] * p[1] + p[2], p[3]))

    return st.recursive(st.just(N), grown, max_leaves=4)


@settings(max_examples=300, deadline=None)
@given(chains(), st.integers(-5, 12), st.booleans())
def test_bounds_are_those_of_the_constraint(dim: Dim, number: int, is_least: bool) -> None:
    pair = (apply("lt", dim, number), 0) if is_least else (apply("lt", number, dim), 0)
    bounds = bounds_of([pair]) if not isinstance(pair[0], int) else {}
    held = [n for n in range(300) if subs(pair[0], {"n": n}) == 0]
    if "n" in bounds:
        assert [n for n in range(300) if n in bounds["n"]] == held, "neither more nor less"
