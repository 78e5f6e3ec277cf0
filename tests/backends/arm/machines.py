"""``/proc/cpuinfo`` as ARM machines print it, of which nothing but the cores' numbers, parts and features matters."""

from __future__ import annotations

_BLOCK = """processor\t: {number}
BogoMIPS\t: 108.00
Features\t: {features}
CPU implementer\t: {implementer}
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: {part}
CPU revision\t: 1

"""
_V8 = "fp asimd evtstrm aes pmull sha1 sha2 crc32"
_V82 = f"{_V8} atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
_V1 = (
    f"{_V8} atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop sha3 sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc"
    " flagm ssbs paca pacg dcpodp svei8mm svebf16 i8mm bf16 dgh rng"
)
_M1 = (
    f"{_V8} atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop sha3 asimddp sha512 asimdfhm dit uscat ilrcpc flagm ssbs sb"
    " paca pacg dcpodp flagm2 frint"
)


def cpuinfo(*cores: tuple[int, int], features: str, implementer: int = 0x41) -> str:
    """The text of a machine with so many cores of each part."""
    parts = [part for count, part in cores for _ in range(count)]
    return "".join(
        _BLOCK.format(number=i, features=features, implementer=f"{implementer:#x}", part=f"{part:#x}")
        for i, part in enumerate(parts)
    )


PI_4 = cpuinfo((4, 0xD08), features="fp asimd evtstrm crc32 cpuid") + "Revision\t: c03115\nModel\t\t: Raspberry Pi 4\n"
PI_5 = cpuinfo((4, 0xD0B), features=_V82) + "Revision\t: d04170\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n"
GRAVITON_2 = cpuinfo((2, 0xD0C), features=f"{_V82} ssbs")
GRAVITON_3 = cpuinfo((4, 0xD40), features=_V1)
PHONE = cpuinfo((4, 0xD05), (3, 0xD41), (1, 0xD44), features=_V82)  # Cortex-A55, A78 and X1: Snapdragon 888
ASAHI = cpuinfo((4, 0x22), (4, 0x23), features=_M1, implementer=0x61)  # efficient, then fast cores
EMULATED = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\nflags\t\t: fpu sse avx2 fma\n\n"  # of the x86 below
ARMV7 = (
    "processor\t: 0\nmodel name\t: ARMv7 Processor rev 4 (v7l)\n"
    "Features\t: half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva\n"
    "CPU implementer\t: 0x41\nCPU architecture: 7\nCPU variant\t: 0x0\nCPU part\t: 0xd03\nCPU revision\t: 4\n\n"
)
