"""What an imported model says otherwise than the ONNX specification, where its meaning is plain all the same."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Deviation:
    """One departure from the specification that the import accepted.

    Attributes:
        rule: short name of the kind, kebab-case.
        where: the value, node or file concerned.
        text: what was found and what it is taken for.
    """

    rule: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"
