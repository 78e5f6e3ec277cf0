"""Finding a linker and linking: with each linker present, for each architecture, and with none."""

from __future__ import annotations

import platform
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.backends.base.scratch import PREFIX
from graphopt.backends.base.target import Target
from graphopt.backends.base.tvm_api import te, tirx, topi, tvm, tvm_ffi
from graphopt.backends.build import link
from graphopt.backends.build.link import Linker, find_linker
from graphopt.backends.cpu import platform as cpu_platform
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.runnable import can_run_here
from graphopt.errors import CompileError

NAMES = ("ld.lld", "cc", "ld", "zig")


def _linker(target: Target, name: str) -> Linker:
    try:
        return find_linker(target, name)
    except CompileError as error:
        pytest.skip(error.message)


def _object(target: Target, path: Path) -> Path:
    """An object with a PrimFunc that calls libm: erf, pow, tan, cosh."""
    x = te.placeholder((8,), name="x", dtype="float32")
    y = te.compute((8,), lambda i: tirx.erf(x[i]) + tirx.power(x[i], x[i]) + topi.tan(x)[i] + tirx.cosh(x[i]), name="y")
    function = te.create_prim_func([x, y]).with_attr("global_symbol", "f")
    tvm.compile(tvm.IRModule({"f": function}), target.tvm_target()).mod.write_to_file(str(path))
    return path


