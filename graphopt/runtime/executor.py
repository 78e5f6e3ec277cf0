"""A loaded model with its constants: arrays in, arrays out, for several threads at once."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from graphopt.backends.base.host import default_threads
from graphopt.errors import DeviceError, GraphOptError
from graphopt.runtime import freed_memory, refusals
from graphopt.runtime.arena import Arena
from graphopt.runtime.bits import as_bits
from graphopt.runtime.constant_tensors import constant_tensor

if TYPE_CHECKING:
    from graphopt.backends.build.loaded_module import LoadedModule

LONGEST_RUN_S = 60.0
"""A process that ends waits so long for runs of daemon threads."""

ARENA_BYTES = 32 << 20
MOST_ARENAS = 64
_all: weakref.WeakSet[Executor] = weakref.WeakSet()


class Executor:
    """Runs a module of ``graphopt.backends.program.relax_emit`` on numpy arrays.

    Several threads may run it at once: each run has an arena of its own. The first one is made at once, another one when all
    are busy, and when there are as many as allowed, or as memory allows, callers wait for one, the first come first. The one
    given back last is used next, as its memory is the likeliest to be in caches. Constants are shared.

    Args:
        loaded: the model's code.
        constants: arrays that follow the inputs, kept on the device.
        arenas: how many there may be; by default as many as this process may use CPUs, and at least two; more of them, up to
            `MOST_ARENAS`, as long as they take no more than `ARENA_BYTES` together. On a GPU, whose runs follow each other
            anyway, one.
        all_planned: an arena is all the memory that a run takes, as the model has no sizes that only run time knows.
    """

    def __init__(
        self,
        loaded: LoadedModule,
        constants: Sequence[npt.NDArray[Any]],
        arenas: int | None = None,
        all_planned: bool = False,
    ) -> None:
        import tvm

        refusals.install()
        self._loaded = loaded
        self._constants = [as_bits(np.asarray(c)) for c in constants]  # their memory may be the kernels' operands
        self._fixed = [constant_tensor(c, loaded.device) for c in self._constants]
        on_host = loaded.device.dlpack_device_type() == tvm.cpu().dlpack_device_type()
        self._observer: Any = None
        self._idle: list[Arena] = []
        self._before_end: list[Arena] | None = None
        self._reset()
        self._idle.append(self._made())
        nbytes = self._idle[0].nbytes if all_planned else ARENA_BYTES
        self._most = arenas or (_most_arenas(nbytes) if on_host else 1)
        _all.add(self)
        weakref.finalize(self, _release, self._idle).atexit = False

    def __call__(self, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Outputs of one run, in memory of their own. The interpreter's lock is not held while the model computes, unless
        it takes a few microseconds only.

        Args:
            inputs: contiguous arrays of the shapes and dtypes that the model was compiled for (see ``Signature.check``).

        Raises:
            InputError: a value that only run time knows does not fit the model.
            DeviceError: the virtual machine failed, or there is not enough memory.
        """
        try:
            arena = self._idle.pop()
        except IndexError:
            arena = self._waited()
        try:
            if arena.observer is not self._observer:
                arena.observe(self._observer)
            return arena.run(inputs)
        except Exception as e:  # TVM raises any class
            raise self.failure(e) from e
        finally:
            self._idle.append(arena)
            if self._waiting:
                self._serve()

    def arena(self, states: Sequence[npt.NDArray[np.uint8]]) -> Arena:
        """An arena of the caller's own, for a model with states.

        Raises:
            DeviceError: there is not enough memory.
        """
        try:
            return Arena(self._loaded, self._fixed, states)
        except Exception as e:  # TVM raises any class
            raise _failure(e, "preparing the compiled model") from e

    @staticmethod
    def failure(error: Exception) -> GraphOptError:
        """What to raise for what `Arena.run` raised."""
        return refusals.taken() or _failure(error, "running the compiled model")

    def observe(self, observer: Any) -> None:
        """Have every call of the virtual machines announced to ``observer`` (None: to nobody), in runs that start from now on.

        Args:
            observer: called from every thread that runs the model.
        """
        self._observer = observer
        idle: list[Arena] = []
        with suppress(IndexError):
            while True:  # nobody else uses an arena that isn't among the idle ones
                idle.append(self._idle.pop())
                idle[-1].observe(observer)
        self._idle.extend(reversed(idle))
        self._serve()

    @property
    def arenas(self) -> int:
        """How many there are."""
        return len(self._arenas)

    def _waited(self) -> Arena:
        """An arena for a caller that found none idle: a new one, or the next one given back that nobody waited for before."""
        if self._before_end is not None:
            if threading.current_thread().daemon:
                _Turn().came.acquire()  # for good: nobody knows of this turn
            return self._made()
        while True:
            turn = _Turn()
            with self._lock:
                may_make = len(self._arenas) + self._making < self._most
                if may_make:
                    self._making += 1
                else:
                    self._waiting.append(turn)
            if not may_make:
                # Whoever gives an arena back looks for callers that wait after that; so nothing is missed if this one looks for
                # idle arenas after it has begun to wait.
                self._serve()
                return self._served(turn)
            try:
                return self._made()
            except DeviceError as error:
                with self._lock:
                    if error.code != "out-of-memory" or not self._arenas:
                        raise
                    self._most = len(self._arenas)  # then those that there are have to do
            finally:
                with self._lock:
                    self._making -= 1

    def _served(self, turn: _Turn) -> Arena:
        try:
            turn.came.acquire()
        except BaseException:  # an interrupt
            with self._lock:
                if turn.arena is None:
                    self._waiting.remove(turn)
                else:
                    self._idle.append(turn.arena)
            self._serve()
            raise
        assert turn.arena is not None
        return turn.arena

    def _serve(self) -> None:
        """Hand idle arenas to those who wait."""
        if self._before_end is not None:
            return
        with self._lock, suppress(IndexError):
            while self._waiting:
                arena = self._idle.pop()
                turn = self._waiting.popleft()
                turn.arena = arena
                turn.came.release()

    def _stop_daemons(self) -> None:
        """Let daemon threads start no more runs: the next one that tries stands still until the process is gone."""
        self._before_end, self._idle = self._idle, _IdleAtEnd()

    def _is_running(self) -> bool:
        """Whether runs go on that began before `_stop_daemons`."""
        assert self._before_end is not None
        while self._before_end:  # those too that are given back by a thread that had looked up the list before
            self._idle.append(self._before_end.pop())
        return self._making > 0 or len(self._idle) < len(self._arenas)

    def _made(self) -> Arena:
        try:
            arena = Arena(self._loaded, self._fixed)
        except Exception as e:  # TVM raises any class
            raise _failure(e, "preparing the compiled model") from e
        self._arenas.add(arena)
        return arena

    def _reset(self) -> None:
        """Only this thread runs the model, and only idle arenas are left: so it is at first, and in a forked child."""
        self._lock = threading.Lock()
        self._making = 0
        self._waiting: deque[_Turn] = deque()
        # An arena that an interrupted caller lost is no longer counted once it is gone.
        self._arenas = weakref.WeakSet(self._idle)


