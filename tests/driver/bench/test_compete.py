"""Contenders in processes of their own: they stand still between turns, and those that misbehave are named."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from graphopt.driver.bench import child as bench_child
from graphopt.driver.bench import compete as bench_compete
from graphopt.driver.bench.array_files import read_arrays, write_arrays
from graphopt.driver.bench.child import Child, Entrant
from graphopt.driver.bench.compete import compete
from graphopt.errors import CompileError, UserError

X = np.array([1.0, -2.0, 4.0], np.float32)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_compete, "WARM_S", 0.001)
    monkeypatch.setattr(bench_compete, "TIMED_S", 0.001)


def entrant(kind: str, name: str | None = None, source: Path = Path("m.onnx")) -> Entrant:
    return Entrant(
        name or kind, f"Fake {kind}", f"tests.driver.bench.fake_runtimes:{kind}", source, {"x": X}, 1, compile_s=5.0
    )


def test_turns_and_ratios() -> None:
    found = compete([entrant("doubles"), entrant("slow"), entrant("wrong"), entrant("noisy")], 3)
    ours, slow, wrong, noisy = found.latencies
    assert found.absent == []
    assert (ours.ratio, ours.error, ours.problem) == (1.0, None, None)
    assert slow.ratio == pytest.approx(slow.median_ms / ours.median_ms)
    assert slow.min_ms >= 20
    assert slow.runs == 3  # each of its runs is longer than a turn
    assert ours.runs > 3
    assert ours.min_ms <= ours.median_ms <= ours.p90_ms
    assert slow.compile_s is not None
    assert slow.compile_s > 5.0
    assert slow.problem is None
    assert "error" in (wrong.problem or "")
    assert wrong.error == pytest.approx(0.5)
    assert noisy.problem is None
    assert np.array_equal(found.outputs["noisy"]["y"], 2 * X)
    with pytest.raises(UserError, match="at least 1"):
        compete([entrant("doubles")], 0)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("refuses", "ValueError: no kernel for Frobnicate"),
        ("crashes", "ended with signal SIGSEGV, saying: about to die"),
        ("exits", "ended with exit code 7, saying: out of luck"),
        ("no_such", "has no attribute 'no_such'"),
    ],
)
def test_peers_that_fail_to_load(kind: str, says: str) -> None:
    found = compete([entrant("doubles"), entrant(kind), entrant("slow")], 1)
    assert [latency.name for latency in found.latencies] == ["doubles", "slow"]
    ((name, why),) = found.absent
    assert name == kind
    assert why.startswith(f"Fake {kind} can't take the model: ")
    assert says in why


def test_a_peer_that_fails_on_the_way() -> None:
    found = compete([entrant("doubles"), entrant("crashes_later"), entrant("slow")], 5)
    assert [latency.name for latency in found.latencies] == ["doubles", "slow"]
    assert [name for name, _ in found.absent] == ["crashes_later"]
    assert "SIGABRT" in found.absent[0][1]
    with pytest.raises(CompileError, match="Fake crashes_later can't take the model") as caught:
        compete([entrant("crashes_later")], 5)
    assert "--compare crashes_later" in (caught.value.hint or "")


def test_peers_that_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = entrant("doubles")
    turn = Child.turn

    def limited(child: Child, *seconds: float) -> list[float]:  # ours gets all the time it needs on a busy machine
        monkeypatch.setattr(bench_child, "TURN_LIMIT_S", 1.0 if child.entrant.name == "hangs_later" else 300.0)
        return turn(child, *seconds)

    monkeypatch.setattr(Child, "turn", limited)
    found = compete([ours, entrant("hangs_later")], 1)
    assert found.absent == [("hangs_later", "Fake hangs_later can't take the model: it doesn't answer for 1 s")]
    monkeypatch.setattr(bench_child, "LOAD_LIMIT_S", 0.5)
    start = time.monotonic()
    with pytest.raises(CompileError, match="Fake hangs can't take the model: it doesn't answer"):
        compete([entrant("hangs")], 1)
    assert time.monotonic() - start < 30


def test_answers_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program at the other end of the pipe."""
    for line, says in (
        ("[1, 2]", "what nobody asked: \\[1, 2\\]"),
        ("hello", "what nobody asked: hello"),
        ("", "exit code 0"),
        ('{"ready_s": "now", "bytes": 1}', "what nobody asked"),
        ('{"ready_s": 1.0, "bytes": "x"}', "what nobody asked"),
        ('{"ready_s": 1.0, "bytes": 1}', "its results can't be read"),
    ):
        monkeypatch.setattr(bench_child, "_COMMAND", ("-c", f"print({line!r}) if {line!r} else None"))
        with pytest.raises(CompileError, match=says):
            compete([entrant("doubles")], 1)


