"""The compiled model as one file, ``model.gopt``: manifest, shared library, constants.

An artefact is code: loading one runs it, with the rights of the process. The hashes inside show that it is intact, not
where it comes from; load only what you trust as you would trust a program.

Layout (little-endian)::

    magic 8 | format version u32 | zero u32 | manifest size u64 | sha256 of these 24 bytes and the manifest
    manifest: JSON                                       then zeros up to a multiple of 64: the data start
    library section, constants section                   each at a multiple of 64 from the data start

Constants follow one another, each at the next multiple of 64 bytes. They are mapped, not read, but for those with so many zeros
that storing a bitmap and the other elements pays (``graphopt.runtime.zero_bitmap``, format version 3), which are expanded into
memory. Sections are hashed with BLAKE3, on all CPUs at once, as they are stored: checking hundreds of megabytes of weights
must not be what loading waits for. ``docs/artifact-format.md`` says all that another reader needs.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from blake3 import blake3

from graphopt.backends.base.host import default_threads
from graphopt.backends.base.scratch import scratch_folder
from graphopt.errors import ArtifactError
from graphopt.runtime.constant_section import Entry, aligned, constant_arrays, natural, pack_constants, parse_entries
from graphopt.runtime.manifest import FILE_FORM, require
from graphopt.runtime.zero_bitmap import ALIGNMENT
from graphopt.whole_files import whole_files

MAGIC = b"\x89GOPT\r\n\x1a"
FORMAT_VERSION = 6
"""The newest that is read. A file gets the oldest version that can say what is in it: 6 if buffers depend on the extents of inputs,
5 with compressed constants, else 4."""
OLDEST_VERSION = 4
_COMPRESSED_VERSION = 5

_HEAD = struct.Struct("<8sIIQ")
_DIGEST_SIZE = 32
_MANIFEST_START = _HEAD.size + _DIGEST_SIZE
_MAX_MANIFEST = 64 << 20
_OWN_KEYS = ("constants", "format", "sections", "versions")
_PACKAGES = {"graphopt": "graphopt", "tvm": "apache-tvm", "tvm-ffi": "apache-tvm-ffi"}
_RECOMPILE = "compile the model again"


@dataclass(frozen=True)
class Artifact:
    """An artefact that was read and checked.

    Attributes:
        path: the file.
        manifest: everything the writer put in, and ``versions``, ``sections``, ``constants``.
        constants: read-only arrays, in the order they were written: on the mapped file, or expanded in memory.
    """

    path: Path
    manifest: dict[str, Any]
    constants: tuple[np.ndarray[Any, Any], ...]
    _library: memoryview

    @property
    def library(self) -> bytes:
        """The shared library (a copy)."""
        return bytes(self._library)

    @contextmanager
    def library_path(self) -> Iterator[Path]:
        """The shared library as a file of its own, for ``dlopen``; deleted on exit, which a loaded library outlives.

        The file lies in a new folder that only this user can enter.

        Raises:
            ArtifactError: the temporary folder can't be written.
        """
        with ExitStack() as stack:
            try:
                file = stack.enter_context(scratch_folder()) / "library.so"
                file.write_bytes(self._library)
            except OSError as error:
                raise ArtifactError(
                    f"{self.path} can't be loaded: its library does not fit into a temporary folder ({error})",
                    code="no-temporary-files",
                    hint="free room there, or set TMPDIR to a folder that has some",
                ) from error
            yield file


def write_artifact(
    path: str | os.PathLike[str],
    *,
    library: bytes,
    constants: Sequence[np.ndarray[Any, Any]],
    manifest: dict[str, Any],
    compressed: bool = True,
    is_sized: bool = False,
) -> None:
    """Write an artefact; on any failure the file at ``path`` stays what it was.

    Args:
        path: file to write or replace.
        library: the compiled shared library.
        constants: arrays of a numpy type, bfloat16 or float8.
        manifest: JSON-ready facts (signature, target, source model); keys `constants`, `format`, `sections` and
            `versions` are taken.
        compressed: store constants with many zeros as bitmap and values. What is not compressed is mapped when it is
            loaded, so processes share its memory.
        is_sized: the code asks the host for memory of a size that depends on its inputs
            (``graphopt.runtime.placements``).

    Raises:
        ArtifactError: the file can't be written, or an array has a type that the format lacks.
        ValueError: the manifest isn't JSON-ready or uses a taken key.
    """
    taken = sorted(set(_OWN_KEYS) & manifest.keys())
    if taken:
        raise ValueError(f"manifest keys {taken} are the format's own")
    target = Path(path)
    try:
        packed = pack_constants(constants, compressed)
    except ValueError as error:
        raise ArtifactError(f"cannot write {target}: {error}") from error
    oldest = _COMPRESSED_VERSION if packed.has_compressed else OLDEST_VERSION
    version = FORMAT_VERSION if is_sized else oldest
    sections = {
        "library": {"offset": 0, "size": len(library), "blake3": _digest([library])},
        "constants": {"offset": aligned(len(library)), "size": packed.size, "blake3": _digest(packed.chunks())},
    }
    own = {"format": version, "versions": _versions(), "sections": sections, "constants": packed.entries}
    text = json.dumps({**manifest, **own}, sort_keys=True, allow_nan=False).encode()
    if len(text) > _MAX_MANIFEST:
        raise ArtifactError(f"manifest of {target} would have {len(text)} bytes; at most {_MAX_MANIFEST} fit")
    head = _HEAD.pack(MAGIC, version, 0, len(text))
    with _replacing(target) as file:
        file.write(head + hashlib.sha256(head + text).digest() + text)
        _pad(file)
        file.write(library)
        _pad(file)
        for chunk in packed.chunks():
            file.write(chunk)


def read_artifact(path: str | os.PathLike[str], verify: bool = True, *, check_versions: bool = True) -> Artifact:
    """Read and check an artefact. Doesn't load the library and doesn't import TVM.

    Args:
        path: file to read.
        verify: check the hashes of library and constants too, which reads the whole file. Header and manifest are
            always checked.
        check_versions: refuse an artefact that another TVM release compiled.

    Raises:
        ArtifactError: missing, not an artefact, truncated, damaged, of a newer format or for another TVM.
    """
    file = Path(path)
    data = _mapped(file)
    manifest = _manifest(file, data)
    start = aligned(_MANIFEST_START + _HEAD.unpack_from(data)[3])
    try:
        require(manifest, FILE_FORM)
        sections = {name: _section(manifest["sections"][name]) for name in ("library", "constants")}
        entries = parse_entries(manifest["constants"], sections["constants"][1])
    except (KeyError, ValueError) as error:
        raise _damaged(file, f"its manifest is malformed ({error})") from error
    (library_at, library_size, _), (constants_at, constants_size, _) = sections["library"], sections["constants"]
    if library_at != 0 or constants_at != aligned(library_size):
        raise _damaged(file, "its sections overlap")
    expected = start + constants_at + constants_size
    if len(data) != expected:
        state = "is truncated" if len(data) < expected else "has trailing bytes"
        raise _damaged(file, f"it {state}: {len(data)} bytes where {expected} belong")
    if verify:
        _verify(file, data, start, sections)
    if check_versions:
        _check_versions(file, manifest)
    library = memoryview(data)[start : start + library_size]
    return Artifact(file, manifest, _constants(file, data, start + constants_at, entries), library)


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % ALIGNMENT))


def _digest(chunks: Iterable[bytes | memoryview]) -> str:
    """BLAKE3 of the concatenation of ``chunks``, in hexadecimal."""
    # Threads of its own, since those that AUTO shares between all hashes of a process are missing in a forked child,
    # which would wait for them for ever.
    total = blake3(max_threads=default_threads())
    for chunk in chunks:
        total.update(chunk)
    return total.hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for name, package in _PACKAGES.items():
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(package)
    return found


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of ``path`` in one step when the block ends well."""
    try:
        with whole_files(path.parent, [path.name]) as part, (part / path.name).open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error.strerror}") from error


