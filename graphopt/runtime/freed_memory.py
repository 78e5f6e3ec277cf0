"""Memory that the C library keeps after runs: of results, and of what only run time knows the size of.

The GNU C library keeps freed memory that lies below other blocks in use. A model that is run on ever new shapes would take more and
more.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any

from graphopt.runtime.refusals import memory_limit

KEPT_BYTES = 512 << 20
"""The process may grow by so much, or an eighth of the memory that there is: shapes that come back find memory of their size."""
_STATM = Path("/proc/self/statm")
_resident_then = 0


def release() -> None:
    """Give back to the system what nobody uses."""
    global _resident_then
    _trim()(0)
    _resident_then = _resident()


def release_if_grown() -> None:
    """Do so if the process has grown by more than it may since the last time."""
    global _resident_then
    now = _resident()
    _resident_then = min(_resident_then or now, now)
    if not now or now - _resident_then >= min(KEPT_BYTES, memory_limit() // 8):
        release()


def _resident() -> int:
    """Bytes of memory that the process uses; 0 where the system doesn't tell."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


@cache
def _trim() -> Any:
    trim: Any
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library
        trim = bool
    return trim
