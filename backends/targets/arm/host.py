"""The ARM processor of this machine, as Linux describes it: what its cores are, and what all of them can do."""

from __future__ import annotations

import ctypes
import os
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from graphopt.backends.base.host import host_caches
from graphopt.backends.targets.arm.cores import core_of
from graphopt.backends.targets.arm.features import flags_of

_CPUINFO = Path("/proc/cpuinfo")
_CPUS = Path("/sys/devices/system/cpu")
_AT_HWCAP, _AT_HWCAP2 = 16, 26

# By implementer and part, as in the register MIDR_EL1.
_NAMES: dict[int, dict[int, str]] = {
    0x41: {  # Arm
        0xD02: "cortex-a34", 0xD03: "cortex-a53", 0xD04: "cortex-a35", 0xD05: "cortex-a55", 0xD06: "cortex-a65",
        0xD07: "cortex-a57", 0xD08: "cortex-a72", 0xD09: "cortex-a73", 0xD0A: "cortex-a75", 0xD0B: "cortex-a76",
        0xD0C: "neoverse-n1", 0xD0D: "cortex-a77", 0xD0E: "cortex-a76ae", 0xD40: "neoverse-v1", 0xD41: "cortex-a78",
        0xD42: "cortex-a78ae", 0xD43: "cortex-a65ae", 0xD44: "cortex-x1", 0xD46: "cortex-a510", 0xD47: "cortex-a710",
        0xD48: "cortex-x2", 0xD49: "neoverse-n2", 0xD4A: "neoverse-e1", 0xD4B: "cortex-a78c", 0xD4C: "cortex-x1c",
        0xD4D: "cortex-a715", 0xD4E: "cortex-x3", 0xD4F: "neoverse-v2", 0xD80: "cortex-a520", 0xD81: "cortex-a720",
        0xD82: "cortex-x4", 0xD83: "neoverse-v3ae", 0xD84: "neoverse-v3", 0xD85: "cortex-x925", 0xD87: "cortex-a725",
        0xD88: "cortex-a520ae", 0xD89: "cortex-a720ae", 0xD8E: "neoverse-n3",
    },
    0x46: {0x001: "a64fx"},  # Fujitsu
    0x48: {0xD01: "tsv110", 0xD40: "cortex-a76"},  # HiSilicon
    0x4E: {0x004: "carmel"},  # Nvidia
    0x51: {  # Qualcomm
        0x001: "oryon-1", 0x800: "cortex-a73", 0x801: "cortex-a53", 0x802: "cortex-a75", 0x803: "cortex-a55", 0x804: "cortex-a76",
        0x805: "cortex-a55", 0xC00: "falkor", 0xC01: "saphira",
    },
    0x61: {  # Apple, its efficient cores too: LLVM has a name for each generation
        0x022: "apple-m1", 0x023: "apple-m1", 0x024: "apple-m1", 0x025: "apple-m1", 0x028: "apple-m1", 0x029: "apple-m1",
        0x032: "apple-m2", 0x033: "apple-m2", 0x034: "apple-m2", 0x035: "apple-m2", 0x038: "apple-m2", 0x039: "apple-m2",
    },
    0x6D: {0xD49: "cobalt-100"},  # Microsoft
    0xC0: {0xAC3: "ampere1", 0xAC4: "ampere1a", 0xAC5: "ampere1b"},  # Ampere
}  # fmt: skip


@dataclass(frozen=True)
class Processor:
    """One block of ``/proc/cpuinfo``: a core. A field that it lacks is None, or empty."""

    number: int
    implementer: int | None
    part: int | None
    flags: frozenset[str]

    @property
    def name(self) -> str | None:
        """LLVM's name; None where none is known."""
        return _NAMES.get(self.implementer or 0, {}).get(self.part or 0)


@dataclass(frozen=True)
class ArmHost:
    """What code for this machine may count on.

    Attributes:
        cpu: LLVM's name of the kind of core that code suits: of several kinds the one that has most multiply-adds a cycle, all
            its cores together. None where no core is known.
        flags: Linux's names of the features of all cores.
        caches: of a core of that kind, in bytes by level; a level is missing where the system doesn't tell.
    """

    cpu: str | None
    flags: frozenset[str]
    caches: dict[int, int]


def read_processors(text: str) -> list[Processor]:
    """The cores in a text of ``/proc/cpuinfo``; kernels for 32 bits give what is the same of all behind the last."""
    shared = _fields(text)
    found = []
    for block in re.split(r"\n\s*\n", text):
        fields = _fields(block)
        if not fields.get("processor", "").isdecimal():
            continue
        fields = {**shared, **fields}
        features = fields.get("Features", "").split()
        implementer, part = _number(fields.get("CPU implementer")), _number(fields.get("CPU part"))
        found.append(Processor(int(fields["processor"]), implementer, part, frozenset(features)))
    return found


def describe_host(text: str, allowed: Collection[int] | None, words: tuple[int, int], cpus: Path = _CPUS) -> ArmHost:
    """What a machine is.

    Args:
        text: of ``/proc/cpuinfo``.
        allowed: numbers of the CPUs that count; by default all.
        words: ``AT_HWCAP`` and ``AT_HWCAP2``, which count where the text names no features: under an emulator it may be another
            machine's.
        cpus: the folder of ``/sys`` with one for each CPU.
    """
    listed = [p for p in read_processors(text) if p.flags]
    cores = [p for p in listed if allowed is None or p.number in allowed] or listed
    flags = frozenset.intersection(*(p.flags for p in cores)) if cores else flags_of(words)
    names = Counter(p.name for p in cores if p.name is not None)
    if not names:
        return ArmHost(None, flags, {})
    cpu = max(names, key=lambda name: (names[name] * core_of(name).fma_per_cycle, not core_of(name).in_order, name))
    first = next(p.number for p in cores if p.name == cpu)
    return ArmHost(cpu, flags, host_caches(cpus / f"cpu{first}" / "cache"))


@cache
def this_host() -> ArmHost:
    """This machine, which is an ARM one."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    return describe_host(text, allowed, _auxiliary())


def _auxiliary() -> tuple[int, int]:
    """``AT_HWCAP`` and ``AT_HWCAP2`` of this process; zeros on systems that have none."""
    try:
        getauxval = ctypes.CDLL(None).getauxval
    except (AttributeError, OSError):
        return 0, 0
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return int(getauxval(_AT_HWCAP)), int(getauxval(_AT_HWCAP2))


def _fields(block: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in block.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _number(text: str | None) -> int | None:
    try:
        return int(text, 0) if text else None
    except ValueError:
        return None
