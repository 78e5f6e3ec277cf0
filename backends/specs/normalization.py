"""Normalisations: of rows, and across channels."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.specs.types import SINGLE, KernelTypes


@dataclass(frozen=True)
class NormSpec:
    """``(x - mean) / sqrt(variance + epsilon) * scale + bias`` over rows.

    Attributes:
        rows: an int or an expression.
        parts: pieces of a row that have a scale and bias each, ``inner`` elements long; 0 if every element has its own.
        inner: elements of a part, of the row if ``parts`` is 0.
        channels: elements of scale and bias when ``parts`` is not 0: part p of row r has number ``(r * parts + p) % channels``.
        epsilon: added to the variance.
        centered: whether the mean is subtracted; without, this is RMS normalisation.
        bias: whether there is one.
        types: element types of data, scale and bias (as weights), sums and result.
    """

    rows: tirx.Expr | int
    parts: int
    inner: tirx.Expr | int
    channels: int
    epsilon: float
    centered: bool = True
    bias: bool = True
    types: KernelTypes = SINGLE

    @property
    def length(self) -> tirx.Expr | int:
        """Elements of a row."""
        return self.inner * max(self.parts, 1)

    @property
    def factors(self) -> tirx.Expr | int:
        """Elements of scale and of bias."""
        return self.channels if self.parts else self.inner


@dataclass(frozen=True)
class LrnSpec:
    """``y = x / (bias + alpha / size * sum of x[c - before .. c + after]**2) ** beta`` on ``NCHW{block}c`` data.

    Attributes:
        shape: logical (N, C, H, W); C is a multiple of ``block``.
        types: element types of data, sums and result.
        size: channels in a window, of which (size - 1) // 2 come before the middle; no side is longer than a block.
    """

    shape: tuple[int, int, int, int]
    block: int
    size: int
    alpha: float
    beta: float
    bias: float
    types: KernelTypes = SINGLE

    @property
    def before(self) -> int:
        """Channels of a window before its middle."""
        return (self.size - 1) // 2

    @property
    def after(self) -> int:
        """Channels of a window after its middle."""
        return self.size - 1 - self.before
