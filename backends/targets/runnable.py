"""Whether code for a target runs on this machine, and the named targets with that answer."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from graphopt.backends.base.host import host_arch
from graphopt.backends.base.target import Target, host_features, parse_target
from graphopt.backends.targets.arm import caps as arm_caps
from graphopt.backends.targets.cuda import caps as cuda_caps
from graphopt.backends.targets.x86 import caps as x86_caps
from graphopt.errors import DeviceError


@dataclass(frozen=True)
class Runnable:
    """Answer of `can_run_here`: true or false in a condition, with the reason for a no."""

    ok: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.ok


def can_run_here(target: Target) -> Runnable:
    """Whether code for ``target`` would run in this process, without running it."""
    from graphopt.backends.base.tvm_api import llvm_features

    if target.kind == "cuda":
        here = cuda_caps.detect_sm()
        if here is None:
            return Runnable(False, "no CUDA driver or GPU on this machine")
        wanted = target.caps.sm or 0
        if here // 10 != wanted // 10 or here < wanted:
            return Runnable(False, f"machine code for sm_{wanted} doesn't run on this sm_{here} GPU")
    cpu_kind = "x86" if target.arch in ("x86_64", "amd64") else "arm"
    if cpu_kind != host_arch() or (cpu_kind == "arm" and target.arch != "aarch64"):
        return Runnable(False, f"the code is for {target.arch}, this machine is {platform.machine()}")
    required = (x86_caps if cpu_kind == "x86" else arm_caps).required_features(llvm_features(target.host))
    present = host_features(cpu_kind)
    missing = sorted(name for name in required if present.get(name) is False)
    if missing:
        return Runnable(False, f"this processor lacks {', '.join(missing)}")
    return Runnable(True)


def require_runnable(target: Target) -> None:
    """Raise DeviceError unless `can_run_here`."""
    verdict = can_run_here(target)
    if not verdict:
        raise DeviceError(
            f"code for target {target.name!r} can't run here: {verdict.reason}",
            hint="compile for this machine with --target native" if target.kind != "cuda" else None,
        )


@dataclass(frozen=True)
class TargetInfo:
    """One line of ``graphopt targets``."""

    name: str
    description: str
    runnable: Runnable


def list_targets() -> list[TargetInfo]:
    """The named targets with what they are and whether they run here; any LLVM CPU name works too (``x86:znver3``)."""
    described = {
        "x86": "this machine's processor, all its features" if host_arch() == "x86" else "x86-64-v3",
        "x86-64-v2": "any x86 since about 2009: SSE4.2",
        "x86-64-v3": "any x86 since about 2014: AVX2 and FMA",
        "x86-64-v4": "x86 with AVX-512",
        "arm": "any 64-bit ARM: ARMv8-A with NEON",
        "arm:cortex-a76": "ARMv8.2: dot product and fp16 (Raspberry Pi 5, most phones since 2018)",
        "arm:neoverse-n1": "ARM servers: AWS Graviton 2, Ampere Altra",
        "arm:neoverse-v1": "AWS Graviton 3: i8mm and bf16",
        "cuda:sm_75": "NVIDIA Turing (T4)",
        "cuda:sm_80": "NVIDIA Ampere (A100)",
        "cuda:sm_86": "NVIDIA Ampere (RTX 30, A10)",
        "cuda:sm_89": "NVIDIA Ada (RTX 40, L4)",
        "cuda:sm_90": "NVIDIA Hopper (H100)",
    }
    return [TargetInfo(name, text, can_run_here(parse_target(name))) for name, text in described.items()]
