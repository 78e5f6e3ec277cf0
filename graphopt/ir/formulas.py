"""Dimensions as functions of their symbols' values, for those who need many numbers again and again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

from graphopt.ir.atoms import FUNCTIONS, Apply, Atom, Symbol
from graphopt.ir.dims import Dim, SymExpr

_Polynomial: TypeAlias = tuple[tuple[int, tuple[int, ...]], ...]
"""Terms: a coefficient, and the numbers of the atoms whose values it is multiplied by."""


@dataclass(frozen=True)
class _Step:
    """One atom that is a function of others."""

    function: Callable[..., int]
    arguments: tuple[_Polynomial, ...]


class Formulas:
    """The values of some dimensions where all of their symbols have values.

    Substituting them one by one builds expressions, and finds what several have in common again for each: tens of microseconds a
    dimension. Here every function of symbols is computed once, by plain arithmetic.

    Args:
        dims: whose values are wanted.
    """

    def __init__(self, dims: Sequence[Dim]) -> None:
        self._numbers: dict[Atom, int] = {}
        self._steps: list[str | _Step] = []
        self._wanted = tuple(self._polynomial(dim) for dim in dims)

    def values(self, env: Mapping[str, int]) -> list[int]:
        """Of each dimension, in order.

        Args:
            env: of every symbol by name.

        Raises:
            ZeroDivisionError: one of them divides by zero.
        """
        known = list[int]()
        for step in self._steps:
            if isinstance(step, str):
                known.append(env[step])
            else:
                known.append(int(step.function(*[_value(argument, known) for argument in step.arguments])))
        return [_value(wanted, known) for wanted in self._wanted]

    def _polynomial(self, dim: Dim) -> _Polynomial:
        if not isinstance(dim, SymExpr):
            return ((dim, ()),)
        return tuple((c, tuple(map(self._number, monomial))) for monomial, c in dim.terms)

    def _number(self, atom: Atom) -> int:
        """Place of an atom's value, after those that it is computed from."""
        if atom not in self._numbers:
            step = atom.name if isinstance(atom, Symbol) else self._step(atom)
            self._numbers[atom] = len(self._steps)
            self._steps.append(step)
        return self._numbers[atom]

    def _step(self, atom: Apply) -> _Step:
        return _Step(FUNCTIONS[atom.fn], tuple(map(self._polynomial, atom.args)))


def _value(polynomial: _Polynomial, known: Sequence[int]) -> int:
    return sum([c * prod([known[i] for i in places]) if places else c for c, places in polynomial])
