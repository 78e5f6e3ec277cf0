"""The entry signature of a compiled model and the checks on what is passed to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from graphopt.errors import InputError
from graphopt.ir.constraints import described, sides
from graphopt.ir.dims import Dim, SymExpr, as_symbol, subs, symbols_of
from graphopt.ir.dtypes import DType
from graphopt.ir.formulas import Formulas
from graphopt.runtime.feed import as_array, require_names

_KEPT = 8
"""How many shapes are remembered: threads may each have their own."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, element type and shape of an input or output; dimensions may be symbolic."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(str(d) for d in self.shape)}]"


class Shaped(Protocol):
    """What is compared with a `TensorSpec`: an array, or a tensor elsewhere."""

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """Element type."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents."""

    @property
    def ndim(self) -> int:
        """Number of dimensions."""


@dataclass(frozen=True)
class Signature:
    """Inputs, outputs, and pairs of dimensions that must agree (with the reason).

    Attributes:
        fitted: shapes of all inputs that were found to fit, the last ones first. Threads replace the content as a whole.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    constraints: tuple[tuple[Dim, Dim, str], ...] = ()
    fitted: list[list[tuple[int, ...]]] = field(default_factory=list, compare=False, repr=False)

    @property
    def is_fixed(self) -> bool:
        """Whether all dimensions are numbers."""
        return all(isinstance(d, int) for spec in (*self.inputs, *self.outputs) for d in spec.shape)

    def check(self, feed: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """The arrays in input order, contiguous, after checking names, dtypes, shapes and shape constraints.

        Raises:
            InputError: the first mismatch, naming the input and what is expected.
        """
        # Small models run in microseconds, so arrays like earlier ones that fitted are compared with those only.
        if type(feed) is not dict or len(feed) != len(self.inputs):
            return self._checked(feed)
        arrays, shapes = [], []
        for name, dtype in self._expected:
            array = feed.get(name)
            if type(array) is not np.ndarray or array.dtype != dtype or not array.flags.c_contiguous:
                return self._checked(feed)
            arrays.append(array)
            shapes.append(array.shape)
        return arrays if shapes in self.fitted else self._checked(feed)

    @cached_property
    def _expected(self) -> list[tuple[str, np.dtype[Any]]]:
        return [(spec.name, spec.dtype.numpy) for spec in self.inputs]

    def _checked(self, feed: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        require_names(feed, [s.name for s in self.inputs])
        arrays = {spec.name: as_array(spec.name, feed[spec.name]) for spec in self.inputs if spec.name in feed}
        self.require_fit(arrays)
        return [np.ascontiguousarray(array).reshape(array.shape) for array in arrays.values()]

    def require_fit(self, given: Mapping[str, Shaped], known: Mapping[str, int] | None = None) -> None:
        """Refuse inputs of other dtypes or shapes, or that don't fit one another.

        Args:
            given: what has a dtype and a shape, by name.
            known: dimensions that have a value whatever the inputs are.

        Raises:
            InputError: the first mismatch, naming the input and what is expected.
        """
        symbols: dict[str, int] = {} if known is None else dict(known)
        for spec in self.inputs:
            if spec.name not in given:
                raise InputError(f"input {spec} is missing", hint=f"pass an array under the name {spec.name!r}")
            _require_fit(spec, given[spec.name], symbols)
        shapes = [given[spec.name].shape for spec in self.inputs]
        if known is not None or shapes not in self.fitted:
            self._require_agreement(symbols)
        if known is None and shapes not in self.fitted:
            self.fitted[:] = [shapes, *self.fitted[: _KEPT - 1]]

    def _require_agreement(self, symbols: Mapping[str, int]) -> None:
        """Refuse extents that break a constraint; what depends on symbols that only the run itself tells is left to it."""
        names = frozenset(symbols)
        if names not in self._decided:
            decided = [(left, right) for left, right, _ in self.constraints if symbols_of(left, right) <= names]
            self._decided[names] = Formulas([dim for pair in decided for dim in pair]), len(decided)
        formulas, count = self._decided[names]
        try:
            values = formulas.values(symbols)
            agrees = count == len(self.constraints) and values[::2] == values[1::2]
        except ZeroDivisionError:
            agrees = False
        if not agrees:
            for left, right, why in self.constraints:  # slower: which one it is, and why
                self._require(left, right, why, symbols)

    @cached_property
    def _decided(self) -> dict[frozenset[str], tuple[Formulas, int]]:
        """Both sides of the constraints that the values of such symbols decide, and how many constraints these are."""
        return {}

    def _require(self, left: Dim, right: Dim, why: str, symbols: Mapping[str, int]) -> None:
        try:
            a, b = subs(left, symbols), subs(right, symbols)
        except ZeroDivisionError as e:
            raise InputError(
                f"these input shapes don't fit the model: {left} or {right} divides by zero",
                notes=[why], hint="the model can't be run on inputs of these shapes",
            ) from e  # fmt: skip
        if not (isinstance(a, int) and isinstance(b, int)) or a == b:
            return
        about = sides(left, right)
        values = " but ".join(f"{d} = {subs(d, symbols)}" for d in about if not isinstance(d, int)) or f"{left} = {a}"
        raise InputError(
            f"these input shapes don't fit the model: {values}",
            notes=[f"{why}: {described(left, right)}"], hint="the model can't be run on inputs of these shapes",
        )  # fmt: skip


def _require_fit(spec: TensorSpec, array: Shaped, symbols: dict[str, int]) -> None:
    if array.dtype != spec.dtype.numpy:
        raise InputError(
            f"input {spec.name!r} has dtype {array.dtype}, the model expects {spec.dtype.numpy}",
            hint=f"convert it: x.astype({str(spec.dtype.numpy)!r})",
        )
    if array.ndim != len(spec.shape):
        raise InputError(
            f"input {spec.name!r} has {array.ndim} dimensions {list(array.shape)}, the model expects {spec}"
        )
    for axis, (have, want) in enumerate(zip(array.shape, spec.shape)):
        name = as_symbol(want)
        if name is not None and name not in symbols:
            symbols[name] = int(have)
            continue
        expected = symbols[name] if name is not None else subs(want, symbols)
        if isinstance(expected, int) and expected != have:
            note = [f"{name} is {expected} by an earlier input"] if name else []
            raise InputError(
                f"input {spec.name!r} has shape {list(array.shape)}, the model expects {spec}: "
                f"dimension {axis} must be {expected}",
                notes=note, hint="compile for this shape with --shape, or export the model with a dynamic dimension",
            )  # fmt: skip


def dim_to_json(dim: Dim) -> Any:
    """JSON form of a dimension: an int, or terms ``[coefficient, [atoms]]``."""
    if isinstance(dim, int):
        return dim
    return [[c, [_atom_to_json(a) for a in m]] for m, c in dim.terms]


def _atom_to_json(atom: Any) -> Any:
    from graphopt.ir.atoms import Symbol

    return atom.name if isinstance(atom, Symbol) else {"fn": atom.fn, "args": [dim_to_json(a) for a in atom.args]}


def dim_from_json(data: Any) -> Dim:
    """Inverse of ``dim_to_json``, of data that ``graphopt.runtime.manifest`` has checked.

    Raises:
        ArithmeticError: it divides by zero.
    """
    from graphopt.ir.dims import apply, symbol

    if isinstance(data, int):
        return data
    total: Dim = 0
    for coefficient, atoms in data:
        term: Dim = int(coefficient)
        for atom in atoms:
            if isinstance(atom, str):
                term = term * symbol(atom)
            else:
                term = term * apply(atom["fn"], *(dim_from_json(a) for a in atom["args"]))
        total = total + term
    return total


def signature_to_json(signature: Signature) -> dict[str, Any]:
    """JSON form for the manifest."""

    def specs(items: Sequence[TensorSpec]) -> list[dict[str, Any]]:
        return [{"name": s.name, "dtype": str(s.dtype), "shape": [dim_to_json(d) for d in s.shape]} for s in items]

    return {
        "inputs": specs(signature.inputs),
        "outputs": specs(signature.outputs),
        "constraints": [[dim_to_json(a), dim_to_json(b), why] for a, b, why in signature.constraints],
    }


def signature_from_json(data: Mapping[str, Any]) -> Signature:
    """Inverse of ``signature_to_json``, of data that ``graphopt.runtime.manifest`` has checked (else any error)."""
    by_name = {str(d): d for d in DType}

    def specs(items: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(str(s["name"]), by_name[s["dtype"]], tuple(dim_from_json(d) for d in s["shape"])) for s in items
        )

    return Signature(
        specs(data["inputs"]),
        specs(data["outputs"]),
        tuple((dim_from_json(a), dim_from_json(b), str(w)) for a, b, w in data["constraints"]),
    )


__all__ = ["Signature", "SymExpr", "TensorSpec", "signature_from_json", "signature_to_json"]
