"""What kinds of 64-bit ARM cores there are: how much they do in a cycle, and what caches their parts have.

Sources are Arm's software optimisation guides, LLVM's scheduling models, and for what neither says of in-order cores measurements
that ncnn and XNNPACK published: Cortex-A53 and A55 have two pipes of 64 bits, so they start one product of whole registers in a
cycle, where LLVM's model of the A55 takes them for two, and a load of 128 bits occupies them for two cycles. Cores since the
Cortex-A76 hand a sum to the next multiply-add after 2 cycles; they are given the 4 of a product that comes from elsewhere, as in
LLVM's models, because with longer chains nothing is lost. Conversions are slow by LLVM's models of the Neoverse N1, N2, V1 and V2,
the second of which it also takes for Cortex-A710, X2 and later; Cortex-A76 to A78 and X1, for which it has none, are taken for
the same. Of the Cortex-A57, Ampere's and Apple's cores its models say that a conversion takes as long as an addition.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class Core:
    """One class of cores; fields as those of `Caps`, caches as in typical parts; of those that cores share, a core's part or so."""

    in_order: bool = False
    decode_width: int = 4
    fma_per_cycle: float = 2
    fma_latency: int = 4
    loads_per_cycle: float = 2
    l1_bytes: int = 32 * KIB
    l2_bytes: int = 256 * KIB
    l3_bytes: int = 0
    slow_conversions: bool = False


# By pattern of LLVM's names.
_CORES: tuple[tuple[str, Core], ...] = (
    (r"cortex-a(34|35|53)", Core(True, 2, 1, 8, 0.5)),
    (r"cortex-(a55|r82.*)", Core(True, 2, 1, 4, 0.5, 32 * KIB, 128 * KIB, MIB)),
    (r"cortex-a(320|510|520.*)|c1-nano", Core(True, 3, 2, 4, 2)),
    (r"cortex-a65.*|neoverse-e1", Core(False, 2, 1, 4, 1)),
    (r"cortex-a(57|72)", Core(False, 3, 1, 4, 1, 32 * KIB, 512 * KIB)),
    (r"cortex-a73", Core(False, 2, 1, 4, 1, 32 * KIB, 512 * KIB)),
    (r"cortex-a75", Core(False, 3, 1, 4, 2, 32 * KIB, 512 * KIB)),
    (r"cortex-a76.*", Core(False, 4, 2, 4, 2, 64 * KIB, 512 * KIB, 2 * MIB, slow_conversions=True)),
    (r"cortex-a77", Core(False, 6, 2, 4, 2, 64 * KIB, 256 * KIB, 2 * MIB, slow_conversions=True)),
    (r"cortex-a78.*", Core(False, 6, 2, 4, 3, 64 * KIB, 256 * KIB, 2 * MIB, slow_conversions=True)),
    (
        r"cortex-a(710|715|720.*|725)|c1-pro",
        Core(False, 5, 2, 4, 3, 64 * KIB, 256 * KIB, 2 * MIB, slow_conversions=True),
    ),
    (r"cortex-x(4|925)|c1-(premium|ultra)", Core(False, 10, 4, 4, 3, 64 * KIB, MIB, 4 * MIB, slow_conversions=True)),
    (r"cortex-x.*", Core(False, 8, 4, 4, 3, 64 * KIB, MIB, 4 * MIB, slow_conversions=True)),
    (r"neoverse-n1", Core(False, 4, 2, 4, 2, 64 * KIB, MIB, 16 * MIB, slow_conversions=True)),
    (r"ampere1.*", Core(False, 4, 2, 4, 2, 64 * KIB, MIB, 16 * MIB)),
    (r"neoverse-n.*|cobalt-100", Core(False, 5, 2, 4, 3, 64 * KIB, MIB, 16 * MIB, slow_conversions=True)),
    (r"neoverse-(v|512).*|grace|gb10|olympus", Core(False, 8, 4, 4, 3, 64 * KIB, MIB, 32 * MIB, slow_conversions=True)),
    (r"apple-a([7-9]|1[0-3])", Core(False, 6, 3, 4, 2, 128 * KIB, 4 * MIB, 8 * MIB)),
    (r"apple-.*|oryon.*", Core(False, 8, 4, 4, 3, 128 * KIB, 4 * MIB, 8 * MIB)),
)
_UNKNOWN = Core()


def core_of(cpu: str) -> Core:
    """The class of a core by LLVM's name; of one that isn't listed, and of ``generic``, a plain one out of order."""
    return next((core for pattern, core in _CORES if re.fullmatch(pattern, cpu)), _UNKNOWN)
