"""What keeps a process from having the machine to itself: busy neighbours, an affinity mask, a quota of CPU time.

Every load is a context manager that takes away what it made. Limits yield what a child process calls before it becomes the program
(``preexec_fn``), so that a runtime finds the limit when it starts.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PERIOD_US = 100_000
"""Of a quota: Linux's own default."""
_SPIN = "print(flush=True)\nwhile True: pass"
_MOUNT = Path("/sys/fs/cgroup")

Enter = Callable[[], None]


class Unavailable(Exception):
    """This machine can't make a load; says why."""


def cores() -> list[int]:
    """Numbers of those that this process may use."""
    return sorted(os.sched_getaffinity(0))


@contextlib.contextmanager
def busy(core: int | None = None) -> Iterator[None]:
    """One process that does nothing but compute, on any core or bound to one."""

    def enter() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})

    process = subprocess.Popen([sys.executable, "-c", _SPIN], stdout=subprocess.PIPE, preexec_fn=enter)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@contextlib.contextmanager
def one_core() -> Iterator[Enter]:
    """The last core that this process may use and no other."""
    only = {cores()[-1]}
    yield lambda: os.sched_setaffinity(0, only)


@contextlib.contextmanager
def quota(of_cores: float) -> Iterator[Enter]:
    """A control group with so much CPU time in each period, version 1 or 2.

    Raises:
        Unavailable: this process may not make one, or the system has none.
    """
    group = _new_group()
    limit_us = int(of_cores * PERIOD_US)
    try:
        try:
            if (group / "cpu.cfs_quota_us").exists():
                (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(str(limit_us))
            else:
                (group / "cpu.max").write_text(f"{limit_us} {PERIOD_US}")
        except OSError as error:
            raise Unavailable(f"no quota can be set on {group}: {error.strerror}") from error
        yield lambda: _join(group)
    finally:
        _remove(group)


def _join(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))


def _new_group() -> Path:
    """A fresh group below this process's own, or below the root where a container shows its own as one that isn't mounted."""
    tried = "no hierarchy with a CPU controller is mounted"
    for parent in _parents():
        group = parent / f"graphopt-benchmark-{os.getpid()}"
        try:
            if (parent / "cgroup.subtree_control").exists():
                (parent / "cgroup.subtree_control").write_text("+cpu")
            group.mkdir()
        except OSError as error:
            tried = f"{parent}: {error.strerror}"
            continue
        if (group / "cpu.cfs_quota_us").exists() or (group / "cpu.max").exists():
            return group
        group.rmdir()
    raise Unavailable(f"no quota of CPU time can be set ({tried})")


def _parents() -> Iterator[Path]:
    """Candidates, the likeliest first."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if "cpu" in controllers.split(","):
            roots = [_MOUNT / controllers, _MOUNT / "cpu"]
        elif not controllers:
            roots = [_MOUNT, _MOUNT / "unified"]
        else:
            continue
        for root in roots:
            for parent in (root / own.lstrip("/"), root):
                if (parent / "cgroup.procs").exists():
                    yield parent


def _remove(group: Path) -> None:
    """Processes that have just ended may still be listed for a moment."""
    for _ in range(50):
        try:
            group.rmdir()
            return
        except OSError:
            time.sleep(0.1)
    print(f"note: {group} could not be removed", file=sys.stderr)
