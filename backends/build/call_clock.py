"""Time stamps of the virtual machine's calls, taken by compiled code.

An observer in Python converts every argument of every call, which takes as long as a small kernel. This one reads a clock.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.backends.base.target import Target
from graphopt.backends.base.tvm_api import IRBuilder, cpu_pass_context, tirx, tvm
from graphopt.backends.base.tvm_api import tirx_builder as T

_NAME = "record_time"
_PACKED_CALL = 1
"""``CallingConv.C_PACKED_FUNC``: the function takes (self, arguments, their number, result) as TVM's FFI passes them, so that any
number of arguments will do, and none is looked at."""


class CallClock:
    """A function that stores the time at each call, whatever it is called with.

    Args:
        capacity: how many calls are kept.
        target: this machine.

    Attributes:
        function: the TVM function; its result is None, which tells the virtual machine to go on.
    """

    def __init__(self, capacity: int, target: Target) -> None:
        # how many, then seconds and nanoseconds of each (a POSIX timespec of two 64-bit words); the last one takes what is too much
        self._words = np.zeros((capacity + 2, 2), np.int64)
        with cpu_pass_context():
            module = tvm.compile(tvm.IRModule({f"__tvm_ffi_{_NAME}": _recorder(self._words)}), target.tvm_target())
        self.function = module.jit()[_NAME]

    def clear(self) -> None:
        """Forget all calls."""
        self._words[0] = 0

    def nanoseconds(self) -> npt.NDArray[np.int64]:
        """Time of each call since the last `clear`, from an arbitrary origin."""
        count = min(int(self._words[0, 0]), len(self._words) - 2)
        stamps: npt.NDArray[np.int64] = self._words[1 : count + 1] @ np.array([1_000_000_000, 1], np.int64)
        return stamps


def _recorder(words: npt.NDArray[np.int64]) -> Any:
    last = words.shape[0] - 1
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(_NAME)
        T.func_attr({"global_symbol": f"__tvm_ffi_{_NAME}", "calling_conv": _PACKED_CALL, "tirx.noalias": True})
        for name, type_ in (("self", T.handle()), ("args", T.handle()), ("count", T.int32()), ("result", T.handle())):
            T.arg(name, type_)
        T.func_ret(tvm.ir.PrimType("int32"))
        pointer = tirx.Var("pointer", tvm.ir.PointerType(tvm.ir.PrimType("int64"), "global"))
        T.Bind(tirx.reinterpret(pointer.ty, tirx.const(words.ctypes.data, "uint64")), var=pointer)
        memory = T.decl_buffer((words.size,), "int64", data=pointer)
        place = tirx.address_of(memory[2 * tirx.min(memory[0] + 1, last)])
        T.evaluate(tirx.call_extern("int32", "clock_gettime", time.CLOCK_MONOTONIC, place))
        T.buffer_store(memory, memory[0] + 1, [0])
        T.Return(tirx.const(0, "int32"))
    return builder.get()
