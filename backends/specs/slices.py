"""Convolutions over three axes as convolutions over images.

An output slice, the outputs at one depth, sums over the input slices that the kernel reaches: it is an image whose channels
are those of all these slices, one slice after the other. Kernels for images compute it so, from data that stay where they are;
slices outside of the data are left out, as rows outside of an image are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.specs.window import Window


@dataclass(frozen=True)
class Place:
    """Which image: the output slice ``at`` of the batch element ``batch``. What counts images is divided once to tell."""

    batch: tirx.Expr
    at: tirx.Expr


Image: TypeAlias = "tirx.Expr | Place"


@dataclass(frozen=True)
class Slices:
    """How slices are images.

    Attributes:
        batch: of the data, int or symbolic; it times ``count`` are the images.
        channels: of the data; they times the kernel's depth are an image's.
        window: how the kernel slides along the depth, whose extent is int or symbolic.
        count: output slices, int or symbolic.
    """

    batch: tirx.Expr | int
    channels: int
    window: Window
    count: tirx.Expr | int

    @classmethod
    def of(cls, batch: tirx.Expr | int, channels: int, window: Window, trail: int) -> Slices:
        """Those of data, with ``trail`` slices of padding behind them."""
        reach = (window.kernel - 1) * window.dilation + 1
        return cls(batch, channels, window, (window.extent + (window.lead + trail - reach)) // window.stride + 1)

    @property
    def depth(self) -> tirx.Expr | int:
        """Input slices."""
        return self.window.extent

    def split(self, image: Image) -> tuple[tirx.Expr, tirx.Expr]:
        """Batch element and output slice of an image."""
        if isinstance(image, Place):
            return image.batch, image.at
        return tirx.floordiv(image, self.count), tirx.floormod(image, self.count)

    def reached(self, image: Image) -> tuple[tirx.Expr, tirx.Expr]:
        """The first slice of the kernel that meets data for an image, and how many do."""
        return self.window.clip(self.split(image)[1])

    def is_inside(self, image: Image, channels: tirx.Expr, block: int) -> tirx.Expr:
        """Whether the data have the slice that an image's block of channels belongs to."""
        at = self._slice(image, channels, block)
        return tirx.all(at >= 0, at < self.depth)

    def data_index(self, index: Sequence[Any], block: int) -> list[tirx.Expr]:
        """Where an image's element at ``(image, channels, h, w[, lane])`` lies in the data, ``block`` channels in a block."""
        image, channels, *rest = index
        within = tirx.floormod(channels, self.channels // block)
        return [self.split(image)[0], within, self._slice(image, channels, block), *rest]

    def result_index(self, index: Sequence[Any]) -> list[tirx.Expr]:
        """Where the element at ``(image, channels, h, w[, lane])`` lies in the result."""
        image, channels, *rest = index
        batch, at = self.split(image)
        return [batch, channels, at, *rest]

    def _slice(self, image: Image, channels: tirx.Expr, block: int) -> tirx.Expr:
        return self.input_slice(self.split(image)[1], tirx.floordiv(channels, self.channels // block))

    def input_slice(self, at: tirx.Expr, tap: tirx.Expr | int) -> tirx.Expr:
        """Which slice of the data element ``tap`` of the kernel meets for output slice ``at``."""
        return at * self.window.stride + (tap * self.window.dilation - self.window.lead)
