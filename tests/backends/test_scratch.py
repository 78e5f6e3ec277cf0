"""Temporary folders: gone with their process however it ends, and a full disk is an error, never the end of the process."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphopt.backends.base import scratch
from graphopt.backends.base.scratch import PREFIX, remove_abandoned, scratch_folder
from graphopt.models import zoo

_HOLD = """
import sys
from graphopt.backends.base.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "file").write_bytes(bytes(10))
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A TMPDIR of the test's own, in this process and its children."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    remove_abandoned.cache_clear()
    yield tmp_path
    remove_abandoned.cache_clear()


def holder() -> tuple[subprocess.Popen[str], Path]:
    """Another process that holds a folder."""
    process = subprocess.Popen([sys.executable, "-c", _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_is_private_and_goes(root: Path) -> None:
    with scratch_folder() as folder:
        assert folder.parent == root
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "file").touch()
    assert list(root.iterdir()) == []


def test_a_killed_process_leaves_nothing_for_long(root: Path) -> None:
    process, folder = holder()
    assert folder.is_dir()
    process.kill()
    process.communicate()
    assert (folder / "file").is_file()
    with scratch_folder():
        assert not folder.exists()


def test_a_living_process_keeps_its_folder(root: Path) -> None:
    process, folder = holder()
    try:
        with scratch_folder():
            assert (folder / "file").is_file()
    finally:
        process.communicate()
    assert process.returncode == 0
    assert not folder.exists()


def test_only_own_folders_are_removed(root: Path) -> None:
    (root / "elsewhere").mkdir(mode=0o700)
    (root / f"{PREFIX}abcdefgh").symlink_to(root / "elsewhere")
    (root / f"{PREFIX}notes").mkdir(mode=0o700)
    shared = root / f"{PREFIX}shared__"
    shared.mkdir()
    shared.chmod(0o755)
    before = sorted(root.iterdir())
    with scratch_folder():
        pass
    assert sorted(root.iterdir()) == before


def test_a_folder_that_is_taken_for_abandoned_is_made_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between making a folder and locking it, another process may remove it."""
    made: list[str] = []
    mkdtemp = tempfile.mkdtemp

    def raced(prefix: str, dir: str) -> str:
        made.append(mkdtemp(prefix=prefix, dir=dir))
        if len(made) == 1:
            remove_abandoned.cache_clear()
            remove_abandoned(dir)
        return made[-1]

    monkeypatch.setattr(scratch.tempfile, "mkdtemp", raced)
    with scratch_folder() as folder:
        assert [str(folder)] == made[1:]
        assert folder.is_dir()


def test_a_file_system_without_locks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders are made as ever; which of them are abandoned can't be told there, so all others stay."""

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(scratch.fcntl, "flock", none)
    (root / f"{PREFIX}abcdefgh").mkdir(mode=0o700)
    with scratch_folder() as folder:
        assert folder.is_dir()
    assert [path.name for path in root.iterdir()] == [f"{PREFIX}abcdefgh"]


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for next to nothing."""
    place = tmp_path / "full"
    place.mkdir()
    mounted = None
    if os.geteuid() == 0 and shutil.which("mount"):
        command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(place)]
        mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted is None or mounted.returncode != 0:
        pytest.skip("a small file system can be mounted only by root, where that is allowed")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


_COMPILE = """
import sys
import numpy as np
import graphopt
model = graphopt.compile(sys.argv[1], target="native", shapes={"image": "1x1x8x8"}, cache=False)
print(model.run({"image": np.zeros((1, 1, 8, 8), np.float32)})["logits"].shape, flush=True)
try:
    model.save(sys.argv[2])
except graphopt.GraphOptError as error:
    print(type(error).__name__, error)
"""


def test_a_full_temporary_folder(full: Path, tmp_path: Path) -> None:
    """LLVM ends the process when it can't write an object. Running needs no file; saving needs a linker, which does."""
    source, output = str(zoo.get("digits").path()), tmp_path / "digits.gopt"
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE, source, str(output)],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(full)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(1, 10)\nCompileError "), done.stdout
    assert "No space left on device" in done.stdout
    assert "set TMPDIR" in done.stdout
    assert not output.exists()
    assert list(full.iterdir()) == []


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """``ulimit -f``: LLVM would end the process here too."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
    compile_it = (
        "try: graphopt.compile(sys.argv[1], cache=False)\nexcept graphopt.CompileError as error: print(error.code)"
    )
    command = [sys.executable, "-c", f"{limited}import graphopt, sys\n{compile_it}", str(zoo.get("digits").path())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "file-size-limit\n"), done.stderr


def test_the_killed_compile_leaves_nothing(root: Path, tmp_path: Path) -> None:
    """SIGKILL at any moment: what the next process finds of it, it removes."""
    command = [sys.executable, "-m", "graphopt.cli.main", "compile", str(zoo.get("digits").path()), "--no-cache"]
    process = subprocess.Popen(
        [*command, "-o", str(tmp_path / "digits.gopt")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not any(name.startswith(PREFIX) for name in os.listdir(root)):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # A worker that was being started holds a copy of the lock until it is a program of its own: on a busy machine, for a while.
    for folder in root.glob(f"{PREFIX}*"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.close(handle)
    with scratch_folder():
        pass
    assert list(root.glob(f"{PREFIX}*")) == []


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system has no /proc")
def test_programs_that_are_started_do_not_hold_the_lock(root: Path) -> None:
    """Otherwise a folder would stay for as long as a worker outlives the process that was killed."""
    with scratch_folder() as folder:
        own = {os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()}
        assert str(folder) in own
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False)
        theirs = {os.path.realpath(path) for path in Path(f"/proc/{child.pid}/fd").iterdir()}
        child.communicate()
    assert str(folder) not in theirs
