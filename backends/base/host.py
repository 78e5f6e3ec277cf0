"""Facts about the machine that runs this process: usable CPUs, cache sizes, processor features."""

from __future__ import annotations

import math
import os
import platform
import re
from functools import lru_cache
from pathlib import Path

_SYSFS_CACHE = Path("/sys/devices/system/cpu/cpu0/cache")
_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_CPUINFO = Path("/proc/cpuinfo")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def default_threads() -> int:
    """Number of CPUs this process may use: of its affinity mask, and by its control group's quota, rounded up; at least 1."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        allowed = os.cpu_count() or 1
    quota = cpu_quota()
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def cpu_quota(membership: Path = _MEMBERSHIP, root: Path = _CONTROL_GROUPS) -> float | None:
    """How many CPUs' time the control groups that this process is in allow it, as for a container; None without a limit.

    Args:
        membership: the file of ``/proc`` that says which groups those are.
        root: where their files are; version 2 of the interface, or a folder of version 1 for each controller.
    """
    try:
        lines = membership.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            found += [_quota(folder, "cpu.max") for folder in _ancestors(root, path)]
        elif "cpu" in controllers.split(","):
            for name in (controllers, "cpu"):
                found += [_quota(f, "cpu.cfs_quota_us", "cpu.cfs_period_us") for f in _ancestors(root / name, path)]
    return min((quota for quota in found if quota is not None), default=None)


def _ancestors(root: Path, path: str) -> list[Path]:
    """The folders of a group and of those that it is in, whose limits hold for it too."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return [root.joinpath(*parts[:count]) for count in range(len(parts) + 1)]


def _quota(folder: Path, *files: str) -> float | None:
    """Quota over period, which are in one file or in two; None if there is no limit (``max``, or -1), or no such file."""
    try:
        quota, period = " ".join((folder / name).read_text(encoding="ascii") for name in files).split()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


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
    """The kernel's names for an x86 processor's features (lower case, as Linux prints them); empty when unreadable."""
    try:
        text = path.read_text()
    except OSError:
        return frozenset()
    match = re.search(r"^flags\s*:\s*(.*)$", text, re.MULTILINE)
    return frozenset(match[1].split()) if match else frozenset()
