"""Sizes that are assumed ahead of run time."""

from __future__ import annotations

from graphopt.ir.dims import symbol
from graphopt.ir.intervals import Interval
from graphopt.ir.nominal import LEAST_DERIVED, nominal_sizes

SAMPLES, BATCH = symbol("samples"), symbol("batch")
SHORTENED = [BATCH, SAMPLES, SAMPLES // 20 - 1, (SAMPLES + 240) // 320]


def test_usual_sizes_by_axis_and_rank() -> None:
    sizes = nominal_sizes([(BATCH, 3, symbol("h"), 224), (symbol("n"), SAMPLES)], {}, {})
    assert [sizes.of(symbol(name)) for name in ("batch", "h", "n", "samples")] == [1, 224, 1, 128]
    sizes = nominal_sizes([(BATCH, 3, symbol("frames"), symbol("h"), symbol("w"))], {}, {})
    assert [sizes.of(symbol(name)) for name in ("frames", "h", "w")] == [16, 224, 224]


def test_a_sequence_that_is_shortened_is_assumed_to_be_long() -> None:
    sizes = nominal_sizes([(BATCH, SAMPLES)], {}, {}, SHORTENED)
    assert min(sizes.of(dim) for dim in SHORTENED[1:]) >= LEAST_DERIVED
    assert min(sizes.of(dim // 2) for dim in SHORTENED[1:]) < LEAST_DERIVED, "no longer than it has to be"


def test_what_users_say_holds() -> None:
    assert nominal_sizes([(BATCH, SAMPLES)], {}, {"samples": 500}, SHORTENED).of(SAMPLES) == 500
    within = {"samples": Interval(1, 1000)}
    assert nominal_sizes([(BATCH, SAMPLES)], within, {}, SHORTENED).of(SAMPLES) == 1000


def test_extents_that_length_does_not_help_are_left_out() -> None:
    derived = [SAMPLES // (1 << 40), 7, SAMPLES * 0 + 3]
    assert nominal_sizes([(BATCH, SAMPLES)], {}, {}, derived).of(SAMPLES) == 128
