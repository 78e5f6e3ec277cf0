"""Facts about the machine that runs this process: usable CPUs, cache sizes, processor features."""

from __future__ import annotations

import os
import platform
import re
from functools import lru_cache
from pathlib import Path

_SYSFS_CACHE = Path("/sys/devices/system/cpu/cpu0/cache")
_CPUINFO = Path("/proc/cpuinfo")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def default_threads() -> int:
    """Number of CPUs this process may run on (its affinity mask where the system has one); at least 1."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # macOS, Windows
        return max(1, os.cpu_count() or 1)


def host_arch() -> str:
    """``"x86"``, ``"arm"`` (64-bit), or the raw machine name of anything else."""
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        return "x86"
    if machine in ("aarch64", "arm64"):
        return "arm"
    return machine


def host_caches(root: Path = _SYSFS_CACHE) -> dict[int, int]:
    """Data or unified cache size in bytes by level, from sysfs; empty when the system doesn't tell.

    Args:
        root: the ``cache`` folder of one CPU.
    """
    sizes: dict[int, int] = {}
    for index in sorted(root.glob("index*")):
        try:
            kind = (index / "type").read_text().strip()
            level = int((index / "level").read_text())
            match = re.fullmatch(r"(\d+)([KMG]?)", (index / "size").read_text().strip())
        except (OSError, ValueError):
            continue
        if match and kind in ("Data", "Unified"):
            sizes[level] = int(match[1]) * _UNITS[match[2]]
    return sizes


@lru_cache(maxsize=1)
def cpuinfo_flags(path: Path = _CPUINFO) -> frozenset[str]:
    """The kernel's names for the processor's features (lower case, as Linux prints them); empty when unreadable."""
    try:
        text = path.read_text()
    except OSError:
        return frozenset()
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return frozenset(match[1].split()) if match else frozenset()
