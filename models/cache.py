"""Where models are kept on disk, and how a file gets there: whole and verified, or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graphopt.errors import ModelError


def cache_dir() -> Path:
    """The zoo's directory: ``$GRAPHOPT_CACHE/zoo``, else ``~/.cache/graphopt/zoo``. Not created here.

    ``GRAPHOPT_CACHE=off`` turns the cache of compiled kernels off; models still need a place.
    """
    root = os.environ.get("GRAPHOPT_CACHE", "")
    return (Path(root).expanduser() if root and root.lower() != "off" else Path.home() / ".cache" / "graphopt") / "zoo"


def sha256_of(path: Path) -> str | None:
    """Hex SHA-256 of a file, or None when there is no such file."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except FileNotFoundError:
        return None
    return digest.hexdigest()


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yields a temporary path next to ``target``; what was written there becomes ``target`` when the block succeeds.

    Two processes that make the same file at once both succeed, and no reader ever sees half a file.

    Raises:
        ModelError: the cache directory can't be written.
    """
    try:
        _make_folders(target.parent)
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(descriptor)
    except OSError as error:
        raise ModelError(
            f"can't write to the model cache {target.parent}: {error.strerror}",
            code="model-cache",
            hint="set GRAPHOPT_CACHE to a directory that can be written",
        ) from error
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes the file private; a shared cache must be readable like any other file.
        temporary.chmod(0o644)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _make_folders(folder: Path) -> None:
    """Make a folder and those above it that are missing: others may read them, and never write, whatever the umask."""
    if not folder.is_dir():
        _make_folders(folder.parent)
        folder.mkdir(mode=0o755, exist_ok=True)
