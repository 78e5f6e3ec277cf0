"""CUDA machine code without a GPU: real cubins for every architecture, by either compiler, and never source."""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.backends.base.tvm_api import relax, te, tirx, topi, tvm
from graphopt.backends.build.link import find_linker
from graphopt.backends.build.shared_library import host_objects, link_objects
from graphopt.backends.cuda import nvrtc, pack
from graphopt.backends.cuda.fatbin import fatbin
from graphopt.backends.cuda.gpu.driver import driver
from graphopt.backends.cuda.nvrtc import Compiler, DeviceCode, available_compilers, compile_cubin
from graphopt.backends.cuda.pack import cubins_in, device_code_packer, replace_sources, require_machine_code
from graphopt.backends.targets.compilation import build_module
from graphopt.backends.targets.cuda.caps import detect_sm
from graphopt.backends.targets.grammar import parse_target
from graphopt.errors import CompileError, InternalError
from tests.support.demo_module import demo_arrays, demo_module
from tests.support.gpu_binding import bound_module

KERNEL = 'extern "C" __global__ void f(float* x) { x[threadIdx.x] = x[threadIdx.x] / 3.0f; }'
needs_compiler = pytest.mark.skipif(not available_compilers(), reason="neither NVRTC nor nvcc")


def bound_demo(batch: int | None = 8) -> Any:
    return bound_module(demo_module(batch))


def _need(compiler: Compiler) -> None:
    if compiler not in available_compilers():
        pytest.skip(f"no {compiler}")


@pytest.mark.parametrize("compiler", ["nvrtc", "nvcc"])
@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_90"])
def test_library_holds_machine_code(arch: str, compiler: Compiler, tmp_path: Path) -> None:
    _need(compiler)
    target = parse_target(f"cuda:{arch}")
    built = build_module(bound_demo(None), target)
    path = tmp_path / "library.so"
    packer = device_code_packer(target, lambda source: compile_cubin(source.decode(), arch, compiler))
    module = built.executable.mod
    link_objects([*host_objects(module), packer(module)], path, find_linker(target))
    library = path.read_bytes()
    require_machine_code(library)
    assert len(cubins_in(library)) == 1
    assert b"threadIdx.x" in library  # the launch table survives
    for name in (b"matmul_kernel", b"bias_erf_kernel", b"sum_squares_kernel"):
        assert name in library


@needs_compiler
def test_export_picks_a_compiler_itself() -> None:
    library = build_module(bound_demo(), parse_target("cuda:sm_80")).library_bytes()
    require_machine_code(library)


@needs_compiler
def test_half_precision_and_special_functions() -> None:
    def tanh_exp(a: Any) -> Any:
        return te.compute(a.shape, lambda i, j: tirx.tanh(a[i, j]) + tirx.exp(a[i, j]))

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((64, 64), "float16"))
    with builder.function("main", [x]):
        y = builder.emit_te(tanh_exp, x)
        y = builder.emit_te(topi.cast, y, "bfloat16")
        y = builder.emit_te(topi.cast, y, "float32")
        builder.emit_func_output(builder.emit_te(topi.max, y, axis=1))
    require_machine_code(build_module(bound_module(builder.get()), parse_target("cuda:sm_80")).library_bytes())


@needs_compiler
def test_host_code_for_arm() -> None:
    """A Jetson: ARM host, CUDA device, cross-compiled."""
    target = parse_target("cuda:sm_87@arm")
    library = build_module(bound_demo(), target).library_bytes()
    assert struct.unpack_from("<H", library, 18)[0] == 183
    require_machine_code(library)


@pytest.mark.parametrize("compiler", ["nvrtc", "nvcc"])
def test_fast_math_is_off_unless_asked_for(compiler: Compiler) -> None:
    _need(compiler)
    strict, fast = (compile_cubin(KERNEL, "sm_80", compiler, fast_math=fast_math) for fast_math in (False, True))
    assert len(strict) > len(fast)  # exact division takes a subroutine
    assert strict == compile_cubin(KERNEL, "sm_80", compiler)


@pytest.mark.parametrize("compiler", ["nvrtc", "nvcc"])
def test_the_bits_of_a_constant(compiler: Compiler) -> None:
    """TVM writes the address of whatever it reinterprets, a constant's too."""
    _need(compiler)
    source = (
        'extern "C" __global__ void f(int* x) { x[0] = (*(int *)(&(1.0f/*0x1p+0*/))) | (*(int *)(&(((float*)x)[1]))); }'
    )
    assert compile_cubin(source, "sm_80", compiler)
    assert "&(" not in nvrtc.bits_by_value(source)


@pytest.mark.parametrize("compiler", ["nvrtc", "nvcc"])
def test_a_source_that_does_not_compile(compiler: Compiler) -> None:
    _need(compiler)
    with pytest.raises(CompileError) as caught:
        compile_cubin('extern "C" __global__ void f() { undefined_thing(); }', "sm_80", compiler)
    assert caught.value.code == "cuda-compile-failed"
    assert any("undefined_thing" in note for note in caught.value.notes)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "_has_nvrtc", lambda: False)
    monkeypatch.setattr(nvrtc.shutil, "which", lambda name: None)
    built = build_module(bound_demo(), parse_target("cuda:sm_80"))
    with pytest.raises(CompileError) as caught:
        built.library_bytes(lambda output, objects, options=None: None)  # type: ignore[arg-type]
    assert caught.value.code == "no-cuda-compiler"
    assert 'pip install "graphopt[cuda]"' in (caught.value.hint or "")


