"""The process behind ``gpu.SimulatedGpus``: it loads the simulated driver, then serves calls until its input ends."""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import pickle
import struct
import sys
import traceback
from typing import Any, BinaryIO

from tests.support.cuda_on_cpu.finding import Finding


def main() -> None:
    """Serve."""
    for library in sys.argv[1:]:
        ctypes.CDLL(library, mode=os.RTLD_GLOBAL | os.RTLD_NOW)
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what others print mustn't get between the answers
    while True:
        head = source.read(8)
        if len(head) < 8:
            sink.flush()
            os._exit(0)  # TVM's own end would meet libraries that are gone
        _answer(source.read(struct.unpack("<Q", head)[0]), sink)


def set_schedule(schedule: int) -> None:
    """In which order threads run from now on: 0 as they come, 1 reversed, others shuffled by that seed."""
    simulator().sim_set_schedule(schedule)


@functools.cache
def allocate_exactly() -> None:
    """Have virtual machines allocate each tensor by itself: TVM's pool rounds sizes up, and an access beyond a tensor would be one
    within an allocation."""
    from graphopt.backends.base.tvm_api import relax, tvm
    from graphopt.backends.build import loaded_module

    for index in range(8):
        loaded_module._ALLOCATORS[tvm.cuda(index)] = relax.VirtualMachine.NAIVE_ALLOCATOR


def replace_kernels(library: str) -> None:
    """Load this library of kernels in the place of those that images name; an empty path ends it."""
    ctypes.CDLL(sys.argv[2]).cuSimulateReplacement(library.encode())


def finding() -> tuple[str, str] | None:
    """What the simulator found wrong since the last reset: a word for the kind, and a sentence."""
    kind = simulator().sim_finding_kind().decode()
    return (kind, simulator().sim_finding_text().decode(errors="replace")) if kind else None


def living() -> dict[str, int]:
    """How many allocations, streams, events and graphs haven't been given back."""
    counts = (ctypes.c_long * 4)()
    simulator().sim_living(counts)
    return dict(zip(("allocations", "streams", "events", "graphs"), counts))


@functools.cache
def simulator() -> Any:
    """The simulator's library."""
    library = ctypes.CDLL(sys.argv[1])
    library.sim_finding_kind.restype = library.sim_finding_text.restype = ctypes.c_char_p
    return library


def _answer(request: bytes, sink: BinaryIO) -> None:
    try:
        module, name, arguments = pickle.loads(request)
        function = functools.reduce(getattr, name.split("."), importlib.import_module(module))
        answer = (True, function(*arguments))
        payload = pickle.dumps(answer)
    except BaseException as error:
        payload = _failure(error)
    if found := finding():
        payload = pickle.dumps((False, Finding(*found)))
    simulator().sim_reset()
    sink.write(struct.pack("<Q", len(payload)) + payload)
    sink.flush()


def _failure(error: BaseException) -> bytes:
    try:
        payload = pickle.dumps((False, error))
        pickle.loads(payload)
    except Exception:  # an error that doesn't survive the way
        return pickle.dumps((False, RuntimeError("".join(traceback.format_exception(error)))))
    return payload


if __name__ == "__main__":
    main()
