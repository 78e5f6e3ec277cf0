"""Runs in an aarch64 Python under qemu, with numpy and one runtime: two inferences, the second one between two marks.

    arm_guest.py onnxruntime|mnn MODEL FEED.npz RESULT.npz high|low

The marks are system calls that ``arm_block_counts.c`` knows. Everything is on one thread, and nothing of graphopt is imported.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

START, STOP = 1000001, 1000002
"""File descriptors that nobody has open."""


def mark(descriptor: int) -> None:
    """Tell the plugin."""
    with contextlib.suppress(OSError):
        os.close(descriptor)


def onnxruntime_run(model: str, feed: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """All graph optimisations, which is the default."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    for entry in ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning"):
        options.add_session_config_entry(entry, "0")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    return lambda: dict(zip(names, session.run(names, feed)))


def mnn_run(model: str, feed: dict[str, Any], precision: str) -> Callable[[], dict[str, Any]]:
    """A session at the shapes of the feed; inputs and outputs are converted to and from its layout in each run."""
    import MNN

    types = {
        MNN.Halide_Type_Float: np.float32, MNN.Halide_Type_Int: np.int32, MNN.Halide_Type_Uint8: np.uint8,
        MNN.Halide_Type_Int64: np.int64, MNN.Halide_Type_Double: np.float64,
    }  # fmt: skip
    interpreter = MNN.Interpreter(model)
    session = interpreter.createSession({"backend": "CPU", "precision": precision, "numThread": 1})
    inputs = interpreter.getSessionInputAll(session)
    for name, tensor in inputs.items():
        interpreter.resizeTensor(tensor, feed[name].shape)
    interpreter.resizeSession(session)
    plain = MNN.Tensor_DimensionType_Caffe
    held = {n: np.ascontiguousarray(feed[n], types[t.getDataType()]) for n, t in inputs.items()}
    hosts = {n: MNN.Tensor(held[n].shape, t.getDataType(), held[n], plain) for n, t in inputs.items()}
    for name, tensor in inputs.items():
        tensor.copyFrom(hosts[name])
    if interpreter.runSession(session) != 0:
        raise RuntimeError("the session fails at these shapes")
    outputs = interpreter.getSessionOutputAll(session)
    if not outputs:
        raise RuntimeError("the converted model has no outputs")
    shapes = {name: tuple(tensor.getShape()) for name, tensor in outputs.items()}
    zeros = {n: np.zeros(shapes[n], types[t.getDataType()]) for n, t in outputs.items()}
    results = {n: MNN.Tensor(shapes[n], t.getDataType(), zeros[n], plain) for n, t in outputs.items()}

    def run() -> dict[str, Any]:
        for name, tensor in inputs.items():
            tensor.copyFrom(hosts[name])
        interpreter.runSession(session)
        for name, tensor in outputs.items():
            tensor.copyToHostTensor(results[name])
        return {name: np.asarray(results[name].getNumpyData()).reshape(shapes[name]) for name in results}

    return run


def main() -> None:
    """Run and mark."""
    runtime, model, feed_file, result_file, precision = sys.argv[1:]
    with np.load(feed_file) as arrays:
        feed = {bytes.fromhex(key[1:]).decode(): arrays[key] for key in arrays.files}
    run = onnxruntime_run(model, feed) if runtime == "onnxruntime" else mnn_run(model, feed, precision)
    run()
    mark(START)
    results = run()
    mark(STOP)
    np.savez(result_file, **{"x" + name.encode().hex(): array for name, array in results.items()})
    sys.stdout.flush()
    os._exit(0)  # nothing behind the marks matters, and libraries' clean-ups take long under emulation


if __name__ == "__main__":
    main()
