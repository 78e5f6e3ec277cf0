"""One source, machine code for several GPUs: the container, what ptxas reports, and that nothing is compiled twice."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import graphopt
from graphopt.backends.build.object_cache import ObjectCache
from graphopt.backends.cuda import code as code_module
from graphopt.backends.cuda import machine_code as machine_code_module
from graphopt.backends.cuda.fatbin import entries_of, fatbin
from graphopt.backends.cuda.machine_code import MachineCode, code_key, machine_code
from graphopt.backends.cuda.nvrtc import DeviceCode, available_compilers, compile_code
from graphopt.backends.cuda.pack import cubins_in, require_machine_code
from graphopt.backends.cuda.resources import KernelResources, of_function, resources_in
from graphopt.backends.targets.grammar import parse_target
from graphopt.cli.main import main
from graphopt.errors import CompileError, InternalError
from graphopt.runtime.artifact import read_artifact
from graphopt.runtime.load import load

needs_nvrtc = pytest.mark.skipif("nvrtc" not in available_compilers(), reason="needs NVRTC (extra 'cuda')")

SOURCE = """
extern "C" __global__ void __launch_bounds__(64) plain(float* x) { x[threadIdx.x] = x[threadIdx.x] / 3.0f; }
extern "C" __global__ void __launch_bounds__(256) shared_(float* x) {
  __shared__ float tile[300];
  tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = tile[255 - threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(1024, 2) spilling(float* x) {
  float v[64];
#pragma unroll
  for (int i = 0; i < 64; i++) v[i] = x[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 64; i++) x[(63 - i) * 1024 + threadIdx.x] = v[i] * v[(i * 7 + 3) % 64];
}
"""


@pytest.fixture(scope="module")
def compiled() -> MachineCode:
    """Of three architectures, and PTX."""
    return machine_code(SOURCE, parse_target("cuda:sm_75,sm_80,sm_90"))


def _tool(name: str) -> list[str]:
    """A program of NVIDIA's packages on PyPI, or of a toolkit."""
    found = shutil.which(name)
    for place in map(Path, sys.path):
        for file in sorted(place.glob(f"nvidia/cu[0-9]*/bin/{name}")):
            if os.access(file, os.X_OK):
                return [str(file)]
    if found is None:
        pytest.skip(f"needs {name} (pip install nvidia-cuda-{name})")
    return [found]


@needs_nvrtc
def test_the_container_holds_every_code(compiled: MachineCode) -> None:
    assert [code.arch for code in compiled.codes] == ["sm_75", "sm_80", "sm_90", "compute_90"]
    entries = entries_of(compiled.image)
    assert [arch for arch, _ in entries] == [code.arch for code in compiled.codes]
    assert [content for _, content in entries[:3]] == [code.content for code in compiled.codes[:3]]
    assert [struct.unpack_from("<H", content, 18)[0] for _, content in entries[:3]] == [190] * 3  # EM_CUDA
    ptx = entries[3][1]
    assert b".target sm_90" in ptx
    assert all(f".entry {name}(".encode() in ptx for name in ("plain", "shared_", "spilling"))
    assert b"//" not in ptx
    assert len(cubins_in(compiled.image)) == 3


@needs_nvrtc
def test_the_container_is_the_one_that_nvidias_library_writes(compiled: MachineCode) -> None:
    library = next((f for p in map(Path, sys.path) for f in p.glob("nvidia/cu13/lib/libnvfatbin.so.13")), None)
    if library is None:
        pytest.skip("needs libnvfatbin (pip install nvidia-nvfatbin==13.0.85)")
    nvfatbin, handle, size = ctypes.CDLL(str(library)), ctypes.c_void_p(), ctypes.c_size_t()
    options = (ctypes.c_char_p * 2)(b"-64", b"-compress=false")
    codes = [*compiled.codes, compile_code(SOURCE, "sm_90a")]
    assert nvfatbin.nvFatbinCreate(ctypes.byref(handle), options, 2) == 0
    for code in codes:
        arch, name = code.arch.split("_")[1].encode(), b"kernels"
        if code.arch.startswith("compute"):
            text = code.content + b"\0"
            status = nvfatbin.nvFatbinAddPTX(handle, text, ctypes.c_size_t(len(text)), arch, name, b"")
        else:
            status = nvfatbin.nvFatbinAddCubin(handle, code.content, ctypes.c_size_t(len(code.content)), arch, name)
        assert status == 0
    assert nvfatbin.nvFatbinSize(handle, ctypes.byref(size)) == 0
    content = ctypes.create_string_buffer(size.value)
    assert nvfatbin.nvFatbinGet(handle, content) == 0
    assert fatbin(codes) == content.raw


@needs_nvrtc
def test_cuobjdump_reads_the_container(compiled: MachineCode, tmp_path: Path) -> None:
    file = tmp_path / "kernels.fatbin"
    file.write_bytes(compiled.image)
    command = [*_tool("cuobjdump"), "-lelf", "-lptx", str(file)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in ("kernels.sm_75.cubin", "kernels.sm_80.cubin", "kernels.sm_90.cubin", "kernels.sm_90.ptx"):
        assert name in printed
    # what it reads from the machine code is what ptxas said when it was compiled
    command[1:3] = ["-res-usage"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers = [int(line.split("REG:")[1].split()[0]) for line in printed.splitlines() if "REG:" in line]
    said = [found.registers for kernels in compiled.resources.values() for found in kernels.values()]
    assert sorted(registers) == sorted(said)


@pytest.mark.parametrize("damaged", [b"", b"\x50\xed\x55\xba" + bytes(12), struct.pack("<IHHQ", 0xBA55ED50, 1, 16, 99)])
def test_what_is_no_container(damaged: bytes) -> None:
    if damaged[:4] == b"\x50\xed\x55\xba" and damaged[8:] == bytes(8):
        assert entries_of(damaged) == []  # an empty one
    else:
        with pytest.raises(InternalError):
            entries_of(damaged)


@needs_nvrtc
def test_what_ptxas_reports(compiled: MachineCode) -> None:
    assert list(compiled.resources) == ["sm_75", "sm_80", "sm_90"]
    for kernels in compiled.resources.values():
        assert list(kernels) == ["plain", "shared_", "spilling"]
        assert kernels["shared_"].shared == 1200
        assert kernels["shared_"].barriers == 1
        assert kernels["plain"].shared == kernels["plain"].spilled == 0
        assert 0 < kernels["plain"].registers <= 255
        assert kernels["spilling"].spilled > 0  # 1024 threads twice leave 32 registers for 64 values
        assert kernels["spilling"].stack > 0


def test_reports_of_kernels_that_were_compiled_side_by_side() -> None:
    log = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'f_kernel_1' for 'sm_80'
ptxas info    : Function properties for f_kernel_1
ptxas         .     48 bytes stack frame, 40 bytes spill stores, 44 bytes spill loads
ptxas info    : Used 32 registers, used 2 barriers, 48 bytes cumulative stack size, 1024 bytes smem, 368 bytes cmem[0]
ptxas info    : Compile time = 11.413 ms
ptxas info    : Compiling entry function 'f_kernel' for 'sm_80'
ptxas info    : Used 8 registers
"""
    found = resources_in(log)
    assert found == {"f_kernel": KernelResources(8), "f_kernel_1": KernelResources(32, 40, 48, 1024, 2)}
    assert str(found["f_kernel"]) == "8 registers, no spills"
    assert str(found["f_kernel_1"]) == "32 registers, 40 bytes spilled, 48 bytes of stack, 1024 bytes of shared memory"


def test_kernels_of_a_function() -> None:
    names = ["f_kernel_10", "f_kernel_2", "f_kernel", "f_1_kernel", "g_kernel", "f_kernel_kernel", "f_kernel_x"]
    kernels = {name: KernelResources(i) for i, name in enumerate(names)}
    assert list(of_function("f", kernels)) == ["f_kernel", "f_kernel_2", "f_kernel_10"]
    assert list(of_function("f_1", kernels)) == ["f_1_kernel"]


@needs_nvrtc
def test_code_is_found_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, calls = ObjectCache(tmp_path / "cache"), []

    def counted(source: str, arch: str, *args: Any) -> DeviceCode:
        calls.append(arch)
        return compile_code(source, arch, *args)

    monkeypatch.setattr(machine_code_module, "compile_code", counted)
    one, two = parse_target("cuda:sm_80"), parse_target("cuda:sm_80,sm_86")
    first = machine_code(SOURCE, one, cache)
    assert (calls, first.cached) == (["sm_80"], 0)
    assert first.image == first.codes[0].content  # no container around one code
    second = machine_code(SOURCE, two, cache)
    assert (sorted(calls), second.cached) == (["compute_86", "sm_80", "sm_86"], 1)
    third = machine_code(SOURCE, two, cache)
    assert (len(calls), third.cached) == (3, 3)
    assert third.image == second.image == machine_code(SOURCE, two).image
    assert third.resources == second.resources
    machine_code(SOURCE.replace("3.0f", "5.0f"), one, cache)
    assert len(calls) == 7  # three without a cache, one of another source


def test_the_key_covers_the_device_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_code_module, "compiler_identity", lambda compiler: "one")
    calls_one = "void f() { gopt_copy_commit(); }"
    before = code_key(calls_one, "sm_80", "nvrtc")
    assert before != code_key(calls_one, "sm_90", "nvrtc")
    monkeypatch.setattr(machine_code_module, "complete_source", lambda source: "// changed\n" + source)
    assert before != code_key(calls_one, "sm_80", "nvrtc")


@needs_nvrtc
def test_an_architecture_that_nvrtc_has_dropped() -> None:
    with pytest.raises(CompileError, match="makes no code for sm_70") as caught:
        compile_code(SOURCE, "sm_70", "nvrtc")
    assert "sm_75" in (caught.value.hint or "")


def _softmax() -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 5])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 5])
    model = helper.make_model(helper.make_graph([helper.make_node("Softmax", ["x"], ["y"])], "g", [x], [y]))
    content: bytes = model.SerializeToString()
    return content


@needs_nvrtc
def test_a_model_that_was_compiled_before_needs_no_code_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    compiled = [graphopt.compile(_softmax(), target) for target in ("cuda:sm_80", "cuda:sm_80", "cuda:sm_86")]
    compiled[0].save(tmp_path / "first.gopt")

    def refuse(*_: Any) -> Any:
        raise AssertionError("code is generated again")

    with monkeypatch.context() as patch:
        patch.setattr(code_module, "build_for_cuda", refuse)
        patch.setattr(code_module, "machine_code", refuse)
        for model in (graphopt.compile(_softmax(), "cuda:sm_80"), compiled[1]):
            model.save(tmp_path / "again.gopt")
            assert (tmp_path / "again.gopt").read_bytes() == (tmp_path / "first.gopt").read_bytes()
            assert model.built is not None
            assert model.built.report.cached == model.built.report.kernels == 1
            assert model.program is not None
            (remark,) = model.built.remarks_on(model.program.kernels[0].function)
            assert remark.startswith("sm_80: ")
            assert "registers, no spills" in remark
        with pytest.raises(CompileError):
            graphopt.compile(_softmax(), "cuda:sm_90")
        # what a test's own compiler makes is neither kept nor taken
        pytest.importorskip("ziglang")
    from tests.support.cuda_on_cpu.images import simulated_compiler

    with simulated_compiler():
        graphopt.compile(_softmax(), "cuda:sm_86").save(tmp_path / "simulated.gopt")
    compiled[2].save(tmp_path / "real.gopt")
    assert b"cuda_on_cpu image" in read_artifact(tmp_path / "simulated.gopt").library
    assert b"cuda_on_cpu image" not in read_artifact(tmp_path / "real.gopt").library


@needs_nvrtc
def test_an_artefact_for_all_gpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, path = tmp_path / "model.onnx", tmp_path / "model.gopt"
    source.write_bytes(_softmax())
    compiled = graphopt.compile(source, "cuda:all")
    compiled.save(path)
    artifact = read_artifact(path)
    require_machine_code(artifact.library)
    assert len(cubins_in(artifact.library)) == 5
    device = artifact.manifest["device"]
    assert [code["arch"] for code in device["code"]] == [*("sm_75", "sm_80", "sm_86", "sm_89", "sm_90"), "compute_90"]
    assert all(set(arches) == {"sm_75", "sm_80", "sm_86", "sm_89", "sm_90"} for arches in device["kernels"].values())
    assert main(["inspect", str(path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["device_code"]
    assert "none of them spilling" in shown["sm_80"]
    assert "kernels" not in shown["compute_90"]
    assert main(["inspect", str(source), "--stage", "program", "--costs", "-t", "cuda:sm_80"]) == 0
    assert "registers, no spills" in capsys.readouterr().out
    # an artefact that is saved again says the same
    again = tmp_path / "again.gopt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graphopt.runtime.load._require_runnable", lambda *_: None)
        patch.setattr("graphopt.backends.targets.compilation.open_library", lambda *_: None)
        patch.setattr("graphopt.runtime.load.executor_of", lambda *_: None)
        load(path).save(again)
    assert read_artifact(again).manifest["device"] == device
    assert np.array_equal(read_artifact(again).library, artifact.library)
