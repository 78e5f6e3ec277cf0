"""A model with states: what its runs append to stays in its memory, and is never copied."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.errors import InputError
from graphopt.ir.dims import Dim, as_symbol, subs, symbols_of
from graphopt.runtime.bits import as_bits, travels_as_bits
from graphopt.runtime.executor import Executor
from graphopt.runtime.feed import as_array, require_names
from graphopt.runtime.placements import aligned_memory
from graphopt.runtime.signature import (
    Signature,
    TensorSpec,
    dim_from_json,
    dim_to_json,
    signature_from_json,
    signature_to_json,
)


@dataclass(frozen=True)
class StateSpec:
    """An input that a model appends to and returns.

    Attributes:
        past: the input; along ``axis`` its extent is a symbol, all others are numbers.
        present: name of the output.
        appended: how much one run adds, by the dimensions of other inputs.
    """

    past: TensorSpec
    present: str
    axis: int
    appended: Dim

    def __str__(self) -> str:
        return f"{self.past}, returned as {self.present}, {self.row_bytes} bytes a position"

    @property
    def length(self) -> str:
        """The symbol of the extent that grows."""
        (name,) = symbols_of(self.past.shape[self.axis])
        return name

    @property
    def row(self) -> tuple[int, ...]:
        """Extents of what one more position takes."""
        return tuple(d for axis, d in enumerate(self.past.shape) if axis != self.axis and isinstance(d, int))

    @property
    def row_bytes(self) -> int:
        """Bytes that a run moves for each position that it adds."""
        return int(np.prod(self.row, dtype=np.int64)) * self.past.dtype.numpy.itemsize


class Session:
    """Runs of a model, each of which goes on where the last one ended.

    Attributes:
        capacity: most positions that the states hold.
        length: positions that they hold now.
    """

    def __init__(self, executor: Executor, signature: Signature, states: tuple[StateSpec, ...], capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self._executor, self._signature, self._specs = executor, signature, states
        try:
            self._memory = [aligned_memory(capacity * spec.row_bytes) for spec in states]
        except (MemoryError, ValueError) as error:
            size = capacity * sum(spec.row_bytes for spec in states)
            raise InputError(
                f"there is no memory for states of {capacity} positions, {size / 2**30:.4g} GiB", code="too-large",
                hint="open the session with a smaller capacity",
            ) from error  # fmt: skip
        self._arena = executor.arena(self._memory)
        self._busy = threading.Lock()

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """Run on named arrays, without those that the states stand for, and append to the states. One run at a time.

        Raises:
            InputError: wrong names, dtypes or shapes, or the states are full; they stay what they were.
            DeviceError: there is not enough memory.
        """
        inputs = self._signature.inputs
        require_names(feed, [spec.name for spec in inputs])
        arrays = {spec.name: as_array(spec.name, feed[spec.name]) for spec in inputs if spec.name in feed}
        with self._busy:
            known = {self._specs[0].length: self.length}
            self._signature.require_fit(arrays, known)
            grown = self.length + self._appended(arrays, known)
            if grown > self.capacity:
                raise InputError(
                    f"the states hold {self.length} of {self.capacity} positions, and {grown - self.length} more come",
                    code="state-full",
                    hint="open a session of a larger capacity, or empty this one with reset()",
                )
            given = [as_bits(np.ascontiguousarray(a).reshape(a.shape)) for a in arrays.values()]
            try:
                results = self._arena.run(given, self.length)
            except Exception as error:  # TVM raises any class
                raise self._executor.failure(error) from error
            self.length = grown
        specs = self._signature.outputs
        return {
            spec.name: r.view(spec.dtype.numpy) if travels_as_bits(spec.dtype.numpy) else r
            for spec, r in zip(specs, results)
        }

    def reset(self) -> None:
        """Empty the states."""
        with self._busy:
            self.length = 0

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Copies of the states, by the names of the outputs that they stand for."""
        with self._busy:
            return {
                spec.present: np.moveaxis(self._rows(i, self.length), 0, spec.axis).copy()
                for i, spec in enumerate(self._specs)
            }

    def load(self, state: Mapping[str, Any]) -> None:
        """Replace the states.

        Args:
            state: arrays by the names of inputs or outputs that the states stand for; all of them, of one length.

        Raises:
            InputError: names, dtypes or shapes don't fit; the states stay what they were.
        """
        named = {spec.present: spec.past.name for spec in self._specs}
        feed = {named.get(name, name): as_array(name, array) for name, array in state.items()}
        require_names(feed, [spec.past.name for spec in self._specs])
        specs = tuple(spec.past for spec in self._specs)
        Signature(specs, ()).require_fit(feed)
        length = feed[specs[0].name].shape[self._specs[0].axis]
        if length > self.capacity:
            raise InputError(
                f"states of {length} positions don't fit into a session of {self.capacity}", code="state-full",
                hint="open a session of a larger capacity",
            )  # fmt: skip
        with self._busy:
            for i, spec in enumerate(self._specs):
                self._rows(i, length)[...] = np.moveaxis(feed[spec.past.name], spec.axis, 0)
            self.length = length

    def _rows(self, index: int, length: int) -> npt.NDArray[Any]:
        """The memory of a state, the axis that grows outermost."""
        spec = self._specs[index]
        used = self._memory[index][: length * spec.row_bytes]
        return used.view(spec.past.dtype.numpy).reshape((length, *spec.row))

    def _appended(self, arrays: Mapping[str, npt.NDArray[Any]], known: Mapping[str, int]) -> int:
        appended = self._specs[0].appended
        if isinstance(appended, int):
            return appended
        symbols: dict[str, Dim] = dict(known)
        for spec in self._signature.inputs:
            for dim, extent in zip(spec.shape, arrays[spec.name].shape):
                if (name := as_symbol(dim)) is not None:
                    symbols.setdefault(name, extent)
        found = subs(appended, symbols)
        assert isinstance(found, int)
        return found


def state_to_json(state: StateSpec) -> dict[str, Any]:
    """JSON form for the manifest."""
    past = Signature((state.past,), ())
    return {
        "past": signature_to_json(past)["inputs"][0], "present": state.present, "axis": state.axis,
        "appended": dim_to_json(state.appended),
    }  # fmt: skip


def state_from_json(data: Mapping[str, Any]) -> StateSpec:
    """Inverse of ``state_to_json``, of data that ``graphopt.runtime.manifest`` has checked (else any error).

    Raises:
        ValueError: there is no such state.
    """
    (past,) = signature_from_json({"inputs": [data["past"]], "outputs": [], "constraints": []}).inputs
    axis = int(data["axis"])
    rest = [d for a, d in enumerate(past.shape) if a != axis]
    if axis >= len(past.shape) or as_symbol(past.shape[axis]) is None or not all(isinstance(d, int) for d in rest):
        raise ValueError(f"a state of shape {past} can't grow along axis {axis}")
    return StateSpec(past, str(data["present"]), axis, dim_from_json(data["appended"]))
