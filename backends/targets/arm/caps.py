"""64-bit ARM: LLVM feature names and CPU names to `Caps`, and what of them a host must have."""

from __future__ import annotations

import re

from graphopt.backends.base.caps import Caps

KIB = 1024
MIB = 1024 * KIB

# (pattern of LLVM CPU names, L1 data, L2, L3 or system cache) in bytes: typical parts, for cross-compiling.
_CACHES: tuple[tuple[str, int, int, int], ...] = (
    (r"cortex-a(34|35|53|55|510|520.*)", 32 * KIB, 256 * KIB, 0),
    (r"cortex-a(57|72|73|75)", 32 * KIB, 512 * KIB, 0),
    (r"cortex-a(76.*|77|78.*|710|715|720.*|725)", 64 * KIB, 256 * KIB, 2 * MIB),
    (r"cortex-x.*", 64 * KIB, 512 * KIB, 4 * MIB),
    (r"neoverse-n.*|ampere1.*", 64 * KIB, MIB, 16 * MIB),
    (r"(neoverse-(v|512).*|grace|gb10|olympus)", 64 * KIB, MIB, 32 * MIB),
    (r"apple-.*|oryon.*", 128 * KIB, 4 * MIB, 8 * MIB),
)
_DEFAULT_CACHES = (32 * KIB, 256 * KIB, 0)

# LLVM's name of a feature that generated code uses, to the kernel's name of it in /proc/cpuinfo.
CPUINFO_NAMES = {
    "neon": "asimd",
    "dotprod": "asimddp",
    "fullfp16": "asimdhp",
    "fp16fml": "asimdfhm",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "lse": "atomics",
    "rdm": "asimdrdm",
    "jsconv": "jscvt",
    "complxnum": "fcma",
    "rcpc": "lrcpc",
    "sve": "sve",
    "sve2": "sve2",
}


def caps_of(cpu: str, features: frozenset[str], *, cores: int, caches: dict[int, int] | None = None) -> Caps:
    """Capabilities of an aarch64 (or NEON-capable armv7) processor.

    SVE isn't counted: code is generated for 128-bit NEON, which every SVE machine also runs.

    Args:
        cpu: LLVM CPU name, used only for typical cache sizes.
        features: LLVM features in force.
        cores: threads to plan for.
        caches: measured sizes in bytes by level, which win over the typical ones.
    """
    l1, l2, l3 = next((sizes for pattern, *sizes in _CACHES if re.fullmatch(pattern, cpu)), _DEFAULT_CACHES)
    known = caches or {}
    is_64bit = "fp-armv8" in features
    return Caps(
        vector_bits=128,
        vector_registers=32 if is_64bit else 16,
        fma=is_64bit or "vfp4" in features,
        smlal=is_64bit,
        dotprod="dotprod" in features,
        fp16="fullfp16" in features,
        i8mm="i8mm" in features,
        bf16="bf16" in features,
        l1_bytes=known.get(1, l1),
        l2_bytes=known.get(2, l2),
        l3_bytes=known.get(3, l3),
        cores=cores,
    )


def required_features(features: frozenset[str]) -> frozenset[str]:
    """The part of ``features`` without which generated code would stop with an illegal instruction."""
    return features & CPUINFO_NAMES.keys()