def _most_arenas(nbytes: int) -> int:
    """How many arenas of a size there may be.

    More callers than CPUs get no more done, but they get less done where they wait: each run then wakes another thread, which for
    small models takes longer than the run.
    """
    return max(2, default_threads(), min(MOST_ARENAS, ARENA_BYTES // max(nbytes, 1)))


class _Turn:
    """What a caller that waits for an arena waits for."""

    def __init__(self) -> None:
        self.arena: Arena | None = None
        self.came = threading.Lock()
        self.came.acquire()


def _release(idle: list[Arena]) -> None:
    """After a model: its arenas, then what its runs have allocated."""
    idle.clear()
    freed_memory.release()


class _IdleAtEnd(list[Arena]):
    """Idle arenas of a process that ends: none for daemon threads."""

    def pop(self, index: SupportsIndex = -1) -> Arena:
        """The last one.

        Raises:
            IndexError: there is none, or none for the calling thread.
        """
        if threading.current_thread().daemon:
            raise IndexError
        return super().pop(index)


def _at_end() -> None:
    """Wait until no daemon thread is inside a run.

    The interpreter ends a daemon thread where it comes back from native code; inside a call of TVM, whose C++ frames can't be
    unwound, that would end the process by `std::terminate`. All other threads have ended before.
    """
    executors = list(_all)
    for executor in executors:
        executor._stop_daemons()
    limit = time.monotonic() + LONGEST_RUN_S
    while any(thread.daemon for thread in threading.enumerate()) and time.monotonic() < limit:
        if not any(executor._is_running() for executor in executors):
            break
        time.sleep(0.001)


atexit.register(_at_end)


def _after_fork() -> None:
    for executor in list(_all):
        executor._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _failure(error: Exception, doing: str) -> DeviceError:
    lines = [line for line in str(error).splitlines() if line.strip()]
    if any("bad_alloc" in line for line in lines) or isinstance(error, MemoryError):
        return DeviceError(
            f"{doing} failed: there is not enough memory", code="out-of-memory",
            hint="run it on smaller inputs, or on a machine with more memory",
        )  # fmt: skip
    return DeviceError(
        f"{doing} failed", code="run-failed", notes=lines[-1:],
        hint="run `graphopt check` on the model; if it fails there, please report it",
    )  # fmt: skip
