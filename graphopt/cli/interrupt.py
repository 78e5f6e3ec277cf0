"""Ctrl-C, remembered: compiled code that is interrupted reports a failure of its own instead of passing it on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interruption:
    """Whether the user asked to stop."""

    def __init__(self) -> None:
        self.asked = False


@contextmanager
def watching() -> Iterator[Interruption]:
    """Notes SIGINT while it raises KeyboardInterrupt as usual; does nothing outside of the main thread."""
    seen = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def note(_number: int, _frame: Any) -> None:
        seen.asked = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
