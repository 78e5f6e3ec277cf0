"""Hand-written stages of a kernel: loops, conditions and stores in the order of the Python code that asks for them.

For algorithms that aren't one value per element: scatter, sorting, compaction, suppression.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.tensors.builder import KernelBuilder, reader
from graphopt.backends.tensors.index import i64, product
from graphopt.backends.tensors.tensor import Expr, Scope, Tensor


class Cell:
    """A variable."""

    def __init__(self, code: Code, dtype: str, init: Expr) -> None:
        self._code = code
        self._buffer = code.local(1, dtype, "cell")
        self.set(init)

    def get(self) -> Expr:
        """Its value here."""
        return tirx.BufferLoad(self._buffer, [i64(0)])

    def set(self, value: Expr) -> None:
        """Assign."""
        self._code.add(tirx.BufferStore(self._buffer, value, [i64(0)]))


class Code:
    """Writes statements; ``finish`` appends them to the kernel."""

    def __init__(self, builder: KernelBuilder) -> None:
        self.builder = builder
        self._blocks: list[list[Any]] = [[]]

    def fresh(self, stem: str) -> str:
        """A name that nothing else in the kernel has."""
        self.builder.named += 1
        return f"{stem}{self.builder.named}"

    def add(self, statement: Any) -> None:
        """Append a statement to the innermost block."""
        self._blocks[-1].append(statement)

    def read(self, tensor: Tensor, *index: Expr) -> Expr:
        """An element of a lazy tensor, evaluated here and once, as a variable."""
        outer, Scope._stack = Scope._stack, []
        with Scope() as scope:
            value = tensor(*index)
        Scope._stack = outer
        for statement in scope.statements():
            self.add(statement)
        return self.let(value)

    def let(self, value: Expr) -> Expr:
        """A variable that holds ``value`` as it is now."""
        if isinstance(value, int):
            return value
        var = tirx.Var(self.fresh("v"), value.ty)
        self.add(tirx.Bind(var, value))
        return var

    def cell(self, dtype: str, init: Expr) -> Cell:
        """A new variable that can be assigned to."""
        return Cell(self, dtype, init)

    def local(self, count: int, dtype: str, stem: str) -> Any:
        """A few elements on the stack, or in registers: TVM itself would ask for memory at every turn of a loop."""
        buffer = tirx.decl_buffer((count,), dtype, self.fresh(stem), scope="local")
        self.add(tirx.AllocBuffer(buffer, annotations={"disable_lower_builtin": tirx.const(True, "bool")}))
        return buffer

    def scratch(self, shape: Sequence[Expr], dtype: str) -> Any:
        """A buffer that lives as long as the kernel runs.

        It is accessed under a second name: TVM shrinks buffers to what it sees accessed, and where indices are themselves loaded it
        writes sizes that mention them ahead of their definition.
        """
        total = product(shape)
        # one element would become a register, which has no second name
        buffer = self.builder.workspace([max(total, 16) if isinstance(total, int) else total], dtype)
        extents = [i64(max(d, 1) if isinstance(d, int) else d) for d in shape] or [i64(1)]
        alias = tirx.decl_buffer(extents, dtype, f"{buffer.name}_all", data=buffer.data)
        self.builder.allocations.append(tirx.DeclBuffer(alias, data=buffer.data))
        self.builder.scratch[alias] = buffer
        return alias

    def store(self, buffer: Any, value: Expr, *index: Expr) -> None:
        """``buffer[index] = value``; a scalar's buffer is indexed with 0."""
        self.add(tirx.BufferStore(buffer, value, [i64(i) for i in index or (0,) * len(buffer.shape)]))

    def load(self, buffer: Any, *index: Expr) -> Expr:
        """``buffer[index]`` as it is where the expression is used."""
        return tirx.BufferLoad(buffer, [i64(i) for i in index or (0,) * len(buffer.shape)])

    @contextmanager
    def loop(self, extent: Expr, parallel: bool = False) -> Iterator[Any]:
        """``for i in range(extent)``."""
        var = tirx.Var(self.fresh("i"), "int64")
        self._blocks.append([])
        yield var
        kind = tirx.ForKind.PARALLEL if parallel and self.builder.caps.cores > 1 else tirx.ForKind.SERIAL
        body = self._close()
        self.add(tirx.For(var, i64(0), i64(extent), kind, body))

    @contextmanager
    def nest(self, shape: Sequence[Expr]) -> Iterator[tuple[Any, ...]]:
        """Nested loops over a shape."""
        variables = [tirx.Var(self.fresh("i"), "int64") for _ in shape]
        self._blocks.append([])
        yield tuple(variables)
        body = self._close()
        for var, extent in reversed(list(zip(variables, shape))):
            body = tirx.For(var, i64(0), i64(extent), tirx.ForKind.SERIAL, body)
        self.add(body)

    @contextmanager
    def each(self, shape: Sequence[Expr]) -> Iterator[tuple[Any, ...]]:
        """Loops over a shape whose iterations don't depend on one another: a GPU gives each one a thread."""
        variables = [tirx.Var(self.fresh("i"), "int64") for _ in shape]
        self._blocks.append([])
        yield tuple(variables)
        self.add(self.builder.schedule.each(variables, shape, self._close()))

    @contextmanager
    def while_(self, condition: Expr) -> Iterator[None]:
        """``while condition`` (read from cells and buffers anew each time)."""
        self._blocks.append([])
        yield
        body = self._close()
        self.add(tirx.While(condition, body))

    @contextmanager
    def when(self, condition: Expr) -> Iterator[None]:
        """``if condition``."""
        self._blocks.append([])
        yield
        body = self._close()
        if condition is True:
            self.add(body)
        elif condition is not False:
            self.add(tirx.IfThenElse(condition, body, None))

    def _close(self) -> Any:
        statements = self._blocks.pop()
        if not statements:
            return tirx.Evaluate(0)
        return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)

    def finish(self) -> None:
        """Append everything written to the kernel."""
        if self._blocks[0]:
            self.builder.raw(*self._blocks[0])
        self._blocks = [[]]

    def copy_of(self, tensor: Tensor) -> Any:
        """A scratch buffer filled with the elements of ``tensor`` (by the target's own loops)."""
        from graphopt.backends.tensors.builder import Output

        self.finish()
        buffer = self.scratch(tensor.shape, tensor.dtype)
        self.builder.emit([Output(tensor, buffer)])
        return buffer


def result(buffer: Any, shape: Sequence[Expr], dtype: str) -> Tensor:
    """What hand-written code left in a buffer, as a tensor."""
    return reader(buffer, shape, dtype)
