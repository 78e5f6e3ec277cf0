"""Target specifications: what they mean, what they refuse, and whether the code would run here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graphopt.backends.base import host
from graphopt.backends.base.caps import Caps
from graphopt.backends.base.host import default_threads, host_arch, host_caches
from graphopt.backends.base.target import Target
from graphopt.backends.targets.cuda import caps as cuda_caps
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.platforms import platform_of
from graphopt.backends.targets.runnable import can_run_here, list_targets
from graphopt.errors import DeviceError, TargetError

on_x86 = pytest.mark.skipif(host_arch() != "x86", reason="needs an x86 machine")

SPECS = (
    *("native", "x86", "x86-64-v2", "x86-64-v3", "x86-64-v4", "x86:znver3", "x86-64-v3,+avxvnni"),
    *(
        "arm",
        "arm:cortex-a76",
        "arm:neoverse-v1",
        "arm:apple-m1",
        "armv7",
        "arm,+dotprod",
        "cuda",
        "cuda:sm_80",
        "cuda:sm_90a",
        "cuda:sm_87@arm",
        "cuda:all",
        "cuda:sm_80,sm_90a@arm:neoverse-v1",
    ),
    '{"kind": "llvm", "mcpu": "haswell"}',
)


@pytest.mark.parametrize("spec", SPECS)
def test_round_trips(spec: str) -> None:
    target = parse_target(spec)
    assert parse_target(target.name) == target
    assert parse_target(target) is target
    assert Target.from_dict(json.loads(json.dumps(target.to_dict()))) == target
    assert hash(target) == hash(parse_target(spec))
    assert str(target.tvm_target().kind.name) == target.config["kind"]
    assert target.tvm_target().host is not None


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("x86-64-v2", {"vector_bits": 128, "vector_registers": 16, "fma": False, "vnni": False}),
        ("x86-64-v3", {"vector_bits": 256, "vector_registers": 16, "fma": True, "vnni": False}),
        ("x86-64-v4", {"vector_bits": 512, "vector_registers": 32, "fma": True, "vnni": False}),
        ("x86:znver4", {"vector_bits": 512, "vnni": True, "bf16": True, "l2_bytes": 1 << 20}),
        ("x86:alderlake", {"vector_bits": 256, "vnni": True}),
        ("x86:cascadelake", {"vector_bits": 512, "vnni": True, "fp16": False}),
        ("x86:sapphirerapids", {"vector_bits": 512, "fp16": True, "bf16": True, "l1_bytes": 48 << 10}),
        ("x86:sapphirerapids,-avx512f", {"vector_bits": 256, "vector_registers": 16, "vnni": True, "fp16": False}),
        ("arm", {"vector_bits": 128, "vector_registers": 32, "fma": True, "dotprod": False, "fp16": False}),
        ("arm:cortex-a72", {"dotprod": False, "fp16": False}),
        ("arm:cortex-a76", {"dotprod": True, "fp16": True, "i8mm": False}),
        ("arm:neoverse-v1", {"dotprod": True, "fp16": True, "i8mm": True, "bf16": True}),
        ("arm", {"in_order": False, "fma_per_cycle": 2, "fma_latency": 4, "loads_per_cycle": 2}),
        ("arm:cortex-a53", {"in_order": True, "decode_width": 2, "fma_per_cycle": 1, "loads_per_cycle": 0.5}),
        ("arm:cortex-a55", {"in_order": True, "decode_width": 2, "fma_per_cycle": 1, "fma_latency": 4}),
        ("arm:cortex-a72", {"in_order": False, "decode_width": 3, "fma_per_cycle": 1, "loads_per_cycle": 1}),
        ("arm:cortex-a76", {"in_order": False, "decode_width": 4, "fma_per_cycle": 2, "loads_per_cycle": 2}),
        ("arm:neoverse-n1", {"in_order": False, "decode_width": 4, "fma_per_cycle": 2, "l2_bytes": 1 << 20}),
        ("arm:cortex-x1", {"decode_width": 8, "fma_per_cycle": 4, "loads_per_cycle": 3, "l3_bytes": 4 << 20}),
        ("arm:neoverse-v1", {"decode_width": 8, "fma_per_cycle": 4, "loads_per_cycle": 3}),
        ("arm:apple-m1", {"decode_width": 8, "fma_per_cycle": 4, "l1_bytes": 128 << 10, "bf16": False}),
        ("cuda:sm_75", {"sm": 75, "shared_memory_bytes": 64 << 10, "bf16": False, "warp": 32, "i8mm": True}),
        ("cuda:sm_90", {"sm": 90, "shared_memory_bytes": 227 << 10, "bf16": True, "max_threads_per_block": 1024}),
    ],
)
def test_capabilities(spec: str, expected: dict[str, Any]) -> None:
    caps = parse_target(spec).caps
    assert {name: getattr(caps, name) for name in expected} == expected


def test_armv7_through_a_tvm_target() -> None:
    config = {"kind": "llvm", "mtriple": "armv7a-linux-gnueabihf", "mattr": ["+neon", "+vfp4"], "mfloat-abi": "hard"}
    target = parse_target(config)
    assert (target.kind, target.arch, target.caps.vector_registers) == ("arm", "armv7a", 16)
    named = parse_target("armv7", threads=3)
    assert (named.kind, named.arch, named.caps.vector_registers, named.caps.cores) == ("arm", "armv7a", 16, 3)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("x86:znvr3", "znver3"),
        ("cudda", "cuda"),
        ("gpu", "cuda"),
        ("aarch64", "arm"),
        ("x86-64-v33", "x86-64-v3"),
        ("cuda:sm_81", "sm_8"),
        ("cuda:8.6", "'sm_86'"),
        ("cuda:compute_90", "'sm_90'"),
        ("cuda:al", "'all'"),
        ("cuda:", "cuda:all"),
        ("cuda:sm_80,", "cuda:sm_80,sm_90"),
        ("cuda:sm_80,sm_80", "leave one"),
        ("cuda:sm_90,sm_90a", "leave one"),
        ("cuda:sm_80,all", "cuda:all"),
        ("cuda:sm_80,x86", "cuda:sm_80@x86"),
        ("cuda:sm_90,cuda:sm_80", "cuda:sm_90,sm_80"),
        ("arm:cortex-a67", "cortex-a"),
        ("arm,+dotprd", "dotprod"),
        ("arm,dotprod", r"\+feature"),
        ("riscv", "examples"),
        ("", "examples"),
        ('{"kind": "vulkan"}', "llvm, cuda"),
    ],
)
def test_unknown_targets_say_what_was_meant(spec: str, hint: str) -> None:
    with pytest.raises(TargetError) as caught:
        parse_target(spec)
    assert caught.value.exit_code == 2
    assert re.search(hint, caught.value.hint or "")


@pytest.mark.parametrize("spec", ["{", '{"kind": "llvm", "mcp": "haswell"}', "cuda:sm_80@cuda", {}])
def test_malformed(spec: Any) -> None:
    with pytest.raises(TargetError):
        parse_target(spec)


def test_threads() -> None:
    assert parse_target("native").caps.cores == default_threads() >= 1
    assert parse_target("native", threads=3).caps.cores == 3
    assert parse_target(parse_target("x86-64-v3"), threads=5).caps.cores == 5
    assert parse_target(parse_target("cuda:sm_80"), threads=5).caps == parse_target("cuda:sm_80").caps
    with pytest.raises(TargetError, match="threads"):
        parse_target("x86", threads=0)


def test_native_is_runnable() -> None:
    assert can_run_here(parse_target("native"))


@on_x86
def test_native_hides_what_the_processor_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A virtual machine that masks features still names the whole processor."""
    from graphopt.backends.base import tvm_api

    table = dict.fromkeys(tvm_api.llvm_features(parse_target("x86:sapphirerapids").config), True)
    table |= {"avx512f": False, "avx512fp16": False, "amx-tile": False}
    monkeypatch.setattr(tvm_api, "llvm_host", lambda: ("x86_64-linux-gnu", "sapphirerapids", table))
    target = parse_target("x86")
    assert "-avx512f" in target.config["mattr"]
    assert target.caps.vector_bits == 256
    assert can_run_here(target)
    verdict = can_run_here(parse_target("x86:sapphirerapids"))
    assert not verdict
    assert "avx512f" in verdict.reason


