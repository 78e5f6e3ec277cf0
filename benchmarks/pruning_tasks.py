"""Models whose answers can be marked: what they are fed, what is right, and data for calibration that isn't tested on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from text_lines import alphabet_of, character_error_rate, read, text_lines

from graphopt.models import zoo

Array = NDArray[Any]
Feed = dict[str, Array]


@dataclass(frozen=True)
class Task:
    """A model and its examination.

    Attributes:
        model: name in the zoo.
        metric: what ``mark`` gives.
        rises: whether more of it is better.
        data: where the data come from, in a sentence.
        batch: samples in a feed.
        multiple: channels that stay come in multiples of this; the networks are too narrow for what suits the target.
        calibration: feeds to fit to.
        tests: feeds to be marked by.
        mark: from the outputs of all tests, one array, to the metric.
    """

    model: str
    metric: str
    rises: bool
    data: str
    batch: int
    multiple: int
    calibration: tuple[Feed, ...]
    tests: tuple[Feed, ...]
    mark: Callable[[Array], float]

    def shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs with so many samples."""
        return {name: (batch, *array.shape[1:]) for name, array in self.tests[0].items()}

    @property
    def sample(self) -> Feed:
        """One sample, to time."""
        return {name: np.ascontiguousarray(array[:1]) for name, array in self.tests[0].items()}


def digits() -> Task:
    """Accuracy of the digits network; the test split is cut in two, since the network knows the training split by heart."""
    images, labels = zoo.digits_test()
    used, batch = 150, 30
    return Task(
        "digits",
        "accuracy",
        True,
        f"the first {used} images of the test split calibrate, the other {len(labels) - used} are tested",
        batch,
        1,
        _feeds("image", images[:used], batch),
        _feeds("image", images[used:], batch),
        lambda scores: float((scores.argmax(axis=1) == labels[used:]).mean()),
    )


def text() -> Task:
    """Character error rate of PP-OCR's recogniser on rendered lines."""
    used, count, batch = 64, 64, 8
    alphabet = alphabet_of(zoo.get("ppocr_rec").proto())
    calibration, _ = text_lines(1000, used)
    images, texts = text_lines(0, count)

    def mark(scores: Array) -> float:
        return character_error_rate(read(scores, alphabet), texts)

    return Task(
        "ppocr_rec",
        "character error rate",
        False,
        f"{used} rendered lines of words and numbers calibrate, {count} others ({sum(map(len, texts))} characters) are tested",
        batch,
        8,
        _feeds("x", calibration, batch),
        _feeds("x", images, batch),
        mark,
    )


TASKS: dict[str, Callable[[], Task]] = {"digits": digits, "ppocr_rec": text}


def _feeds(name: str, samples: Array, batch: int) -> tuple[Feed, ...]:
    return tuple({name: samples[i : i + batch]} for i in range(0, len(samples), batch))


def outputs(run: Callable[[Feed], dict[str, Array]], feeds: Sequence[Feed]) -> Array:
    """The only output for all feeds, joined along the batch."""
    return np.concatenate([next(iter(run(feed).values())).copy() for feed in feeds])
