"""Calibration: data from files and arrays, and a runner that gives inner values of a graph."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from graphopt.driver.calibration_source import Array, Source, count_pieces, goes_again, pieces, words
from graphopt.driver.compiling import compile
from graphopt.driver.repeated_feeds import RepeatedFeeds, kept_on_disk
from graphopt.errors import InputError, UserError
from graphopt.ir.graph import Graph, Value
from graphopt.ir.outputs import with_outputs

if TYPE_CHECKING:
    from graphopt.runtime.model import CompiledModel
    from graphopt.runtime.signature import Signature

Feed: TypeAlias = Mapping[str, Array]

Progress: TypeAlias = Callable[[int, "float | None"], None]
"""Told how many feeds were dealt with, and what part that is of all, None where nobody knows."""

BATCH = 8
"""Samples run at once where the model takes any number of them."""
CACHED_MODELS = 4


# -- data -------------------------------------------------------------------------------------------------------------
def load_calibration(
    source: Source, signature: Signature, *, limit: int | None = None, batch: int = BATCH
) -> RepeatedFeeds:
    """The feeds of ``calibration_feeds``, for what goes through them several times. None is held: a source that can be gone through
    again is, and what goes by once is kept on disk.

    Raises:
        UserError: as ``calibration_feeds``; all of the data is looked at.
    """
    if not goes_again(source):
        return kept_on_disk(calibration_feeds(source, signature, limit=limit, batch=batch))
    count = sum(1 for _ in calibration_feeds(source, signature, limit=limit, batch=batch))
    return feeds_again(source, signature, count, batch=batch)


def feeds_again(source: Source, signature: Signature, count: int, *, batch: int = BATCH) -> RepeatedFeeds:
    """The first feeds of a source that can be gone through again, once it was.

    Args:
        count: how many.
    """

    def again() -> Iterator[Feed]:
        try:
            yield from calibration_feeds(source, signature, batch=batch)
        except UserError as error:
            if error.code != "empty-calibration":  # that is said as it is: it wasn't empty before
                raise

    return RepeatedFeeds(again, count)


def calibration_feeds(
    source: Source,
    signature: Signature,
    *,
    limit: int | None = None,
    batch: int = BATCH,
    progress: Progress | None = None,
) -> Iterator[dict[str, Array]]:
    """Calibration data as feeds of the model, one after the other: the source is gone through once, and no feed is kept.

    Arrays may have the inputs' shapes, or more along the first axis, or one axis more in front: several samples, which
    become several feeds. Where all inputs have the same symbolic first dimension, ``batch`` samples make one feed.

    Args:
        source: see ``Source``. Files of a folder are taken in the order of the numbers in their names.
        limit: take only so many feeds.
        progress: told of every feed that was dealt with.

    Raises:
        UserError: a file is missing or damaged, names or shapes don't fit, values are not finite, or there is nothing.
    """
    if limit is not None and limit < 1:
        raise UserError(f"{limit} calibration samples are not enough", code="empty-calibration", hint="take at least 1")
    count = 0
    names = [spec.name for spec in signature.inputs]
    total = count_pieces(source, names) if progress is not None else None
    for piece, (where, arrays) in enumerate(pieces(source, names)):
        parts, found = _feeds(arrays, signature, batch)
        part = 0
        while True:
            try:
                feed = next(found, None)
            except InputError as error:
                raise _named(error, where) from error
            if feed is None:
                break
            yield feed
            count, part = count + 1, part + 1
            if progress is not None:
                progress(count, None if total is None else min((piece + part / parts) / total, 1.0))
            if count == limit:
                return
    if not count:
        raise UserError(
            f"there are no calibration samples in {words(source)}", code="empty-calibration", hint="add at least one"
        )


def _feeds(arrays: Mapping[str, Any], signature: Signature, batch: int) -> tuple[int, Iterator[dict[str, Array]]]:
    """One mapping of arrays as feeds, and how many they are."""
    if not signature.inputs:
        raise UserError("the model has no inputs, so there is nothing to calibrate", code="bad-calibration")
    named = {name: np.asanyarray(array) for name, array in arrays.items()}
    step = _step(named, signature, batch)
    if step is None:
        return 1, (_feed(part, signature) for part in (named,))
    count = len(next(iter(named.values())))
    split = ({n: a[i] if step == 0 else a[i : i + step] for n, a in named.items()} for i in range(0, count, step or 1))
    return -(-count // (step or 1)), (_feed(part, signature) for part in split)


def _feed(arrays: Mapping[str, Array], signature: Signature) -> dict[str, Array]:
    """Arrays that were found to be one feed, once they fit."""
    feed = {name: _typed(name, array, signature) for name, array in arrays.items()}
    signature.check(feed)
    return {spec.name: np.array(feed[spec.name], order="C") for spec in signature.inputs}


def _typed(name: str, array: Array, signature: Signature) -> Array:
    """An array in the type of its input, if that is one of the same kind, once its numbers are known to be finite."""
    wanted = next((spec.dtype.numpy for spec in signature.inputs if spec.name == name), None)
    if wanted is None:
        return array
    if array.dtype != wanted and array.dtype.kind == wanted.kind:
        array = array.astype(wanted)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"input {name!r} holds NaN or infinity", code="bad-calibration", hint="leave it out")
    return np.asarray(array)


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


# -- running ----------------------------------------------------------------------------------------------------------
class CompiledRunner:
    """Runs graphs on this machine and returns inner values: a ``graphopt.passes.prune.calibration.statistics.Runner``.

    The last few compiled models are kept, by graph and wanted names. A graph that was changed is compiled anew.

    Args:
        target: to compile for; has to run here.
        threads: CPU threads, all by default.
        exact: round behind every node as ONNX says, which is what other machines may do with the graph.
        cached: so many compiled models are kept. Data that is gone through once needs all portions of inner values.
    """

    def __init__(
        self, target: str = "native", threads: int | None = None, exact: bool = False, cached: int = CACHED_MODELS
    ) -> None:
        self._target = target
        self._exact = exact
        self._cached = cached
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
            while len(self._models) > self._cached:
                self._models.popitem(last=False)
        self._models.move_to_end(key)
        return self._models[key][1]


def _values(graph: Graph) -> dict[str, Value]:
    """Values of the outermost graph by name."""
    found = {value.name: value for value in graph.inputs}
    for node in graph.nodes:
        found.update((value.name, value) for value in (*node.inputs, *node.outputs) if value is not None)
    return found
