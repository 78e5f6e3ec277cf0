"""Who wrote a buffer: asked for every operand, so answered from sets that grow with the program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from graphopt.backends.program.program import BranchStep, Buffer, JoinStep, KernelStep, Step, ViewStep


@dataclass
class Written:
    """What the steps of a program write.

    Attributes:
        steps: those of the program, which grow.
    """

    steps: Sequence[Step]
    _made: set[Buffer] = field(default_factory=set)
    _planned: set[Buffer] = field(default_factory=set)
    _views: dict[Buffer, Buffer] = field(default_factory=dict)
    _seen: int = 0

    def is_made(self, buffer: Buffer) -> bool:
        """Whether a kernel or branch wrote it, or what it is a view of: what comes from outside must not leave as a result."""
        self._read()
        while buffer in self._views:
            buffer = self._views[buffer]
        return buffer in self._made

    def is_own(self, buffer: Buffer) -> bool:
        """Whether the memory of a buffer is of the program."""
        self._read()
        return any(host in self._made or host in self._planned for host in buffer.hosts)

    def is_planned(self, buffer: Buffer) -> bool:
        """Whether a kernel or join makes it, so that its memory is the program's to place."""
        self._read()
        return buffer in self._planned

    def _read(self) -> None:
        for step in self.steps[self._seen :]:
            if isinstance(step, (KernelStep, BranchStep)):
                self._made.update(step.outputs)
            if isinstance(step, KernelStep):
                self._planned.update(step.outputs)
            elif isinstance(step, JoinStep):
                self._planned.add(step.output)
            elif isinstance(step, ViewStep):
                self._views[step.output] = step.input
        self._seen = len(self.steps)
