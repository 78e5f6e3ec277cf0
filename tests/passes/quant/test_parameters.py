"""Scales and zero points: finite and positive for every range, zero exact, and integers as ONNX has them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference.ops.op_quantize_linear import QuantizeLinear_21

from graphopt.errors import UserError
from graphopt.passes.quant.parameters import IntegerForm, form_of, parameters_of, quantized

FORMS = [form_of(name, symmetric) for name in ("u8", "s8", "u16", "s16") for symmetric in (True, False)]
bounds = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FORMS), bounds, bounds)
def test_every_range(form: IntegerForm, a: float, b: float) -> None:
    low, high = sorted((a, b))
    found = parameters_of(low, high, form)
    scale, zero = float(found.scale), int(found.zero_point)
    assert found.scale.dtype == np.float32
    assert found.zero_point.dtype == form.dtype.numpy
    assert np.isfinite(found.scale)
    assert np.float32(min(scale, 1)) ** 2 > 0, "products of scales are no zero"
    assert quantized(np.zeros(1, np.float32), found)[0] == zero, "zero is exact"
    least, greatest = (form.low - zero) * scale, (form.high - zero) * scale
    for bound in (
        low,
        high,
    ):  # what is stored reaches both bounds, but for half a step and for the rounding of the scale
        inside = min(max(bound, least), greatest)
        assert abs(bound - inside) <= scale * 0.51 + abs(bound) * 1e-6
    if form.symmetric:
        assert zero == form.middle


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize(
    "numbers", [[0.0, 0.0], [3.0, 3.0], [-2.0, -2.0], [0.0, 6e-8], [-1e-45, 1e-45], [2.0, 9.0], [-3e38, 3e38]]
)
def test_ranges_that_others_got_wrong(form: IntegerForm, numbers: list[float]) -> None:
    found = parameters_of(numbers[0], numbers[1], form)
    assert 0 < found.scale < np.inf
    data = np.asarray(numbers, np.float32)
    back = (quantized(data, found).astype(np.float64) - found.zero_point) * float(found.scale)
    np.testing.assert_allclose(back, data, rtol=1e-5, atol=float(found.scale) * 0.51)


def test_known_parameters() -> None:
    """By hand: 255 steps of 0.1 with zero at 55, and 127 steps on each side."""
    found = parameters_of(-5.5, 20.0, form_of("u8"))
    assert (found.scale, found.zero_point) == (np.float32(0.1), 55)
    found = parameters_of(-5.5, 25.4, form_of("s8"))
    assert (found.scale, found.zero_point) == (np.float32(0.2), 0)
    found = parameters_of(-5.5, 25.4, form_of("u8", True))
    assert (found.scale, found.zero_point) == (np.float32(0.2), 128)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.floats(1e-2, 1e4), st.sampled_from(FORMS))
def test_integers_are_those_of_onnx(numbers: list[float], size: float, form: IntegerForm) -> None:
    found = parameters_of(-size / 3, size, form)
    data = (np.asarray(numbers) * size).astype(np.float32)  # ONNX's evaluator saturates what fits into int32
    want = QuantizeLinear_21.eval(data, found.scale, found.zero_point)
    np.testing.assert_array_equal(quantized(data, found), want)


def test_saturation_and_halves() -> None:
    found = parameters_of(0.0, 127.5, form_of("u8"))
    data = np.asarray([0.25, 0.75, 1.25, 127.25, 1e30, -1e30, 3.4e38], np.float32)
    np.testing.assert_array_equal(quantized(data, found), [0, 2, 2, 254, 255, 0, 255])
    tiny = parameters_of(0.0, 1e-30, form_of("u8"))
    np.testing.assert_array_equal(quantized(data, tiny), [255, 255, 255, 255, 255, 0, 255])


def test_integers_along_an_axis() -> None:
    data = np.asarray([[1.0, 2.0], [-300.0, 0.25]], np.float32)
    found = parameters_of(np.asarray([-1.27, -2.54]), np.asarray([1.27, 2.54]), form_of("s8"))
    np.testing.assert_array_equal(quantized(data, found, 1), [[100, 100], [-128, 12]])


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match="'u9'"):
        form_of("u9")
    for low, high in ((np.nan, 1.0), (0.0, np.inf), (2.0, 1.0)):
        with pytest.raises(ValueError, match="no range"):
            parameters_of(low, high, form_of("u8"))
