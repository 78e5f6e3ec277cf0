"""Compiled kernels on disk, found by content.

The folder is ``kernels`` in ``$GRAPHOPT_CACHE``, else in ``$XDG_CACHE_HOME/graphopt``, else in ``~/.cache/graphopt``;
``GRAPHOPT_CACHE=off`` turns the cache off. An entry is machine code that will run with the rights of whoever compiles, so
the folder is its owner's alone (mode 0700) and nothing in it is used that somebody else could have written, which is checked
at every access (`graphopt.backends.build.private_folder`); a hash in each entry shows that it is whole.

Several processes may use one cache: an entry is written beside its place and moved there, and readers take what they have
opened. The least recently used entries go when the cache outgrows its limit. To know that, nobody looks at all entries: a
tally in the folder holds what they took when somebody last did, and what was written since.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from graphopt.backends.build import private_folder
from graphopt.backends.build.private_folder import NEW_PREFIX, NotPrivateError

VARIABLE = "GRAPHOPT_CACHE"
LIMIT_VARIABLE = "GRAPHOPT_CACHE_LIMIT"
DEFAULT_LIMIT = 1 << 30
"""Bytes."""

_MAGIC = b"GOPTOBJ1"
_SUFFIX = ".gobj"
_TALLY = "bytes-written"
"""File with a number of bytes on each line: of all entries when they were last counted, then of each that was written since."""
_ABANDONED_S = 3600.0
"""Temporary files of writers that died are removed when they are this old."""
_KEEP = 0.8
"""Share of the limit that is left after entries were dropped, so that not every write drops one."""


@dataclass(frozen=True)
class CacheUsage:
    """What a cache holds; ``size`` in bytes."""

    entries: int
    size: int


@dataclass(frozen=True)
class _File:
    """A file of the cache: folder, name, bytes, when it was last used."""

    part: str
    name: str
    size: int
    used: float


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
    _unusable: bool = False
    _wrote: bool = False

    def get(self, key: str) -> bytes | None:
        """The object stored under ``key``; None when there is none, or it is damaged and was removed."""
        part, name = _place(key)
        with self._opened() as root:
            if root is None:
                return None
            try:
                with private_folder.opened(part, root) as inside:
                    data = private_folder.read_file(name, inside)
                    head = len(_MAGIC) + hashlib.sha256().digest_size
                    content = data[head:]
                    if data[:head] == _MAGIC + _digest(key, content):
                        return content
                    self._note(f"a damaged entry of the cache was dropped: {self.folder / part / name}")
                    os.unlink(name, dir_fd=inside)
            except NotPrivateError as error:
                self._note(f"{self.folder / part} in the cache or its {name} is not used: {error}")
            except OSError:
                pass
        return None

    def put(self, key: str, content: bytes) -> None:
        """Store an object. A failure to write becomes a note, once, and no more is tried."""
        part, name = _place(key)
        with self._opened(create=True) as root:
            if root is None:
                return
            try:
                with private_folder.opened(part, root, create=True) as inside:
                    data = _MAGIC + _digest(key, content) + content
                    private_folder.write_file(name, data, inside)
                self._wrote = True
                with suppress(OSError):  # without a tally, entries are counted
                    private_folder.append_to_file(_TALLY, b"%d\n" % len(data), root)
            except NotPrivateError as error:
                self._note(f"{self.folder / part} in the cache is not used: {error}")
            except OSError as error:
                self._unusable = True
                self._note(f"the cache can't be written: {error}")

    def trim(self) -> None:
        """After writing: drop the least recently used entries if the limit is passed."""
        if not self._wrote:
            return
        self._wrote = False
        if self._tally() <= self.limit:
            return
        found = list(self._files())
        size = sum(file.size for file in found)
        if size > self.limit:
            for file in sorted(found, key=lambda file: file.used):
                if size <= self.limit * _KEEP:
                    break
                if self._remove(file):
                    size -= file.size
        self._start_tally(size)

    def usage(self) -> CacheUsage:
        """Number and size of the entries."""
        sizes = [file.size for file in self._files() if file.name.endswith(_SUFFIX)]
        return CacheUsage(len(sizes), sum(sizes))

    def clear(self) -> CacheUsage:
        """Remove all entries; returns what was removed. Files that are not the cache's stay."""
        count = size = 0
        for file in list(self._files(abandoned_s=0.0)):
            if self._remove(file, tell=True):
                count += file.name.endswith(_SUFFIX)
                size += file.size
        with self._opened() as root, suppress(OSError):
            if root is not None:
                os.unlink(_TALLY, dir_fd=root)
        return CacheUsage(count, size)

    def _tally(self) -> float:
        """Bytes of all entries, or more where some were written twice or removed; infinity where that isn't known."""
        with self._opened() as root:
            if root is not None:
                with suppress(OSError, NotPrivateError, ValueError):
                    return sum(map(int, private_folder.read_file(_TALLY, root).split()))
        return math.inf

    def _start_tally(self, size: int) -> None:
        with self._opened() as root:
            if root is not None:
                with suppress(OSError):
                    private_folder.write_file(_TALLY, b"%d\n" % size, root)

    def _files(self, abandoned_s: float = _ABANDONED_S) -> Iterator[_File]:
        """Entries, and temporary files that nobody writes any more."""
        now = time.time()
        with self._opened() as root:
            if root is None:
                return
            for part in sorted(os.listdir(root)):
                if len(part) != 2:
                    continue
                with suppress(OSError, NotPrivateError), private_folder.opened(part, root) as inside:
                    for entry in os.scandir(inside):
                        with suppress(OSError):
                            info = entry.stat(follow_symlinks=False)
                            old = entry.name.startswith(NEW_PREFIX) and now - info.st_mtime >= abandoned_s
                            if entry.name.endswith(_SUFFIX) or old:
                                yield _File(part, entry.name, info.st_size, info.st_mtime)

    def _remove(self, file: _File, tell: bool = False) -> bool:
        with self._opened() as root:
            if root is None:
                return False
            try:
                with private_folder.opened(file.part, root) as inside:
                    os.unlink(file.name, dir_fd=inside)
                    return True
            except (OSError, NotPrivateError) as error:
                if tell:
                    self._note(f"{self.folder / file.part / file.name} can't be removed: {error}")
        return False

    @contextmanager
    def _opened(self, create: bool = False) -> Iterator[int | None]:
        """The folder, opened and checked anew each time; None when it can't be used, which is noted, or isn't there."""
        with ExitStack() as stack:
            root = None
            if not self._unusable:
                try:
                    if create:
                        private_folder.make_with_parents(self.folder)
                    root = stack.enter_context(private_folder.opened(self.folder))
                except NotPrivateError as error:
                    self._note(f"the cache {self.folder} is not used: {error}")
                except OSError as error:
                    if create:
                        self._unusable = True
                        self._note(f"no cache at {self.folder}: {error.strerror}")
            yield root

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def default_cache() -> ObjectCache | None:
    """The cache that the environment asks for; None when it is off or there is no home to put it in."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted.lower() == "off" or not private_folder.SUPPORTED:
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


def _place(key: str) -> tuple[str, str]:
    """Folder in the cache and name of an entry."""
    return key[:2], f"{key[2:]}{_SUFFIX}"


def _digest(key: str, content: bytes) -> bytes:
    """Of key and content, so that an entry moved to another one's place is noticed."""
    return hashlib.sha256(key.encode() + content).digest()
