"""Features of 64-bit ARM processors that generated code may use: LLVM's names, Linux's, and Linux's bits for them."""

from __future__ import annotations

from graphopt.backends.build.processor import KernelFlag

KERNEL_FLAGS = {
    "neon": KernelFlag("asimd", 0, 1),
    "lse": KernelFlag("atomics", 0, 8),
    "fullfp16": KernelFlag("asimdhp", 0, 10),
    "rdm": KernelFlag("asimdrdm", 0, 12),
    "jsconv": KernelFlag("jscvt", 0, 13),
    "complxnum": KernelFlag("fcma", 0, 14),
    "rcpc": KernelFlag("lrcpc", 0, 15),
    "sha3": KernelFlag("sha3", 0, 17),
    "dotprod": KernelFlag("asimddp", 0, 20),
    "sve": KernelFlag("sve", 0, 22),
    "fp16fml": KernelFlag("asimdfhm", 0, 23),
    "rcpc-immo": KernelFlag("ilrcpc", 0, 26),
    "sve2": KernelFlag("sve2", 1, 1),
    "i8mm": KernelFlag("i8mm", 1, 13),
    "bf16": KernelFlag("bf16", 1, 14),
    "cssc": KernelFlag("cssc", 1, 34),
    "mops": KernelFlag("mops", 1, 43),
}
"""By LLVM's names. What takes an intrinsic that no kernel calls is left out: AES, SHA-1 and 2 and CRC, of which LLVM takes every
Cortex-A72 to have those that a Raspberry Pi 4 lacks, and what only operating systems use."""

KERNEL_FLAGS_32 = {
    "neon": KernelFlag("neon", 0, 12),
    "vfp4": KernelFlag("vfpv4", 0, 16),
    "hwdiv-arm": KernelFlag("idiva", 0, 17),
    "hwdiv": KernelFlag("idivt", 0, 18),
    "fullfp16": KernelFlag("asimdhp", 0, 23),
    "dotprod": KernelFlag("asimddp", 0, 24),
    "fp16fml": KernelFlag("asimdfhm", 0, 25),
    "bf16": KernelFlag("asimdbf16", 0, 26),
    "i8mm": KernelFlag("i8mm", 0, 27),
}
"""The same of programs for 32 bits, whose words are others."""


def flags_of(words: tuple[int, int]) -> frozenset[str]:
    """Linux's names of the features that ``AT_HWCAP`` and ``AT_HWCAP2`` hold."""
    return frozenset(flag.name for flag in KERNEL_FLAGS.values() if words[flag.word] >> flag.bit & 1)
