"""Software prefetch of operands that stream from beyond the second-level cache.

The hardware prefetcher stops at every page, and a loop of multiply-adds fills the out-of-order window before it has enough
loads in flight: without help, packed weights arrive at a third of the rate of a plain read, and the kernels of a network's
narrow, deep layers run at half their speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.register_tile import bind, guarded
from graphopt.backends.specs.window import ceil_div
from graphopt.backends.templates.operand import View

LINE_BYTES = 64
_AHEAD_BYTES = 4096
"""How far ahead of its use a row of weights is fetched into L1: a page hides the latency of memory at any tile size."""
_INTO_L1, _INTO_L2 = 3, 2


def prefetch(operand: View, index: Sequence[tirx.Expr | int], locality: int = _INTO_L1) -> None:
    """Emits a prefetch of the cache line of ``operand[index]``, which may lie beyond the end: it never faults.

    Args:
        operand: what is read or written soon.
        index: any indices; those out of bounds count on in memory.
        locality: LLVM's: 3 into all caches, 2 into the second level.
    """
    line = operand.address(index)
    T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", line, T.int32(0), T.int32(locality), T.int32(1)))


def prefetch_row_ahead(weight: View, panel_and_row: Sequence[tirx.Expr | int]) -> None:
    """Emits the prefetch of a later row of packed weights into L1.

    Args:
        weight: rows of a panel last but one, their columns last.
        panel_and_row: index of the current row.
    """
    *lead, row = panel_and_row
    row_bytes = weight.type.bytes * int(weight.shape[-1])
    with T.unroll(0, max(row_bytes // LINE_BYTES, 1)) as line:
        prefetch(weight, [*lead, row + _AHEAD_BYTES // row_bytes, line * (LINE_BYTES // weight.type.bytes)])


@dataclass(frozen=True)
class PanelShare:
    """What each of some steps, which work on a panel, fetches of the next.

    Attributes:
        lines: cache lines of a panel.
        each: how many of them one step fetches.
        exact: whether the steps together fetch no line beyond the panel.
    """

    lines: int
    each: tirx.Expr | int
    exact: bool


def panel_share(panel_bytes: int, steps: tirx.Expr | int) -> PanelShare:
    """Shares out the lines of a panel; where run time tells how many steps there are, call it before all loops, as it divides.

    Args:
        panel_bytes: size of a panel.
        steps: how many share the work.
    """
    lines = -(-panel_bytes // LINE_BYTES)
    if isinstance(steps, int):
        return PanelShare(lines, -(-lines // steps), lines % steps == 0)
    return PanelShare(lines, bind(ceil_div(T.int64(lines), tirx.max(steps, 1))), exact=False)


def prefetch_panel_share(weight: View, panel: Sequence[tirx.Expr | int], step: tirx.Expr, share: PanelShare) -> None:
    """Emits the prefetch of one step's share of a panel into L2, while some steps work on the panel before it.

    A panel is read by several tiles in turn, but the first of them would wait for all of it.

    Args:
        weight: packed weights.
        panel: index of the first element of the panel to fetch.
        step: which of the steps.
        share: what each of them fetches.
    """
    *lead, last = panel
    with T.serial(0, share.each) as i:
        line = step * share.each + i
        with guarded(None if share.exact else line < share.lines):
            prefetch(weight, [*lead, last + line * (LINE_BYTES // weight.type.bytes)], _INTO_L2)