def _damaged(path: Path, how: str) -> ArtifactError:
    return ArtifactError(f"{path} is damaged: {how}", code="damaged-artifact", hint=f"copy it again, or {_RECOMPILE}")


def _mapped(path: Path) -> mmap.mmap | bytes:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return b""
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} does not exist", code="no-artifact", hint="graphopt compile writes one") from error
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}", code="no-artifact") from error


def _manifest(path: Path, data: mmap.mmap | bytes) -> dict[str, Any]:
    """The manifest, after every check that concerns it and the header."""
    if data[: len(MAGIC)] != MAGIC[: len(data)] or not len(data):
        raise ArtifactError(f"{path} is not a graphopt artefact", hint="graphopt compile makes one of an ONNX model")
    if len(data) < _MANIFEST_START:
        raise _damaged(path, f"it is truncated to {len(data)} bytes")
    _, version, _, size = _HEAD.unpack_from(data)
    if version < OLDEST_VERSION:
        raise ArtifactError(
            f"{path} has format version {version}; this graphopt reads {OLDEST_VERSION} to {FORMAT_VERSION}",
            code="older-artifact",
            hint=_RECOMPILE,
        )
    if version > FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format version {version}; this graphopt reads up to {FORMAT_VERSION}",
            code="newer-artifact",
            hint=f"upgrade graphopt, or {_RECOMPILE} with this one",
        )
    if size > min(_MAX_MANIFEST, len(data) - _MANIFEST_START):
        raise _damaged(path, f"it is truncated, or the size of its manifest ({size}) is wrong")
    text = data[_MANIFEST_START : _MANIFEST_START + size]
    if hashlib.sha256(data[: _HEAD.size] + text).digest() != data[_HEAD.size : _MANIFEST_START]:
        raise _damaged(path, "its header or manifest has changed")
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its manifest is not JSON") from error
    if not isinstance(manifest, dict):
        raise _damaged(path, "its manifest is not an object")
    return manifest