def _expected(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    from math import erf

    return np.array([erf(v) for v in x]) + x**x + np.tan(x) + np.cosh(x)


@pytest.mark.parametrize("name", NAMES)
def test_links_and_loads(name: str, tmp_path: Path) -> None:
    target = parse_target("native")
    linker = _linker(target, name)
    library = tmp_path / "f.so"
    linker(str(library), [str(_object(target, tmp_path / "f.o"))])
    x = np.linspace(0.1, 0.9, 8, dtype="float32")
    y = tvm.runtime.tensor(np.zeros(8, "float32"))
    tvm.runtime.load_module(str(library))["f"](tvm.runtime.tensor(x), y)
    np.testing.assert_allclose(y.numpy(), _expected(x), rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_library_asks_for_libm_itself(name: str, tmp_path: Path) -> None:
    """So that a program without libm, say a C program that loads the library, can load it."""
    target = parse_target("native")
    library = tmp_path / "f.so"
    _linker(target, name)(str(library), [str(_object(target, tmp_path / "f.o"))])
    assert b"libm.so.6\0" in library.read_bytes()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spec", ["arm", "x86-64-v3"])
def test_links_for_another_machine(name: str, spec: str, tmp_path: Path) -> None:
    target = parse_target(spec)
    library = tmp_path / "f.so"
    _linker(target, name)(library, str(_object(target, tmp_path / "f.o")))
    machine = int.from_bytes(library.read_bytes()[18:20], "little")
    assert machine == {"arm": 183, "x86-64-v3": 62}[spec]


def test_without_any_linker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link.shutil, "which", lambda _name: None)
    monkeypatch.setattr(link.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(CompileError) as caught:
        find_linker(parse_target("arm"))
    assert caught.value.code == "no-linker"
    assert 'pip install "graphopt[cross]"' in (caught.value.hint or "")


def test_only_the_pip_linker_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ziglang")
    monkeypatch.setattr(link.shutil, "which", lambda _name: None)
    assert find_linker(parse_target("arm")).name == "zig"
    assert find_linker(parse_target("native")).name == "zig"


def test_order_of_preference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link.shutil, "which", lambda name: f"/bin/{name}")
    assert find_linker(parse_target("arm")).command == ("/bin/ld.lld",)
    assert find_linker(parse_target("cuda:sm_80")).name == "ld.lld"
    cross = "aarch64-linux-gnu-gcc" if link.host_arch() != "arm" else "cc"
    assert find_linker(parse_target("arm"), "cc").command == (f"/bin/{cross}",)


def test_unknown_name() -> None:
    with pytest.raises(CompileError, match="gold"):
        find_linker(parse_target("native"), "gold")


def test_failure_shows_the_linkers_words(tmp_path: Path) -> None:
    (tmp_path / "bad.o").write_bytes(b"not an object")
    with pytest.raises(CompileError) as caught:
        find_linker(parse_target("native"))(tmp_path / "out.so", [str(tmp_path / "bad.o")])
    assert caught.value.code == "link-failed"
    assert any("bad.o" in note for note in caught.value.notes)


def test_missing_tool() -> None:
    with pytest.raises(CompileError, match="could not be run"):
        Linker("ld", ("/nonexistent/ld",), False, None)("/dev/null", [])


def test_loads_without_python(tmp_path: Path) -> None:
    """dlopen in a bare process resolves everything but TVM's own symbols, which come from its runtime."""
    target = parse_target("native")
    library = tmp_path / "f.so"
    find_linker(target)(library, str(_object(target, tmp_path / "f.o")))
    runtime = tvm_ffi.libinfo.find_libtvm_ffi()
    code = f"import ctypes; ctypes.CDLL({runtime!r}, ctypes.RTLD_GLOBAL); ctypes.CDLL({str(library)!r})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_full_disk_is_named_as_such(tmp_path: Path) -> None:
    """Another linker wouldn't help, room would. Also: what a linker writes for itself lies in a folder that goes with it."""
    script = 'echo "$TMPDIR" >&2; echo "final link failed: No space left on device" >&2; exit 1'
    linker = Linker("cc", ("sh", "-c", script), True, None)
    with pytest.raises(CompileError) as caught:
        linker(tmp_path / "library.so", [])
    assert "TMPDIR" in (caught.value.hint or "")
    (own,) = [line for line in caught.value.notes if PREFIX in line and line.startswith("/")]
    assert not Path(own).exists()


MACOS = {"kind": "llvm", "mtriple": "arm64-apple-macosx11.0", "mcpu": "apple-m1"}


def _load_commands(library: bytes) -> dict[int, bytes]:
    """The load commands of a Mach-O file for 64 bits, by number; of several alike the last."""
    magic, machine, _, kind, count, _, _, _ = struct.unpack_from("<8I", library)
    assert (magic, machine, kind) == (0xFEEDFACF, 0x0100000C, 6)  # 64 bits, arm64, a dynamic library
    found, at = {}, 32
    for _ in range(count):
        command, size = struct.unpack_from("<2I", library, at)
        found[command] = library[at : at + size]
        at += size
    return found


def test_a_library_for_macos(tmp_path: Path) -> None:
    """Mach-O, with what a Mac asks for: a signature, the oldest system that it is for, the C library. No Mac has loaded it."""
    pytest.importorskip("ziglang")
    target = parse_target(MACOS)
    code = _object(target, tmp_path / "f.o")
    written = []
    for name in ("one", "two"):  # the signature holds the file's own name, which is always the same
        library = tmp_path / name / "library.so"
        library.parent.mkdir()
        find_linker(target, "zig")(library, str(code))
        written.append(library.read_bytes())
    assert written[0] == written[1]
    commands = _load_commands(written[0])
    assert 0x1D in commands  # LC_CODE_SIGNATURE
    assert struct.unpack_from("<2I", commands[0x32], 8) == (1, 11 << 16)  # LC_BUILD_VERSION: macOS 11.0
    assert b"/usr/lib/libSystem.B.dylib\0" in commands[0xC]  # LC_LOAD_DYLIB
    assert b"@rpath/library.dylib\0" in commands[0xD]  # LC_ID_DYLIB


@pytest.mark.skipif(platform.system() == "Darwin", reason="a Mac has its own linker")
def test_code_for_macos_does_not_run_elsewhere_and_takes_zig(monkeypatch: pytest.MonkeyPatch) -> None:
    target = parse_target(MACOS)
    assert "arm64" in can_run_here(target).reason
    monkeypatch.setattr(cpu_platform, "host_arch", lambda: "arm")
    assert can_run_here(target).reason == f"the code is for macOS, this system is {platform.system()}"
    monkeypatch.setattr(link.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(CompileError, match=r"no linker for arm64, macOS, on this machine"):
        find_linker(target)
