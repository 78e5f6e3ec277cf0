"""The exception hierarchy: every failure says what is wrong, where in the model, and what to do about it.

Exit codes of the command line follow the class: user errors 2, accuracy 3, compile 4, device 5, internal 70.
The library raises these and never prints; only ``graphopt.cli`` turns them into text.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import ClassVar


class GraphOptError(Exception):
    """Base of all errors raised on purpose.

    Attributes:
        code: stable machine-readable identifier, kebab-case.
        message: one sentence saying what is wrong.
        hint: what the user can do about it, or None.
        node: the ONNX node concerned as ``name (OpType)``, or None.
        notes: further lines of detail.
    """

    default_code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 70

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        node: str | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.code = code or self.default_code
        self.message = message
        self.hint = hint
        self.node = node
        self.notes = tuple(notes)
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [f"{self.code}: {self.message}"]
        if self.node:
            lines.append(f"  node: {self.node}")
        lines.extend(f"  note: {note}" for note in self.notes)
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)

    def add_note_line(self, note: str) -> None:
        """Append a line of detail, once."""
        if note not in self.notes:
            self.notes = (*self.notes, note)
            self.args = (str(self),)

    def to_dict(self) -> dict[str, object]:
        """The same facts for ``--json`` output."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "node": self.node,
            "notes": list(self.notes),
            "exit_code": self.exit_code,
        }


class UserError(GraphOptError):
    """The request can't be met as asked: bad model, bad option, bad input array."""

    default_code = "user-error"
    exit_code = 2


class ModelError(UserError):
    """The model file is missing, damaged, invalid or unsafe to read."""

    default_code = "bad-model"


class UnsupportedOpError(UserError):
    """An operator, attribute, dtype or shape form that can't be compiled correctly, so it isn't compiled at all."""

    default_code = "unsupported-op"


class InputError(UserError):
    """A run-time input has the wrong name, dtype or shape."""

    default_code = "bad-input"


class TargetError(UserError):
    """Unknown or malformed target."""

    default_code = "bad-target"


class ArtifactError(UserError):
    """A ``.gopt`` file is damaged, of another version, or for another machine."""

    default_code = "bad-artifact"


class AccuracyError(GraphOptError):
    """Compiled results differ from the reference by more than the tolerance table allows."""

    default_code = "accuracy"
    exit_code = 3


class CompileError(GraphOptError):
    """Code generation or linking failed, or a tool that it needs is missing."""

    default_code = "compile-error"
    exit_code = 4


class DeviceError(GraphOptError):
    """The device asked for is absent or failed while running."""

    default_code = "device-error"
    exit_code = 5


class InternalError(GraphOptError):
    """A broken invariant of graphopt itself: always a bug worth reporting."""

    default_code = "internal-error"
    exit_code = 70


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """The hint ``did you mean 'x'?`` for the closest known word, or None when nothing is close."""
    folded = {k.lower(): k for k in known}
    matches = difflib.get_close_matches(word.lower(), list(folded), n=1, cutoff=0.6)
    return f"did you mean {folded[matches[0]]!r}?" if matches else None