@on_x86
def test_other_machines_code_is_refused() -> None:
    verdict = can_run_here(parse_target("arm"))
    assert not verdict
    assert "aarch64" in verdict.reason
    with pytest.raises(DeviceError, match="arm"):
        platform_of(parse_target("arm")).require_runnable(parse_target("arm"))


@pytest.mark.parametrize(
    ("here", "wanted", "ok"), [(None, 80, False), (86, 80, True), (80, 86, False), (90, 80, False)]
)
def test_gpu_code_runs_on_the_same_major_architecture(
    here: int | None, wanted: int, ok: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_caps, "detect_sm", lambda index: here)
    assert bool(can_run_here(parse_target(f"cuda:sm_{wanted}"))) is ok


@pytest.mark.parametrize(
    ("spec", "runs", "stays"),
    [
        ("sm_80,sm_90", (80, 86, 89, 90, 100, 120), (75, 70)),  # what is newer than all takes the PTX
        ("all", (75, 80, 86, 87, 89, 90, 103), (70, 72)),
        ("sm_75,sm_80", (75, 80, 86, 89, 90), (72,)),
        ("sm_90a", (90,), (80, 89, 100)),
        ("sm_86", (86, 87, 89), (80, 90, 75)),
    ],
)
def test_code_for_several_gpus(
    spec: str, runs: tuple[int, ...], stays: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = parse_target(f"cuda:{spec}")
    for here in (*runs, *stays):
        monkeypatch.setattr(cuda_caps, "detect_sm", lambda index, sm=here: sm)
        verdict = can_run_here(target)
        assert bool(verdict) is (here in runs), here
        named = [arch for arch in target.arches if not arch.startswith("compute")]
        assert verdict or all(arch in verdict.reason for arch in (*named, f"sm_{here}"))


def test_a_program_for_several_gpus_keeps_to_what_all_have() -> None:
    alone = [parse_target(f"cuda:sm_{sm}").caps for sm in (80, 86, 90)]
    together = parse_target("cuda:sm_90,sm_80,sm_86")
    assert together.name == "cuda:sm_80,sm_86,sm_90"
    assert together.arches == ("sm_80", "sm_86", "sm_90", "compute_90")
    for name in ("shared_memory_bytes", "l1_bytes", "l2_bytes", "sm"):
        assert getattr(together.caps, name) == min(getattr(caps, name) for caps in alone)
    assert together.caps.cores == 108  # of 84, 108 and 132
    assert together.caps.bf16
    everything = parse_target("cuda:all")
    assert everything.arches == ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "compute_90")
    assert parse_target("cuda:sm_90").arches == ("sm_90",)
    # bfloat16 and tf32 are products of tensor cores where there are any, and float32 on the others
    assert (everything.caps.bf16, everything.caps.tf32, everything.caps.i8mm, everything.caps.sm) == (
        True,
        True,
        True,
        75,
    )
    assert not parse_target("cuda:sm_75").caps.tf32


