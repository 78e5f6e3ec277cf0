"""Memory of this process that is in RAM, as Linux counts it; None elsewhere."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_PEAK = "5"
"""What to write there so that the peak starts anew (man 5 proc)."""


def resident_bytes() -> int | None:
    """Now."""
    return _field("VmRSS:")


def peak_bytes() -> int | None:
    """At most since the process began, or since `reset_peak`."""
    return _field("VmHWM:")


def reset_peak() -> None:
    """Let the peak be what is resident now."""
    with suppress(OSError):
        _CLEAR.write_text(_PEAK)


def _field(name: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)
