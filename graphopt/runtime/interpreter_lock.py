"""Whether a run lets go of Python's global lock: not where taking it again would cost more than the run.

Threads that want the lock sleep until it is let go of. When several run a model of a few microseconds, each run would wake another
thread and wait for it: eight of them got a fifth done of what one gets done. So short runs keep the lock, as numpy does for small
arrays, and all others let go of it. What a run will take is not known, but what the last ones took.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

SHORT_S = 50e-6
"""Runs that take less keep the lock: a hundredth of the time after which the interpreter asks for it anyway."""
_PERHAPS_SHORT_S = 1e-3
_TRY_AFTER = 64
"""Runs until it is tried again whether one is short, as those that let go of the lock include the wait for it."""


class TimedCalls:
    """Calls of a function of compiled code, which keep Python's lock while they are short.

    Args:
        function: a ``tvm_ffi.Function`` that nobody else calls.
    """

    def __init__(self, function: Any) -> None:
        self._function = function
        self._keeps = False
        self._until_try = _TRY_AFTER
        function.release_gil = True  # whatever the process's default is

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        start = perf_counter()
        result = self._function(*arguments)
        seconds = perf_counter() - start
        if self._keeps:
            if seconds >= SHORT_S:
                self._keep(False)
        elif seconds < _PERHAPS_SHORT_S:
            self._until_try -= 1
            if seconds < SHORT_S or self._until_try <= 0:
                self._keep(True)
        return result

    def _keep(self, keeps: bool) -> None:
        self._keeps = keeps
        self._until_try = _TRY_AFTER
        self._function.release_gil = not keeps
