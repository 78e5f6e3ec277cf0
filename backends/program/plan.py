"""Static buffer plan: every intermediate of known size gets a place in one arena, shared by those that never live together."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from graphopt.backends.program.program import BranchStep, Buffer, JoinStep, KernelStep, Program, Step, ViewStep

ALIGNMENT = 64
"""Bytes; every buffer starts on a cache line, and kernels rely on it (they use aligned vector loads)."""

COPIED_BYTES = 8 << 10
"""Results up to this size are planned like intermediates, and callers get copies: that takes less time than memory of their own,
which has to be allocated and handed over as a tensor."""


@dataclass(frozen=True)
class Life:
    """Memory of a buffer and of all that lie in it, from its first write to its last read (indices of steps)."""

    buffer: Buffer
    first: int
    last: int


@dataclass
class _Storage:
    """What has a place, or gets one."""

    life: Life
    size: int
    offset: int = -1


def plan_buffers(program: Program, copied: Collection[Buffer] | None = None) -> None:
    """Set ``Buffer.offset`` and ``Program.arena_bytes``.

    Args:
        program: steps and outputs are complete.
        copied: results that the caller copies if they are small; all by default.

    Storage is packed by the greedy-by-size rule of Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference"
    (2020): the largest first, each into the narrowest gap between those that live at the same time.

    Views and parts of a join lie within the buffer that is their ``home`` and keep it alive. What leaves the program is not
    planned unless it is small (`COPIED_BYTES`): the caller owns it. Neither is what other code allocates (inputs, constants,
    results of branches), nor anything whose size only run time knows (`graphopt.backends.program.slots` does some of that).
    """
    for step in program.steps:
        if isinstance(step, ViewStep) and step.output.home is None and step.output.lodging is None:
            step.output.home, step.output.shift = step.input, step.shift
    storages = _storages(program, program.outputs if copied is None else copied)
    placed = _Placed(len(storages))
    for storage in sorted(storages, key=lambda s: (-s.size, s.life.first)):
        storage.offset = placed.narrowest_gap(storage)
        placed.add(storage)
    program.arena_bytes = max((s.offset + s.size for s in storages), default=0)
    place = {s.life.buffer: s.offset for s in storages}
    for b in buffers_of(program):
        root, shift = b.root
        known = root in place and b.static_bytes is not None
        b.offset = place[root] + shift if known else None


def is_copied(buffer: Buffer) -> bool:
    """Whether a result is so small that it is copied rather than allocated for the caller."""
    size = buffer.static_bytes
    return size is not None and size <= COPIED_BYTES


def buffers_of(program: Program) -> list[Buffer]:
    """What the steps write, in order."""
    found: dict[Buffer, None] = {}
    for step in program.steps:
        for b in _writes(step):
            found[b] = None
    return list(found)


def lives(program: Program, kept: Collection[Buffer]) -> list[Life]:
    """When the memory of each buffer is in use that a kernel or join of the program makes, whatever the extents.

    What a buffer may lie in is in use as long as it is, and its own memory too.

    Args:
        kept: results without memory of the program's own.
    """
    left_out = {b.root[0] for b in kept}
    results = {b.root[0] for b in program.outputs}
    made = {b for s in program.steps if isinstance(s, (KernelStep, JoinStep)) for b in _writes(s)}
    found: dict[Buffer, Life] = {}
    for i, step in enumerate(program.steps):
        for root in dict.fromkeys(host for b in (*_writes(step), *_reads(step)) for host in b.hosts):
            if root.on_host or root not in made or root in left_out:
                continue
            first = found[root].first if root in found else i
            found[root] = Life(root, first, len(program.steps) if root in results else i)
    return list(found.values())


def _storages(program: Program, copied: Collection[Buffer]) -> list[_Storage]:
    """The storage of every buffer of known size that has one of its own."""
    kept = [b for b in program.outputs if not (b in copied and is_copied(b.root[0]))]
    sized = ((life, life.buffer.static_bytes) for life in lives(program, kept))
    return [_Storage(life, aligned(size)) for life, size in sized if size is not None]


class _Placed:
    """Storages with a place, by offset: columns of numbers, as each of thousands is compared with all before it."""

    def __init__(self, most: int) -> None:
        self._columns = np.zeros((4, most), np.int64)
        self._count = 0

    def narrowest_gap(self, storage: _Storage) -> int:
        """The offset of the smallest gap that fits among those that live at the same time, their end if none does."""
        first, last, offset, end = self._columns[:, : self._count]
        alive = (first <= storage.life.last) & (storage.life.first <= last)
        starts, ends = offset[alive], np.maximum.accumulate(end[alive])
        if not len(ends):
            return 0
        before = np.concatenate([[0], ends[:-1]])
        gaps = starts - before
        fitting = gaps >= storage.size
        if not fitting.any():
            return int(ends[-1])
        return int(before[np.argmin(np.where(fitting, gaps, np.iinfo(np.int64).max))])

    def add(self, storage: _Storage) -> None:
        """Take note of a storage's place."""
        count = self._count
        at = int(np.searchsorted(self._columns[2, :count], storage.offset))
        self._columns[:, at + 1 : count + 1] = self._columns[:, at:count]
        life = storage.life
        self._columns[:, at] = life.first, life.last, storage.offset, storage.offset + storage.size
        self._count += 1


def _writes(step: Step) -> list[Buffer]:
    if isinstance(step, KernelStep):
        return [*step.outputs, *step.scratch]
    if isinstance(step, BranchStep):
        return step.outputs
    return [step.output] if isinstance(step, (ViewStep, JoinStep)) else []


def _reads(step: Step) -> list[Buffer]:
    if isinstance(step, KernelStep):
        return step.inputs
    if isinstance(step, JoinStep):
        return step.parts
    if isinstance(step, BranchStep):
        return [step.condition, *step.then.arguments, *step.otherwise.arguments]
    return [step.input]


def aligned(size: int) -> int:
    """``size`` rounded up to whole cache lines, at least one."""
    return max(-(-size // ALIGNMENT), 1) * ALIGNMENT
