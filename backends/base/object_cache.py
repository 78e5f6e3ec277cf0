"""Compiled kernels on disk, found by content.

The folder is ``kernels`` in ``$GRAPHOPT_CACHE``, else in ``$XDG_CACHE_HOME/graphopt``, else in ``~/.cache/graphopt``;
``GRAPHOPT_CACHE=off`` turns the cache off. An entry is machine code that will run with the rights of whoever compiles, so
the folder is its owner's alone (mode 0700) and is not used when somebody else could write there; a hash in each entry
shows that it is whole.

Several processes may use one cache: an entry is written beside its place and moved there, and readers take what they have
opened. The least recently used entries go when the cache outgrows its limit.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

VARIABLE = "GRAPHOPT_CACHE"
LIMIT_VARIABLE = "GRAPHOPT_CACHE_LIMIT"
DEFAULT_LIMIT = 1 << 30
"""Bytes."""

_MAGIC = b"GOPTOBJ1"
_SUFFIX = ".gobj"
_ABANDONED_S = 3600.0
"""Temporary files of writers that died are removed when they are this old."""
_KEEP = 0.8
"""Share of the limit that is left after entries were dropped, so that not every write drops one."""


@dataclass(frozen=True)
class CacheUsage:
    """What a cache holds; ``size`` in bytes."""

    entries: int
    size: int


@dataclass
class ObjectCache:
    """Objects by key.

    Attributes:
        folder: where entries lie; created when first written to.
        limit: size in bytes that `trim` keeps to.
        notes: what went wrong, a line each; a cache never fails a compilation.
    """

    folder: Path
    limit: int = DEFAULT_LIMIT
    notes: list[str] = field(default_factory=list)
    _checked: bool | None = None
    _wrote: bool = False

    def get(self, key: str) -> bytes | None:
        """The object stored under ``key``; None when there is none, or it is damaged and was removed."""
        path = self._path(key)
        if not self._trusted(create=False):
            return None
        try:
            data = path.read_bytes()
        except OSError:
            return None
        head = len(_MAGIC) + hashlib.sha256().digest_size
        content = data[head:]
        if data[:head] != _MAGIC + _digest(key, content):
            self._note(f"a damaged entry of the cache was dropped: {path}")
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)  # it is in use
        return content

    def put(self, key: str, content: bytes) -> None:
        """Store an object. A failure to write becomes a note, once, and no more is tried."""
        if not self._trusted(create=True):
            return
        path = self._path(key)
        temporary: str | None = None
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
            with os.fdopen(handle, "wb") as file:
                file.write(_MAGIC + _digest(key, content) + content)
            os.replace(temporary, path)
            temporary = None
            self._wrote = True
        except OSError as error:
            self._checked = False
            self._note(f"the cache can't be written: {error}")
        finally:
            if temporary is not None:
                with suppress(OSError):
                    os.unlink(temporary)

    def trim(self) -> None:
        """After writing: drop the least recently used entries if the limit is passed."""
        if not self._wrote:
            return
        self._wrote = False
        found = list(self._files())
        size = sum(info.st_size for _, info in found)
        if size <= self.limit:
            return
        for path, info in sorted(found, key=lambda item: item[1].st_mtime):
            if size <= self.limit * _KEEP:
                break
            with suppress(OSError):
                path.unlink()
                size -= info.st_size

    def usage(self) -> CacheUsage:
        """Number and size of the entries."""
        sizes = [info.st_size for path, info in self._files() if path.suffix == _SUFFIX]
        return CacheUsage(len(sizes), sum(sizes))

    def clear(self) -> CacheUsage:
        """Remove all entries; returns what was removed. Files that are not the cache's stay."""
        count = size = 0
        for path, info in self._files(abandoned_s=0.0):
            try:
                path.unlink()
            except OSError as error:
                self._note(f"{path} can't be removed: {error.strerror}")
                continue
            count += path.suffix == _SUFFIX
            size += info.st_size
        return CacheUsage(count, size)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}{_SUFFIX}"

    def _files(self, abandoned_s: float = _ABANDONED_S) -> Iterator[tuple[Path, os.stat_result]]:
        """Entries, and temporary files that nobody writes any more."""
        now = time.time()
        with suppress(OSError):
            for folder in sorted(self.folder.iterdir()):
                if len(folder.name) != 2 or not folder.is_dir():
                    continue
                for entry in os.scandir(folder):
                    with suppress(OSError):
                        info = entry.stat(follow_symlinks=False)
                        old = entry.name.startswith(".new-") and now - info.st_mtime >= abandoned_s
                        if entry.name.endswith(_SUFFIX) or old:
                            yield Path(entry.path), info

    def _trusted(self, create: bool) -> bool:
        """Whether nobody else could have put code into the folder."""
        if self._checked is None:
            if create:
                try:
                    self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                except OSError as error:
                    self._checked = False
                    self._note(f"no cache at {self.folder}: {error.strerror}")
                    return False
            try:
                info = os.stat(self.folder)
            except OSError:
                return False  # nothing there yet
            self._checked = self._is_private(info)
        return self._checked

    def _is_private(self, info: os.stat_result) -> bool:
        if not stat.S_ISDIR(info.st_mode):
            self._note(f"no cache at {self.folder}: it is no folder")
            return False
        if os.name == "posix" and info.st_uid != os.geteuid():
            self._note(f"the cache {self.folder} is not used: it belongs to another user")
            return False
        if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            self._note(f"the cache {self.folder} is not used: others may write to it (chmod 700 makes it safe)")
            return False
        return True

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def default_cache() -> ObjectCache | None:
    """The cache that the environment asks for; None when it is off or there is no home to put it in."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted.lower() == "off":
        return None
    if wanted:
        return ObjectCache(Path(wanted).expanduser() / "kernels", _limit())
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    except RuntimeError:
        return None
    return ObjectCache(root / "graphopt" / "kernels", _limit())


def _limit() -> int:
    try:
        return max(0, int(os.environ.get(LIMIT_VARIABLE, "")))
    except ValueError:
        return DEFAULT_LIMIT


def _digest(key: str, content: bytes) -> bytes:
    """Of key and content, so that an entry moved to another one's place is noticed."""
    return hashlib.sha256(key.encode() + content).digest()
