"""Temporary folders that don't outlive their process, even one that was killed.

A folder is locked for as long as its maker lives. The first use in a process removes those of this user that nobody holds a
lock on: what a process that was killed left behind. Workers and linkers get such a folder as their ``TMPDIR``, so what they
leave goes with it.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from graphopt.errors import CompileError

try:
    import fcntl
except ImportError:  # not a POSIX system: folders are not locked there, and none is removed
    fcntl = None  # type: ignore[assignment,unused-ignore]

PREFIX = "graphopt-scratch-"
_NAME = re.compile(re.escape(PREFIX) + r"[a-z0-9_]{8}")
_ATTEMPTS = 100


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder under ``$TMPDIR`` that only this user can enter; removed on exit.

    Raises:
        OSError: it can't be made.
    """
    root = tempfile.gettempdir()
    remove_abandoned(root)
    folder, lock = _locked_folder(root)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


@cache
def remove_abandoned(root: str) -> None:
    """Remove the folders in ``root`` whose makers are gone; done once in a process for each ``root``."""
    if fcntl is None:
        return
    with suppress(OSError), os.scandir(root) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name):
                _remove_if_abandoned(Path(entry.path))


def no_temporary_files(error: OSError) -> CompileError:
    """What to raise when making or filling a folder failed."""
    try:
        place = tempfile.gettempdir()
    except OSError:  # not even one of the system's own folders can be written
        place = os.environ.get("TMPDIR", "any temporary folder")
    return CompileError(
        f"temporary files can't be written in {place}: {error.strerror or error}",
        code="no-temporary-files",
        hint="free room there, or set TMPDIR to a folder that has some",
    )


def _locked_folder(root: str) -> tuple[Path, int | None]:
    for _ in range(_ATTEMPTS):
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        if fcntl is None:
            return folder, None
        # Another process may take the new folder for an abandoned one before it is locked: then a further one is made.
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            if _lock(lock) is not False and folder.exists():
                return folder, lock
            os.close(lock)
    raise FileExistsError(f"no temporary folder in {root} stays")


def _remove_if_abandoned(folder: Path) -> None:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        info = os.fstat(lock)
        if info.st_uid == os.geteuid() and stat.S_IMODE(info.st_mode) == 0o700 and _lock(lock) is True:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _lock(handle: int) -> bool | None:
    """Whether nobody else holds the lock, and this process does now; None where the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
