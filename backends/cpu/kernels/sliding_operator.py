"""What kernels that slide over channel blocks compute from the values under a window."""

from __future__ import annotations

from typing import Protocol

from graphopt.backends.base.tvm_api import tirx


class Operator(Protocol):
    """What is computed from the values under a window; vectors are TVM vector expressions of ``lanes`` elements to compute with."""

    @property
    def start(self) -> float | tirx.Expr:
        """What an accumulator begins with: a number, or a vector."""

    @property
    def begins(self) -> bool:
        """Whether accumulators begin with their first value where it is known which one that is, rather than with ``start``."""

    @property
    def separable(self) -> bool:
        """Whether accumulating is the same for all kernel elements, so that columns can be totalled first, for all windows."""

    @property
    def written_out(self) -> bool:
        """Whether steps must be constants, each code of its own."""

    def on_data(self, vector: tirx.Expr) -> Operator:
        """The same for output channels ``vector`` of tiles whose windows lie on the data for certain, if that is less work."""

    def steps(self, vector: tirx.Expr) -> int:
        """How many values an accumulator takes from each input pixel."""

    def value(
        self, image: tirx.Expr, vector: tirx.Expr, step: tirx.Expr | int, y: tirx.Expr, x: tirx.Expr
    ) -> tirx.Expr:
        """The vector read at input pixel ``(y, x)`` for the output channels of ``vector``."""

    def accumulate(
        self,
        old: tirx.Expr | None,
        value: tirx.Expr,
        vector: tirx.Expr,
        step: tirx.Expr | int,
        ky: tirx.Expr,
        kx: tirx.Expr,
    ) -> tirx.Expr:
        """The accumulator after the value under kernel element ``(ky, kx)``; None was in it if the operator `begins`."""

    def finish(self, total: tirx.Expr, h: tirx.Expr, w: tirx.Expr, inside: bool) -> tirx.Expr:
        """One lane's result at output pixel ``(h, w)``; ``inside`` says that its window lies on the data for certain."""
