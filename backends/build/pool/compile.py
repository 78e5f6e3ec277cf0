"""Compile the pool for every architecture: ``python -m graphopt.backends.build.pool.compile``.

The compiler is the one in the PyPI package ``ziglang``, which brings the headers of every architecture and writes the same bytes
on every machine. This is for graphopt's developers; the objects are part of the package.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from graphopt.backends.base.scratch import scratch_folder
from graphopt.backends.build.pool import ARCHITECTURES

ZIG_VERSION = "0.17.1"
"""The version of ``ziglang`` that the objects were made with; others may choose other instructions."""
SOURCE = Path(__file__).resolve().parent / "pool.c"
_TRIPLES = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu", "armv7a": "arm-linux-gnueabihf"}
_OPTIONS = {"x86_64": [], "aarch64": ["-mno-outline-atomics"], "armv7a": []}


def object_of(source: Path, architecture: str) -> bytes:
    """The object of a C source for one architecture, compiled now.

    Raises:
        subprocess.CalledProcessError: the compiler failed, and wrote why to stderr.
    """
    with scratch_folder() as folder:
        out = folder / "object.o"
        caches = {"ZIG_GLOBAL_CACHE_DIR": str(folder), "ZIG_LOCAL_CACHE_DIR": str(folder)}
        subprocess.run(
            [
                sys.executable, "-m", "ziglang", "cc", "-target", _TRIPLES[architecture], *_OPTIONS[architecture],
                "-std=c11", "-O2", "-g0", "-fPIC", "-Wall", "-Wextra", "-Werror", "-fno-sanitize=all", "-fno-stack-protector",
                "-fno-unwind-tables", "-fno-asynchronous-unwind-tables", "-fno-ident", "-c", source.name, "-o", str(out),
            ],
            cwd=source.parent, env={**os.environ, **caches}, check=True,
        )  # fmt: skip
        return out.read_bytes()


def write_objects(source: Path, architectures: Sequence[str]) -> None:
    """Write the objects of a C source into the folder ``objects`` next to it."""
    folder = source.parent / "objects"
    folder.mkdir(exist_ok=True)
    for architecture in architectures:
        (folder / f"{architecture}.o").write_bytes(object_of(source, architecture))


def compiled(architecture: str) -> bytes:
    """The pool's object of one architecture, compiled now; errors as in `object_of`."""
    return object_of(SOURCE, architecture)


if __name__ == "__main__":
    write_objects(SOURCE, ARCHITECTURES)
