"""Models on a GPU elsewhere: makes a folder of artefacts, expected results and all that running them there takes.

    python benchmarks/gpu.py --make-folder DIR [--target cuda:sm_90] [--python 3.12] [--precisions P,P] [--batches N,N] [MODEL ...]

Copy the folder to a machine with a GPU and run ``python run.py`` in it (`gpu_runner.py` says what that needs). It stays below
60 MB: weights are small blocks of seeded numbers, repeated along both channels, so that compressed artefacts hold hardly more
than code; the extents of the blocks are primes, so that an index that is off shows. Inputs are drawn there, and results are those
of graphopt on this machine's processor, in float32 (of the quantized model for int8).
"""

from __future__ import annotations

import argparse
import json
import lzma
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import gpu_runner
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.models import zoo

MODELS = (
    "resnet50",
    "mobilenet_v2",
    "densenet121",
    "squeezenet",
    "opennsfw",
    "ppocr_cls",
    "matmul-1024",
    "matmul-4096",
)
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
BATCHES = (1, 8, 32)
LIMIT = 60 << 20
_BLOCK = (13, 11)
"""Extents of the blocks of weights along output and input channels."""
_FACTORS = (-1.25, -0.75, 0.75, 1.25)
_GAINS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.06)
_LARGEST = 1000.0
_SMALLEST = 4096
_PACKAGES = ("apache-tvm-ffi", "ml_dtypes", "blake3", "typing_extensions")
_TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def main() -> None:
    """Make the folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--make-folder", type=Path, required=True, metavar="DIR")
    parser.add_argument("--target", default="cuda:sm_90")
    parser.add_argument(
        "--python", default=".".join(map(str, sys.version_info[:2])), help="of the machine with the GPU"
    )
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    args = parser.parse_args()
    folder: Path = args.make_folder
    folder.mkdir(parents=True)
    shutil.copy(gpu_runner.__file__, folder / "run.py")
    copy_packages(folder / "site", args.python)
    cases = []
    for name in args.models:
        for precision in args.precisions.split(","):
            for batch in (1,) if name.startswith("matmul") else map(int, args.batches.split(",")):
                case = make_case(name, precision, batch, args.target, folder)
                if case is not None:
                    cases.append(case)
                    print(f"{name}, {precision}, batch {batch}", flush=True)
    (folder / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {len(cases)} cases, {size / 1e6:.1f} MB")
    if size > LIMIT:
        sys.exit(f"more than {LIMIT >> 20} MB: leave some models, batches or precisions out")


def make_case(name: str, precision: str, batch: int, target: str, folder: Path) -> dict[str, Any] | None:
    """An artefact with what it should compute; None where the model has no such form."""
    if name.startswith("matmul"):
        proto = matmul(int(name.rpartition("-")[2]), precision)
    else:
        proto = seeded(name, batch, 1.0) and seeded(name, batch, gain(name))
    if proto is None:
        return None
    seed = 1000 + batch
    inputs = {v.name: {"shape": _extents(v), "dtype": _numpy_type(v)} for v in proto.graph.input}
    feed = gpu_runner.feed_of(inputs, seed)
    options: dict[str, Any] = {}
    if precision == "int8":
        if name.startswith("matmul"):
            return None
        proto = graphopt.export_onnx(graphopt.quantize(proto, [feed], compare=False)[0])
    elif precision in ("fp16", "bf16") and not name.startswith("matmul"):
        options["precision"] = precision
    expected = graphopt.compile(proto).run(feed)
    label = f"{name}-{precision}-{batch}"
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "model.gopt")
        graphopt.compile(proto, target, **options).save(path)
        (folder / f"{label}.gopt.xz").write_bytes(lzma.compress(path.read_bytes(), preset=6))
    np.savez_compressed(folder / f"{label}.npz", **{key: _plain(value) for key, value in expected.items()})
    return {
        "model": name, "precision": precision, "batch": batch, "seed": seed, "inputs": inputs,
        "artifact": f"{label}.gopt.xz", "expected": f"{label}.npz",
    }  # fmt: skip


@cache
def gain(name: str) -> float:
    """The largest factor for weights that leaves a model's results far from what float16 can't hold."""
    found = _GAINS[-1]
    for factor in _GAINS:
        proto = seeded(name, 1, factor)
        assert proto is not None
        inputs = {v.name: {"shape": _extents(v), "dtype": _numpy_type(v)} for v in proto.graph.input}
        results = graphopt.compile(proto).run(gpu_runner.feed_of(inputs, 1)).values()
        if all(np.isfinite(r).all() and np.abs(r).max() < _LARGEST for r in results):
            found = factor
            break
    return found


def seeded(name: str, batch: int, factor: float) -> onnx.ModelProto | None:
    """A model of the zoo at a batch, with weights that compress; None if it takes something else than one image or its like.

    A Softmax at its end, which would hide what comes out of all else, is left out.
    """
    model = zoo.get(name)
    proto = model.proto()
    if len(proto.graph.input) != 1 or proto.graph.input[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        return None
    shape = next(feed.shape for feed in model.feeds)
    for dim, extent in zip(proto.graph.input[0].type.tensor_type.shape.dim, (batch, *shape[1:])):
        dim.Clear()
        dim.dim_value = extent
    for value in proto.graph.output:  # what was inferred for another batch
        value.type.tensor_type.ClearField("shape")
    del proto.graph.value_info[:]
    for initializer in proto.graph.initializer:
        array = numpy_helper.to_array(initializer)
        if array.dtype == np.float32 and array.size >= _SMALLEST and array.ndim > 1:
            initializer.CopyFrom(numpy_helper.from_array(repeated(array) * np.float32(factor), initializer.name))
    last = proto.graph.node[-1]
    if last.op_type == "Softmax" and [last.output[0]] == [v.name for v in proto.graph.output]:
        proto.graph.output[0].name = last.input[0]
        proto.graph.node.remove(last)
    return proto


def repeated(weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Seeded numbers as large as those of a weight, a block of which is repeated along its first two axes.

    Each output channel has a factor of its own out of four, so that channels don't follow each other with a period.
    """
    rng = np.random.default_rng(weights.size)
    block = tuple(min(extent, most) for extent, most in zip(weights.shape, (*_BLOCK, *weights.shape[2:])))
    numbers = rng.standard_normal(block, np.float32)
    whole = np.tile(numbers, [-(-extent // part) for extent, part in zip(weights.shape, block)])
    whole = whole[tuple(map(slice, weights.shape))]
    factors = rng.choice(np.array(_FACTORS, np.float32), len(whole)).reshape(-1, *[1] * (weights.ndim - 1))
    return np.ascontiguousarray(whole * factors * np.float32(weights.std()))


def matmul(size: int, precision: str) -> onnx.ModelProto | None:
    """A product of two square matrices; None in integers."""
    kind = _TYPES.get(precision)
    if kind is None:
        return None
    a, b, c = (helper.make_tensor_value_info(n, kind, [size, size]) for n in "abc")
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "matmul", [a, b], [c])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def copy_packages(site: Path, python: str) -> None:
    """graphopt, and what loading an artefact takes: TVM's runtime without its compiler, and small packages for that Python."""
    for module in loaded_modules():
        source = Path(module)
        part = _below_packages(source)
        if part.parts[0] == "tvm":
            (site / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, site / part)
    libraries = Path(gpu_tvm_folder())
    (site / "tvm" / "lib").mkdir(parents=True)
    for name in ("libtvm_runtime.so", "libtvm_runtime_cuda.so"):
        shutil.copy(libraries / name, site / "tvm" / "lib" / name)
    ignored = shutil.ignore_patterns("__pycache__", "*.onnx", "*.npz", "*.o", "*.c")
    shutil.copytree(Path(graphopt.__file__).parent, site / "graphopt", ignore=ignored)
    for name in ("apache-tvm", "graphopt"):
        information = metadata.distribution(name)
        folder = site / f"{name.replace('-', '_')}-{information.version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {information.version}\n")
    wanted = [f"{name}=={metadata.version(name)}" for name in _PACKAGES]
    if python == ".".join(map(str, sys.version_info[:2])):
        for name in _PACKAGES:
            _copy_installed(name, site)
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*command, "--python-version", python, "--target", str(site), *wanted], check=True)


