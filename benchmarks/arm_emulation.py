"""What of an aarch64 program runs how often, counted under qemu-aarch64 by a plugin that is compiled here.

The program marks what is counted (see ``arm_block_counts.c``), so that loading, packing and the first inference are left out.
Needs Debian's ``qemu-user`` and a C compiler.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.models.cache import atomic_file

COUNTER = Path(__file__).with_name("arm_block_counts.c")
"""Source of the plugin."""


@dataclass(frozen=True)
class Block:
    """Instructions that run one after the other, as qemu translates them: up to a branch.

    Attributes:
        path: file that they are mapped from; empty for code that was made at run time.
        offset: of the first one in that file in bytes, its address where there is no file.
        code: their bytes.
    """

    path: str
    offset: int
    code: bytes

    @property
    def end(self) -> int:
        """Offset behind the last one."""
        return self.offset + len(self.code)

    @property
    def words(self) -> list[str]:
        """Each instruction's bytes in hexadecimal, as they lie in memory."""
        return [self.code[i : i + 4].hex() for i in range(0, len(self.code), 4)]


Counts = Counter[Block]
"""How often each block runs."""


def cache_folder() -> Path:
    """Where compiled plugins, the peers' environment and figures of blocks are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "graphopt-benchmarks" / "arm"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@lru_cache(maxsize=1)
def plugin() -> Path:
    """The compiled plugin."""
    source = COUNTER.read_bytes()
    library = cache_folder() / f"block_counts-{hashlib.sha256(source).hexdigest()[:16]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
            built = Path(folder) / "plugin.so"
            command = ["cc", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", str(built), str(COUNTER)]
            subprocess.run(command, check=True)
            built.rename(library)
    return library


def counted(run: Callable[[str], object]) -> str:
    """What the plugin writes of an emulated program, for `read_counts`.

    Args:
        run: runs the program to its end with that argument behind qemu's ``-plugin``.

    Raises:
        RuntimeError: the program never came to its second mark.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "counts"
        run(f"{plugin()},out={result}")
        if not result.exists():
            raise RuntimeError("the emulated program made no call that ends what is counted")
        return result.read_text()


@dataclass(frozen=True)
class Inference:
    """One, counted.

    Attributes:
        counts: what ran.
        outputs: results by name, or by number.
    """

    counts: Counts
    outputs: dict[str, np.ndarray[Any, Any]]


def kept(name: str, run: Callable[[str, Path], object]) -> Inference:
    """An inference that is counted once: what is found is kept in the cache.

    Args:
        name: of a folder of the cache; changes with everything that the figures depend on.
        run: runs an emulated program with its first argument behind qemu's ``-plugin``, and makes a file of outputs as
            `write_outputs` does.

    Raises:
        RuntimeError: the program failed; that is kept too.
    """
    folder = cache_folder() / name
    counts, result, failure = (folder / file for file in ("counts.gz", "result.npz", "failure.txt"))
    if failure.exists():
        raise RuntimeError(failure.read_text())
    if not counts.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            text = counted(lambda plugin: run(plugin, result))
            read_counts(text)
        except RuntimeError as error:
            failure.write_text(str(error))
            raise
        with atomic_file(counts) as part:
            part.write_bytes(gzip.compress(text.encode()))
    return Inference(read_counts(gzip.decompress(counts.read_bytes()).decode()), read_outputs(result))


def write_outputs(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Write arrays whose names may have any signs in them."""
    np.savez(path, **{"x" + name.encode().hex(): array for name, array in arrays.items()})  # type: ignore[arg-type]


def read_outputs(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read what `write_outputs` wrote."""
    with np.load(path) as loaded:
        return {bytes.fromhex(key[1:]).decode(): loaded[key] for key in loaded.files}


def read_counts(text: str) -> Counts:
    """The blocks that ran between the marks; one that was translated several times is one.

    Raises:
        RuntimeError: other threads ran more than a hundredth of what the counted one did.
    """
    counts: Counts = Counter()
    others, *lines = text.splitlines()
    for line in lines:
        count, address, offset, code, path = line.split(" ", 4)
        place = int(address if path == "-" else offset, 16)
        counts[Block("" if path == "-" else path, place, bytes.fromhex(code))] += int(count)
    if int(others) > instructions(counts) // 100:
        raise RuntimeError(f"other threads ran {others} instructions beside {instructions(counts)} that are counted")
    return counts


def instructions(counts: Counts) -> int:
    """All that ran."""
    return sum(count * len(block.code) // 4 for block, count in counts.items())
