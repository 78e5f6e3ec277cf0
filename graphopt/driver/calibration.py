"""Calibration: data from files and arrays, and a runner that gives inner values of a graph."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from graphopt.driver.compiling import compile
from graphopt.errors import InputError, UserError
from graphopt.ir.graph import Graph, Value
from graphopt.ir.outputs import with_outputs

if TYPE_CHECKING:
    from graphopt.runtime.model import CompiledModel
    from graphopt.runtime.signature import Signature

Array: TypeAlias = npt.NDArray[Any]
Feed: TypeAlias = Mapping[str, Array]
Source: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any] | Iterable[Mapping[str, Any]]"
"""A ``.npz`` file, a folder of them, arrays by input name, or such mappings one after the other."""

BATCH = 8
"""Samples run at once where the model takes any number of them."""
CACHED_MODELS = 4


# -- data -------------------------------------------------------------------------------------------------------------
def load_calibration(
    source: Source, signature: Signature, *, limit: int | None = None, batch: int = BATCH
) -> list[dict[str, Array]]:
    """Calibration data as feeds of the model.

    Arrays may have the inputs' shapes, or more along the first axis, or one axis more in front: several samples, which
    become several feeds. Where all inputs have the same symbolic first dimension, ``batch`` samples make one feed.

    Args:
        source: see ``Source``. Files of a folder are taken in the order of the numbers in their names.
        limit: take only so many feeds.

    Raises:
        UserError: a file is missing or damaged, names or shapes don't fit, values are not finite, or there is nothing.
    """
    if limit is not None and limit < 1:
        raise UserError(f"{limit} calibration samples are not enough", code="empty-calibration", hint="take at least 1")
    feeds: list[dict[str, Array]] = []
    for where, arrays in _pieces(source):
        try:
            feeds += _feeds(arrays, signature, batch)
        except InputError as error:
            raise _named(error, where) from error
        if limit is not None and len(feeds) >= limit:
            break
    if not feeds:
        raise UserError(
            f"there are no calibration samples in {_words(source)}", code="empty-calibration", hint="add at least one"
        )
    return feeds[:limit]


def _pieces(source: Source) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """What the source holds, piece by piece, with words for where each comes from."""
    if isinstance(source, (str, os.PathLike)):
        for path in _files(Path(source)):
            yield str(path), _read(path)
    elif isinstance(source, Mapping):
        yield "the calibration data", source
    else:
        for index, piece in enumerate(source):
            if not isinstance(piece, Mapping):
                raise UserError(
                    f"calibration sample {index} is a {type(piece).__name__}, not arrays by input name",
                    code="bad-calibration", hint='pass {"input name": array, ...} for each sample',
                )  # fmt: skip
            yield f"calibration sample {index}", piece


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise UserError(f"{path} does not exist", code="no-calibration", hint="check the path of the calibration data")
    if not path.is_dir():
        return [path]
    found = [p for p in path.iterdir() if p.suffix == ".npz"]
    if not found:
        raise UserError(
            f"there is no .npz file in {path}", code="empty-calibration", hint="write samples with numpy.savez"
        )
    return sorted(found, key=lambda p: [(int(t), "") if t.isdigit() else (-1, t) for t in re.split(r"(\d+)", p.name)])


def _read(path: Path) -> dict[str, Array]:
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


def _feeds(arrays: Mapping[str, Any], signature: Signature, batch: int) -> list[dict[str, Array]]:
    """One mapping of arrays as feeds."""
    specs = {spec.name: spec for spec in signature.inputs}
    if not specs:
        raise UserError("the model has no inputs, so there is nothing to calibrate", code="bad-calibration")
    named = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in named.items():
        if name in specs:
            wanted = specs[name].dtype.numpy
            if array.dtype != wanted and array.dtype.kind == wanted.kind:
                named[name] = array = array.astype(wanted)
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise InputError(f"input {name!r} holds NaN or infinity", code="bad-calibration", hint="leave it out")
    step = _step(named, signature, batch)
    if step is None:
        split = [named]
    else:
        count = len(next(iter(named.values())))
        split = [
            {n: a[i] if step == 0 else a[i : i + step] for n, a in named.items()} for i in range(0, count, step or 1)
        ]
    names = list(specs)
    checked = []
    for feed in split:
        signature.check(feed)
        checked.append({name: np.array(feed[name], order="C") for name in names})
    return checked


def _step(named: Mapping[str, Array], signature: Signature, batch: int) -> int | None:
    """Samples of the arrays' first axis in each feed, 0 when that axis is not part of the input; None: one feed as is."""
    if {spec.name for spec in signature.inputs} != set(named):
        return None  # the signature's check says what is wrong
    extra, lengths, firsts = [], [], []
    for spec in signature.inputs:
        array = named[spec.name]
        extra.append(array.ndim - len(spec.shape))
        lengths.append(array.shape[0] if array.ndim else -1)
        firsts.append(spec.shape[0] if spec.shape else None)
    if len(set(lengths)) != 1 or lengths[0] < 0:
        return None
    if all(e == 1 for e in extra):
        return 0
    if any(extra) or len(set(firsts)) != 1 or firsts[0] is None:
        return None
    first = firsts[0]
    if not isinstance(first, int):
        return max(1, batch) if lengths[0] != 1 else None
    return first if first > 0 and lengths[0] % first == 0 and lengths[0] != first else None


