"""64-bit ARM: LLVM feature names and CPU names to `Caps`, and what of them a host must have."""

from __future__ import annotations

from graphopt.backends.base.caps import Caps
from graphopt.backends.targets.arm.cores import core_of
from graphopt.backends.targets.arm.features import KERNEL_FLAGS


def caps_of(cpu: str, features: frozenset[str], *, cores: int, caches: dict[int, int] | None = None) -> Caps:
    """Capabilities of an aarch64 (or NEON-capable armv7) processor.

    SVE isn't counted: code is generated for 128-bit NEON, which every SVE machine also runs.

    Args:
        cpu: LLVM CPU name, used only for the class of core and typical cache sizes.
        features: LLVM features in force.
        cores: threads to plan for.
        caches: measured sizes in bytes by level, which win over the typical ones.
    """
    core = core_of(cpu)
    known = caches or {}
    is_64bit = "fp-armv8" in features
    return Caps(
        vector_bits=128,
        vector_registers=32 if is_64bit else 16,
        fma=is_64bit or "vfp4" in features,
        multiplies_by_lane=is_64bit,
        smlal=is_64bit,
        dotprod="dotprod" in features,
        fp16="fullfp16" in features,
        adds_halves=is_64bit and "fullfp16" in features,
        i8mm="i8mm" in features,
        bf16="bf16" in features,
        in_order=core.in_order,
        decode_width=core.decode_width,
        fma_per_cycle=core.fma_per_cycle,
        fma_latency=core.fma_latency,
        loads_per_cycle=core.loads_per_cycle,
        fetches_ahead=not core.in_order,
        l1_bytes=known.get(1, core.l1_bytes),
        l2_bytes=known.get(2, core.l2_bytes),
        l3_bytes=known.get(3, core.l3_bytes),
        nan_minmax=is_64bit,
        slow_conversions=is_64bit and core.slow_conversions,
        saturating_casts=is_64bit,
        fast_subnormals=is_64bit,
        overwrites_addend=is_64bit,
        register_operands=is_64bit,
        cores=cores,
    )


def required_features(features: frozenset[str]) -> frozenset[str]:
    """The part of ``features`` without which generated code would stop with an illegal instruction."""
    return features & KERNEL_FLAGS.keys()
