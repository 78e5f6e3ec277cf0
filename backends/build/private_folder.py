"""Folders in which nobody but their owner can have written, and the files in them.

What is checked must be what is used: somebody who may write to a folder above could swap a path between the two. So folders
are opened once, never through a symbolic link, the open folder is checked, and everything in it is reached from there.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SUPPORTED = {os.open, os.mkdir, os.unlink, os.rename} <= os.supports_dir_fd and os.scandir in os.supports_fd
"""Whether this system can do so; Linux and macOS can."""
NEW_PREFIX = ".new-"
"""How names of files start that are being written."""


class NotPrivateError(Exception):
    """Somebody else could have written there, or it is no folder; the text says which."""


def make_with_parents(folder: Path) -> None:
    """Make a folder and those above it that are missing, all for their owner alone, whatever the umask.

    Raises:
        OSError: it can't be made.
    """
    if folder.is_dir():
        return
    make_with_parents(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)


@contextmanager
def opened(folder: Path | str, inside: int | None = None, create: bool = False) -> Iterator[int]:
    """A descriptor of a folder, checked.

    Args:
        folder: path, or name in the folder ``inside``.
        inside: descriptor of a folder.
        create: make it if it is missing (not those above it).

    Raises:
        NotPrivateError: it isn't its owner's alone.
        OSError: it is missing or can't be opened.
    """
    if create:
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700, dir_fd=inside)
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=inside)
    except OSError:
        if stat.S_ISDIR(os.stat(folder, dir_fd=inside, follow_symlinks=False).st_mode):
            raise
        raise NotPrivateError("it is no folder, or a symbolic link") from None
    try:
        _require_private(os.fstat(handle))
        yield handle
    finally:
        os.close(handle)


def read_file(name: str, inside: int) -> bytes:
    """The content of a file that only this user can have written.

    Raises:
        NotPrivateError: somebody else could have, or it is no file.
        OSError: it is missing or can't be read.
    """
    # A named pipe in its place must not be waited for.
    handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=inside)
    with open(handle, "rb") as file:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise NotPrivateError("it is no file")
        _require_private(info)
        content = file.read()
        with suppress(OSError):
            os.utime(handle)  # it is in use
    return content


def write_file(name: str, content: bytes, inside: int) -> None:
    """Write a file, which appears complete or not at all, for its owner alone.

    Raises:
        OSError: it can't be written.
    """
    new = NEW_PREFIX + secrets.token_hex(8)
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=inside)
    try:
        with open(handle, "wb") as file:
            file.write(content)
        os.replace(new, name, src_dir_fd=inside, dst_dir_fd=inside)
    except BaseException:
        with suppress(OSError):
            os.unlink(new, dir_fd=inside)
        raise


def append_to_file(name: str, content: bytes, inside: int) -> None:
    """Write at the end of a file that exists, in one piece whoever else does so meanwhile.

    Raises:
        OSError: it is missing, no file, or can't be written.
    """
    handle = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=inside)
    try:
        os.write(handle, content)
    finally:
        os.close(handle)


def _require_private(info: os.stat_result) -> None:
    if info.st_uid != os.geteuid():
        raise NotPrivateError("it belongs to another user")
    if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise NotPrivateError("others may write to it (chmod 700 makes it safe)")
