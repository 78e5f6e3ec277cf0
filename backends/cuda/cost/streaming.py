"""How near to the bandwidth of memory a kernel comes that does little else than read and write.

A prediction from what the compiler made of the kernel, not a measurement. The longest of four times counts: that of memory itself,
of issuing instructions, of the units that exponentials take, and of waiting for what is on its way (Little's law; Volkov,
"Understanding Latency Hiding on GPUs", 2016). A last round of blocks that fills only a part of the multiprocessors takes as long as
a full one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphopt.backends.cuda.cost.chips import Chip

REACHED = 0.93
"""Of a memory's bandwidth on paper, what copies reach: refreshing and turning between reads and writes take the rest."""
LATENCY_CYCLES = 700.0
"""From asking for what no cache holds until it is there, under load."""
ISSUED = 4
"""Instructions of warps that a multiprocessor issues in a cycle."""
SPECIAL = 0.5
"""Instructions of warps for exponentials, logarithms, reciprocals and roots that it takes in a cycle."""
REGISTERS = 65536
WARP = 32
MOST_BLOCKS = 16
"""Blocks that a multiprocessor keeps at least, of any generation."""


@dataclass(frozen=True)
class Stream:
    """A launch of a kernel.

    Attributes:
        blocks: of the grid.
        threads: of a block.
        registers: of a thread.
        shared: bytes of a block.
        instructions: that a thread executes.
        special: those of them that are exponentials, logarithms, reciprocals or roots.
        ahead: bytes that a thread asks for before it waits for any of them.
        read: bytes that come from memory.
        written: bytes that go there.
    """

    blocks: int
    threads: int
    registers: int
    shared: int
    instructions: int
    special: int
    ahead: int
    read: int
    written: int


def blocks_at_once(stream: Stream, chip: Chip) -> int:
    """Blocks that a multiprocessor keeps at a time."""
    warps = -(-stream.threads // WARP)
    registers = -(-stream.registers // 8) * 8 * WARP * warps
    limits = [chip.threads // (warps * WARP), REGISTERS // registers, MOST_BLOCKS]
    if stream.shared:
        limits.append(chip.shared // stream.shared)
    return max(1, min(limits))


def predicted_share(stream: Stream, chip: Chip) -> float:
    """Of the bandwidth that the chip has on paper, the part that the launch uses."""
    at_once = blocks_at_once(stream, chip)
    warps = stream.blocks * -(-stream.threads // WARP)
    cycles = chip.multiprocessors * chip.clock
    moved = stream.read + stream.written
    on_its_way = at_once * stream.threads * stream.ahead * chip.multiprocessors
    times = (
        moved / (chip.memory * REACHED),
        warps * stream.instructions / (ISSUED * cycles),
        warps * stream.special / (SPECIAL * cycles),
        stream.read / (on_its_way / (LATENCY_CYCLES / chip.clock)),
    )
    rounds = stream.blocks / (at_once * chip.multiprocessors)
    return moved / chip.memory / (max(times) * math.ceil(rounds) / rounds)
