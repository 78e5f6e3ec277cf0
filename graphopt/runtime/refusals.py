"""What compiled code calls when values known at run time only don't fit the model: nothing is computed or allocated then.

Kernels call two functions by name through TVM's registry, and only on the way to an error (or ahead of a large allocation). They
raise an `InputError`; TVM hands on an exception of some class of its own, so the error itself waits here for the executor.
"""

from __future__ import annotations

import os
import resource
import threading
from functools import cache
from pathlib import Path

from graphopt.backends.base.callbacks import REFUSE, RESERVE
from graphopt.errors import InputError

_waiting = threading.local()


@cache
def install() -> None:
    """Register the functions with TVM, once per process."""
    import tvm_ffi

    tvm_ffi.register_global_func(REFUSE, refuse, override=True)
    tvm_ffi.register_global_func(RESERVE, reserve, override=True)


def refuse(where: str, why: str, *named: str | int | float) -> None:
    """Raise the error for a broken condition.

    Args:
        where: the node concerned.
        why: what does not hold.
        named: names and values of what was compared, in turn.

    Raises:
        InputError: always.
    """
    values = _text(named)
    _fail(
        InputError(
            f"{why}: {values}" if values else str(why), code="bad-value", node=str(where) or None,
            hint="a value that the model is given, or computes, does not fit this node; check the inputs",
        )
    )  # fmt: skip


def reserve(where: str, size: float, *named: str | int | float) -> None:
    """Let an allocation pass if this machine can hold it.

    Args:
        where: the node concerned.
        size: bytes.
        named: names and values of what the size follows from, in turn.

    Raises:
        InputError: it can't.
    """
    limit, values = memory_limit(), _text(named)
    if not float(size) <= limit:
        _fail(
            InputError(
                f"a tensor of {float(size) / 2**30:.4g} GiB is asked for, and {limit / 2**30:.4g} GiB is all there is"
                + (f": {values}" if values else ""),
                code="too-large", node=str(where), hint="check the inputs that decide the shape of this node's result",
            )
        )  # fmt: skip


def _text(named: tuple[str | int | float, ...]) -> str:
    shown = dict(zip(map(str, named[::2]), named[1::2]))
    return ", ".join(f"{name} = {value}" for name, value in shown.items())


def taken() -> InputError | None:
    """The error that compiled code ended in on this thread, None if it failed for another reason; it waits no longer."""
    error: InputError | None = getattr(_waiting, "error", None)
    _waiting.error = None
    return error


def _fail(error: InputError) -> None:
    _waiting.error = error
    raise error


@cache
def memory_limit() -> int:
    """Bytes that this process may use at most: the machine's memory, its control group's, or the limit on its address space."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found.append(int(Path(path).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such control group, or "max"
            continue
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    if soft != resource.RLIM_INFINITY:
        found.append(soft)
    return min(size for size in found if size > 0)
