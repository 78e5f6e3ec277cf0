"""``--target native`` on ARM machines: what the code counts on, by what such machines say of themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graphopt.backends.base import tvm_api
from graphopt.backends.base.target import Target
from graphopt.backends.base.tvm_api import llvm_features
from graphopt.backends.cpu import platform as cpu_platform
from graphopt.backends.targets import grammar
from graphopt.backends.targets.arm import host
from graphopt.backends.targets.arm.features import KERNEL_FLAGS, flags_of
from graphopt.backends.targets.arm.host import describe_host, read_processors
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.platforms import platform_of
from graphopt.backends.targets.runnable import can_run_here
from tests.backends.arm.machines import (
    ARMV7,
    ASAHI,
    EMULATED,
    GRAVITON_2,
    GRAVITON_3,
    PHONE,
    PI_4,
    PI_5,
    cpuinfo,
)


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Have this process believe that it runs on the machine of a text."""

    def believe(text: str, words: tuple[int, int] = (0, 0), allowed: set[int] | None = None) -> None:
        found = describe_host(text, allowed, words, tmp_path)
        for module in (cpu_platform, grammar):
            monkeypatch.setattr(module, "host_arch", lambda: "arm")
        monkeypatch.setattr(host, "this_host", lambda: found)
        monkeypatch.setattr(tvm_api, "llvm_host", lambda: ("aarch64-linux-gnu", "generic", {}))

    return believe


MACHINES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Raspberry Pi 4": (PI_4, "cortex-a72", {"dotprod": False, "fp16": False, "fma_per_cycle": 1}),
    "Raspberry Pi 5": (PI_5, "cortex-a76", {"dotprod": True, "fp16": True, "bf16": False, "fma_per_cycle": 2}),
    "Graviton 2": (GRAVITON_2, "neoverse-n1", {"dotprod": True, "fp16": True, "i8mm": False}),
    "Graviton 3": (GRAVITON_3, "neoverse-v1", {"i8mm": True, "bf16": True, "fma_per_cycle": 4}),
    "phone": (PHONE, "cortex-a78", {"dotprod": True, "fp16": True, "i8mm": False, "in_order": False}),
    "M1": (ASAHI, "apple-m1", {"dotprod": True, "fp16": True, "bf16": False, "decode_width": 8}),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_native(machine: str, on: Any) -> None:
    """The code needs nothing that the machine doesn't say it has, and uses what it has."""
    text, cpu, caps = MACHINES[machine]
    on(text)
    target = parse_target("native")
    assert (target.name, target.kind, target.config["mcpu"]) == ("arm:native", "arm", cpu)
    assert {name: getattr(target.caps, name) for name in caps} == caps
    said = next(line for line in text.splitlines() if line.startswith("Features")).split()
    used = {KERNEL_FLAGS[f].name for f in llvm_features(target.config) if f in KERNEL_FLAGS}
    assert used == {flag.name for flag in KERNEL_FLAGS.values()} & set(said)
    assert can_run_here(target)
    assert Target.from_dict(target.to_dict()) == target


@pytest.mark.parametrize(
    ("machine", "spec", "lacking"),
    [
        ("Raspberry Pi 4", "arm", ""),
        ("Raspberry Pi 4", "arm:cortex-a72", ""),  # though it has no AES, which LLVM thinks that it has
        ("Raspberry Pi 4", "arm:cortex-a76", "dotprod, fullfp16, lse"),
        ("Raspberry Pi 5", "arm:cortex-a53", ""),
        ("Raspberry Pi 5", "arm:neoverse-n1", ""),
        ("Raspberry Pi 5", "arm:neoverse-v1", "bf16, "),
        ("Graviton 3", "arm:neoverse-n1", ""),
        ("Graviton 2", "arm:neoverse-v1", "i8mm"),
        ("M1", "arm:cortex-x1", ""),
        ("phone", "arm:apple-m1", "complxnum"),
    ],
)
def test_code_for_another_core(machine: str, spec: str, lacking: str, on: Any) -> None:
    on(MACHINES[machine][0])
    verdict = can_run_here(parse_target(spec))
    assert bool(verdict) is (lacking == "")
    assert lacking in verdict.reason


