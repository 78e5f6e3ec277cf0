"""Building for the CPU at hand: JIT and exported library give the right numbers, through the artefact too."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.backends.base.host import default_threads, host_arch
from graphopt.backends.base.tvm_api import relax, s_tir, te, tirx, tvm
from graphopt.backends.targets.compilation import build_module
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.runnable import can_run_here
from graphopt.errors import CompileError, DeviceError
from graphopt.runtime.artifact import read_artifact, write_artifact
from tests.support.demo_module import demo_arrays, demo_module


def _run(vm: Any, arrays: list[Any]) -> Any:
    return vm["main"](*[tvm.runtime.tensor(array) for array in arrays]).numpy()


@pytest.mark.parametrize("batch", [8, None])
@pytest.mark.parametrize("spec", ["native", "x86-64-v2", "x86-64-v3", "x86-64-v4"])
def test_jit(spec: str, batch: int | None) -> None:
    target = parse_target(spec)
    if not can_run_here(target):
        pytest.skip(can_run_here(target).reason)
    arrays, expected = demo_arrays()
    np.testing.assert_allclose(_run(build_module(demo_module(batch), target).load().vm(), arrays), expected, rtol=1e-5)


def test_symbolic_batch_takes_any_size() -> None:
    vm = build_module(demo_module(None), parse_target("native")).load().vm()
    for batch in (1, 3, 17):
        arrays, expected = demo_arrays(batch)
        np.testing.assert_allclose(_run(vm, arrays), expected, rtol=1e-5)


@pytest.mark.parametrize("batch", [8, None])
def test_library_through_an_artefact(batch: int | None, tmp_path: Path) -> None:
    built = build_module(demo_module(batch), parse_target("native"))
    (x, w, b), expected = demo_arrays()
    write_artifact(tmp_path / "m.gopt", library=built.library_bytes(), constants=[w, b], manifest={})
    artifact = read_artifact(tmp_path / "m.gopt")
    with artifact.library_path() as path:
        module = tvm.runtime.load_module(str(path))
    constants = list(artifact.constants)
    np.testing.assert_allclose(_run(relax.VirtualMachine(module, tvm.cpu()), [x, *constants]), expected, rtol=1e-5)


def test_exported_library_is_reproducible() -> None:
    target = parse_target("x86-64-v3")
    assert build_module(demo_module(), target).library_bytes() == build_module(demo_module(), target).library_bytes()


def _assembly(spec: str) -> str:
    """Assembly of a fused multiply-add over 16 float32 lanes."""
    x, y, z = (te.placeholder((64, 16), name=name, dtype="float32") for name in "xyz")
    out = te.compute((64, 16), lambda i, j: x[i, j] * y[i, j] + z[i, j], name="out")
    schedule = s_tir.Schedule(te.create_prim_func([x, y, z, out]))
    schedule.vectorize(schedule.get_loops(schedule.get_sblock("out"))[1])
    module = tvm.IRModule({"f": schedule.mod["main"].with_attr("global_symbol", "f")})
    text: str = tvm.compile(module, target=parse_target(spec).tvm_target()).mod.inspect_source("asm")
    return text


@pytest.mark.parametrize(
    "spec", ["x86-64-v4", "x86:skylake-avx512", "x86:icelake-server", "x86:sapphirerapids", "x86:znver4"]
)
def test_512_bit_targets_use_512_bit_registers(spec: str) -> None:
    """LLVM prefers 256-bit vectors on Intel's AVX-512 parts unless told otherwise."""
    assert parse_target(spec).caps.vector_bits == 512
    assert re.search(r"vfmadd\w+ps.*%zmm", _assembly(spec))


def test_256_bit_targets_stay_within_256() -> None:
    text = _assembly("x86-64-v3")
    assert re.search(r"vfmadd\w+ps.*%ymm", text)
    assert "%zmm" not in text


def _elementwise(compute: Any, values: list[float]) -> Any:
    x = te.placeholder((len(values),), name="x", dtype="float32")
    function = te.create_prim_func([x, compute(x)]).with_attr("global_symbol", "f")
    compiled = tvm.compile(tvm.IRModule({"f": function}), target=parse_target("native").tvm_target())
    out = tvm.runtime.tensor(np.zeros(int(compute(x).shape[0]), "float32"))
    compiled["f"](tvm.runtime.tensor(np.array(values, "float32")), out)
    return out.numpy()


def test_no_fast_math() -> None:
    """Division and square root are exactly rounded, a sum keeps its order, NaN and infinity mean what they mean."""
    values = np.random.default_rng(0).uniform(0.1, 9, 64).astype("float32")
    got = _elementwise(lambda x: te.compute(x.shape, lambda i: 1.0 / tirx.sqrt(x[i])), values.tolist())
    np.testing.assert_array_equal(got, np.float32(1) / np.sqrt(values))
    k = te.reduce_axis((0, 4), "k")
    got = _elementwise(lambda x: te.compute((1,), lambda i: te.sum(x[k], axis=k)), [1e8, 1, -1e8, 1])
    assert got.tolist() == [1.0]
    got = _elementwise(lambda x: te.compute(x.shape, lambda i: x[i] / x[i]), [1, 0, np.inf, np.nan])
    assert np.isnan(got).tolist() == [False, True, True, True]


@pytest.mark.skipif(host_arch() != "x86", reason="needs an x86 machine")
def test_code_for_another_machine_is_not_run() -> None:
    built = build_module(demo_module(), parse_target("arm"))
    with pytest.raises(DeviceError, match="aarch64"):
        built.load().vm()


def test_failure_is_a_compile_error() -> None:
    """LLVM has no rule for the intrinsic ``fmod``."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4,), "float32"))
    with builder.function("main", [x]):
        y = builder.emit_te(lambda a: te.compute((4,), lambda i: tirx.fmod(a[i], a[i])), x)
        builder.emit_func_output(y)
    with pytest.raises(CompileError) as caught:
        build_module(builder.get(), parse_target("native"))
    assert caught.value.code == "codegen-failed"
    assert "fmod" in caught.value.notes[0]
    assert caught.value.__cause__ is not None


def test_thread_pool_follows_the_target() -> None:
    """In a process of its own: TVM's pool can't grow once it has started."""
    code = (
        "from graphopt.backends.build.tvm_threads import set_threads\n"
        "assert [set_threads(1), set_threads(2), set_threads(1), set_threads(2)] == [1, 2, 1, 2]"
    )
    if default_threads() < 2:
        pytest.skip("one CPU")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
