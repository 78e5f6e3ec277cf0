"""The thread pool of compiled libraries: in C under stress, and in libraries as they are loaded."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from graphopt.backends.build.pool import ARCHITECTURES, has_pool, pool_objects
from graphopt.backends.build.pool.compile import ZIG_VERSION, compiled

_SOURCE = Path(__file__).parent / "pool" / "stress.c"
_POOL = Path(compiled.__code__.co_filename).parent
_OPTIONS = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{_POOL}"]
_DEFINITIONS = ["-DGRAPHOPT_POOL_CPUS=4"]
_IMPATIENT = "-DGRAPHOPT_POOL_IDLE_MS=60"


def _built(folder: Path, *command: str) -> Path:
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]}")
    program = folder / "stress"
    subprocess.run([*command, *_OPTIONS, *_DEFINITIONS, str(_SOURCE), "-o", str(program)], check=True, timeout=120)
    return program


@pytest.fixture(scope="module")
def stress(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stress program, optimised."""
    return _built(tmp_path_factory.mktemp("stress"), "gcc", "-O2", _IMPATIENT)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stress program under ThreadSanitizer."""
    return _built(tmp_path_factory.mktemp("watched"), "gcc", "-O1", "-g", "-fsanitize=thread", _IMPATIENT)


def _run(program: Path, test: str, loops: int, *emulator: str) -> int:
    """How many chunks workers ran."""
    done = subprocess.run(
        [*emulator, str(program), test, str(loops)], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr[-3000:]
    verdict, helped = done.stdout.split()
    assert verdict == "ok"
    return int(helped)


@pytest.mark.parametrize(
    ("test", "loops"),
    [("tiny", 50_000), ("callers", 10_000), ("crowd", 1000), ("bumpy", 2000), ("failures", 2000), ("forks", 5)],
)
def test_each_chunk_runs_once(stress: Path, test: str, loops: int) -> None:
    assert _run(stress, test, loops) > 0


@pytest.mark.slow
def test_a_million_tiny_loops(stress: Path) -> None:
    assert _run(stress, "tiny", 1_000_000) > 0


@pytest.mark.parametrize(("test", "loops"), [("idle", 3), ("limits", 100), ("own", 100)])
def test_threads_come_and_go(stress: Path, test: str, loops: int) -> None:
    _run(stress, test, loops)


def test_sleeping_workers_are_woken(tmp_path: Path) -> None:
    _run(_built(tmp_path, "gcc", "-O2", "-DGRAPHOPT_POOL_IDLE_MS=60000"), "wakes", 5)


@pytest.mark.parametrize(
    ("test", "loops"),
    [
        ("tiny", 5000),
        ("callers", 2000),
        ("crowd", 300),
        ("bumpy", 1000),
        ("failures", 500),
        ("idle", 2),
        ("limits", 50),
    ],
)
def test_thread_sanitizer_finds_nothing(watched: Path, test: str, loops: int) -> None:
    _run(watched, test, loops)


@pytest.mark.qemu
@pytest.mark.parametrize("triple", ["aarch64-linux-gnu", "arm-linux-gnueabihf"])
def test_on_arm(tmp_path: Path, triple: str) -> None:
    emulator = shutil.which(f"qemu-{triple.partition('-')[0]}")
    if emulator is None:
        pytest.skip("no qemu-user")
    program = _built(tmp_path, f"{triple}-gcc", "-O2", _IMPATIENT)
    # Forks are left out: qemu-user 7 fails on threads in a child of a process that has several.
    for test, loops in (
        ("tiny", 2000),
        ("callers", 300),
        ("bumpy", 200),
        ("failures", 200),
        ("idle", 1),
        ("limits", 20),
    ):
        _run(program, test, loops, emulator, "-L", f"/usr/{triple}")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_objects_are_those_of_the_source(architecture: str) -> None:
    ziglang = pytest.importorskip("ziglang", reason="no ziglang")
    del ziglang
    from importlib.metadata import version

    if not version("ziglang").startswith(ZIG_VERSION):
        pytest.skip(f"the objects were made with ziglang {ZIG_VERSION}")
    triple = f"{architecture}-linux-gnu"
    assert pool_objects(triple) == [compiled(architecture)], "run python -m graphopt.backends.build.pool.compile"


def test_systems_without_a_pool() -> None:
    assert has_pool("x86_64-unknown-linux-gnu")
    assert has_pool("armv7a-linux-gnueabihf")
    assert not has_pool("x86_64-apple-darwin")
    assert not has_pool("riscv64-linux-gnu")
    assert pool_objects("arm64-apple-darwin") == []
