"""What the language that kernels are compiled from has of its own: TVM writes LLVM's for CPUs and CUDA C for GPUs.

LLVM's has no elementary functions for vectors, so kernels for CPUs write them out as arithmetic. CUDA C has accurate ones, and
graphopt puts device functions in front of what TVM writes (``backends/cuda/device``). A call of one is also what TVM's passes don't
look through: they would copy a variable's value to every use of it, and chains of such values grow exponentially.

LLVM's is one for all CPUs, but what the same arithmetic costs differs: where a processor has an instruction for it, or a penalty on
it, a form of an elementary function for the one takes half as long again on the other.

Lowerings are the same for all targets and know nothing of this. Those few helpers that have two forms ask here which one is wanted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.tvm_api import tirx

Expr = Any
"""A TVM scalar expression."""


@dataclass(frozen=True)
class Dialect:
    """A language that TVM writes kernels in.

    Attributes:
        has_functions: there are device functions to call: elementary functions, and those of ``backends/cuda/device/values.cuh``.
        in_order, fp16, nan_minmax, slow_conversions, saturating_casts, fast_subnormals, overwrites_addend, register_operands: as
            in `Caps`.
    """

    has_functions: bool = False
    in_order: bool = False
    fp16: bool = False
    nan_minmax: bool = False
    slow_conversions: bool = False
    saturating_casts: bool = False
    fast_subnormals: bool = False
    overwrites_addend: bool = False
    register_operands: bool = False


LLVM = Dialect()
CUDA_C = Dialect(has_functions=True)


def llvm_for(caps: Caps) -> Dialect:
    """LLVM's language, for a processor of these capabilities."""
    return Dialect(
        in_order=caps.in_order,
        fp16=caps.fp16,
        nan_minmax=caps.nan_minmax,
        slow_conversions=caps.slow_conversions,
        saturating_casts=caps.saturating_casts,
        fast_subnormals=caps.fast_subnormals,
        overwrites_addend=caps.overwrites_addend,
        register_operands=caps.register_operands,
    )


_CURRENT: ContextVar[Dialect] = ContextVar("dialect", default=LLVM)


@contextmanager
def written_in(dialect: Dialect) -> Iterator[None]:
    """Have everything that is lowered inside written for ``dialect``."""
    token = _CURRENT.set(dialect)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current() -> Dialect:
    """What is being written."""
    return _CURRENT.get()


def has_functions() -> bool:
    """Whether what is being written may call device functions."""
    return _CURRENT.get().has_functions


def call(dtype: str, name: str, *arguments: Expr) -> Expr:
    """A call of a device function. Not declared pure, although it is: TVM would copy a pure one to every use of its result."""
    return tirx.call_extern(dtype, name, *arguments)


def call_of(dtype: str, name: str, *arguments: Expr) -> Expr:
    """A call of a device function that is a template. Integers are passed as that type, though TVM may narrow variables."""
    return call(dtype, name if dtype.startswith("float") else f"{name}<{dtype}_t>", *arguments)
