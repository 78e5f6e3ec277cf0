"""What a GPU of each compute capability does in a cycle, as its maker publishes it.

Sources: NVIDIA's whitepapers on the Turing, A100, GA102, Ada and H100 architectures, and the CUDA C Programming Guide's table of
arithmetic throughput. One part stands for its capability: T4, A100 (40 GB), A10, L4 and H100 (SXM).
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.backends.base.caps import Caps


@dataclass(frozen=True)
class Chip:
    """One part.

    Attributes:
        name: of the part.
        multiprocessors: how many it has.
        clock: hertz, when busy.
        memory: bytes a second.
        l2: bytes a cycle from the second-level cache to one multiprocessor.
        products: multiply-adds of float16 on tensor cores (mma.sync, sums in float32) of a multiprocessor in a cycle; tf32 takes
            twice the time, bytes half.
        fmas: multiply-adds of float32 without tensor cores.
        shared: bytes of shared memory of a multiprocessor.
        threads: that a multiprocessor keeps.
    """

    name: str
    multiprocessors: int
    clock: float
    memory: float
    l2: float
    products: int
    fmas: int
    shared: int
    threads: int

    def rate(self, product: str) -> float:
        """Multiply-adds of a multiprocessor in a cycle, by name of the product."""
        if product == "fma":
            return self.fmas
        return self.products * {"f16": 1.0, "bf16": 1.0, "tf32": 0.5}.get(product, 2.0)


_KIB = 1024
CHIPS: dict[int, Chip] = {
    75: Chip("T4", 40, 1.3e9, 320e9, 64, 512, 64, 64 * _KIB, 1024),
    80: Chip("A100", 108, 1.41e9, 1555e9, 64, 1024, 64, 164 * _KIB, 2048),
    86: Chip("A10", 72, 1.5e9, 600e9, 64, 512, 128, 100 * _KIB, 1536),
    89: Chip("L4", 58, 1.5e9, 300e9, 64, 512, 128, 100 * _KIB, 1536),
    # mma.sync reaches five eighths of what wgmma does on this one
    90: Chip("H100", 132, 1.6e9, 3350e9, 64, 1280, 128, 228 * _KIB, 2048),
}


def chip_of(caps: Caps) -> Chip:
    """The part that stands for a compute capability: the nearest one below it."""
    sm = caps.sm or 0
    return CHIPS[max((known for known in CHIPS if known <= sm), default=min(CHIPS))]