def loaded_modules() -> list[str]:
    """Files of all modules in a process that has loaded no more than running a model on a GPU takes."""
    program = """if True:
        import os, sys
        os.environ["TVM_USE_RUNTIME_LIB"] = "1"
        import graphopt.runtime.load, graphopt.runtime.device.graph, graphopt.backends.build.loaded_module
        import graphopt.backends.targets.compilation
        print("\\n".join(m.__file__ for m in list(sys.modules.values()) if getattr(m, "__file__", None)))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


def gpu_tvm_folder() -> str:
    """Where TVM's libraries lie."""
    from graphopt.backends.base.tvm_runtime import library_folder

    return library_folder()


def _below_packages(file: Path) -> Path:
    parts = file.parts
    if "site-packages" in parts:
        return Path(*parts[len(parts) - parts[::-1].index("site-packages") :])
    return Path("other", file.name)


def _copy_installed(name: str, site: Path) -> None:
    for file in metadata.files(name) or ():
        source = Path(str(file.locate()))
        if ".." not in file.parts and "__pycache__" not in file.parts and source.is_file():
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, site / file)


def _extents(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _numpy_type(value: onnx.ValueInfoProto) -> str:
    return str(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def _plain(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """In a type that numpy's files have."""
    return array if array.dtype.isbuiltin == 1 else array.astype(np.float32)


if __name__ == "__main__":
    main()
