"""The canonical form of dimension expressions against plain integer arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir import dims
from graphopt.ir.atoms import SymbolKind
from graphopt.ir.dims import Dim, SymExpr, symbol
from graphopt.ir.formulas import Formulas

N, M, K = symbol("n"), symbol("m"), symbol("k")


@dataclass(frozen=True)
class Pair:
    """An expression built twice: symbolically, and as a function of the symbols' values."""

    dim: Dim
    value: Callable[[dict[str, int]], int]


OPERATORS: dict[str, tuple[Callable[..., Dim], Callable[..., int]]] = {
    "+": (lambda a, b: a + b, lambda a, b: a + b),
    "-": (lambda a, b: a - b, lambda a, b: a - b),
    "*": (lambda a, b: a * b, lambda a, b: a * b),
    "max": (dims.dim_max, max),
    "min": (dims.dim_min, min),
    "eq": (dims.equal_int, lambda a, b: int(a == b)),
    "lt": (lambda a, b: dims.apply("lt", a, b), lambda a, b: int(a < b)),
}
BY_CONSTANT: dict[str, tuple[Callable[..., Dim], Callable[..., int]]] = {
    "//": (dims.floordiv, lambda a, b: a // b),
    "%": (dims.mod, lambda a, b: a % b),
    "ceil": (dims.ceildiv, lambda a, b: -(-a // b)),
}
NAMES = {"n": SymbolKind.named, "m": SymbolKind.named, "k": SymbolKind.element}
"""Extents, which are never negative, and an element of a tensor, which may be."""


def leaf() -> st.SearchStrategy[Pair]:
    names = st.sampled_from(sorted(NAMES)).map(lambda s: Pair(symbol(s, NAMES[s]), lambda env, s=s: env[s]))  # type: ignore[misc]
    numbers = st.integers(-9, 9).map(lambda c: Pair(c, lambda env, c=c: c))  # type: ignore[misc]
    return names | numbers


def combine(children: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    def binary(op: str, a: Pair, b: Pair) -> Pair:
        symbolic, plain = OPERATORS[op]
        return Pair(symbolic(a.dim, b.dim), lambda env: plain(a.value(env), b.value(env)))

    def by_constant(op: str, a: Pair, c: int) -> Pair:
        symbolic, plain = BY_CONSTANT[op]
        return Pair(symbolic(a.dim, c), lambda env: plain(a.value(env), c))

    def select(c: Pair, a: Pair, b: Pair) -> Pair:
        return Pair(dims.where(c.dim, a.dim, b.dim), lambda env: a.value(env) if c.value(env) else b.value(env))

    return (
        st.builds(binary, st.sampled_from(sorted(OPERATORS)), children, children)
        | st.builds(by_constant, st.sampled_from(sorted(BY_CONSTANT)), children, st.integers(1, 7))
        | st.builds(select, children, children, children)
    )


EXPRESSIONS = st.recursive(leaf(), combine, max_leaves=8)
ENVIRONMENTS = st.fixed_dictionaries(
    {name: st.integers(-20 if kind is SymbolKind.element else 0, 20) for name, kind in NAMES.items()}
)


@settings(max_examples=400, deadline=None)
@given(EXPRESSIONS, ENVIRONMENTS)
def test_substitution_is_evaluation(pair: Pair, env: dict[str, int]) -> None:
    assert dims.subs(pair.dim, dict(env)) == pair.value(env)


@settings(max_examples=200, deadline=None)
@given(st.lists(EXPRESSIONS, max_size=4), ENVIRONMENTS)
def test_formulas_give_the_values_of_all_dimensions(pairs: list[Pair], env: dict[str, int]) -> None:
    assert Formulas([pair.dim for pair in pairs]).values(env) == [pair.value(env) for pair in pairs]


def test_formulas_compute_shared_functions_once() -> None:
    dim: Dim = N
    for _ in range(60):
        dim = dims.apply("max", dim * 2, dim + M)  # as an expression without sharing it has 2**60 terms
    assert Formulas([dim, dim + 1]).values({"n": 1, "m": 0}) == [2**60, 2**60 + 1]


def test_formulas_that_divide_by_zero_say_so() -> None:
    with pytest.raises(ZeroDivisionError):
        Formulas([N, dims.floordiv(N, M)]).values({"n": 4, "m": 0})


@settings(max_examples=200, deadline=None)
@given(EXPRESSIONS, ENVIRONMENTS)
def test_partial_substitution_commutes(pair: Pair, env: dict[str, int]) -> None:
    half = dims.subs(pair.dim, {"n": env["n"]})
    assert dims.subs(half, dict(env)) == pair.value(env)
    assert "n" not in dims.symbols_of(half)


SMALL = st.recursive(leaf(), combine, max_leaves=3).filter(lambda pair: isinstance(pair.dim, SymExpr))


@settings(max_examples=200, deadline=None)
@given(SMALL, SMALL, ENVIRONMENTS)
def test_products_are_divided_by_their_factors(a: Pair, b: Pair, env: dict[str, int]) -> None:
    assert dims.floordiv(a.dim * b.dim, b.dim) == a.dim
    if b.value(env) > 0:
        near = dims.floordiv(a.dim * b.dim + 1, b.dim)
        assert dims.subs(near, dict(env)) == (a.value(env) * b.value(env) + 1) // b.value(env)


@settings(max_examples=200, deadline=None)
@given(EXPRESSIONS, EXPRESSIONS)
def test_equal_forms_are_equal_and_hash_alike(a: Pair, b: Pair) -> None:
    assert a.dim + b.dim == b.dim + a.dim
    assert (a.dim + b.dim) - b.dim == a.dim
    assert hash(a.dim * b.dim) == hash(b.dim * a.dim)
    assert str(a.dim * b.dim) == str(b.dim * a.dim)


@settings(max_examples=200, deadline=None)
@given(EXPRESSIONS, ENVIRONMENTS)
def test_nonnegative_is_sound(pair: Pair, env: dict[str, int]) -> None:
    if dims.nonnegative(pair.dim):
        assert pair.value(env) >= 0


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ((N + 1) * 2 - N, N + 2),
        ((N * 4 + 8) // 4, N + 2),
        ((N * 6 + 3) // 2 - N * 3, 1),
        (((N + 1) // 2 + 1) // 2, (N + 3) // 4),
        ((N * M * 3) // (N * 3), M),
        ((N * M * 6 - N * 6) // (M * 2 - 2), N * 3),
        ((N * N - M * M) // (N + M), N - M),
        ((N * 4) % 4, 0),
        (dims.dim_max(N + 2, N), N + 2),
        (dims.equal_int(N * 2, N + N), 1),
        (dims.where(1, N, M), N),
        (dims.product([N, 2, M]), M * N * 2),
    ],
)
def test_simplifications(found: Dim, wanted: Dim) -> None:
    assert found == wanted


@pytest.mark.parametrize(
    ("dim", "text"),
    [
        (N, "n"),
        (N * 2 + 1, "2*n + 1"),
        (1 - N, "-n + 1"),
        ((N + 31) // 32 * 32, "32*((n + 31)//32)"),
        ((N + 31) // 32, "(n + 31)//32"),
        (N * M, "m*n"),
        (dims.dim_max(N, M), "max(n, m)"),
    ],
)
def test_text(dim: Dim, text: str) -> None:
    assert str(dim) == text


def test_symbolic_dimensions_have_no_truth_value() -> None:
    assert isinstance(N, SymExpr)
    with pytest.raises(TypeError, match="no truth value"):
        bool(N)


def test_a_sum_divides_its_multiples() -> None:
    n = symbol("n")
    assert dims.floordiv(512 * n + 512, 64 * n + 64) == 8
    assert dims.mod(512 * n + 512, 64 * n + 64) == 0
    assert dims.floordiv(512 * n + 513, 64 * n + 64) != 8
