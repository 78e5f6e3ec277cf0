"""The compilation target as a value; `graphopt.backends.targets` knows what names it goes by and what code it takes."""

from __future__ import annotations

import operator
from dataclasses import asdict, dataclass, field
from typing import Any

from graphopt.backends.base.caps import Caps
from graphopt.errors import TargetError

MORE_ARCHES = "more_arches"
"""Entry of `Target.config` that TVM doesn't know: architectures besides ``arch`` that get code of the same kernels."""


@dataclass(frozen=True)
class Target:
    """One thing to generate code for.

    Attributes:
        name: canonical specification; `parse_target` takes it back. ``"x86"`` stands for the processor it was parsed
            on, so compare `config` to compare targets.
        kind: architecture of the kernels: the platform that knows what to do with it.
        config: TVM target of the kernels, as TVM's JSON dict; and `MORE_ARCHES`.
        host: TVM target of the code around the kernels; equal to ``config`` for CPUs.
        caps: what kernels may know.
    """

    name: str
    kind: str
    config: dict[str, Any] = field(hash=False)
    host: dict[str, Any] = field(hash=False)
    caps: Caps

    def __str__(self) -> str:
        return self.name

    def tvm_target(self) -> Any:
        """The ``tvm.target.Target``, with its host (imports TVM)."""
        from graphopt.backends.base.tvm_api import tvm

        config = {key: value for key, value in self.config.items() if key != MORE_ARCHES}
        return tvm.target.Target(config, host=tvm.target.Target(self.host))

    @property
    def arches(self) -> tuple[str, ...]:
        """Architectures of the device that get code, as in ``sm_80``, the oldest first; the last may be a virtual one, as in
        ``compute_90``, for GPUs to come. None for a CPU."""
        return (str(self.config["arch"]), *self.config.get(MORE_ARCHES, ())) if "arch" in self.config else ()

    @property
    def arch(self) -> str:
        """Machine that loads the library: ``x86_64``, ``aarch64``, ``armv7a``, ... (from the host triple)."""
        return self.triple.split("-")[0]

    @property
    def triple(self) -> str:
        """LLVM triple of the host: its machine and system."""
        return str(self.host["mtriple"])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form for manifests; `from_dict` reverses it exactly, on any machine."""
        return {
            "name": self.name,
            "kind": self.kind,
            "config": self.config,
            "host": self.host,
            "caps": asdict(self.caps),
        }

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Target:
        """The target that `to_dict` described.

        Raises:
            TargetError: a field is missing or unknown.
        """
        try:
            return Target(data["name"], data["kind"], data["config"], data["host"], Caps(**data["caps"]))
        except (KeyError, TypeError) as error:
            raise TargetError(f"not a target description: {error}") from error


def checked_threads(threads: object) -> int | None:
    """A number of threads that a caller has given, or None for the default.

    Raises:
        TargetError: it is no whole number, or less than 1.
    """
    if threads is None:
        return None
    hint = "leave it out for the default"
    try:
        if isinstance(threads, bool):
            raise TypeError("a truth value is no number")
        count = operator.index(threads)  # type: ignore[arg-type]  # what is no number raises
    except TypeError as error:
        raise TargetError(f"threads must be a whole number, not {threads!r:.60}", hint=hint) from error
    if count < 1:
        raise TargetError(f"threads must be at least 1, not {count}", hint=hint)
    return count
