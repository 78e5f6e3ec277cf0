"""Whether a run lets go of Python's global lock: not where taking it again would cost more than the run.

Threads that want the lock sleep until it is let go of. When several run a model of a few microseconds, each run would wake another
thread and wait for it: eight of them got a fifth done of what one gets done. So short runs keep the lock, as numpy does for small
arrays, and all others let go of it. What a run will take is not known, but what the last ones took.
"""

from __future__ import annotations

from typing import Any

SHORT_S = 50e-6
"""Runs that take less keep the lock: a hundredth of the time after which the interpreter asks for it anyway."""
_PERHAPS_SHORT_S = 1e-3
_TRY_AFTER = 64
"""Runs until it is tried again whether one is short, as those that let go of the lock include the wait for it."""


class InterpreterLock:
    """Decides whether calls of a function keep Python's lock: they do while they are short.

    Whoever calls the function takes the time, and reports it unless the function keeps the lock and was short: then nothing
    changes, and one more call in Python would take as long as a small kernel.

    Args:
        function: a ``tvm_ffi.Function`` that nobody else calls.

    Attributes:
        function: the function.
        kept: whether the function keeps the lock.
    """

    def __init__(self, function: Any) -> None:
        self.function = function
        self._until_try = _TRY_AFTER
        self.kept = False
        function.release_gil = True  # whatever the process's default is

    def note(self, seconds: float) -> None:
        """Take note of what a call took."""
        if self.kept:
            if seconds >= SHORT_S:
                self._keep(False)
        elif seconds < _PERHAPS_SHORT_S:
            self._until_try -= 1
            if seconds < SHORT_S or self._until_try <= 0:
                self._keep(True)

    def _keep(self, kept: bool) -> None:
        self.kept = kept
        self._until_try = _TRY_AFTER
        self.function.release_gil = not kept