def test_pip_headers_come_before_the_toolkit() -> None:
    pytest.importorskip("cuda.bindings.nvrtc")
    folders = nvrtc._include_folders()
    assert folders
    assert "site-packages" in str(folders[0])


@needs_compiler
def test_nvrtc_needs_nothing_but_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    _need("nvrtc")
    monkeypatch.setattr(nvrtc.shutil, "which", lambda name: None)
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert available_compilers() == ["nvrtc"]
    assert compile_cubin(KERNEL, "sm_90").startswith(b"\x7fELF")


def test_source_is_refused() -> None:
    with pytest.raises(CompileError) as caught:
        require_machine_code(b"\x7fELF" + bytes(60) + b"extern __global__ void f();")
    assert caught.value.code == "no-device-code"


_LOAD = """
import ctypes, sys
for name in sys.argv[2:]:
    ctypes.CDLL(name, ctypes.RTLD_GLOBAL)
import tvm
def modules(m):
    yield m
    for child in m.imports:
        yield from modules(child)
(cuda,) = [m for m in modules(tvm.runtime.load_module(sys.argv[1])) if m.kind == "cuda"]
for name in ("matmul_kernel", "bias_erf_kernel", "sum_squares_kernel"):
    assert cuda.implements_function(name), name
assert not cuda.implements_function("other_kernel")
"""
_DRIVER = "cuGetErrorName cuGetErrorString cuDeviceGetName cuFuncSetAttribute cuLaunchKernelEx cuModuleGetFunction"
_DRIVER += " cuModuleLoadData cuModuleUnload cuTensorMapEncodeTiled"


@needs_compiler
def test_tvms_cuda_runtime_takes_the_library(tmp_path: Path) -> None:
    """The packed blob is read back by TVM's real CUDA module, here with a driver that does nothing."""
    runtimes = [folder.parent / "lib" / "libcudart.so.13" for folder in nvrtc._include_folders()]
    cudart = next((path for path in runtimes if path.is_file()), None)
    if cudart is None or shutil.which("cc") is None:
        pytest.skip("needs cc and the CUDA runtime of pip (extra 'cuda')")
    stub = tmp_path / "libcuda.so.1"
    source = "".join(f"int {name}() {{ return 0; }}\n" for name in _DRIVER.split())
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-xc", "-", "-o", str(stub)],
        input=source,
        text=True,
        check=True,
    )
    library = tmp_path / "library.so"
    build_module(bound_demo(), parse_target("cuda:sm_80")).export(library)
    command = [sys.executable, "-c", _LOAD, str(library), str(stub), str(cudart)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs_compiler
def test_pip_only_toolchain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No gcc, no nvcc, no system linker: NVRTC and zig from pip make the whole library."""
    pytest.importorskip("ziglang")
    _need("nvrtc")
    monkeypatch.setattr(nvrtc.shutil, "which", lambda name: None)
    target = parse_target("cuda:sm_90")
    assert find_linker(target).name == "zig"
    require_machine_code(build_module(bound_demo(), target).library_bytes())


def test_names_that_c_cannot_spell_are_refused() -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4,), "float32"))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit_te(lambda a: te.compute((4,), lambda i: a[i] + 1.0), x))
    with pytest.raises(InternalError, match="<lambda>"):
        build_module(bound_module(builder.get()), parse_target("cuda:sm_80"))


def _string(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def _blob(*modules: bytes) -> bytes:
    tree = struct.pack(f"<Q{len(modules) + 1}Q", len(modules) + 1, *([0] * (len(modules) + 1))) + struct.pack("<Q", 0)
    body = tree + b"".join(modules)
    return struct.pack("<Q", len(body)) + body


TABLE = struct.pack("<Q", 1) + _string(b"f") + _string(b"f") + struct.pack("<Q4sQ", 1, b"\x03\x40\x01\x00", 0)
TABLE += struct.pack("<Qi", 1, 0)
CUDA = _string(b"cuda") + _string(_string(b"cuda") + TABLE + _string(b"source"))


def test_only_cuda_sources_are_replaced() -> None:
    other = _string(b"other") + _string(b"bytes")
    got = replace_sources(_blob(_string(b"_lib"), CUDA, other), lambda source: b"<" + source + b">")
    compiled = _string(b"cuda") + _string(_string(b"cubin") + TABLE + _string(b"<source>"))
    assert got == _blob(_string(b"_lib"), compiled, other)
    several = fatbin([DeviceCode("sm_80", b"\x7fELF" + bytes(60), "")])
    got = replace_sources(_blob(CUDA), lambda source: several)
    assert got == _blob(_string(b"cuda") + _string(_string(b"fatbin") + TABLE + _string(several)))


@pytest.mark.parametrize("blob", [_blob(CUDA) + b"x", _blob(CUDA)[:-3], _blob(_string(b"cuda") + _string(b"junk"))])
def test_an_unknown_layout_is_not_guessed(blob: bytes) -> None:
    with pytest.raises(InternalError):
        replace_sources(blob, lambda source: source)


@pytest.mark.gpu
@pytest.mark.skipif(detect_sm() is None, reason="no GPU")
@pytest.mark.parametrize("batch", [8, None])
def test_runs_on_the_gpu(batch: int | None) -> None:
    arrays, expected = demo_arrays()
    vm = build_module(bound_demo(batch), parse_target("cuda")).load().vm()
    got = vm["main"](*[tvm.runtime.tensor(array, tvm.cuda()) for array in arrays]).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_detection_survives_a_machine_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_name: str) -> None:
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    driver.cache_clear()
    try:
        assert detect_sm() is None
    finally:
        driver.cache_clear()
    assert pack.cubins_in(b"") == []
