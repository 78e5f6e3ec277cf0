"""Named arrays in one file that another process reads; names may hold any character, and nothing is pickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from graphopt.ir.graph import Array


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Save arrays by name, element types that numpy has no code for (bfloat16 and the like) as their bytes."""
    found: dict[str, Any] = {}
    for name, array in arrays.items():
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        kind = array.dtype.name if hasattr(ml_dtypes, array.dtype.name) else ""
        found[f"{name.encode().hex()}-{kind}"] = array.view(f"u{array.itemsize}") if kind else array
    with path.open("wb") as file:
        np.savez(file, **found)


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays that ``write_arrays`` left, in their order."""
    found: dict[str, Any] = {}
    with np.load(path, allow_pickle=False) as archive:
        for key in archive.files:
            name, kind = key.split("-")
            array = archive[key]
            found[bytes.fromhex(name).decode()] = array.view(getattr(ml_dtypes, kind)) if kind else array
    return found
