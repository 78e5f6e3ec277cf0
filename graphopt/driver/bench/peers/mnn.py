"""MNN: converted once, then a session at fixed shapes in full precision.

The converter is a native module of MNN's wheel. `MNN.tools` around it must not be imported: it installs a logging package with
pip and reports to its maker. Both converter and session print to stdout from C++ and end the process on some models they can't
take, so a child process converts and tries the model first.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from graphopt.backends.base.scratch import scratch_folder
from graphopt.driver.bench.measure import OpenAxes, Run
from graphopt.ir.graph import Array

_CONVERT_LIMIT_S = 300
_CONVERT = """
import sys
import _tools
_tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", sys.argv[1], "--MNNModel", sys.argv[2], "--bizCode", "x"])
"""
_TRY = """
import sys
from pathlib import Path
import numpy as np
from graphopt.driver.bench.peers.mnn import session_run
with np.load(sys.argv[2]) as arrays:
    feed = {bytes.fromhex(key[1:]).decode(): arrays[key] for key in arrays.files}
session_run(Path(sys.argv[1]), feed, int(sys.argv[3]))()
"""


def prepare(
    source: Path, head: Any, feed: Mapping[str, Array], threads: int, open_axes: OpenAxes = MappingProxyType({})
) -> Run:
    """A session of the converted model.

    Raises:
        RuntimeError: MNN can't convert or run the model.
    """
    with scratch_folder() as folder:
        fixed, converted, arrays = (folder / name for name in ("fixed.onnx", "model.mnn", "feed.npz"))
        convert(with_fixed_shapes(source, feed, fixed, open_axes), converted)
        np.savez(arrays, **{"x" + name.encode().hex(): array for name, array in feed.items()})  # type: ignore[arg-type]
        _child("runtime", _TRY, str(converted), str(arrays), str(threads))
        return session_run(converted, feed, threads)


def convert(source: Path, converted: Path) -> None:
    """Make MNN's file of an ONNX model.

    Raises:
        RuntimeError: MNN can't.
    """
    _child("converter", _CONVERT, str(source), str(converted))
    if not converted.exists():
        raise RuntimeError("its converter makes no model of it")


def with_fixed_shapes(
    source: Path, feed: Mapping[str, Array], to: Path, open_axes: OpenAxes = MappingProxyType({})
) -> Path:
    """The model with its inputs' open dimensions set to those of the feed: ``source`` itself when there is none to set.

    Args:
        source: path of the model.
        feed: inputs.
        to: where to write it.
        open_axes: of inputs by name, that stay as they are.
    """
    import onnx

    model = onnx.load_model(source, load_external_data=False)
    dims = [
        (dim, extent)
        for item in model.graph.input
        if item.name in feed
        for axis, (dim, extent) in enumerate(zip(item.type.tensor_type.shape.dim, feed[item.name].shape))
        if not dim.HasField("dim_value") and axis not in open_axes.get(item.name, ())
    ]
    if not dims:
        return source
    for dim, extent in dims:
        dim.dim_value = extent
    # shapes of inner values may name the dimensions that are gone now
    del model.graph.value_info[:]
    onnx.load_external_data_for_model(model, str(source.parent))
    onnx.save_model(model, to, save_as_external_data=model.ByteSize() > 2**31 - 1)
    return to


def session_run(converted: Path, feed: Mapping[str, Array], threads: int) -> Run:
    """A session on a converted model, resized to the feed.

    MNN keeps its own copy of an input in its layout, so every run converts inputs and outputs once, which no caller can avoid.

    Raises:
        RuntimeError: MNN can't run the model at these shapes.
    """
    with _silent():
        import MNN

        interpreter = MNN.Interpreter(str(converted))
        session = interpreter.createSession({"backend": "CPU", "precision": "high", "numThread": threads})
        inputs = interpreter.getSessionInputAll(session)
        for name, tensor in inputs.items():
            interpreter.resizeTensor(tensor, feed[name].shape)
        interpreter.resizeSession(session)
        plain = MNN.Tensor_DimensionType_Caffe
        held = {name: _as_held(MNN, tensor, feed[name]) for name, tensor in inputs.items()}
        hosts = {
            name: MNN.Tensor(held[name].shape, tensor.getDataType(), held[name], plain)
            for name, tensor in inputs.items()
        }
        for name, tensor in inputs.items():
            tensor.copyFrom(hosts[name])
        if interpreter.runSession(session) != 0:
            raise RuntimeError("its session fails at these shapes")
        outputs = interpreter.getSessionOutputAll(session)
        shapes = {name: tuple(tensor.getShape()) for name, tensor in outputs.items()}
        results = {
            name: MNN.Tensor(shapes[name], tensor.getDataType(), np.zeros(shapes[name], _dtype(MNN, tensor)), plain)
            for name, tensor in outputs.items()
        }

    def run() -> dict[str, Array]:
        for name, tensor in inputs.items():
            tensor.copyFrom(hosts[name])
        interpreter.runSession(session)
        for name, tensor in outputs.items():
            tensor.copyToHostTensor(results[name])
        return {name: np.asarray(results[name].getNumpyData()).reshape(shapes[name]) for name in results}

    return run


def _dtype(mnn: Any, tensor: Any) -> type[np.generic]:
    types: dict[Any, type[np.generic]] = {
        mnn.Halide_Type_Float: np.float32, mnn.Halide_Type_Int: np.int32, mnn.Halide_Type_Uint8: np.uint8,
        mnn.Halide_Type_Int64: np.int64, mnn.Halide_Type_Double: np.float64,
    }  # fmt: skip
    return types[tensor.getDataType()]


def _as_held(mnn: Any, tensor: Any, array: Array) -> Array:
    """The array in the type that MNN keeps it in: 64-bit integers in 32."""
    return np.ascontiguousarray(array, _dtype(mnn, tensor))


def _child(what: str, code: str, *arguments: str) -> None:
    """Run Python code in a process of its own.

    Raises:
        RuntimeError: it failed, with its last words.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True, text=True, errors="replace", timeout=_CONVERT_LIMIT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"its {what} takes over {_CONVERT_LIMIT_S} s") from error
    if done.returncode != 0:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise RuntimeError(f"its {what} fails ({lines[-1] if lines else f'exit code {done.returncode}'})")


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what C++ writes to stdout away from it."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as sink:
            os.dup2(sink.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
