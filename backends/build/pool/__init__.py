"""The thread pool that every compiled library for a CPU carries: its source, and machine code made with each release.

`pool.c` is compiled by ``python -m graphopt.backends.build.pool.compile`` into an object for each architecture, so that nobody
needs a C compiler to compile a model. A test compiles it again and compares.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

ARCHITECTURES = ("x86_64", "aarch64", "armv7a")


def has_pool(triple: str) -> bool:
    """Whether there is a pool for an LLVM target triple: for Linux on the ``ARCHITECTURES``. Elsewhere TVM's serves."""
    architecture, _, system = triple.partition("-")
    return architecture in ARCHITECTURES and "linux" in system


def pool_objects(triple: str) -> list[bytes]:
    """The pool as ELF objects, to be linked into a library: one, or none where there is no pool."""
    return [_object(triple.partition("-")[0])] if has_pool(triple) else []


@cache
def _object(architecture: str) -> bytes:
    return (resources.files(__package__) / "objects" / f"{architecture}.o").read_bytes()
