"""Sorting 32-bit keys: a word holds a key above a position, so that words are sorted without looking anything up.

Words of equal keys are in the order of their positions, which makes the sort stable whatever the algorithm: a radix sort by the
key's bytes, the lowest first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.registry import const
from graphopt.backends.tensors.imperative import Code
from graphopt.backends.tensors.index import i64
from graphopt.backends.tensors.math import is_nan
from graphopt.backends.tensors.tensor import Expr

KEYED = frozenset({"float16", "float32", "int8", "int16", "int32", "uint8", "uint16", "uint32"})
"""Element types of which 32 bits hold all values."""
MOST_POSITIONS = 1 << 32
WORD = "uint64"
_PASSES, _DIGITS = 4, 256
_WORTH_THREADS = 1 << 14
"""Fewest elements to look at for which threads are started: some ten microseconds' work."""


def key_of(value: Expr, dtype: str, descending: bool) -> Expr:
    """A number of 32 bits in whose order the values are; NaN is the greatest value, and zeros of either sign are equal."""
    sign = const(1 << 31, "uint32")
    if dtype.startswith("float"):
        single = value.astype("float32")
        zero = const(0.0, "float32")
        bits = tirx.reinterpret("uint32", tirx.Select(tirx.EQ(single, zero), zero, single))
        negative = tirx.NE(tirx.bitwise_and(bits, sign), const(0, "uint32"))
        key = tirx.Select(negative, tirx.bitwise_not(bits), tirx.bitwise_or(bits, sign))
        key = tirx.Select(is_nan(single), const((1 << 32) - 1, "uint32"), key)
    elif dtype.startswith("int"):
        key = tirx.bitwise_xor(tirx.reinterpret("uint32", value.astype("int32")), sign)
    else:
        key = value.astype("uint32")
    return tirx.bitwise_not(key) if descending else key


def word_of(key: Expr, position: Expr) -> Expr:
    """The word of a key at a position below `MOST_POSITIONS`."""
    return tirx.bitwise_or(tirx.shift_left(key.astype(WORD), const(32, WORD)), i64(position).astype(WORD))


def last_word() -> Expr:
    """After which no word comes."""
    return tirx.max_value(WORD)


def position_of(word: Expr) -> Expr:
    """The position in a word."""
    return tirx.bitwise_and(word, const(MOST_POSITIONS - 1, WORD)).astype("int64")


class Sorter:
    """Memory for words, for each of several workers, and their sort.

    Args:
        code: where it is written.
        workers: how many sort at the same time.
        most: words of each.
    """

    def __init__(self, code: Code, workers: int, most: Expr) -> None:
        self._code = code
        self.words = code.scratch((workers, most), WORD)
        self._spare = code.scratch((workers, most), WORD)
        self._counts = code.scratch((workers, _PASSES * _DIGITS), "int64")

    def sort(self, worker: Expr, total: Expr) -> None:
        """Put the first ``total`` words of a worker in order."""
        code, counts = self._code, self._counts
        with code.loop(_PASSES * _DIGITS) as n:
            code.store(counts, i64(0), worker, n)
        with code.loop(total) as n:
            word = code.let(code.load(self.words, worker, n))
            for turn in range(_PASSES):
                place = code.let(_digit(word, turn))
                code.store(counts, code.load(counts, worker, place) + 1, worker, place)
        for turn in range(_PASSES):
            before = code.cell("int64", i64(0))
            with code.loop(_DIGITS) as digit:
                place = code.let(digit + turn * _DIGITS)
                count = code.let(code.load(counts, worker, place))
                code.store(counts, before.get(), worker, place)
                before.set(before.get() + count)
        for turn in range(_PASSES):
            source, target = (self.words, self._spare) if turn % 2 == 0 else (self._spare, self.words)
            with code.loop(total) as n:
                word = code.let(code.load(source, worker, n))
                place = code.let(_digit(word, turn))
                at = code.let(code.load(counts, worker, place))
                code.store(target, word, worker, at)
                code.store(counts, at + 1, worker, place)


def _digit(word: Expr, turn: int) -> Expr:
    """Where the count of a word's byte is kept."""
    byte = tirx.bitwise_and(tirx.shift_right(word, const(32 + 8 * turn, WORD)), const(_DIGITS - 1, WORD))
    return byte.astype("int64") + turn * _DIGITS


def workers_for(code: Code, elements: Expr) -> int:
    """Into how many shares to divide work on so many elements."""
    if code.builder.schedule.spreads_work or (isinstance(elements, int) and elements < _WORTH_THREADS):
        return 1
    return max(code.builder.caps.cores, 1)


@contextmanager
def shared_rows(code: Code, rows: Expr, workers: int) -> Iterator[tuple[Expr, Any]]:
    """Loops over ``(worker, row)``, each worker with rows of its own."""
    with code.loop(workers, parallel=workers > 1) as worker:
        first = code.let(tirx.floordiv(worker * i64(rows), i64(workers)))
        last = code.let(tirx.floordiv((worker + 1) * i64(rows), i64(workers)))
        with code.loop(last - first) as row:
            yield worker, code.let(first + row)
