"""Facts about the machine, from files as different systems have them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from graphopt.backends.base import host
from graphopt.backends.base.host import cpu_quota, default_threads


def _files(folder: Path, contents: dict[str, str]) -> Path:
    for name, text in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"a/cpu.max": "50000 100000\n", "a/b/cpu.max": "max 100000\n"}, 0.5),
        ("0::/a/b\n", {"a/cpu.max": "400000 100000\n", "a/b/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/../../a\n", {"a/cpu.max": "100000 100000\n"}, 1.0),
        ("0::/not/visible/in/the/container\n", {"cpu.max": "300000 100000\n"}, 3.0),
        (
            "4:memory:/m\n1:cpu:/x\n0::/\n",
            {"cpu/x/cpu.cfs_quota_us": "250000\n", "cpu/x/cpu.cfs_period_us": "100000\n", "memory/m/x": ""},
            2.5,
        ),
        (
            "3:cpu,cpuacct:/x\n",
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "100000\n", "cpu,cpuacct/x/cpu.cfs_period_us": "50000\n"},
            2.0,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "0\n"}, None),
        ("1:cpuset:/x\n", {"cpu/x/cpu.cfs_quota_us": "100000\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, None),
        ("0::/\n", {"cpu.max": "what is this?\n"}, None),
        ("nonsense\n\n", {}, None),
    ],
)
def test_quota(tmp_path: Path, membership: str, files: dict[str, str], quota: float | None) -> None:
    _files(tmp_path, {"self": membership, **{f"root/{name}": text for name, text in files.items()}})
    assert cpu_quota(tmp_path / "self", tmp_path / "root") == quota


def test_no_control_groups(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "missing", tmp_path) is None


@pytest.mark.parametrize(("quota", "threads"), [(None, 8), (0.3, 1), (1.0, 1), (1.5, 2), (7.5, 8), (64.0, 8)])
def test_threads_follow_mask_and_quota(monkeypatch: pytest.MonkeyPatch, quota: float | None, threads: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(host, "cpu_quota", lambda: quota)
    assert default_threads() == threads
