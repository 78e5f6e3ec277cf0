"""What calibration data may be given as, and how each form is read piece by piece: nothing is held that was handed on."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from graphopt.driver.named_object import is_name, named_object
from graphopt.errors import GraphOptError, UserError

Array: TypeAlias = npt.NDArray[Any]
Named: TypeAlias = Mapping[str, Any]
Source: TypeAlias = (
    "str | PathLike[str] | Named | Iterable[Named] | Callable[[], Any] | DataReader | Dataset | NamedFunction"
)
"""A ``.npz`` or ``.npy`` file, a folder of them, arrays by input name, or such mappings one after the other; or what other
tools take: ONNX Runtime's ``CalibrationDataReader``, a function that returns an iterable (Polygraphy's ``load_data``), NNCF's
``Dataset``."""


@runtime_checkable
class DataReader(Protocol):
    """ONNX Runtime's ``CalibrationDataReader``, by its shape."""

    def get_next(self) -> Mapping[str, Any] | None:
        """The next sample, None at the end."""


@runtime_checkable
class Dataset(Protocol):
    """NNCF's ``Dataset``, by its shape."""

    def get_inference_data(self) -> Iterable[Any]:
        """Inputs that its transform has been applied to."""


def pieces(source: Source, names: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What the source holds, piece by piece, with words for where each comes from. It is gone through once.

    Args:
        source: see ``Source``.
        names: of the model's inputs, which arrays without a name are for.

    Raises:
        UserError: a file is missing or damaged, or a piece is no mapping of arrays.
    """
    if isinstance(source, (str, PathLike)):
        yield from _of_files(Path(source), names)
    elif isinstance(source, Mapping):
        yield "the calibration data", source
    elif isinstance(source, NamedFunction):
        yield from source.pieces(names)
    elif isinstance(source, DataReader):
        yield from _mappings(iter(source.get_next, None))
    elif isinstance(source, Dataset):
        yield from _mappings(_named_by_order(item, names) for item in source.get_inference_data())
    elif callable(source) and not isinstance(source, Iterable):
        yield from pieces(source(), names)
    elif isinstance(source, Iterable):
        yield from _mappings(source)
    else:
        raise UserError(
            f"calibration data can't be a {type(source).__name__}", code="bad-calibration",
            hint="pass a file or folder, arrays by input name, an iterable of such mappings, or a function that returns one",
        )  # fmt: skip


def count_pieces(source: Source, names: Sequence[str]) -> int | None:
    """How many pieces ``pieces`` finds, None where only going through them tells.

    Raises:
        UserError: there is no such file.
    """
    if isinstance(source, NamedFunction):
        return count_pieces(source.source, names)
    if isinstance(source, (str, PathLike)):
        files = _files(Path(source))
        return 1 if len(names) > 1 and any(file.suffix == ".npy" for file in files) else len(files)
    if isinstance(source, Mapping):
        return 1
    return len(source) if isinstance(source, Sequence) else None


def goes_again(source: Source) -> bool:
    """Whether ``pieces`` of the source can be gone through more than once."""
    if isinstance(source, NamedFunction):
        return goes_again(source.source)
    if isinstance(source, (str, PathLike, Mapping, Dataset)):
        return True
    if isinstance(source, DataReader):
        return False
    if isinstance(source, Iterable):
        return iter(source) is not source
    return callable(source)


def named_source(text: str) -> Source:
    """What a user named on the command line: a file or folder, or ``module:function``, which is imported now and called later.

    Modules are looked for in the current folder too, as ``python -m`` does.

    Raises:
        UserError: there is no such module or function.
    """
    if os.path.exists(text) or not is_name(text):
        return Path(text)
    found = named_object(
        text,
        "calibration data",
        "no-calibration",
        "name a function as module:function, or a file or folder that exists",
    )
    return NamedFunction(text, found)


@dataclass(frozen=True)
class NamedFunction:
    """Calibration data that was named on the command line, where whatever goes wrong in it is the user's to know.

    Attributes:
        name: as it was given.
        source: what it names.
    """

    name: str
    source: Source

    def pieces(self, names: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """What ``pieces`` finds in the source.

        Raises:
            UserError: the function failed, or as ``pieces``.
        """
        try:
            yield from pieces(self.source, names)
        except GraphOptError:
            raise
        except Exception as error:  # of any class: it is the user's code that runs
            raise UserError(
                f"the calibration data {self.name} failed with {type(error).__name__}: {error}", code="bad-calibration"
            ) from error


def words(source: object) -> str:
    """What the source is called in messages."""
    if isinstance(source, NamedFunction):
        return source.name
    return str(source) if isinstance(source, (str, PathLike)) else "the calibration data"


# -- objects ----------------------------------------------------------------------------------------------------------
def _mappings(items: Iterable[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for index, piece in enumerate(items):
        if not isinstance(piece, Mapping):
            raise UserError(
                f"calibration sample {index} is a {type(piece).__name__}, not arrays by input name",
                code="bad-calibration", hint='pass {"input name": array, ...} for each sample',
            )  # fmt: skip
        yield f"calibration sample {index}", piece


def _named_by_order(item: Any, names: Sequence[str]) -> Any:
    """Inputs as NNCF's transforms may give them, an array or several in the order of the model's inputs, by name."""
    if isinstance(item, np.ndarray) and len(names) == 1:
        return {names[0]: item}
    if isinstance(item, (tuple, list)) and len(item) == len(names):
        return dict(zip(names, item))
    return item


# -- files ------------------------------------------------------------------------------------------------------------
def _of_files(path: Path, names: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    files = _files(path)
    arrays = [p for p in files if p.suffix == ".npy"]
    if len(names) > 1 and arrays:
        stems = {p.stem: p for p in arrays}
        if len(arrays) != len(files) or set(stems) != set(names):
            raise UserError(
                f"{path} holds .npy files, and the model has {len(names)} inputs", code="bad-calibration",
                hint=f"name one file for each input ({', '.join(f'{n}.npy' for n in names)}), or write .npz files",
            )  # fmt: skip
        yield str(path), {name: _array(stems[name]) for name in names}
        return
    for file in files:
        if file.suffix == ".npy":
            yield str(file), {(names or ["x"])[0]: _array(file)}
        else:
            yield str(file), _archive(file)


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise UserError(f"{path} does not exist", code="no-calibration", hint="check the path of the calibration data")
    if not path.is_dir():
        return [path]
    found = [p for p in path.iterdir() if p.suffix in (".npz", ".npy")]
    if not found:
        raise UserError(
            f"there is no .npz file in {path}, and no .npy file", code="empty-calibration",
            hint="write samples with numpy.savez",
        )  # fmt: skip
    return sorted(found, key=lambda p: [(int(t), "") if t.isdigit() else (-1, t) for t in re.split(r"(\d+)", p.name)])


def _array(path: Path) -> Array:
    """The array of a file, which stays on disk until it is looked at: it may be larger than memory."""
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(loaded, np.ndarray):
            raise ValueError("it is an archive")
        return loaded
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path} is no .npy file of a plain array ({error})", code="bad-calibration",
            hint="write it with numpy.save(path, array); arrays of objects are not accepted",
        ) from error  # fmt: skip


def _archive(path: Path) -> dict[str, Array]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it is a single array without a name")
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise UserError(
            f"{path} is no .npz file of plain arrays ({error})", code="bad-calibration",
            hint='write it with numpy.savez(path, **{"input name": array}); arrays of objects are not accepted',
        ) from error  # fmt: skip
