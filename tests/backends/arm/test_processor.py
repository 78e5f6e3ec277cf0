"""Libraries for ARM ask for the instructions that they need, so that the wrong processor is an error with a text and no signal."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import graphopt
from graphopt.backends.base.tvm_api import llvm_features
from graphopt.backends.build import processor
from graphopt.backends.build.pool.compile import ZIG_VERSION
from graphopt.backends.build.processor import ARCHITECTURES, REQUIRE, KernelFlag, asks, question
from graphopt.backends.build.processor.compile import SOURCE, compiled
from graphopt.backends.program.relax_emit import to_module
from graphopt.backends.targets.arm.features import KERNEL_FLAGS, KERNEL_FLAGS_32
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.platforms import platform_of
from graphopt.driver.compiling import to_program
from graphopt.errors import InternalError
from graphopt.runtime.artifact import read_artifact
from tests.cli.conftest import small_model
from tests.runtime.test_manifest import changed, rewritten
from tests.support import qemu
from tests.support.zoo_models import zoo_model

_PROGRAM = Path(__file__).with_name("question.c")
needs_qemu = pytest.mark.skipif(qemu.why_unavailable() is not None, reason=str(qemu.why_unavailable()))


def _asked(folder: Path, triple: str, needs: list[KernelFlag], cpu: str) -> tuple[int, str]:
    """What a C program that the question is linked into prints on an emulated processor."""
    machine = triple.partition("-")[0]
    compiler, emulator = shutil.which(f"{triple}-gcc"), shutil.which(f"qemu-{machine}")
    if compiler is None or emulator is None:
        pytest.skip(f"no {triple}-gcc or no qemu-{machine}")
    (code,) = question("armv7a-linux-gnueabihf" if machine == "arm" else triple, "arm:somebody", needs)
    (folder / "question.o").write_bytes(code)
    program = folder / "asks"
    subprocess.run(
        [compiler, f"-I{SOURCE.parent}", str(_PROGRAM), str(folder / "question.o"), "-o", str(program)],
        check=True,
        timeout=60,
    )
    done = subprocess.run(
        [emulator, "-cpu", cpu, "-L", f"/usr/{triple}", str(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    count, _, text = done.stdout.rstrip("\n").partition("|")
    return int(count), text


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("spec", "cpu", "missing"),
    [
        ("arm", "cortex-a53", []),
        ("arm:cortex-a53", "cortex-a53", []),
        ("arm:cortex-a72", "cortex-a72", []),
        ("arm:cortex-a76", "cortex-a76", []),
        ("arm:neoverse-n1", "neoverse-n1", []),
        ("arm:cortex-a55", "cortex-a53", ["atomics", "asimdhp", "asimdrdm", "lrcpc", "asimddp"]),
        ("arm:neoverse-n1", "cortex-a72", ["atomics", "asimdhp", "asimdrdm", "lrcpc", "asimddp"]),
        ("arm,+i8mm,+bf16", "cortex-a76", ["i8mm", "bf16"]),
        ("arm,+i8mm,+bf16", "max", []),
        ("arm:neoverse-v1", "max", []),
    ],
)
def test_what_a_processor_lacks(tmp_path: Path, spec: str, cpu: str, missing: list[str]) -> None:
    target = parse_target(spec)
    count, text = _asked(tmp_path, "aarch64-linux-gnu", list(platform_of(target).needed_flags(target)), cpu)
    assert count == len(missing)
    if missing:
        assert text == (
            f"this processor lacks {', '.join(missing)}, which the code needs: it was compiled for arm:somebody"
        )
    else:
        assert text == ""


@pytest.mark.qemu
@pytest.mark.parametrize(("cpu", "missing"), [("cortex-a7", 0), ("cortex-a8", 1), ("cortex-a9", 1)])
def test_processors_of_32_bits(tmp_path: Path, cpu: str, missing: int) -> None:
    needs = [KERNEL_FLAGS_32["neon"], KERNEL_FLAGS_32["vfp4"]]
    count, text = _asked(tmp_path, "arm-linux-gnueabihf", needs, cpu)
    assert count == missing
    assert "neon" not in text
    assert ("vfpv4" in text) is (missing > 0)


@pytest.mark.qemu
@needs_qemu
def test_a_model_on_another_processor_is_an_error_and_no_signal() -> None:
    """The kernels would use dot products or fp16 arithmetic, which a Cortex-A72 hasn't got: its first call says so."""
    model = zoo_model("digits")
    compiled = graphopt.compile(model.path(), "arm:cortex-a76", shapes=model.shapes, threads=1)
    assert compiled.built is not None
    inputs = list(model.inputs(1).values())
    library = compiled.built.library_bytes()
    with pytest.raises(qemu.QemuError, match=r"lacks atomics, asimdhp, .*compiled for arm:cortex-a76") as caught:
        qemu.run_under_qemu(library, inputs, [((1, 10), "float32")], "cortex-a72", constants=compiled.constants)
    assert not caught.value.illegal_instruction
    qemu.run_under_qemu(library, inputs, [((1, 10), "float32")], "cortex-a76", constants=compiled.constants)


