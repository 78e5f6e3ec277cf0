"""Compile what runs a model for every architecture: ``python -m graphopt.backends.build.c_library.compile``. See `pool.compile`."""

from __future__ import annotations

from pathlib import Path

from graphopt.backends.build.c_library import ARCHITECTURES
from graphopt.backends.build.pool.compile import object_of, write_objects

SOURCE = Path(__file__).resolve().parent / "run.c"


def compiled(architecture: str) -> bytes:
    """The object of one architecture, compiled now; errors as in `object_of`."""
    return object_of(SOURCE, architecture)


if __name__ == "__main__":
    write_objects(SOURCE, ARCHITECTURES)
