"""Whether code for a target runs on this machine, and the named targets with that answer."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.base.runnable import Runnable
from graphopt.backends.base.target import Target
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.platforms import PLATFORMS, platform_of


def can_run_here(target: Target) -> Runnable:
    """Whether code for ``target`` would run in this process, without running it."""
    return platform_of(target).can_run(target)


@dataclass(frozen=True)
class TargetInfo:
    """One line of ``graphopt targets``."""

    name: str
    description: str
    runnable: Runnable


def list_targets() -> list[TargetInfo]:
    """The named targets with what they are and whether they run here; any LLVM CPU name works too (``x86:znver3``)."""
    described = {name: text for platform in PLATFORMS.values() for name, text in platform.described.items()}
    return [TargetInfo(name, text, can_run_here(parse_target(name))) for name, text in described.items()]
