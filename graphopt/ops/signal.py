"""Fourier transforms, windows and filter banks."""

from __future__ import annotations

from graphopt.ir.dims import Dim
from graphopt.ir.dtypes import DType
from graphopt.ir.types import TensorType, Type
from graphopt.ops.context import InferContext, ints
from graphopt.ops.registry import register


@register("DFT")
def _dft(c: InferContext) -> list[Type]:
    """Input [..., signal axis, ..., 1 or 2]; one-sided transforms keep n//2 + 1 bins, their inverse gives real
    signals."""
    x = list(c.shape(0))
    axis = c.axis(ints(c.need_const(2, "the axis of DFT"))[0] if c.has(2) else -2, len(x))
    one_sided, inverse = bool(c.attr("onesided")), bool(c.attr("inverse"))
    length: Dim | None = c.content(1).reshape(-1)[0] if c.has(1) else None
    if length is not None:
        c.assume_at_most(1, length, "length of DFT")
    if one_sided and inverse:
        x[axis] = length if length is not None else (x[axis] - 1) * 2
        x[-1] = 1
    else:
        n = length if length is not None else x[axis]
        x[axis] = n // 2 + 1 if one_sided else n
        x[-1] = 2
    return [TensorType(c.dtype(0), tuple(x))]


@register("STFT")
def _stft(c: InferContext) -> list[Type]:
    """Signal [batch, length, 1 or 2] to [batch, frames, bins, 2]."""
    x = c.shape(0)
    step: Dim = c.content(1).reshape(-1)[0]
    if c.has(3):
        frame: Dim = c.content(3).reshape(-1)[0]
    elif c.has(2):
        frame = c.shape(2)[0]
    else:
        raise c.invalid("STFT without window and frame_length")
    c.assume_at_most(1, step, "step of STFT")
    c.assume_at_most(1, frame, "length of the frames of STFT")
    c.assume_at_most(frame, x[1], "a frame of STFT and the signal")
    bins = frame // 2 + 1 if c.attr("onesided") else frame
    return [TensorType(c.dtype(0), (x[0], (x[1] - frame) // step + 1, bins, 2))]


@register("BlackmanWindow", "HammingWindow", "HannWindow")
def _window(c: InferContext) -> list[Type]:
    return [TensorType(DType.from_onnx(int(c.attr("output_datatype"))), (c.content(0).reshape(-1)[0],))]


@register("MelWeightMatrix")
def _mel(c: InferContext) -> list[Type]:
    bins: Dim = c.content(0).reshape(-1)[0]
    length: Dim = c.content(1).reshape(-1)[0]
    return [TensorType(DType.from_onnx(int(c.attr("output_datatype"))), (length // 2 + 1, bins))]