def _named(error: InputError, where: str) -> InputError:
    return InputError(f"{where}: {error.message}", code=error.code, hint=error.hint, node=error.node, notes=error.notes)


def _words(source: object) -> str:
    return str(source) if isinstance(source, (str, os.PathLike)) else "the calibration data"


# -- running ----------------------------------------------------------------------------------------------------------
class CompiledRunner:
    """Runs graphs on this machine and returns inner values: a ``graphopt.passes.prune.calibration.statistics.Runner``.

    The last few compiled models are kept, by graph and wanted names. A graph that was changed is compiled anew.

    Args:
        target: to compile for; has to run here.
        threads: CPU threads, all by default.
        exact: round behind every node as ONNX says, which is what other machines may do with the graph.
    """

    def __init__(self, target: str = "native", threads: int | None = None, exact: bool = False) -> None:
        self._target = target
        self._exact = exact
        self._threads = threads
        self._models: OrderedDict[tuple[int, int, tuple[str, ...]], tuple[Graph, CompiledModel]] = OrderedDict()

    def __call__(self, graph: Graph, names: Sequence[str], feed: Feed) -> dict[str, Array]:
        """The named values of the graph for one feed.

        Raises:
            UserError: there is no such value, or the feed does not fit the graph's inputs.
        """
        values = _values(graph)
        found: dict[str, Array] = {}
        inner: list[str] = []
        for name in dict.fromkeys(names):
            value = values.get(name)
            if value is None:
                raise UserError(f"there is no value {name!r} in the graph", code="unknown-value")
            if value.data is not None:
                found[name] = value.data
            elif value.producer is None:
                found[name] = np.asarray(feed[name])
            else:
                inner.append(name)
        if inner:
            found.update(self._model(graph, tuple(inner)).run(feed))
        return {name: found[name] for name in names}

    def _model(self, graph: Graph, names: tuple[str, ...]) -> CompiledModel:
        key = (id(graph), graph.version, names)
        if key not in self._models:
            compiled = compile(with_outputs(graph, names), self._target, threads=self._threads, exact=self._exact)
            self._models[key] = (graph, compiled)  # holds the graph, so that its id stays its own
            while len(self._models) > CACHED_MODELS:
                self._models.popitem(last=False)
        self._models.move_to_end(key)
        return self._models[key][1]


def _values(graph: Graph) -> dict[str, Value]:
    """Values of the outermost graph by name."""
    found = {value.name: value for value in graph.inputs}
    for node in graph.nodes:
        found.update((value.name, value) for value in (*node.inputs, *node.outputs) if value is not None)
    return found
