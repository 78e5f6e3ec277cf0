"""How a kernel slides along one axis."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx


@dataclass(frozen=True)
class Window:
    """How a convolution's kernel slides along one axis.

    Attributes:
        extent: input elements.
        kernel: kernel elements.
        stride: input elements per output element.
        dilation: input elements per kernel element.
        lead: padding before the input.
    """

    extent: tirx.Expr | int
    kernel: int
    stride: int
    dilation: int
    lead: int

    def taps(self, start: int, count: int) -> tuple[tuple[int, int], ...]:
        """For each kernel element, the half-open range of the ``count`` outputs from ``start`` that it reaches."""
        assert isinstance(self.extent, int)
        spans = []
        for tap in range(self.kernel):
            offset = start * self.stride + tap * self.dilation - self.lead
            low = min(count, max(0, -(offset // self.stride)))
            high = min(count, max(low, -((offset - self.extent) // self.stride)))
            spans.append((low, high) if low < high else (0, 0))
        return tuple(spans)

    def cuts(self, starts: range) -> list[int]:
        """Indices into ``starts``, the first and the end among them, between which tiles don't differ in ``taps``.

        There are a few for each kernel element, however long the axis: only tiles that hold an end of the input differ.
        """
        assert isinstance(self.extent, int)
        found = {0, len(starts)}
        for tap in range(self.kernel):
            before = self.lead - tap * self.dilation
            for edge in (before, before + self.extent):
                tile = (-(-edge // self.stride) - starts.start) // starts.step
                found.update(i for i in (tile, tile + 1) if 0 < i < len(starts))
        return sorted(found)

    def clip(self, position: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr]:
        """First kernel element that meets the input at output ``position``, and how many do."""
        low, high = self.reach(position)
        return low, tirx.max(high - low, 0)

    def reach(self, position: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr]:
        """Half-open range of the kernel elements that meet the input at output ``position``; ends before it begins where none does.

        Both bounds fall from one output to the next.
        """
        origin = self.lead - position * self.stride
        low = tirx.max(ceil_div(origin, self.dilation), 0)
        return low, tirx.min(ceil_div(origin + self.extent, self.dilation), self.kernel)


def ceil_div(value: tirx.Expr | int, divisor: int) -> tirx.Expr | int:
    """``value / divisor`` rounded up, for values of either sign."""
    return (value + (divisor - 1)) // divisor
