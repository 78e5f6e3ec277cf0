"""Runs a program for this machine's CPU kernel by kernel: a second executor, which shares no code with that of compiled models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.backends.base.tvm_api import cpu_pass_context, tvm
from graphopt.backends.program.program import (
    BindStep,
    BranchStep,
    Buffer,
    JoinStep,
    KernelStep,
    Program,
    SubProgram,
    ViewStep,
)
from graphopt.ir.dims import Dim, as_symbol, subs

Array = npt.NDArray[Any]


def run_program(program: Program, feed: Mapping[str, Array]) -> list[Array]:
    """The outputs of ``program`` on inputs by name.

    Outputs of kernels start as NaN (or the largest number of an integer type), so an element never written shows.
    """
    functions = {key: func.with_attr("global_symbol", key) for key, func in program.functions.items()}
    with cpu_pass_context():
        code = tvm.compile(tvm.IRModule(functions), target=tvm.target.Target({"kind": "llvm"}))
    return _Run(program, code).outputs([feed[b.name] for b in program.inputs], {})


class _Run:
    def __init__(self, program: Program, code: Any) -> None:
        self.program = program
        self.code = code
        self.arrays: dict[Buffer, Array] = {}
        self.symbols: dict[str, Dim] = {}

    def outputs(self, inputs: Sequence[Array], symbols: Mapping[str, Dim]) -> list[Array]:
        """Run on the inputs, then (for a program called by another one) the constants as well."""
        self.symbols.update(symbols)
        constants = [b.data for b in self.program.constants if b.data is not None]
        given = [*inputs, *constants] if len(inputs) == len(self.program.inputs) else list(inputs)
        for buffer, array in zip([*self.program.inputs, *self.program.constants], given, strict=True):
            self._enter(buffer, np.ascontiguousarray(array).reshape(array.shape))
        for step in self.program.steps:
            self._step(step)
        return [self.arrays[b] for b in self.program.outputs]

    def _enter(self, buffer: Buffer, array: Array) -> None:
        for dim, extent in zip(buffer.shape, array.shape, strict=True):
            name = as_symbol(dim)
            if name is not None:
                self.symbols.setdefault(name, int(extent))
        self.arrays[buffer] = array

    def _shape(self, buffer: Buffer) -> tuple[int, ...]:
        shape = tuple(subs(d, self.symbols) for d in buffer.shape)
        assert all(isinstance(d, int) for d in shape), f"{buffer.name} has shape {shape}"
        return shape  # type: ignore[return-value]

    def _step(self, step: Any) -> None:
        if isinstance(step, KernelStep):
            self._kernel(step)
        elif isinstance(step, ViewStep):
            source, shape = self.arrays[step.input].reshape(-1), self._shape(step.output)
            first = step.shift // source.itemsize
            self.arrays[step.output] = source[first : first + int(np.prod(shape))].reshape(shape)
        elif isinstance(step, JoinStep):
            self._join(step)
        elif isinstance(step, BindStep):
            self.symbols.update(zip(step.symbols, self.arrays[step.input].reshape(-1).tolist(), strict=True))
        elif isinstance(step, BranchStep):
            taken = step.then if bool(self.arrays[step.condition].reshape(-1)[0]) else step.otherwise
            for buffer, array in zip(step.outputs, self._call(taken), strict=True):
                self._enter(buffer, array)

    def _join(self, step: JoinStep) -> None:
        """What the parts wrote, each at its own place; a place that none of them fills stays unwritten."""
        whole = _unwritten(self._shape(step.output), step.output.type.dtype.numpy)
        flat = whole.reshape(-1)
        for part in step.parts:
            assert part.home is step.output
            first = part.shift // whole.itemsize
            flat[first : first + self.arrays[part].size] = self.arrays[part].reshape(-1)
        self.arrays[step.output] = whole

    def _call(self, sub: SubProgram) -> list[Array]:
        symbols = {name: self.symbols[name] for name in sub.symbols}
        return _Run(sub.program, self.code).outputs([self.arrays[b] for b in sub.arguments], symbols)

    def _kernel(self, step: KernelStep) -> None:
        outputs = [_unwritten(self._shape(b), b.type.dtype.numpy) for b in (*step.outputs, *step.scratch)]
        tensors = [tvm.runtime.tensor(a) for a in (*(self.arrays[b] for b in step.inputs), *outputs)]
        self.code[step.function](*tensors, *(self.symbols[s] for s in step.symbols))
        for buffer, tensor in zip(step.outputs, tensors[len(step.inputs) :]):
            self.arrays[buffer] = tensor.numpy()


def _unwritten(shape: tuple[int, ...], dtype: Any) -> Array:
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        return np.full(shape, np.iinfo(kind).max, kind)
    return np.zeros(shape, kind) if kind.kind == "b" else np.full(shape, np.nan, kind)
