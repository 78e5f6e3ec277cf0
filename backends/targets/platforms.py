"""The kinds of targets there are. A new one is a line here and an object of its own."""

from __future__ import annotations

from graphopt.backends.base.target import Target
from graphopt.backends.cpu.platform import CpuPlatform
from graphopt.backends.program.platform import Platform
from graphopt.backends.targets.arm.platform import Arm
from graphopt.backends.targets.cuda.platform import Cuda
from graphopt.backends.targets.x86.platform import X86

CPUS: tuple[CpuPlatform, ...] = (X86(), Arm())
PLATFORMS: dict[str, Platform] = {platform.kind: platform for platform in (*CPUS, Cuda(CPUS))}
"""By ``Target.kind``."""


def platform_of(target: Target) -> Platform:
    """What a target's kind brings."""
    return PLATFORMS[target.kind]
