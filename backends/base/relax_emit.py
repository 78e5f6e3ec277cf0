"""From a program to a TVM module: one Relax function that allocates planned buffers and calls kernels in order."""

from __future__ import annotations

from typing import Any

from graphopt.backends.base.program import BindStep, BranchStep, Buffer, KernelStep, Program, SubProgram, ViewStep
from graphopt.backends.base.tvm_api import relax, tirx, tvm
from graphopt.backends.common.dim_expr import dim_expr
from graphopt.backends.common.lower.registry import tvm_dtype
from graphopt.errors import InternalError
from graphopt.ir.dims import Dim

ALIGNMENT = 64
"""Bytes; planned allocations are rounded up to it, so every buffer starts on a cache line."""


def to_module(program: Program) -> Any:
    """The module of ``program``: PrimFuncs and ``main(*inputs, *constants) -> tuple of outputs``."""
    builder = relax.BlockBuilder()
    functions = {key: builder.add_func(func, key) for key, func in program.functions.items()}
    _Emitter(builder, program, functions).function("main")
    return builder.get()


class _Emitter:
    def __init__(self, builder: Any, program: Program, functions: dict[str, Any]) -> None:
        self.bb = builder
        self.program = program
        self.symbols: dict[str, Any] = {}
        self.vars: dict[Buffer, Any] = {}
        self.functions = functions
        self.called: dict[SubProgram, Any] = {}

    def function(self, name: str, symbols: list[str] | None = None) -> Any:
        """Add the Relax function of the program; returns its global variable.

        Args:
            symbols: for a program called by another one: the dimensions that it takes as a shape after its tensors.
        """
        program = self.program
        for i, step in enumerate(program.steps):
            if isinstance(step, BranchStep):
                for sub, side in ((step.then, "then"), (step.otherwise, "else")):
                    inner = _Emitter(self.bb, sub.program, self.functions)
                    self.called[sub] = inner.function(f"{name}_{i}_{side}", sub.symbols)
        params = []
        for i, b in enumerate([*program.inputs, *program.constants]):
            kind = "in" if i < len(program.inputs) else "c"
            var = relax.Var(f"{kind}{i}", self._type(b, define=True))
            self.vars[b] = var
            params.append(var)
        if symbols:
            shape = [self.symbols.setdefault(s, tirx.Var(_identifier(s), "int64")) for s in symbols]
            params.append(relax.Var("dims", relax.ShapeType(shape)))
        with self.bb.function(name, params, private=symbols is not None):
            storages = [
                self.bb.emit(relax.op.memory.alloc_storage(self._shape_of([_aligned(size)]), 0, "global", "uint8"))
                for size in program.slots
            ]
            for step in program.steps:
                self._step(step, storages)
            outputs = [self.vars[b] for b in program.outputs]
            return self.bb.emit_func_output(relax.Tuple(outputs))

    def _step(self, step: Any, storages: list[Any]) -> None:
        if isinstance(step, KernelStep):
            self._kernel(step, storages)
        elif isinstance(step, ViewStep):
            if 0 in step.output.shape:  # Relax takes a 0 for "as in the operand"; there is nothing to view anyway
                call = relax.op.builtin.alloc_tensor(
                    self._shape(step.output), tvm_dtype(step.output.type.dtype), 0, "global"
                )
            else:
                call = relax.op.reshape(self.vars[step.input], self._shape(step.output))
            self.vars[step.output] = self.bb.emit(call)
        elif isinstance(step, BindStep):
            self._bind(step)
        elif isinstance(step, BranchStep):
            self._branch(step)

    def _kernel(self, step: KernelStep, storages: list[Any]) -> None:
        for b in step.outputs:
            dtype = tvm_dtype(b.type.dtype)
            if b.slot is not None:
                call = relax.op.memory.alloc_tensor(storages[b.slot], 0, self._shape(b), dtype)
            else:
                call = relax.op.builtin.alloc_tensor(self._shape(b), dtype, 0, "global")
            self.vars[b] = self.bb.emit(call)
        args = [self.vars[b] for b in (*step.inputs, *step.outputs)]
        args += [
            relax.PrimValue(self._symbol(s)) if hasattr(relax, "PrimValue") else self._symbol(s) for s in step.symbols
        ]
        self.bb.emit(relax.Call(self.functions[step.function], args, ty_args=[relax.TupleType([])]))

    def _bind(self, step: BindStep) -> None:
        shape = self.bb.emit(
            relax.op.call_pure_packed(
                "vm.builtin.tensor_to_shape", self.vars[step.input], ty_args=relax.ShapeType(ndim=len(step.symbols))
            )
        )
        for name in step.symbols:
            self.symbols.setdefault(name, tirx.Var(_identifier(name), "int64"))
        self.bb.match_cast(shape, relax.ShapeType([self.symbols[s] for s in step.symbols]))

    def _branch(self, step: BranchStep) -> None:
        condition = self.vars[step.condition]
        if step.condition.shape:
            condition = self.bb.emit(relax.op.reshape(condition, self._shape_of([])))
        result = self.bb.emit(relax.If(condition, self._call(step.then), self._call(step.otherwise)))
        for name in step.defines:
            self.symbols[name] = tirx.Var(_identifier(name), "int64")
        for i, b in enumerate(step.outputs):
            # the branches' types may agree in the rank only
            self.vars[b] = self.bb.match_cast(self.bb.emit(relax.TupleGetItem(result, i)), self._type(b))

    def _call(self, sub: SubProgram) -> Any:
        args = [self.vars[b] for b in sub.arguments]
        if sub.symbols:
            args.append(relax.ShapeExpr([self._symbol(s) for s in sub.symbols]))
        return relax.Call(self.called[sub], args)

    def _symbol(self, name: str) -> Any:
        if name not in self.symbols:
            raise InternalError(f"dimension {name} is used before it is defined")
        return self.symbols[name]

    def _type(self, b: Buffer, define: bool = False) -> Any:
        if define:
            for d in b.shape:
                for s in [] if isinstance(d, int) else d.symbols():
                    self.symbols.setdefault(s, tirx.Var(_identifier(s), "int64"))
        return relax.TensorType(self._shape(b), tvm_dtype(b.type.dtype))

    def _shape(self, b: Buffer) -> Any:
        return self._shape_of(b.shape)

    def _shape_of(self, dims: Any) -> Any:
        return relax.ShapeExpr([self._dim(d) for d in dims])

    def _dim(self, d: Dim) -> Any:
        return tirx.const(d, "int64") if isinstance(d, int) else dim_expr(d, self._symbol)


def _identifier(symbol: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in symbol)


def _aligned(size: int) -> int:
    return max(-(-size // ALIGNMENT), 1) * ALIGNMENT


__all__ = ["to_module", "tvm"]