def test_cuda_defaults_to_the_gpu_present(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_caps, "detect_sm", lambda: 89)
    assert parse_target("cuda").name == "cuda:sm_89"
    monkeypatch.setattr(cuda_caps, "detect_sm", lambda: None)
    assert parse_target("cuda").name == "cuda:sm_75"


def test_list_names_runnable_and_other_targets() -> None:
    listed = {info.name: info for info in list_targets()}
    assert {"x86", "arm", "cuda:sm_80"} <= listed.keys()
    assert any(info.runnable for info in listed.values())
    assert all(info.runnable or info.runnable.reason for info in listed.values())


def test_lanes() -> None:
    caps = Caps(vector_bits=256)
    assert (caps.lanes(1), caps.lanes(4), caps.lanes(8), caps.lanes(64)) == (32, 8, 4, 1)
    with pytest.raises(ValueError, match="positive"):
        caps.lanes(0)


def test_cache_sizes_from_sysfs(tmp_path: Path) -> None:
    for index, (level, kind, size) in enumerate(
        [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2M")]
    ):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(text + "\n")
    (tmp_path / "index9").mkdir()
    assert host_caches(tmp_path) == {1: 48 << 10, 2: 2 << 20}
    assert host_caches(tmp_path / "none") == {}


def test_threads_follow_the_affinity_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.os, "sched_getaffinity", lambda _pid: {3, 5, 9}, raising=False)
    assert default_threads() == 3


def test_parsing_is_reached_without_importing_tvm() -> None:
    code = "import sys, graphopt.backends.targets.runnable, graphopt.runtime.artifact; sys.exit('tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_another_machine_s_processor_has_a_remedy() -> None:
    other = "arm" if host_arch() == "x86" else "x86"
    with pytest.raises(TargetError, match="this machine's processor") as caught:
        parse_target(f"{other}:native")
    assert caught.value.hint is not None
    assert "graphopt targets" in caught.value.hint
