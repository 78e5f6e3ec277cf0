"""Calibration data that goes by once: statistics are taken from all of it, and the first feeds are kept to compare results on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from graphopt.driver.calibration import CompiledRunner, Feed, Progress, calibration_feeds, feeds_again
from graphopt.driver.calibration_source import Source, goes_again
from graphopt.driver.compiling import signature_of
from graphopt.driver.quantize.range_table import RangeTable
from graphopt.driver.quantize.value_statistics import gather_statistics
from graphopt.errors import UserError
from graphopt.ir.graph import Graph, Value
from graphopt.passes.quant.statistics import ValueStatistics

COMPARED_FEEDS = 8
"""Results are compared with float on so many feeds at most,"""
COMPARED_BYTES = 64 << 20
"""and on so many bytes of them, because these are kept: the first feeds."""
PORTIONS = 64
"""So many portions of inner values stay compiled."""


class CalibrationData:
    """Inputs of a model that is to be quantized.

    Args:
        graph: in float.
        source: gone through once; None for none.
        evaluation: what results are compared on, all of it; by default the first feeds of ``source``.
        threads: CPU threads to run models with.
        compare: whether results are to be compared.
        again: whether the data is to be gone through once more.
        progress: told of the feeds of ``source`` that went by.
    """

    def __init__(
        self, graph: Graph, source: Source | None, evaluation: Source | None, threads: int | None, *, compare: bool, again: bool,
        progress: Progress | None = None,
    ) -> None:  # fmt: skip
        self.graph, self.source, self.evaluation = graph, source, evaluation
        self.runner = CompiledRunner(threads=threads, exact=True, cached=PORTIONS)
        self._compare, self._progress = compare, progress
        self._keep = (compare and evaluation is None) or (again and source is not None and not goes_again(source))
        self._kept: list[Feed] = []
        self._count = self._bytes = 0
        self._whole = False  # whether all of the source went by
        self._evaluated: list[Feed] | None = None

    def statistics(
        self, needed: Sequence[Value], histogram: bool, known: RangeTable | None
    ) -> dict[str, ValueStatistics]:
        """What values take on the data, by name, those aside that a table has a range for.

        Args:
            histogram: whether statistics have one.

        Raises:
            UserError: there is no data, and the table lacks one.
            InputError: a value isn't finite on the data.
        """
        missing = [v for v in needed if known is None or v.name not in known.ranges]
        if missing:
            if self.source is None:
                raise _no_data(known, [v.name for v in missing])
            return gather_statistics(self.graph, missing, self.feeds(), self.runner, histogram=histogram)
        for _ in self.feeds() if self.source is not None else ():
            if not self._wanted():
                break
        return {}

    def feeds(self) -> Iterator[Feed]:
        """Feeds of the source, which is gone through; the first are kept."""
        assert self.source is not None
        for feed in calibration_feeds(self.source, signature_of(self.graph), progress=self._progress):
            if self._wanted():
                self._kept.append(feed)
                self._bytes += sum(array.nbytes for array in feed.values())
            self._count += 1
            yield feed
        self._whole = True

    def again(self) -> Iterable[Feed]:
        """The feeds once more: all of them, or those that were kept of a source that goes by once only.

        Raises:
            UserError: there is no data.
        """
        if self.source is None:
            raise _no_data(None, ())
        if self.goes_again:
            signature = signature_of(self.graph)
            return (
                feeds_again(self.source, signature, self._count)
                if self._whole
                else calibration_feeds(self.source, signature)
            )
        return self._kept

    @property
    def goes_again(self) -> bool:
        """Whether all of the data can be gone through once more."""
        return self.source is not None and goes_again(self.source)

    def _wanted(self) -> bool:
        full = len(self._kept) == COMPARED_FEEDS or (bool(self._kept) and self._bytes >= COMPARED_BYTES)
        return self._keep and not full

    @property
    def compared(self) -> Sequence[Feed]:
        """What results are compared on; nothing without data.

        Raises:
            UserError: the data for it can't be read.
        """
        if self.evaluation is None:
            return self._kept if self._compare else ()
        if self._evaluated is None:
            self._evaluated = list(calibration_feeds(self.evaluation, signature_of(self.graph)))
        return self._evaluated

    def words(self) -> str:
        """What results are compared on, in words."""
        shown = len(self.compared)
        if self.evaluation is not None:
            return f"{shown} feed{'' if shown == 1 else 's'} of the evaluation data"
        of = f"the first {shown} of {self._count}" if shown < self._count else str(shown)
        return f"{of} feed{'' if self._count == 1 else 's'} of calibration data"


def _no_data(known: RangeTable | None, missing: Sequence[str]) -> UserError:
    if known is None:
        return UserError(
            "ranges of activations can't be chosen without calibration data", code="needs-data",
            hint="pass inputs like those that the model will see (calibration=, --calib DATA), or a table of ranges",
        )  # fmt: skip
    return UserError(
        f"the table has no range for %{missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else ""),
        code="plan-does-not-fit", hint="add it, or pass calibration data as well (calibration=, --calib DATA)",
    )  # fmt: skip
