"""Models as C libraries: the results of the same kernels under TVM's virtual machine bit by bit, and those of x86 on ARM."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import graphopt
from graphopt.backends.base.host import default_threads
from graphopt.backends.build import link
from graphopt.backends.build.c_library import ARCHITECTURES
from graphopt.backends.build.c_library.compile import SOURCE, compiled
from graphopt.backends.build.link import find_linker
from graphopt.backends.build.pool.compile import ZIG_VERSION
from graphopt.backends.targets.grammar import parse_target
from graphopt.driver.accuracy import compare_all
from graphopt.errors import CompileError, GraphOptError, UserError
from graphopt.runtime.placements import aligned_memory
from tests.cli.conftest import Cli, cli
from tests.support.c_host import INCLUDE, MACHINES, HostError, run_c_library
from tests.support.onnx_graphs import model_of, rand
from tests.support.zoo_models import assert_outputs, zoo_model

__all__ = ["cli"]  # a fixture

CASES: dict[str, tuple[dict[str, str], str, str, dict[str, Any]]] = {
    "one operator": ({"x": "float[5,7]"}, "y = Softmax(x)", "y", {}),
    "large result": ({"x": "float[65,64]"}, "y = Relu(x)", "y", {}),
    "two results": ({"x": "float[65,64]"}, "y = Relu(x)\nz = MatMul(y, w)", "y z", {"w": rand(64, 3)}),
    "result of a result": ({"x": "float[65,64]"}, "y = Relu(x)\nz = Neg(y)\na = Reshape(y, s)", "y z a", {"s": np.array([-1])}),
    "an input": ({"x": "float[65,64]"}, "y = Identity(x)", "y", {}),
    "a part": ({"x": "float[80,64]"}, "h = Relu(x)\ny, z = Split <num_outputs=2> (h)\na = ReduceSum(z)", "y a", {}),
    "a constant": ({"x": "float[3]"}, "y = Identity(w)\nz = Add(x, w)", "y z", {"w": rand(3)}),
    "joined": ({"x": "float[1,16,9,11]"}, "a = Relu(x)\nb = Neg(x)\ny = Concat <axis=1> (a, b)", "y", {}),
    "convolutions": (
        {"x": "float[1,16,34,35]"},
        "a = Conv <pads=[1,1,1,1]> (x, v)\nb = Relu(a)\ny = Conv <pads=[1,1,1,1]> (b, w)",
        "y", {"v": rand(32, 16, 3, 3), "w": rand(24, 32, 3, 3)},
    ),
    "integers": ({"x": "int64[4,5]", "i": "int64[3]"}, "y = Mul(x, x)\nb = Greater(x, y)\nz = Where(b, x, y)", "z:int64", {}),
    "64 bits": (
        {"i": "int64[4,33]", "x": "float[4,33]"},
        "a = Mul(i, big)\nb = Cast <to=1> (a)\nc = Cast <to=11> (a)\nd = Mul(x, large)\ne = Cast <to=7> (d)\nf = Abs(d)\n"
        "g = Cast <to=13> (f)\nh = Cast <to=1> (g)\nj = Div(a, odd)\nk = Mod(a, odd)",
        "b c:double e:int64 h j:int64 k:int64", {"big": np.int64(1 << 33), "large": np.float32(1e10), "odd": np.int64(-777)},
    ),
    "functions": (
        {"x": "float[4,33]"},
        "a = Erf(x)\nb = Exp(x)\nc = Sin(b)\nd = Tan(x)\ne = Acos(a)\nf = Sqrt(b)\ng = Log(b)\nh = Round(f)\ni = Pow(b, x)\n"
        "j = Cast <to=10> (x)\nk = Cast <to=1> (j)\nl = Cast <to=11> (x)\nm = Exp(l)",
        "a c d e f g h i k m:double", {},
    ),
    "odd names": ({"a.b": "float[2]", "while": "float[2]", "0": "float[2]"}, "y = Sum(a_b, while, z0)", "y", {}),
}  # fmt: skip


def _case(name: str) -> tuple[Any, dict[str, Any]]:
    inputs, body, outputs, consts = CASES[name]
    model = model_of({k.replace(".", "_") if k != "0" else "z0": v for k, v in inputs.items()}, body, outputs, **consts)
    feed = {}
    for i, value in enumerate(model.graph.input):
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        whole = value.type.tensor_type.elem_type == TensorProto.INT64
        data = 100 * rand(*shape, seed=i)
        feed[value.name] = data.astype(np.int64) if whole else data / 100
    return model, feed


def _require(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_the_bits_of_the_virtual_machine(case: str, threads: int, tmp_path: Path) -> None:
    model, feed = _case(case)
    compiled = graphopt.compile(model, threads=threads)
    want = compiled.run(feed)
    got = run_c_library(compiled, feed, want, "here", "", tmp_path)
    assert got.keys() == want.keys()
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


@pytest.mark.qemu
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("machine", "target", "cpu"), [("aarch64", "arm", "cortex-a53"), ("armv7", "armv7", "cortex-a7")]
)
def test_on_arm(case: str, machine: str, target: str, cpu: str, tmp_path: Path) -> None:
    MACHINES[machine].require()
    model, feed = _case(case)
    want = graphopt.compile(model, threads=1).run(feed)
    got = run_c_library(graphopt.compile(model, target, threads=2), feed, want, machine, cpu, tmp_path)
    assert got.keys() == want.keys()
    assert not [c for c in compare_all(got, want, reduction=300) if not c.ok]


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("machine", "target", "cpu", "precision"),
    [
        ("aarch64", "arm:cortex-a72", "cortex-a72", None),
        ("aarch64", "arm:cortex-a76", "cortex-a76", "fp16"),
        ("armv7", "armv7", "cortex-a7", None),
        ("armv7", "armv7", "cortex-a7", "bf16"),
    ],
)
def test_a_model_on_arm(machine: str, target: str, cpu: str, precision: str | None, tmp_path: Path) -> None:
    MACHINES[machine].require()
    model = zoo_model("digits")
    feed = model.inputs(1)
    want = graphopt.compile(model.path(), "x86", shapes=model.shapes).run(feed)
    compiled = graphopt.compile(model.path(), target, shapes=model.shapes, threads=1, precision=precision)
    got = run_c_library(compiled, feed, want, machine, cpu, tmp_path)
    if precision is None:
        assert_outputs("digits", got, want, target)
    else:
        error = np.linalg.norm(got["logits"] - want["logits"]) / np.linalg.norm(want["logits"])
        assert 0 < error < (0.01 if precision == "fp16" else 0.1)


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("machine", "target", "cpu", "lacking"),
    [("aarch64", "arm:cortex-a76", "cortex-a72", "asimddp"), ("armv7", "armv7", "cortex-a9", "vfpv4, idiva, idivt")],
)
def test_another_processor_is_a_status(machine: str, target: str, cpu: str, lacking: str, tmp_path: Path) -> None:
    MACHINES[machine].require()
    model, feed = _case("one operator")
    with pytest.raises(HostError, match=lacking) as caught:
        run_c_library(graphopt.compile(model, target, threads=1), feed, {"y": feed["x"]}, machine, cpu, tmp_path)
    assert caught.value.status == 1  # GRAPHOPT_OTHER_PROCESSOR


def test_memory_elsewhere_than_at_a_cache_line_is_a_status(tmp_path: Path) -> None:
    model, feed = _case("convolutions")
    library = tmp_path / "net.so"
    compiled = graphopt.compile(model, threads=1)
    compiled.save_library(library)
    loaded = ctypes.CDLL(str(library))
    table = ctypes.addressof(ctypes.c_char.in_dll(loaded, "net_model"))
    loaded.graphopt_memory_bytes.argtypes, loaded.graphopt_memory_bytes.restype = [ctypes.c_void_p], ctypes.c_uint64
    size = loaded.graphopt_memory_bytes(table)
    memory, result = aligned_memory(size + 64), aligned_memory(24 * 34 * 35 * 4 + 64)
    inputs = (ctypes.c_void_p * 1)(feed["x"].ctypes.data)
    loaded.graphopt_run.argtypes = [ctypes.c_void_p] * 4
    for shift, place in ((0, 0), (4, 0), (0, 8), (64, 64)):
        outputs = (ctypes.c_void_p * 1)(result.ctypes.data + place)
        status = loaded.graphopt_run(table, inputs, outputs, memory.ctypes.data + shift)
        assert status == (2 if shift % 64 or place % 64 else 0), (shift, place)


def test_two_libraries_in_one_program_have_kernels_of_their_own(tmp_path: Path) -> None:
    """Both have a kernel of the same name. The program is linked against both, so that names are looked up in both."""
    _require("gcc", "g++")
    for name, size in (("one", 2), ("two", 7)):
        compiled = graphopt.compile(model_of({"x": f"float[{size}]"}, "y = Relu(x)"), threads=1)
        assert compiled.program is not None
        assert [kernel.function for kernel in compiled.program.kernels] == ["relu"]
        compiled.save_library(tmp_path / f"{name}.so")
    (tmp_path / "main.c").write_text(
        '#include "one.h"\n#include "two.h"\n#include <stdlib.h>\nint main(void) {\n'
        "  float x[7] = {-3, 5, 2, -1, 4, 6, 8}, a[2], b[7], sum = 0;\n"
        "  void *m = aligned_alloc(64, ONE_MEMORY_BYTES + TWO_MEMORY_BYTES + 64);\n"
        "  if (one_run(x, a, m) || two_run(x, b, m)) return 9;\n"
        "  for (int i = 0; i < 7; i++) sum += b[i];\n"
        "  return !(a[0] == 0 && a[1] == 5 && sum == 25);\n}\n"
    )
    for compiler in (["gcc", "-std=c11"], ["g++", "-x", "c++"]):
        subprocess.run(
            [*compiler, "-Wall", "-Wextra", "-Werror", "main.c", "-x", "none", "./one.so", "./two.so", "-lm", "-o", "main"],
            cwd=tmp_path, check=True, timeout=60,
        )  # fmt: skip
        assert subprocess.run(["./main"], cwd=tmp_path, check=False, timeout=60).returncode == 0


def _link_with(linker: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        chosen = find_linker(parse_target(target), linker)
    except CompileError as error:
        pytest.skip(error.message)
    monkeypatch.setattr(link, "find_linker", lambda _target: chosen)


@pytest.mark.qemu
@pytest.mark.parametrize("linker", ["cc", "ld", "zig"])
def test_functions_of_the_compilers_library_on_armv7(
    linker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers of 64 bits are divided and converted by functions that a bare linker doesn't find, but a library's host has."""
    MACHINES["armv7"].require()
    model, feed = _case("64 bits")
    want = graphopt.compile(model, threads=1).run(feed)
    compiled = graphopt.compile(model, "armv7", threads=1)
    _link_with(linker, "armv7", monkeypatch)
    got = run_c_library(compiled, feed, want, "armv7", "cortex-a7", tmp_path)
    assert not [c for c in compare_all(got, want, reduction=1) if not c.ok]


