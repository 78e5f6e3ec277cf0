"""Feeds that are gone through several times, and are in memory one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from graphopt.errors import UserError

Feed = Mapping[str, npt.NDArray[Any]]


class RepeatedFeeds(Sequence[Feed]):
    """A sequence of feeds that holds none of them: each pass makes them anew.

    Parts of it are such sequences too. A single feed is looked for from the start.

    Args:
        again: starts a pass over all feeds.
        count: how many there are.
    """

    def __init__(self, again: Callable[[], Iterator[Feed]], count: int) -> None:
        self._again, self._count = again, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Feed]:
        """A pass over the feeds.

        Raises:
            UserError: it ends before the others did, so that no two passes can be held against one another.
        """
        seen = 0
        for feed in islice(self._again(), self._count):
            seen += 1
            yield feed
        if seen < self._count:
            raise UserError(
                f"the calibration data gave {self._count} feeds at first and {seen} when it was gone through again",
                code="bad-calibration", hint="pass a function or an iterable that gives the same each time, or an iterator",
            )  # fmt: skip

    @overload
    def __getitem__(self, index: int) -> Feed: ...
    @overload
    def __getitem__(self, index: slice) -> RepeatedFeeds: ...
    def __getitem__(self, index: int | slice) -> Feed | RepeatedFeeds:
        """A feed, or those of a part with step 1.

        Raises:
            IndexError: there is no such feed.
        """
        if isinstance(index, slice):
            start, stop, step = index.indices(self._count)
            if step != 1:
                raise IndexError(f"parts of feeds are in order and without gaps, not by {step}")
            return RepeatedFeeds(lambda: islice(self._again(), start, stop), max(stop - start, 0))
        position = index + self._count if index < 0 else index
        if not 0 <= position < self._count:
            raise IndexError(f"there is no feed {index} among {self._count}")
        return next(islice(iter(self), position, None))


def kept_on_disk(feeds: Iterable[Feed]) -> RepeatedFeeds:
    """Feeds that go by once, written to a folder that lasts as long as the result does.

    Args:
        feeds: gone through now.
    """
    folder = TemporaryDirectory(prefix="graphopt-feeds-")
    names: list[str] = []
    count = 0
    for feed in feeds:
        names = list(feed)
        for number, array in enumerate(feed.values()):
            np.save(_file(folder.name, count, number), array)
        count += 1

    def again() -> Iterator[Feed]:
        for index in range(count):
            yield {name: np.load(_file(folder.name, index, number)) for number, name in enumerate(names)}

    return RepeatedFeeds(again, count)


def _file(folder: str, feed: int, number: int) -> Path:
    return Path(folder, f"{feed}-{number}.npy")
