"""Equations between removal bits: every solution satisfies them, and nothing is frozen without a reason."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.passes.prune.tokens import Tokens


def test_equal_bits_share_a_class() -> None:
    tokens = Tokens()
    a, b = tokens.fresh(3), tokens.fresh(3)
    tokens.unify(a, b[::-1])
    tokens.settle()
    assert [tokens.atoms(t) for t in a.tolist()] == [tokens.atoms(t) for t in b[::-1].tolist()]
    np.testing.assert_array_equal(tokens.roots(a), tokens.roots(b)[::-1])


def test_an_or_goes_with_any_part() -> None:
    tokens = Tokens()
    rows, columns = tokens.fresh(2).tolist(), tokens.fresh(2).tolist()
    cells = tokens.fresh(4).tolist()
    for cell, parts in zip(cells, itertools.product(rows, columns)):
        tokens.bind(cell, parts)
    tokens.settle()
    assert tokens.atoms(cells[2]) == (rows[1], columns[0])


def test_freezing_an_or_freezes_its_parts() -> None:
    tokens = Tokens()
    a, b, both = tokens.fresh(3).tolist()
    tokens.bind(both, (a, b))
    tokens.freeze(np.asarray([both]), "because")
    tokens.settle()
    assert tokens.atoms(a) == tokens.atoms(b) == ()
    assert tokens.reason(a) == "because"


def test_frozen_parts_drop_out_even_later() -> None:
    tokens = Tokens()
    a, b, both = tokens.fresh(3).tolist()
    tokens.bind(both, (a, b))
    tokens.freeze(np.asarray([a]), "because")
    tokens.settle()
    assert tokens.atoms(both) == tokens.atoms(b) != ()


def test_an_or_of_frozen_parts_is_frozen() -> None:
    tokens = Tokens()
    a, b, both = tokens.fresh(3).tolist()
    tokens.bind(both, (a, b))
    tokens.freeze(np.asarray([a, b]), "because")
    tokens.settle()
    assert (tokens.atoms(both), tokens.reason(both)) == ((), "because")


def test_the_first_reason_is_kept() -> None:
    tokens = Tokens()
    a = tokens.fresh(2)
    tokens.freeze(a[:1], "first")
    tokens.freeze(a, "second")
    assert [tokens.reason(t) for t in a.tolist()] == ["first", "second"]


def test_long_chains_need_no_recursion() -> None:
    tokens = Tokens()
    low = tokens.fresh(2).tolist()
    first = low
    for _ in range(5000):
        high = tokens.fresh(2).tolist()
        tokens.bind(high[0], (low[0], low[1]))
        tokens.bind(high[1], (low[1], first[0]))
        low = high
    tokens.settle()
    assert set(tokens.atoms(low[0])) <= set(first)
    tokens.freeze(np.asarray(low), "all")
    assert tokens.reason(first[0]) == "all"


COUNT = 7
EQUATION = st.one_of(
    st.tuples(st.just("equal"), st.integers(0, COUNT - 1), st.integers(0, COUNT - 1)),
    st.tuples(st.just("frozen"), st.integers(0, COUNT - 1)),
    st.tuples(st.just("or"), st.integers(0, COUNT - 1), st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=3)),
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.lists(EQUATION, max_size=8))
def test_every_solution_satisfies_every_equation(equations: list[tuple[object, ...]]) -> None:
    tokens = Tokens()
    labels = tokens.fresh(COUNT)
    for equation in equations:
        if equation[0] == "equal":
            tokens.unify(labels[[equation[1]]], labels[[equation[2]]])
        elif equation[0] == "frozen":
            tokens.freeze(labels[[equation[1]]], "r")
        else:
            tokens.bind(int(labels[equation[1]]), [int(labels[i]) for i in equation[2]])  # type: ignore[index, attr-defined]
    tokens.settle()
    atoms = sorted({a for t in labels.tolist() for a in tokens.atoms(t)})
    for chosen in itertools.product((False, True), repeat=len(atoms)):
        gone = {a for a, out in zip(atoms, chosen) if out}
        bit = [any(a in gone for a in tokens.atoms(t)) for t in labels.tolist()]
        for equation in equations:
            if equation[0] == "equal":
                assert bit[equation[1]] == bit[equation[2]]  # type: ignore[index]
            elif equation[0] == "frozen":
                assert not bit[equation[1]]  # type: ignore[index]
            else:
                assert bit[equation[1]] == any(bit[i] for i in equation[2])  # type: ignore[index, attr-defined]
    for token in labels.tolist():
        assert bool(tokens.atoms(token)) == (tokens.reason(token) is None)
