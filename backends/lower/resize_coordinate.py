"""Which position of the input a position of Resize's output stands for, computed at run time."""

from __future__ import annotations

from typing import Any

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.registry import const
from graphopt.backends.lower.resize_tables import AxisForm
from graphopt.backends.tensors.tensor import Expr, as_number

DOUBLE = "float64"
Number = Any
"""A float known now, or an expression in double precision."""


class Coordinate:
    """``resize_tables.source_coordinate`` at run time.

    Every operation is computed in double precision and rounded to ``dtype``, which for float32 gives the same as computing in
    it, and leaves nothing to contract into a fused multiplication and addition.
    """

    def __init__(
        self, form: AxisForm, scale: Number | None, roi: tuple[Number, Number], size: Expr, out_size: Expr, dtype: str
    ) -> None:
        self.form = form
        self.dtype = dtype
        self.roi = [self._round(double(r)) for r in roi]
        self.size = self._round(as_number(size, DOUBLE))
        self.out = self._round(as_number(out_size, DOUBLE))
        self.scale = self._round(self.out / self.size if scale is None else double(scale))
        self.length = self.out if scale is None else self._round(self.scale * self.size)

    def _round(self, value: Expr) -> Expr:
        return _in(value, self.dtype)

    def __call__(self, position: Expr) -> Expr:
        form, r, one = self.form, self._round, double(1)
        y, last = r(as_number(position, DOUBLE)), r(self.size - one)
        single = tirx.EQ(self.length, one)
        steps = tirx.Select(single, one, r(self.length - one))
        if form.transform == "align_corners":
            return tirx.Select(single, double(0), r(r(y * last) / steps))
        if form.transform == "asymmetric":
            return r(y / self.scale)
        if form.transform == "tf_crop_and_resize":
            begin, end = self.roi
            spread = r(r(r(y * r(end - begin)) * last) / steps)
            return tirx.Select(single, r(r(r(begin + end) * double(0.5)) * last), r(r(begin * last) + spread))
        found = r(r(y + double(0.5)) / self.scale)
        if form.transform == "half_pixel_symmetric":
            found = r(r(r(self.size / double(2)) * r(one - r(self.out / self.length))) + found)
        half = r(found - double(0.5))
        return tirx.Select(single, double(-0.5), half) if form.transform == "pytorch_half_pixel" else half


def _in(value: Expr, dtype: str) -> Expr:
    """A number in double precision, rounded to a type."""
    return value if dtype == DOUBLE else value.astype(dtype).astype(DOUBLE)


def double(value: Number) -> Expr:
    """A number in double precision."""
    return const(float(value), DOUBLE) if isinstance(value, (int, float)) else value
