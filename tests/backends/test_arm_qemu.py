"""ARM code runs: built here, executed under emulation, compared with numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.backends.base.tvm_api import s_tir, te, tvm
from graphopt.backends.build.link import find_linker
from graphopt.backends.build.whole_module import BuiltWhole
from graphopt.backends.targets.compilation import build_module
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.platforms import platform_of
from graphopt.errors import CompileError
from tests.support import qemu
from tests.support.demo_module import demo_arrays, demo_module

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(qemu.why_unavailable() is not None, reason=str(qemu.why_unavailable())),
]


@pytest.mark.parametrize("batch", [8, None])
@pytest.mark.parametrize(
    ("spec", "cpu"), [("arm", "cortex-a53"), ("arm:cortex-a76", "cortex-a76"), ("arm:neoverse-v1", "max")]
)
def test_module_runs(spec: str, cpu: str, batch: int | None) -> None:
    arrays, expected = demo_arrays()
    library = build_module(demo_module(batch), parse_target(spec)).library_bytes()
    (got,) = qemu.run_under_qemu(library, arrays, [((8,), "float32")], cpu=cpu)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("linker", ["ld.lld", "cc", "ld", "zig"])
def test_every_linker_gives_a_library_that_runs(linker: str) -> None:
    target = parse_target("arm")
    try:
        chosen = find_linker(target, linker)
    except CompileError as error:
        pytest.skip(error.message)
    arrays, expected = demo_arrays()
    (got,) = qemu.run_under_qemu(build_module(demo_module(), target).library_bytes(chosen), arrays, [((8,), "float32")])
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def _fp16_library(spec: str) -> bytes:
    """A PrimFunc of fp16 vector arithmetic."""
    x = te.placeholder((8,), name="x", dtype="float16")
    out = te.compute((8,), lambda i: x[i] * x[i] + x[i], name="out")
    schedule = s_tir.Schedule(te.create_prim_func([x, out]))
    schedule.vectorize(schedule.get_loops(schedule.get_sblock("out"))[0])
    module = tvm.IRModule({"f": schedule.mod["main"].with_attr("global_symbol", "f")})
    target = parse_target(spec)
    compiled = tvm.compile(module, target=target.tvm_target())
    return BuiltWhole(target, platform_of(target), executable=compiled).library_bytes()


def test_prim_functions_and_float16() -> None:
    x = np.linspace(-1, 1, 8).astype("float16")
    (got,) = qemu.run_under_qemu(
        _fp16_library("arm:cortex-a76"), [x], [((8,), "float16")], "cortex-a76", "f", mode="prim"
    )
    np.testing.assert_allclose(got.astype("float32"), x.astype("float32") ** 2 + x, atol=2e-3)


def test_an_instruction_the_processor_lacks_is_told_apart() -> None:
    """What shows that the emulated processor is the one asked for."""
    x = np.ones(8, "float16")
    with pytest.raises(qemu.QemuError) as caught:
        qemu.run_under_qemu(_fp16_library("arm:cortex-a76"), [x], [((8,), "float16")], "cortex-a72", "f", mode="prim")
    assert caught.value.illegal_instruction


@pytest.mark.parametrize("outputs", [[], [((7,), "float32")], [((8,), "float64")]])
def test_other_outputs_than_expected_fail(outputs: list[Any]) -> None:
    library = build_module(demo_module(), parse_target("arm")).library_bytes()
    with pytest.raises(qemu.QemuError, match="another"):
        qemu.run_under_qemu(library, demo_arrays()[0], outputs)
