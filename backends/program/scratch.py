"""Memory that a kernel needs between its launches, taken out of the kernel and planned with all other buffers.

Left inside, TVM takes it from a pool of the calling thread when the kernel is called and gives it back when the call returns,
while the device is still at work: runs on another stream would get the same memory, and a recorded run would use it when its
thread, and the pool, are gone.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from graphopt.backends.base.template import Emitted
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.program.program import Buffer
from graphopt.ir.dtypes import DType
from graphopt.ir.types import TensorType


def scratch_outside(emitted: Emitted) -> Emitted:
    """The kernel with its scratch memory of known size as parameters behind the outputs."""
    function = emitted.function
    found: list[Any] = []
    body = _without_allocations(function.body, found)
    if not found:
        return emitted
    params = list(function.params)
    behind = len(params) - len(emitted.symbols)
    params[behind:behind] = found
    changed = tirx.PrimFunc(params, body).with_attr(dict(function.attrs.items()))
    return replace(emitted, function=changed, scratch=tuple(found))


def scratch_buffers(emitted: Emitted, label: str) -> list[Buffer]:
    """Buffers of a program for a kernel's scratch memory."""
    types = _types()
    return [
        Buffer(f"{label}_scratch{i}", TensorType(types[str(b.dtype)], shape), shape)
        for i, b in enumerate(emitted.scratch)
        for shape in [tuple(map(int, b.shape))]
    ]


def _without_allocations(statement: Any, found: list[Any]) -> Any:
    """A function's body without the allocations on the host that kernels' launches share."""
    if isinstance(statement, tirx.SeqStmt):
        kept = [_without_allocations(s, found) for s in statement.seq if not _is_scratch(s, found)]
        return kept[0] if len(kept) == 1 else tirx.SeqStmt(kept)
    return statement


def _is_scratch(statement: Any, found: list[Any]) -> bool:
    if not isinstance(statement, tirx.AllocBuffer) or statement.buffer.scope() != "global":
        return False
    if str(statement.buffer.dtype) not in _types() or not all(
        isinstance(d, tirx.IntImm) for d in statement.buffer.shape
    ):
        return False
    found.append(statement.buffer)
    return True


@cache
def _types() -> dict[str, DType]:
    """Element types of numbers that are stored as they are, by TVM's names."""
    plain = [d for d in DType if d.numpy.kind in "fiu" and d.numpy.isbuiltin == 1 and 8 * d.numpy.itemsize == d.bits]
    return {d.numpy.name: d for d in plain}
