"""Compile the pool for every architecture: ``python -m graphopt.backends.build.pool.compile``.

The compiler is the one in the PyPI package ``ziglang``, which brings the headers of every architecture and writes the same bytes
on every machine. This is for graphopt's developers; the objects are part of the package.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from graphopt.backends.base.scratch import scratch_folder
from graphopt.backends.build.pool import ARCHITECTURES

ZIG_VERSION = "0.17.1"
"""The version of ``ziglang`` that the objects were made with; others may choose other instructions."""
HERE = Path(__file__).resolve().parent
_TRIPLES = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu", "armv7a": "arm-linux-gnueabihf"}
_OPTIONS = {"x86_64": [], "aarch64": ["-mno-outline-atomics"], "armv7a": []}


def compiled(architecture: str) -> bytes:
    """The object of one architecture, compiled now.

    Raises:
        subprocess.CalledProcessError: the compiler failed, and wrote why to stderr.
    """
    with scratch_folder() as folder:
        out = folder / "pool.o"
        caches = {"ZIG_GLOBAL_CACHE_DIR": str(folder), "ZIG_LOCAL_CACHE_DIR": str(folder)}
        subprocess.run(
            [
                sys.executable, "-m", "ziglang", "cc", "-target", _TRIPLES[architecture], *_OPTIONS[architecture],
                "-std=c11", "-O2", "-g0", "-fPIC", "-Wall", "-Wextra", "-Werror", "-fno-sanitize=all", "-fno-stack-protector",
                "-fno-unwind-tables", "-fno-asynchronous-unwind-tables", "-fno-ident", "-c", "pool.c", "-o", str(out),
            ],
            cwd=HERE, env={**os.environ, **caches}, check=True,
        )  # fmt: skip
        return out.read_bytes()


def main() -> None:
    """Write the objects next to the source."""
    folder = HERE / "objects"
    folder.mkdir(exist_ok=True)
    for architecture in ARCHITECTURES:
        (folder / f"{architecture}.o").write_bytes(compiled(architecture))


if __name__ == "__main__":
    main()
