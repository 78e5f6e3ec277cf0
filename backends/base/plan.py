"""Static buffer plan: every intermediate of known size gets a place in one arena, shared by those that never live together."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.base.program import BranchStep, Buffer, JoinStep, KernelStep, Program, Step, ViewStep

ALIGNMENT = 64
"""Bytes; every buffer starts on a cache line, and kernels rely on it (they use aligned vector loads)."""


SPAN = 32
"""Steps; see `_Placed`."""


@dataclass
class _Storage:
    """Memory of a buffer and of all that lie in it, from its first write to its last read (indices of steps)."""

    buffer: Buffer
    size: int
    first: int
    last: int
    offset: int = -1


def plan_buffers(program: Program) -> None:
    """Set ``Buffer.offset`` and ``Program.arena_bytes``.

    Storage is packed by the greedy-by-size rule of Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference"
    (2020): the largest first, each into the narrowest gap between those that live at the same time.

    Views and parts of a join lie within the buffer that is their ``home`` and keep it alive. What leaves the program is not
    planned: the caller owns it. Neither is what other code allocates (inputs, constants, results of branches), nor anything
    whose size only run time knows. On a GPU nothing is: there TVM allocates.
    """
    if program.target.caps.is_gpu:
        return
    for step in program.steps:
        if isinstance(step, ViewStep) and step.output.home is None:
            step.output.home, step.output.shift = step.input, step.shift
    storages = _storages(program)
    placed = _Placed()
    for storage in sorted(storages, key=lambda s: (-s.size, s.first)):
        storage.offset = _narrowest_gap(storage, placed.alive_with(storage))
        placed.add(storage)
    program.arena_bytes = max((s.offset + s.size for s in storages), default=0)
    place = {s.buffer: s.offset for s in storages}
    for b in buffers_of(program):
        root, shift = b.root
        known = root in place and b.static_bytes is not None
        b.offset = place[root] + shift if known else None


def buffers_of(program: Program) -> list[Buffer]:
    """What the steps write, in order."""
    found: dict[Buffer, None] = {}
    for step in program.steps:
        for b in _writes(step):
            found[b] = None
    return list(found)


def _storages(program: Program) -> list[_Storage]:
    """The storage of every buffer that has one of its own, with its lifetime."""
    kept = {b.root[0] for b in program.outputs}
    made = {b for s in program.steps if isinstance(s, (KernelStep, JoinStep)) for b in _writes(s)}
    found: dict[Buffer, _Storage] = {}
    for i, step in enumerate(program.steps):
        for b in (*_writes(step), *_reads(step)):
            root = b.root[0]
            size = root.static_bytes
            if size is None or root in kept or root not in made:
                continue
            storage = found.setdefault(root, _Storage(root, aligned(size), i, i))
            storage.last = i
    return list(found.values())


class _Placed:
    """Storages with a place, by spans of steps: most live for a few steps only, and only those of the same time matter."""

    def __init__(self) -> None:
        self._spans: dict[int, list[_Storage]] = {}

    def add(self, storage: _Storage) -> None:
        for span in _spans(storage):
            self._spans.setdefault(span, []).append(storage)

    def alive_with(self, storage: _Storage) -> list[_Storage]:
        """Those that live at the same time, by offset."""
        near = {id(s): s for span in _spans(storage) for s in self._spans.get(span, ())}
        found = [s for s in near.values() if s.first <= storage.last and storage.first <= s.last]
        return sorted(found, key=lambda s: (s.offset, s.size))


def _spans(storage: _Storage) -> range:
    return range(storage.first // SPAN, storage.last // SPAN + 1)


def _narrowest_gap(storage: _Storage, alive: list[_Storage]) -> int:
    """The offset of the smallest gap that fits among the storages that live at the same time, their end if none does."""
    best, narrowest, end = -1, -1, 0
    for other in alive:
        gap = other.offset - end
        if gap >= storage.size and (best < 0 or gap < narrowest):
            best, narrowest = end, gap
        end = max(end, other.offset + other.size)
    return best if best >= 0 else end


def _writes(step: Step) -> list[Buffer]:
    if isinstance(step, (KernelStep, BranchStep)):
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
