"""What a kernel may know of the hardware it is generated for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Caps:
    """Capabilities of one target; kernels choose code and tile sizes from these and never from a target's name.

    Sizes are in bytes unless the name says bits. For a GPU, ``cores`` counts multiprocessors, ``l1_bytes`` is
    the combined L1 and shared memory of one, and ``vector_bits`` is the widest load or store of a thread.

    Attributes:
        vector_bits: width of a SIMD register.
        vector_registers: architectural SIMD registers (an accumulator tile must leave some of them free).
        fma: fused multiply-add on vectors of float32.
        multiplies_by_lane: fused multiply-add of a vector by one lane of another: the factors of several steps of a sum come
            with one load (64-bit ARM ``fmla v, v, v.s[i]``).
        vnni: x86 ``vpdpbusd`` (AVX-512 VNNI or AVX-VNNI).
        madd: x86 ``pmaddwd`` on whole registers (SSE2, AVX2, AVX-512BW).
        smlal: 64-bit ARM ``smlal``.
        dotprod: ARM ``sdot``/``udot``, or CUDA ``dp4a``.
        fp16: arithmetic (not only conversion) on vectors of float16.
        adds_halves: products of float16 are multiplied and, a limited number at a time, added up in float16 (64-bit ARM ``fmla``).
        i8mm: ARM ``smmla``, or int8 tensor cores.
        bf16: bfloat16 dot products, or bfloat16 tensor cores.
        tf32: tensor cores that multiply float32 with 11 bits of precision.
        in_order: instructions start in the order of the code, so what waits for a load or a sum holds up all behind it.
        decode_width: instructions that a loop brings into a core in one cycle.
        fma_per_cycle: fused multiply-adds on whole vector registers of float32 that a core starts in one cycle.
        fma_latency: cycles before a fused multiply-add's result can be accumulated into again.
        fetches_ahead: the hardware fetches streams ahead, also beyond the end of a page: code needn't do it.
        loads_per_cycle: loads of whole vector registers from the first-level cache that a core starts in one cycle.
        nan_minmax: an instruction for the minimum and one for the maximum of vectors of floats that give NaN where an operand is,
            and others that give the other one (ARM's ``fmin``, ``fmax`` and ``fminnm``, ``fmaxnm``; those of x86 give the second).
        slow_conversions: conversions between integers and floats, and roundings, take several times as long as additions, for
            which more pipelines are there (Neoverse N1: one for two cycles, additions either of two for one).
        saturating_casts: floats beyond the range of integers become the nearest one (ARM; on x86 all become the least).
        fast_subnormals: results that are subnormal, or underflow to 0, take no longer than others.
        overwrites_addend: a multiply-add of vectors leaves its result in the register of its addend, so that adding a constant that
            is used again takes a copy of it first.
        register_operands: arithmetic on vectors takes operands from registers alone, none from memory: constants take some.
        l1_bytes: first-level data cache of a core.
        l2_bytes: second-level cache of a core, or of the cluster where cores share it.
        l3_bytes: last-level cache of the machine; 0 when there is none.
        cores: how many run at once: the number of threads the code is planned for.
        sm: CUDA compute capability as in ``sm_80``; None for a CPU.
        shared_memory_bytes: the most shared memory that one block can ask for. Static allocations stop at 48 KiB
            whatever this says; more takes ``shared.dyn``.
        max_threads_per_block: 0 for a CPU.
        warp: threads that run in lockstep; 0 for a CPU.
    """

    vector_bits: int = 128
    vector_registers: int = 16
    fma: bool = False
    multiplies_by_lane: bool = False
    vnni: bool = False
    madd: bool = False
    smlal: bool = False
    dotprod: bool = False
    fp16: bool = False
    adds_halves: bool = False
    i8mm: bool = False
    bf16: bool = False
    tf32: bool = False
    in_order: bool = False
    decode_width: int = 4
    fma_per_cycle: float = 2
    fma_latency: int = 4
    loads_per_cycle: float = 2
    fetches_ahead: bool = False
    nan_minmax: bool = False
    slow_conversions: bool = False
    saturating_casts: bool = False
    fast_subnormals: bool = False
    overwrites_addend: bool = False
    register_operands: bool = False
    l1_bytes: int = 32 * 1024
    l2_bytes: int = 512 * 1024
    l3_bytes: int = 0
    cores: int = 1
    sm: int | None = None
    shared_memory_bytes: int = 0
    max_threads_per_block: int = 0
    warp: int = 0

    @property
    def thread_choices(self) -> tuple[bool, ...]:
        """Whether loops may be shared among threads: what there is to choose from."""
        return (False, True) if self.cores > 1 else (False,)

    def lanes(self, dtype_bytes: int) -> int:
        """How many elements of ``dtype_bytes`` bytes fit one vector register (at least 1)."""
        if dtype_bytes <= 0:
            raise ValueError(f"element size must be positive, not {dtype_bytes}")
        return max(1, self.vector_bits // (8 * dtype_bytes))