@pytest.mark.qemu
@needs_qemu
def test_a_library_for_x86_does_not_load_on_arm() -> None:
    model = zoo_model("digits")
    compiled = graphopt.compile(model.path(), "x86-64-v2", shapes=model.shapes, threads=1)
    assert compiled.built is not None
    with pytest.raises(qemu.QemuError, match="Failed to load"):
        qemu.run_under_qemu(compiled.built.library_bytes(), list(model.inputs(1).values()), [((1, 10), "float32")])


@pytest.mark.parametrize(("spec", "count"), [("arm", 1), ("x86-64-v3", 0), ("cuda:sm_87@arm", 0)])
def test_who_is_asked_before_a_model_runs(spec: str, count: int) -> None:
    """The function is in every library for a CPU under Linux on ARM, and in no other."""
    program = to_program(small_model(), spec, level=0)[2]
    assert str(to_module(program)["layout"]).count(REQUIRE) == count


def test_a_library_for_arm_does_not_load_on_x86(tmp_path: Path) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("needs an x86 machine")
    file = tmp_path / "arm.gopt"
    graphopt.compile(small_model(), "arm", level=0, threads=1).save(file)
    with pytest.raises(graphopt.GraphOptError, match="the code is for aarch64, this machine is x86_64"):
        graphopt.load(file)
    with read_artifact(file).library_path() as library, pytest.raises(OSError, match="cannot open"):
        ctypes.CDLL(str(library))


def test_only_code_that_runs_loads_where_nobody_knows_processors(tmp_path: Path) -> None:
    """In an install that holds TVM's runtime and no compiler, what the manifest lists counts."""
    file = tmp_path / "m.gopt"
    graphopt.compile(small_model(), "native", level=0, threads=1).save(file)
    manifest = read_artifact(file).manifest
    assert manifest["needs"]
    program = "import sys, graphopt\ntry: graphopt.load(sys.argv[1])\nexcept graphopt.GraphOptError as e: print(e.code, e.message)"
    other = rewritten(file, changed(manifest, ("needs",), [*manifest["needs"], "teleport"]), tmp_path / "other.gopt")
    for path, said in ((file, ""), (other, "other-machine")):
        done = subprocess.run(
            [sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=120, check=True,
            env={**os.environ, "TVM_USE_RUNTIME_LIB": "1"},
        )  # fmt: skip
        assert done.stdout.partition(" ")[0].strip() == said, done.stdout
        assert ("this processor lacks teleport" in done.stdout) is bool(said)
    graphopt.load(file).save(tmp_path / "again.gopt")
    assert read_artifact(tmp_path / "again.gopt").manifest["needs"] == manifest["needs"]


def test_artefacts_say_what_they_need(tmp_path: Path) -> None:
    file = tmp_path / "m.gopt"
    graphopt.compile(small_model(), "arm:cortex-a76", level=0, threads=1).save(file)
    assert set(read_artifact(file).manifest["needs"]) == {"asimd", "atomics", "asimdhp", "asimdrdm", "lrcpc", "asimddp"}


# What Arm's technical reference manuals and Apple's guide say that a processor has, of the features that code may use.
_V82 = {"neon", "lse", "rdm", "rcpc", "dotprod", "fullfp16"}
_HAS = {
    "arm": {"neon"},
    "arm:cortex-a53": {"neon"},
    "arm:cortex-a72": {"neon"},
    **dict.fromkeys(("arm:cortex-a55", "arm:cortex-a76", "arm:cortex-x1", "arm:neoverse-n1"), _V82),
    "arm:neoverse-v1": {
        *_V82, "jsconv", "complxnum", "sha3", "fp16fml", "rcpc-immo", "sve", "i8mm", "bf16",
    },
    "arm:apple-m1": {*_V82, "jsconv", "complxnum", "sha3", "fp16fml", "rcpc-immo"},
}  # fmt: skip


@pytest.mark.parametrize("spec", _HAS)
def test_code_for_a_processor_uses_what_it_has(spec: str) -> None:
    assert llvm_features(parse_target(spec).config) & KERNEL_FLAGS.keys() == _HAS[spec]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_objects_are_those_of_the_source(architecture: str) -> None:
    pytest.importorskip("ziglang", reason="no ziglang")
    if not version("ziglang").startswith(ZIG_VERSION):
        pytest.skip(f"the objects were made with ziglang {ZIG_VERSION}")
    folder = Path(processor.__file__).parent / "objects"
    assert (folder / f"{architecture}.o").read_bytes() == compiled(architecture), (
        "run python -m graphopt.backends.build.processor.compile"
    )


def test_who_asks() -> None:
    assert asks("aarch64-linux-gnu")
    assert asks("armv7a-linux-gnueabihf")
    assert not asks("arm64-apple-darwin")
    assert question("x86_64-linux-gnu", "x86", list(KERNEL_FLAGS.values())) == []
    with pytest.raises(InternalError):
        question("aarch64-linux-gnu", "arm", [KernelFlag("much", 0, 1)] * 25)