def test_x86_code_is_refused_by_name(on: Any) -> None:
    on(PI_5)
    verdict = can_run_here(parse_target("x86-64-v3"))
    assert not verdict
    assert "x86_64" in verdict.reason


def test_a_feature_that_one_core_lacks_counts_for_none(on: Any) -> None:
    """Kernels of phones' vendors have printed what each core has for itself."""
    fast = cpuinfo((4, 0xD46), features="fp asimd atomics asimdrdm asimddp")
    both = fast.replace("processor\t: 3", "processor\t: 7") + cpuinfo(
        (1, 0xD47), features="fp asimd atomics asimddp i8mm bf16"
    )
    on(both)
    target = parse_target("native")
    assert target.caps.dotprod
    assert not any([target.caps.bf16, target.caps.i8mm, target.caps.fp16])
    assert "rdm" not in llvm_features(target.config)


def test_only_cores_that_the_process_may_use_count(on: Any) -> None:
    for allowed, cpu in (
        ({0, 1, 2, 3}, "cortex-a55"),
        ({7}, "cortex-x1"),
        ({0, 4}, "cortex-a78"),
        ({99}, "cortex-a78"),
    ):
        on(PHONE, allowed=allowed)
        assert parse_target("native").config["mcpu"] == cpu


def test_what_linux_says_goes_before_what_llvm_makes_of_it(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where LLVM finds no features in the text, it denies SVE, and nothing else."""
    on(EMULATED, (1 << 0 | 1 << 1 | 1 << 22, 0))
    monkeypatch.setattr(tvm_api, "llvm_host", lambda: ("aarch64-linux-gnu", "generic", {"sve": False, "dotprod": True}))
    found = platform_of(parse_target("arm")).host_features()
    assert (found["sve"], found["dotprod"]) == (True, False)


def test_under_an_emulator_the_auxiliary_vector_counts(on: Any) -> None:
    on(EMULATED, (1 << 0 | 1 << 1 | 1 << 20, 1 << 13))
    target = parse_target("native")
    assert target.config["mcpu"] == "generic"
    assert (target.caps.dotprod, target.caps.i8mm, target.caps.fp16) == (True, True, False)


def test_a_core_that_nobody_knows_is_what_it_says_it_can(on: Any) -> None:
    on(cpuinfo((2, 0xFFF), features="fp asimd asimddp", implementer=0x99))
    target = parse_target("native")
    assert (target.config["mcpu"], target.caps.dotprod, target.caps.fp16) == ("generic", True, False)


@pytest.mark.parametrize("text", ["", "\n\n", "processor : x\n", "processor\t: 0\nCPU part\t: what?\n"])
def test_odd_texts(text: str, on: Any) -> None:
    on(text, (2, 0))
    assert parse_target("native").config["mcpu"] == "generic"


def test_processors_of_a_kernel_for_32_bits() -> None:
    (only,) = read_processors(ARMV7)
    assert (only.name, "neon" in only.flags, only.number) == ("cortex-a53", True, 0)


def test_caches_are_those_of_the_cores_that_the_code_is_for(tmp_path: Path) -> None:
    for cpu, size in (("cpu0", "128K"), ("cpu4", "512K")):
        folder = tmp_path / cpu / "cache" / "index2"
        folder.mkdir(parents=True)
        for name, text in (("level", "2"), ("type", "Unified"), ("size", size)):
            (folder / name).write_text(text + "\n")
    assert describe_host(PHONE, None, (0, 0), tmp_path).caches == {2: 512 << 10}
    assert describe_host(PHONE, {0}, (0, 0), tmp_path).caches == {2: 128 << 10}


def test_bits_are_those_of_the_kernel() -> None:
    """As in ``asm/hwcap.h``: bits of the first word follow the order in which Linux prints the names."""
    words = [
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop sha3 sm3 sm4 asimddp"
        " sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb paca pacg",
        "dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm svef64mm svebf16 i8mm bf16",
    ]
    for flag in KERNEL_FLAGS.values():
        names = words[flag.word].split()
        assert flag.bit >= len(names) or names[flag.bit] == flag.name
        assert flags_of((1 << flag.bit, 0) if flag.word == 0 else (0, 1 << flag.bit)) == {flag.name}
    assert flags_of((0, 0)) == frozenset()
