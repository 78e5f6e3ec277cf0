"""CUDA: compute capability to `Caps`, and that of the GPU that is present."""

from __future__ import annotations

import re
from collections.abc import Collection

from graphopt.backends.base.caps import Caps
from graphopt.backends.cuda.gpu.driver import driver

KIB = 1024
MIB = 1024 * KIB
DEFAULT_SM = 75

# sm -> (shared memory of a block with opt-in, L1 and shared memory of a multiprocessor, L2, multiprocessors),
# sizes in bytes, counts of a usual part. Source: CUDA C Programming Guide, technical specifications.
_CHIPS: dict[int, tuple[int, int, int, int]] = {
    70: (96 * KIB, 128 * KIB, 6 * MIB, 80),
    72: (96 * KIB, 128 * KIB, 512 * KIB, 8),
    75: (64 * KIB, 96 * KIB, 4 * MIB, 40),
    80: (163 * KIB, 192 * KIB, 40 * MIB, 108),
    86: (99 * KIB, 128 * KIB, 6 * MIB, 84),
    87: (163 * KIB, 192 * KIB, 4 * MIB, 16),
    89: (99 * KIB, 128 * KIB, 72 * MIB, 128),
    90: (227 * KIB, 256 * KIB, 50 * MIB, 132),
    100: (227 * KIB, 256 * KIB, 126 * MIB, 148),
    103: (227 * KIB, 256 * KIB, 126 * MIB, 148),
    110: (227 * KIB, 256 * KIB, 32 * MIB, 20),
    120: (99 * KIB, 128 * KIB, 96 * MIB, 170),
    121: (99 * KIB, 128 * KIB, 24 * MIB, 48),
}


def known_arches() -> tuple[str, ...]:
    """The spellings ``sm_NN`` that `parse_arch` takes."""
    return tuple(f"sm_{sm}" for sm in _CHIPS)


def parse_arch(arch: str) -> int | None:
    """The number in ``sm_80`` or ``sm_90a``, or None for anything that isn't a known compute capability."""
    match = re.fullmatch(r"sm_(\d+)[af]?", arch)
    sm = int(match[1]) if match else 0
    return sm if sm in _CHIPS else None


def caps_of(sms: Collection[int]) -> Caps:
    """What GPUs of all these compute capabilities (keys of the table above) have, so that one program runs on each of them.

    Sizes and types of tensor cores are the least of all. How many multiprocessors to share work among is no limit, only what
    kernels are planned for: the one in the middle is nearest to all of them, where the least would leave the largest GPUs idle.
    """
    chips = [_CHIPS[sm] for sm in sms]
    shared, l1, l2 = (min(chip[i] for chip in chips) for i in range(3))
    oldest = min(sms)
    return Caps(
        vector_bits=128,
        vector_registers=255,
        fma=True,
        dotprod=True,
        fp16=True,
        i8mm=oldest >= 72,
        # where some of them lack it, the same instruction is computed in float32
        bf16=max(sms) >= 80,
        tf32=max(sms) >= 80,
        l1_bytes=l1,
        l2_bytes=l2,
        cores=sorted(chip[3] for chip in chips)[len(chips) // 2],
        sm=oldest,
        shared_memory_bytes=shared,
        max_threads_per_block=1024,
        warp=32,
    )


def detect_sm(index: int = 0) -> int | None:
    """Compute capability of a GPU of this machine; None where there is no such GPU, or no driver."""
    found = driver()
    return found.gpus[index].sm if found is not None and 0 <= index < len(found.gpus) else None
