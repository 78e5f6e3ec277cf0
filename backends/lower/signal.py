"""Fourier transforms by their definition: one sum over the signal for every frequency, with a table of sines.

That is O(n**2). For the frame lengths of audio models (up to about 1024) the sums vectorise and cost what a fully connected layer
does; a fast transform would pay off beyond.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.pointwise import cast
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.tensors.index import floordiv, i64, smallest
from graphopt.backends.tensors.tensor import Expr, Index, Tensor, choose
from graphopt.ops.context import ints

Part = Callable[[Index, Expr, int], Expr]
"""Element n of the signal that an output index belongs to; 0 gives its real part, 1 the imaginary."""


def _table(c: LowerContext, length: Expr, dtype: str, function: Callable[[Expr], Expr]) -> Tensor:
    """``function(2 pi j / length)`` for every j, computed in float64 when the kernel starts."""
    step = const(2.0 * math.pi, "float64") / i64(length).astype("float64")
    return c.k.stage(Tensor((length,), dtype, lambda j: function(step * i64(j).astype("float64")).astype(dtype)))


def _transform(
    c: LowerContext,
    part: Part,
    length: Expr,
    axis: int,
    *,
    complex_input: bool,
    inverse: bool,
    terms: Expr | None = None,
) -> Lowered:
    """Sum over n of ``part(n) * exp(-+ 2 pi i n k / length)`` where k is the output's index along ``axis``.

    Args:
        terms: how many n there are, by default ``length``; those left out are zero.
    """
    out = c.out_dtype()
    cosine, sine = _table(c, length, out, tirx.cos), _table(c, length, out, tirx.sin)

    def body(i: Index, r: Index) -> Expr:
        turn = tirx.floormod(i64(i[axis]) * i64(r[0]), i64(length))
        across, along = cosine(turn), sine(turn) if inverse else const(0, out) - sine(turn)
        re = part(i, r[0], 0)
        real, imaginary = re * across, re * along
        if complex_input:
            im = part(i, r[0], 1)
            real, imaginary = real - im * along, imaginary + im * across
        # one-sided inverses give real signals: their last axis has only the real part
        return tirx.Select(tirx.EQ(i64(i[-1]), i64(0)), real, imaginary)

    total = c.k.reduce(c.out_shape(), out, (length if terms is None else terms,), body)
    count = i64(length).astype(out)
    return Tensor(c.out_shape(), out, lambda *i: cast(total(*i) / count if inverse else total(*i), out))


@lowers("DFT")
def _dft(c: LowerContext) -> Lowered:
    x = c.x(0)
    axis = c.axis(ints(c.need_const(2, "the axis of DFT"))[0] if c.has(2) else -2, x.rank)
    one_sided, inverse = bool(c.attr("onesided")), bool(c.attr("inverse"))
    extent = x.shape[axis]
    if one_sided and inverse:
        length = c.out_shape()[axis]
    else:
        length = c.k.dim(c.content(1).reshape(-1)[0]) if c.has(1) else extent
    complex_input = isinstance(x.shape[-1], int) and x.shape[-1] == 2

    def stored(i: Index, n: Expr, which: int) -> Expr:
        return cast(x(*i[:axis], n, *i[axis + 1 : -1], which), x.dtype)

    def mirrored(i: Index, n: Expr, which: int) -> Expr:
        """The second half of a real signal's spectrum is the first half reversed and conjugate."""
        upper = i64(n) > floordiv(length, 2)
        at = tirx.Select(upper, i64(length) - n, i64(n))
        value = choose(at < extent, lambda: stored(i, at, which), lambda: const(0, x.dtype))
        return tirx.Select(upper, const(0, x.dtype) - value, value) if which else value

    if one_sided and inverse:
        return _transform(c, mirrored, length, axis, complex_input=complex_input, inverse=inverse)
    # a signal shorter than the transform is continued by zeros, which add nothing
    terms = smallest(length, extent)
    return _transform(c, stored, length, axis, complex_input=complex_input, inverse=inverse, terms=terms)


@lowers("STFT")
def _stft(c: LowerContext) -> Lowered:
    signal = c.x(0)
    window = c.x(2) if c.has(2) else None
    step = c.k.dim(c.content(1).reshape(-1)[0])
    if c.has(3):
        length = c.k.dim(c.content(3).reshape(-1)[0])
    else:
        assert window is not None
        length = window.shape[0]

    def part(i: Index, n: Expr, which: int) -> Expr:
        batch, frame = i[0], i[1]
        value = cast(signal(batch, frame * step + n, which), signal.dtype)
        if window is None:
            return value
        size = window.shape[0]
        if isinstance(size, int) and isinstance(length, int) and size >= length:
            return value * cast(window(n), signal.dtype)
        return value * choose(n < size, lambda: cast(window(n), signal.dtype), lambda: const(0, signal.dtype))

    complex_input = isinstance(signal.shape[-1], int) and signal.shape[-1] == 2
    return _transform(c, part, length, 2, complex_input=complex_input, inverse=False)