def _section(entry: dict[str, Any]) -> tuple[int, int, str]:
    return natural(entry["offset"]), natural(entry["size"]), str(entry["blake3"])


def _constants(
    path: Path, data: mmap.mmap | bytes, section: int, entries: Sequence[Entry]
) -> tuple[np.ndarray[Any, Any], ...]:
    try:
        return constant_arrays(data, section, entries)
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    except MemoryError as error:
        raise ArtifactError(
            f"{path} can't be loaded: {error}", code="out-of-memory", hint="free some memory"
        ) from error


def _verify(path: Path, data: mmap.mmap | bytes, start: int, sections: dict[str, tuple[int, int, str]]) -> None:
    view = memoryview(data)
    end = _MANIFEST_START + _HEAD.unpack_from(data)[3]
    for name, (offset, size, digest) in sections.items():
        if any(view[end : start + offset]):
            raise _damaged(path, f"the padding before its {name} has changed")
        end = start + offset + size
        if _digest([view[start + offset : end]]) != digest:
            raise _damaged(path, f"its {name} section has changed")


def _check_versions(path: Path, manifest: dict[str, Any]) -> None:
    theirs, ours = manifest.get("versions") or {}, _versions()
    for name, package in _PACKAGES.items():
        if name == "graphopt" or name not in ours or theirs.get(name) is None:
            continue
        if _release(str(theirs[name])) != _release(ours[name]):
            raise ArtifactError(
                f"{path} was compiled with {package} {theirs[name]}; this environment has {ours[name]}",
                code="other-tvm",
                hint=f'pip install "{package}=={theirs[name]}", or {_RECOMPILE} here',
            )


def _release(version: str) -> list[str]:
    return version.split(".")[:3]