@pytest.mark.skipif(default_threads() < 2, reason="one CPU")
@pytest.mark.parametrize("linker", ["cc", "ld", "zig"])
def test_libraries_share_one_pool(linker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one's pool has the thread that the first one's loop has started."""
    _link_with(linker, "native", monkeypatch)
    for name in ("Sin", "Erf"):
        model = model_of({"x": "float[64,20000]"}, f"y = {name}(x)")
        graphopt.compile(model, threads=2).save_library(tmp_path / f"{name}.so")
    program = (
        "import ctypes, sys\nimport numpy as np\nfrom graphopt.runtime.placements import aligned_memory\n"
        "first, second = (ctypes.CDLL(name) for name in sys.argv[1:])\n"
        "x, y = aligned_memory(5120000), aligned_memory(5120000)\nx[:] = 0\nfound = [second.graphopt_pool_threads()]\n"
        "first.graphopt_run.argtypes = [ctypes.c_void_p] * 4\n"
        "table = ctypes.addressof(ctypes.c_char.in_dll(first, 'Sin_model'))\n"
        "array = ctypes.c_void_p * 1\n"
        "status = first.graphopt_run(table, array(x.ctypes.data), array(y.ctypes.data), None)\n"
        "print(status, found + [second.graphopt_pool_threads()])"
    )
    libraries = [str(tmp_path / f"{name}.so") for name in ("Sin", "Erf")]
    done = subprocess.run(
        [sys.executable, "-c", program, *libraries], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "0 [0, 1]", done.stdout


def test_the_library_asks_for_nothing_but_the_c_library(tmp_path: Path) -> None:
    _require("nm")
    model, _ = _case("convolutions")
    graphopt.compile(model, threads=2).save_library(tmp_path / "net.so")
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", "net.so"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    strong = [line.split()[-1] for line in symbols.stdout.splitlines() if " w " not in line and " v " not in line]
    assert not [name for name in strong if "TVM" in name or "tvm" in name]


def test_the_header(tmp_path: Path) -> None:
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Sum", ["a.b", "while", "0"], ["*/ evil"])], "g",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("a.b", "while", "0")],
            [helper.make_tensor_value_info("*/ evil", TensorProto.FLOAT, [2])],
        ),
        opset_imports=[helper.make_opsetid("", 18)], ir_version=9,
    )  # fmt: skip
    graphopt.compile(model, threads=1).save_library(tmp_path / "2 odd-names.so")
    text = (tmp_path / "2 odd-names.h").read_text()
    assert (
        "x2_odd_names_run(const float *a_b, const float *while_, const float *x0, float *x___evil, void *memory)"
        in text
    )
    _require("gcc", "g++")
    for language in ("c", "c++"):
        command = [
            "gcc",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-fsyntax-only",
            "-x",
            language,
            f"-I{INCLUDE}",
            "2 odd-names.h",
        ]
        subprocess.run(command, cwd=tmp_path, check=True, timeout=60)


@pytest.mark.parametrize(
    ("inputs", "body", "outputs", "code", "hint"),
    [
        ({"x": "float[N,4]"}, "y = Softmax(x)", "y", "open-sizes", "--shape"),
        ({"x": "float[4]"}, "y = NonZero(x)", "y:int64", "decides-while-running", "gopt"),
        ({"x": "float[4]", "i": "int64[1]"}, "y = Reshape(x, i)", "y", "decides-while-running", "--value"),
    ],
)
def test_what_a_c_library_cannot_do(
    inputs: dict[str, str], body: str, outputs: str, code: str, hint: str, tmp_path: Path
) -> None:
    compiled = graphopt.compile(model_of(inputs, body, outputs), threads=1)
    with pytest.raises(UserError) as caught:
        compiled.save_library(tmp_path / "net.so")
    assert caught.value.code == code
    assert hint in (caught.value.hint or "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("machine", "target", "cpu"),
    [("here", "native", ""), ("aarch64", "arm", "cortex-a53"), ("armv7", "armv7", "cortex-a7")],
)
def test_a_value_that_does_not_fit_is_a_status_and_a_text(machine: str, target: str, cpu: str, tmp_path: Path) -> None:
    MACHINES[machine].require()
    compiled = graphopt.compile(model_of({"x": "float[4]", "i": "int64[2]"}, "y = Gather(x, i)"), target, threads=1)
    x = np.arange(4, dtype=np.float32)
    for i in ([3, -4], [0, 2]):
        got = run_c_library(compiled, {"x": x, "i": np.array(i)}, {"y": x[:2]}, machine, cpu, tmp_path)
        np.testing.assert_array_equal(got["y"], x[i])
    for i in ([0, 4], [-5, 1], [1 << 40, 0]):
        with pytest.raises(HostError, match=r"status 4: y \(Gather\): Gather: index out of range: ") as caught:
            run_c_library(compiled, {"x": x, "i": np.array(i)}, {"y": x[:2]}, machine, cpu, tmp_path)
        assert str(max(i, key=abs)) in caught.value.text


def test_other_targets(tmp_path: Path) -> None:
    model, _ = _case("one operator")
    mac = {"kind": "llvm", "mtriple": "arm64-apple-macosx11.0", "mcpu": "apple-m1"}
    with pytest.raises(UserError, match="not for"):
        graphopt.compile(model, mac, threads=1).save_library(tmp_path / "net.so")
    with pytest.raises(UserError, match=r"nothing loads \.gopt files on armv7a") as caught:
        graphopt.compile(model, "armv7", threads=1).save(tmp_path / "net.gopt")
    assert "NAME.so" in (caught.value.hint or "")
    assert not list(tmp_path.iterdir())
    graphopt.compile(model, threads=1).save(tmp_path / "net.gopt")
    with pytest.raises(GraphOptError, match="loaded"):
        graphopt.load(tmp_path / "net.gopt").save_library(tmp_path / "net.so")


def test_the_command(cli: Cli) -> None:
    model = zoo_model("digits").path()
    result = cli("compile", model, "--target", "armv7", "--shape", "image=1x1x8x8", "-o", "digits.so")
    assert result.code == 0, result.err
    assert {p.name for p in Path.cwd().iterdir()} == {"digits.so", "digits.h"}
    assert Path("digits.so").read_bytes()[18:20] == b"\x28\0"  # ARM
    again = cli("compile", model, "--target", "armv7", "-o", "digits.so")
    assert again.code == 2
    assert "--shape" in again.err


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_objects_are_those_of_the_source(architecture: str) -> None:
    pytest.importorskip("ziglang", reason="no ziglang")
    if not version("ziglang").startswith(ZIG_VERSION):
        pytest.skip(f"the objects were made with ziglang {ZIG_VERSION}")
    content = (SOURCE.parent / "objects" / f"{architecture}.o").read_bytes()
    assert content == compiled(architecture), "run python -m graphopt.backends.build.c_library.compile"