@LINUX
def test_nobody_works_between_turns(tmp_path: Path) -> None:
    """A thread that never rests gets processor time during turns only."""
    with Child(entrant("spins"), tmp_path) as child:

        def used() -> int:
            """Ticks of processor time of the whole process (man 5 proc_pid_stat)."""
            fields = Path(f"/proc/{child._process.pid}/stat").read_text().rpartition(")")[2].split()
            return int(fields[11]) + int(fields[12])

        def wait_until_all_stand() -> None:
            """The system stops threads one by one, each when it would run next."""
            deadline = time.monotonic() + 60
            tasks = Path(f"/proc/{child._process.pid}/task")
            while any(s.read_text().rpartition(")")[2].split()[0] != "T" for s in tasks.glob("*/stat")):
                assert time.monotonic() < deadline
                time.sleep(0.01)

        wait_until_all_stand()
        before = used()
        for _ in range(2):
            child.turn(0.0, 0.4)
            wait_until_all_stand()
            after = used()
            assert after > before
            time.sleep(0.5)
            before = used()
            assert before == after


@LINUX
def test_memory_is_counted(tmp_path: Path) -> None:
    with Child(entrant("hungry"), tmp_path) as child:
        child.turn(0.0, 0.0)
        assert child.loading_bytes is not None
        assert child.running_bytes is not None
        assert 60 < child.loading_bytes / 2**20 < 100
        assert 28 < child.running_bytes / 2**20 < 60


@LINUX
def test_a_stopped_process_does_not_outlive_its_parent(tmp_path: Path) -> None:
    """Killed, the parent can't end anything, and a stopped child sees no pipe close."""
    code = textwrap.dedent(
        """
        import os, signal
        from pathlib import Path
        from graphopt.driver.bench.child import Child
        from tests.driver.bench.test_compete import entrant
        child = Child(entrant("doubles"), Path("."))
        print(child._process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    path = ":".join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False,
        env={"PYTHONPATH": path, "PATH": ""},
    )  # fmt: skip
    process = Path("/proc") / done.stdout.strip()
    assert process.name.isdecimal(), done.stderr
    deadline = time.monotonic() + 20
    while process.exists() and "State:\tZ" not in (process / "status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_arrays_go_through_files(tmp_path: Path) -> None:
    arrays = {
        "gpu_0/data_0": X, "": np.zeros((0, 3)), "b": np.array(1.5).astype(ml_dtypes.bfloat16), "é": np.array([True, False]),
        "i4": np.array([[-8, 7]]).astype(ml_dtypes.int4), "scalar": np.array(3), "t": np.ones((2, 3), np.float16).T,
    }  # fmt: skip
    write_arrays(tmp_path / "a.npz", arrays)
    found = read_arrays(tmp_path / "a.npz")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert np.array_equal(found[name].astype(np.float64), array.astype(np.float64))


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{"78-": np.array([{}], object)})
    with pytest.raises(ValueError, match="allow_pickle"):
        read_arrays(tmp_path / "a.npz")
