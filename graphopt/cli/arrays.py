"""Arrays between the command line and ``.npy`` files, which may come from anywhere."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.cli.options import pairs
from graphopt.errors import InputError, UserError
from graphopt.whole_files import whole_files

Array = npt.NDArray[Any]

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_NAME = 100


def input_paths(items: Sequence[str] | None) -> dict[str, Path]:
    """What ``--input`` gave: file by input name."""
    return {name: Path(file) for name, file in pairs("--input", items, "x=x.npy").items()}


def load_arrays(paths: Mapping[str, Path]) -> dict[str, Array]:
    """Read ``.npy`` files; pickled objects are refused, as they could run code.

    Raises:
        InputError: a file is missing, damaged, or no plain array; the input is named.
    """
    found: dict[str, Array] = {}
    for name, path in paths.items():
        try:
            array = np.load(path, allow_pickle=False)
        except FileNotFoundError as error:
            raise InputError(f"input {name!r}: {path} does not exist", hint="check the path") from error
        except (OSError, ValueError, EOFError) as error:
            raise InputError(
                f"input {name!r}: {path} is not a plain .npy array ({error})",
                hint="write it with numpy.save; arrays of objects are not accepted",
            ) from error
        if not isinstance(array, np.ndarray):
            raise InputError(f"input {name!r}: {path} holds several arrays", hint="save each with numpy.save")
        found[name] = array
    return found


def file_names(names: Sequence[str]) -> dict[str, str]:
    """A safe and unique file name for each output: ``/``, ``..`` and the like can't lead out of the folder."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        stem = _UNSAFE.sub("_", name).strip("._-")[:_MAX_NAME] or "output"
        unique, n = stem, 1
        while unique.lower() in taken:  # file systems may ignore case
            n += 1
            unique = f"{stem}_{n}"
        taken.add(unique.lower())
        found[name] = f"{unique}.npy"
    return found


def save_arrays(folder: Path, arrays: Mapping[str, Array], inputs: Sequence[Path] = ()) -> dict[str, Path]:
    """Write every array into ``folder``, all or none.

    Args:
        folder: made when absent.
        arrays: by output name.
        inputs: files that must not be replaced.

    Returns:
        File by output name.

    Raises:
        UserError: the folder can't be written, or a file to write is an input.
    """
    names = file_names(list(arrays))
    for name, file in names.items():
        for path in inputs:
            if (folder / file).exists() and path.exists() and os.path.samefile(folder / file, path):
                raise UserError(
                    f"output {name!r} would replace the input file {path}",
                    code="output-is-input",
                    hint="choose another --output-dir",
                )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_files(folder, list(names.values())) as part:
            for name, array in arrays.items():
                np.save(part / names[name], array, allow_pickle=False)
    except OSError as error:
        raise UserError(
            f"can't write to {folder}: {error.strerror or error}",
            code="cannot-write",
            hint="check that the folder is writable and has room",
        ) from error
    return {name: folder / file for name, file in names.items()}
