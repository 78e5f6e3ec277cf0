"""x86-64: LLVM feature names and CPU names to `Caps`, and what of them a host must have."""

from __future__ import annotations

import re

from graphopt.backends.base.caps import Caps

KIB = 1024
MIB = 1024 * KIB

_AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})

# (pattern of LLVM CPU names, L1 data, L2, L3) in bytes: typical parts, for cross-compiling.
_CACHES: tuple[tuple[str, int, int, int], ...] = (
    (r"znver[45]", 32 * KIB, MIB, 32 * MIB),
    (r"znver[123]", 32 * KIB, 512 * KIB, 16 * MIB),
    (r"(sapphire|emerald|granite|diamond)rapids.*", 48 * KIB, 2 * MIB, 60 * MIB),
    (r"(icelake[-_]server)", 48 * KIB, 1280 * KIB, 36 * MIB),
    (r"(icelake[-_]client|tigerlake|rocketlake)", 48 * KIB, 512 * KIB, 8 * MIB),
    (
        r"(alderlake|raptorlake|meteorlake|arrowlake.*|lunarlake|pantherlake|wildcatlake|novalake)",
        48 * KIB,
        2 * MIB,
        24 * MIB,
    ),
    (r"(skylake[-_]avx512|skx|cascadelake|cooperlake)", 32 * KIB, MIB, 24 * MIB),
    (r"x86-64-v4", 32 * KIB, MIB, 16 * MIB),
    (r"(haswell|broadwell|skylake|core-avx2|x86-64-v3)", 32 * KIB, 256 * KIB, 8 * MIB),
)
_DEFAULT_CACHES = (32 * KIB, 256 * KIB, 4 * MIB)

# Features that never appear in generated code: privileged, cache-control, or taking an intrinsic.
_IRRELEVANT = re.compile(
    r"amx-.*|cldemote|clflushopt|clwb|clzero|enqcmd|fsgsbase|fxsr|hreset|invpcid|kl|lwp|mmx|movdir64b|movdiri|mwaitx|pconfig"
    r"|pku|prefetchi|prfchw|ptwrite|rdpid|rdpru|rdrnd|rdseed|rtm|serialize|sgx|shstk|tsxldtrk|uintr|usermsr|waitpkg|wbnoinvd"
    r"|widekl|xsave.*|x87|64bit.*"
)


def caps_of(cpu: str, features: frozenset[str], *, cores: int, caches: dict[int, int] | None = None) -> Caps:
    """Capabilities of an x86-64 processor.

    Args:
        cpu: LLVM CPU name, used only for typical cache sizes.
        features: LLVM features in force.
        cores: threads to plan for.
        caches: measured sizes in bytes by level, which win over the typical ones.
    """
    wide = features >= _AVX512
    l1, l2, l3 = next((sizes for pattern, *sizes in _CACHES if re.fullmatch(pattern, cpu)), _DEFAULT_CACHES)
    known = caches or {}
    return Caps(
        vector_bits=512 if wide else 256 if "avx2" in features else 128,
        vector_registers=32 if wide else 16,
        fma="fma" in features,
        vnni=("avx512vnni" in features and wide) or "avxvnni" in features,
        madd="avx512bw" in features if wide else "sse2" in features,
        fp16="avx512fp16" in features,
        bf16="avx512bf16" in features,
        l1_bytes=known.get(1, l1),
        l2_bytes=known.get(2, l2),
        l3_bytes=known.get(3, l3),
        cores=cores,
    )


def required_features(features: frozenset[str]) -> frozenset[str]:
    """The part of ``features`` without which generated code would stop with an illegal instruction."""
    return frozenset(name for name in features if not _IRRELEVANT.fullmatch(name))


# Kernel names (/proc/cpuinfo) of the features that matter, for when LLVM can't tell.
CPUINFO_NAMES = {
    "sse3": "pni",
    "ssse3": "ssse3",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "lzcnt": "abm",
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "popcnt": "popcnt",
    "f16c": "f16c",
    "fma": "fma",
    "avx": "avx",
    "avx2": "avx2",
    "avxvnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512cd": "avx512cd",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512vnni": "avx512_vnni",
    "avx512vbmi": "avx512vbmi",
    "avx512ifma": "avx512ifma",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
}
