"""A loaded model with its constants: arrays in, arrays out, for several threads at once."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from graphopt.backends.base.host import default_threads
from graphopt.errors import DeviceError
from graphopt.runtime import refusals
from graphopt.runtime.arena import Arena
from graphopt.runtime.constant_tensors import constant_tensor

if TYPE_CHECKING:
    from graphopt.backends.base.loaded_module import LoadedModule

_all: weakref.WeakSet[Executor] = weakref.WeakSet()


class Executor:
    """Runs a module of ``graphopt.backends.base.relax_emit`` on numpy arrays.

    Several threads may run it at once: each run has an arena of its own. The first one is made at once, another one when all
    are busy, and when there are as many as allowed, or as memory allows, callers wait for one. The one given back last is
    used next, as its memory is the likeliest to be in caches. Constants are shared.

    Args:
        loaded: the model's code.
        constants: arrays that follow the inputs, kept on the device.
        arenas: how many there may be; by default as many as this process may use CPUs, and at least two. On a GPU, whose
            runs follow each other anyway, one.
    """

    def __init__(self, loaded: LoadedModule, constants: Sequence[npt.NDArray[Any]], arenas: int | None = None) -> None:
        import tvm

        refusals.install()
        self._loaded = loaded
        self._constants = list(constants)  # their memory may be the kernels' operands
        self._fixed = [constant_tensor(np.asarray(c), loaded.device) for c in constants]
        on_host = loaded.device.dlpack_device_type() == tvm.cpu().dlpack_device_type()
        self._most = arenas or (max(2, default_threads()) if on_host else 1)
        self._observer: Any = None
        # An arena that an interrupted caller lost is no longer counted once it is gone.
        self._arenas: weakref.WeakSet[Arena] = weakref.WeakSet()
        self._idle: list[Arena] = []
        self._making = 0
        self._reset()
        self._idle.append(self._made())
        _all.add(self)

    def __call__(self, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Outputs of one run, in memory of their own. The interpreter's lock is not held while the model computes.

        Args:
            inputs: contiguous arrays of the shapes and dtypes that the model was compiled for (see ``Signature.check``).

        Raises:
            InputError: a value that only run time knows does not fit the model.
            DeviceError: the virtual machine failed, or there is not enough memory.
        """
        arena = self._take()
        try:
            if arena.observer is not self._observer:
                arena.observe(self._observer)
            refusals.forget()
            return arena.run(inputs)
        except Exception as e:  # TVM raises any class
            raise (refusals.waiting() or _failure(e, "running the compiled model")) from e
        finally:
            self._give(arena)

    def observe(self, observer: Any) -> None:
        """Have every call of the virtual machines announced to ``observer`` (None: to nobody), in runs that start from now on.

        Args:
            observer: called from every thread that runs the model.
        """
        with self._lock:
            self._observer = observer
            for arena in self._idle:
                arena.observe(observer)

    @property
    def arenas(self) -> int:
        """How many there are."""
        return len(self._arenas)

    def _take(self) -> Arena:
        while True:
            with self._lock:
                if self._idle:
                    return self._idle.pop()
                if len(self._arenas) + self._making >= self._most:
                    self._wait()
                    continue
                self._making += 1
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

    def _wait(self) -> None:
        """Until an arena was given back, with the lock held before and after."""
        self._waiting += 1
        try:
            self._given.wait()
        except BaseException:  # an interrupt, which may have come after the news
            self._given.notify()
            raise
        finally:
            self._waiting -= 1

    def _give(self, arena: Arena) -> None:
        with self._lock:
            self._idle.append(arena)
            if self._waiting:
                self._given.notify()

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
        self._given = threading.Condition(self._lock)
        self._waiting = 0
        self._making = 0
        self._arenas = weakref.WeakSet(self._idle)


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
