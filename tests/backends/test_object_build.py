"""Kernels compiled apart: the same bytes whoever compiles them, found again by content, and linked into one library."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.backends.base.tvm_api import IDLE_PASSES, cpu_pass_context, relax, te, tirx, tvm
from graphopt.backends.build import kernel_object, link, worker_pool
from graphopt.backends.build.code_generation import CodeGenerator
from graphopt.backends.build.compile_worker import DONE
from graphopt.backends.build.kernel_object import KernelSource, compile_kernel, kernel_key
from graphopt.backends.build.object_build import BuiltOfObjects
from graphopt.backends.build.object_cache import ObjectCache
from graphopt.backends.build.whole_module import whole_module
from graphopt.backends.build.worker_pool import compile_kernels, worker_command, worthwhile_workers
from graphopt.backends.targets.compilation import build_module, open_library
from graphopt.backends.targets.grammar import parse_target
from graphopt.driver.compiling import to_program
from graphopt.errors import CompileError, DeviceError
from graphopt.models.digits import MODEL_PATH
from tests.support.demo_module import demo_arrays, demo_module

SIZES = (4, 8, 12, 16, 20)


def function(size: int, factor: float = 2.0) -> Any:
    x = te.placeholder((size,), name="x", dtype="float32")
    y = te.compute((size,), lambda i: x[i] * tirx.const(factor, "float32"), name="y")
    return te.create_prim_func([x, y])


def sources(sizes: Sequence[int] = SIZES) -> list[KernelSource]:
    found = [KernelSource.of(f"scale_{size}", function(size)) for size in sizes]
    return [source for source in found if source is not None]


def run(vm: Any, arrays: list[Any]) -> Any:
    return vm["main"](*[tvm.runtime.tensor(array) for array in arrays]).numpy()


@pytest.fixture(scope="module")
def objects() -> list[bytes]:
    target = parse_target("native")
    return [compile_kernel(source, target) for source in sources()]


# -- subnormal numbers --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("level", [0, 1])
def test_kernels_may_hold_numbers_below_the_least_normal_one(level: int) -> None:
    """TVM's JSON reader takes them for errors of syntax."""
    x = np.array([0.0, 1.0, -3.0, 2.0**60, np.inf, np.nan])
    numbers = [5e-324, -5e-324, 1e-310, np.nextafter(2.2250738585072014e-308, 0), 2.2250738585072014e-308]
    nodes = [helper.make_node("Mul", ["x", f"c{i}"], [f"y{i}"]) for i in range(len(numbers))]
    infos = [
        helper.make_tensor_value_info(name, TensorProto.DOUBLE, [6]) for name in ["x", *(n.output[0] for n in nodes)]
    ]
    constants = [numpy_helper.from_array(np.array(number), f"c{i}") for i, number in enumerate(numbers)]
    graph = helper.make_graph(nodes, "subnormal", infos[:1], infos[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    got = graphopt.compile(model, level=level, threads=1, jobs=1).run({"x": x})
    for i, number in enumerate(numbers):
        np.testing.assert_array_equal(got[f"y{i}"], x * number)


# -- keys ---------------------------------------------------------------------------------------------------------
def test_the_key_is_the_content() -> None:
    target = parse_target("x86-64-v3")
    keys = [
        kernel_key(KernelSource(name, KernelSource.of(name, f).text), goal)  # type: ignore[union-attr]
        for name, f, goal in [
            ("f", function(8), target),
            ("g", function(8), target),
            ("f", function(9), target),
            ("f", function(8, 3.0), target),
            ("f", function(8), parse_target("x86-64-v4")),
            ("f", function(8), parse_target("arm")),
        ]
    ]
    assert len(set(keys)) == len(keys)
    assert kernel_key(KernelSource.of("f", function(8)), target) == keys[0]  # type: ignore[arg-type]


def test_passes_that_are_left_out_would_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of a network, the same bytes with TVM's passes that `IDLE_PASSES` leaves out."""
    target = parse_target("x86-64-v3")
    program = to_program(str(MODEL_PATH), target.name, shapes={"image": "1x1x8x8"})[2]
    kernels = [KernelSource.of(name, function) for name, function in program.functions.items()]
    chosen = [k for k in kernels if k is not None][:6]
    assert len(chosen) == 6
    without = [compile_kernel(source, target) for source in chosen]
    usual = cpu_pass_context()
    left_out = [name for name in usual.disabled_pass if name not in IDLE_PASSES]
    assert len(left_out) == len(usual.disabled_pass) - len(IDLE_PASSES)
    everything = tvm.transform.PassContext(disabled_pass=left_out, config=dict(usual.config))
    monkeypatch.setattr(kernel_object, "cpu_pass_context", lambda: everything)
    assert [compile_kernel(source, target) for source in chosen] == without


def test_kernels_trust_who_calls_them(objects: list[bytes]) -> None:
    """Their arguments were checked before a run: a check in each kernel would be most of a small one's code."""
    assert not any(b"Mismatched" in content or b"TypeError" in content for content in objects)


def test_the_number_of_threads_is_in_the_key_of_parallel_loops_alone() -> None:
    """They are cut into chunks for so many threads; else the number matters as far as it changes the kernel."""
    one, two = parse_target("x86-64-v3", 1), parse_target("x86-64-v3", 2)
    (source,) = sources([8])
    assert kernel_key(source, one) == kernel_key(source, two)
    parallel = KernelSource(source.name, source.text.replace('"kind":0,', '"kind":1,', 1))
    assert parallel.text != source.text
    assert kernel_key(parallel, one) != kernel_key(parallel, two)


def test_the_key_is_the_same_in_every_process() -> None:
    code = (
        "from tests.backends.test_object_build import *\n"
        "print(*[kernel_key(s, parse_target('x86-64-v3')) for s in sources()])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [kernel_key(source, parse_target("x86-64-v3")) for source in sources()]


# -- workers ------------------------------------------------------------------------------------------------------
def wait_for(
    monkeypatch: pytest.MonkeyPatch, owner: type, method: str, meant: Callable[[Any], bool] = lambda _: True
) -> None:
    """This process compiles nothing before ``owner.method`` has returned what is meant: workers have all the time they need."""
    happened = threading.Event()
    called = getattr(owner, method)

    def noted(*args: Any) -> Any:
        result = called(*args)
        if meant(result):
            happened.set()
        return result

    def late(*args: Any) -> bytes:
        assert happened.wait(300)
        return compile_kernel(*args)

    monkeypatch.setattr(owner, method, noted)
    monkeypatch.setattr(worker_pool, "compile_kernel", late)


def test_workers_make_the_same_bytes(objects: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "worthwhile_workers", lambda _: 2)

    wait_for(monkeypatch, worker_pool._Worker, "ask", lambda reply: reply is None or reply[:1] == DONE)
    found, report = compile_kernels(sources(), parse_target("native"), jobs=3)
    assert found == objects
    assert report.by_workers > 0
    assert report.notes == []


@pytest.mark.parametrize(
    ("script", "note"),
    [
        ("import sys; sys.exit(3)", "before its first kernel (exit status 3)"),
        ("from graphopt.backends.build.compile_worker import *\nread_frame(sys.stdin.buffer)\n"
         "write_frame(sys.stdout.buffer, b'')\nread_frame(sys.stdin.buffer)\nos._exit(9)", "(exit status 9)"),
        ("from graphopt.backends.build.compile_worker import *\nread_frame(sys.stdin.buffer)\n"
         "write_frame(sys.stdout.buffer, b'')\nread_frame(sys.stdin.buffer)\nsys.stdout.buffer.write(b'ab')",
         "while compiling scale_"),
    ],
)  # fmt: skip
def test_a_worker_that_dies_costs_a_note(
    script: str, note: str, objects: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "worthwhile_workers", lambda _: 1)

    wait_for(monkeypatch, worker_pool._Pool, "_lost")
    command = [sys.executable, "-c", script]
    found, report = compile_kernels(sources(), parse_target("native"), 2, command)
    assert found == objects
    assert report.by_workers == 0
    assert len(report.notes) == 1
    assert note in report.notes[0]


def test_a_worker_that_hangs_is_given_up(objects: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "worthwhile_workers", lambda _: 1)
    monkeypatch.setattr(worker_pool, "KERNEL_LIMIT_S", 0.5)
    script = (
        "from graphopt.backends.build.compile_worker import *\nimport time\nread_frame(sys.stdin.buffer)\n"
        "write_frame(sys.stdout.buffer, b'')\ntime.sleep(60)"
    )

    wait_for(monkeypatch, worker_pool._Pool, "_take", lambda index: index is not None)
    found, report = compile_kernels(sources(), parse_target("native"), 2, [sys.executable, "-c", script])
    assert found == objects
    assert "while compiling" in report.notes[0]
    assert "(exit status -9)" in report.notes[0]  # it was killed, it didn't end


def test_a_worker_that_can_not_start_costs_a_note(objects: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "worthwhile_workers", lambda _: 1)
    found, report = compile_kernels(sources(), parse_target("native"), 2, ["/no/such/program"])
    assert found == objects
    assert "no worker process" in report.notes[0]


def test_an_interrupt_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "worthwhile_workers", lambda _: 2)
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def recording(*args: Any, **kwargs: Any) -> Any:
        started.append(popen(*args, **kwargs))
        return started[-1]

    def interrupted(*_: Any) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker_pool.subprocess, "Popen", recording)
    monkeypatch.setattr(worker_pool, "compile_kernel", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compile_kernels(sources(), parse_target("native"), 3)
    assert len(started) == 2
    assert all(process.returncode is not None for process in started)


def test_a_program_that_is_no_python_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/usr/bin/my-app")
    assert worker_command() == []
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    assert worker_command()[0] == "/usr/bin/python3"
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert worker_command() == []


def test_little_work_starts_no_worker() -> None:
    assert worthwhile_workers(sources()) == 0
    heavy = [KernelSource(f"k{i}", "x" * 70_000) for i in range(30)]
    assert 2 <= worthwhile_workers(heavy) <= 29
    assert worthwhile_workers(heavy[:1]) == 0


@pytest.mark.parametrize(("wanted", "found"), [("1", 1), ("16", 16), ("0", 5), ("-2", 5), ("many", 5), ("", 5)])
def test_the_environment_says_how_many_processes_compile(
    wanted: str, found: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "default_threads", lambda: 5)
    monkeypatch.setenv("GRAPHOPT_JOBS", wanted)
    assert worker_pool.default_jobs() == found
    monkeypatch.setattr(worker_pool, "worthwhile_workers", lambda _: 99)
    asked: list[int] = []
    monkeypatch.setattr(worker_pool._Pool, "run", lambda _self, count, _command: asked.append(count))
    compile_kernels(sources(), parse_target("native"))
    compile_kernels(sources(), parse_target("native"), 3)
    assert asked == [found - 1, 2], "what a caller says comes first"


# -- modules ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("batch", [8, None])
def test_as_tvm_makes_it_in_one_piece(batch: int | None) -> None:
    arrays, expected = demo_arrays()
    target = parse_target("native")
    built = build_module(demo_module(batch), target)
    assert isinstance(built, BuiltOfObjects)
    got = run(built.load().vm(), arrays)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    whole = relax.VirtualMachine(whole_module(demo_module(batch), target), tvm.cpu())
    np.testing.assert_array_equal(got, run(whole, arrays))


def test_the_second_time_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, arrays = parse_target("native"), demo_arrays()[0]
    first = build_module(demo_module(), target, ObjectCache(tmp_path))
    assert first.report.kernels > 0
    assert first.report.cached == 0

    def never(*_: Any) -> bytes:
        raise AssertionError("compiled again")

    monkeypatch.setattr(worker_pool, "compile_kernel", never)
    second = build_module(demo_module(), target, ObjectCache(tmp_path))
    assert second.report.cached == second.report.kernels == first.report.kernels
    assert first.library_bytes() == second.library_bytes()
    np.testing.assert_array_equal(run(first.load().vm(), arrays), run(second.load().vm(), arrays))


def test_a_damaged_entry_is_compiled_again(tmp_path: Path) -> None:
    target = parse_target("native")
    build_module(demo_module(), target, ObjectCache(tmp_path))
    entry = next(tmp_path.glob("*/*.gobj"))
    entry.write_bytes(entry.read_bytes()[:-1] + b"?")
    again = build_module(demo_module(), target, ObjectCache(tmp_path))
    assert again.report.cached == again.report.kernels - 1
    assert "damaged" in again.report.notes[0]
    assert build_module(demo_module(), target, ObjectCache(tmp_path)).report.notes == []


def test_without_a_linker_it_runs_all_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def none(*_: object) -> None:
        raise CompileError("no linker", code="no-linker")

    monkeypatch.setattr(link, "find_linker", none)
    built = build_module(demo_module(), parse_target("native"), ObjectCache(tmp_path))
    assert not isinstance(built, BuiltOfObjects)
    arrays, expected = demo_arrays()
    np.testing.assert_allclose(run(built.load().vm(), arrays), expected, rtol=1e-5)


def test_where_no_library_can_be_loaded_it_runs_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise DeviceError("failed to map segment", code="load-failed")

    built = build_module(demo_module(), parse_target("native"))
    monkeypatch.setattr(CodeGenerator, "open_library", refused)
    arrays, expected = demo_arrays()
    np.testing.assert_allclose(run(built.load().vm(), arrays), expected, rtol=1e-5)
    assert "failed to map" in built.report.notes[0]


def test_a_script_without_a_main_guard_runs_once(tmp_path: Path) -> None:
    """Workers are commands of their own: they don't run the user's script again."""
    script = tmp_path / "script.py"
    script.write_text(
        "print('start')\n"
        "import threading\n"
        "from graphopt.backends.build import worker_pool\n"
        "from tests.backends.test_object_build import sources, parse_target, compile_kernel\n"
        "worker_pool.worthwhile_workers = lambda _: 1\n"
        "answered, ask = threading.Event(), worker_pool._Worker.ask\n"
        "def noted(*args):\n"
        "    reply = ask(*args)\n"
        "    if reply is None or reply[:1] == worker_pool.DONE: answered.set()\n"
        "    return reply\n"
        "def late(*args): answered.wait(100); return compile_kernel(*args)\n"
        "worker_pool._Worker.ask, worker_pool.compile_kernel = noted, late\n"
        "report = worker_pool.compile_kernels(sources(), parse_target('native'), 2)[1]\n"
        "print(report.by_workers > 0, report.notes)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.stdout.split("\n")[:2] == ["start", "True []"], done.stderr


def test_exports_as_often_as_one_likes(tmp_path: Path) -> None:
    """Once for running, once or more for saving: each links the same kernels anew."""
    target = parse_target("native")
    built = build_module(demo_module(), target)
    assert isinstance(built, BuiltOfObjects)
    arrays, _ = demo_arrays()
    want = run(built.load().vm(), arrays)
    for name in ("a.so", "b.so"):
        built.export(tmp_path / name)
        np.testing.assert_array_equal(run(open_library(tmp_path / name, target).vm(), arrays), want)
