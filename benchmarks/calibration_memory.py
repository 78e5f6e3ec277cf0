"""Memory and time of calibration: images of 640x640 through a generator into MobileNetV2, by graphopt or ONNX Runtime.

    python benchmarks/calibration_memory.py [--images N] [--method minmax|entropy] [--peer]

One process measures one of the two, so that peaks are its own: the resident set once the model has run on one image, and the
peak at the end.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphopt.models import zoo

SIZE = 640


def model() -> onnx.ModelProto:
    """MobileNetV2 for images of that size; it pools over the whole image, so only the input says it."""
    proto = zoo.get("mobilenet_v2").proto()
    for dim in proto.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = SIZE
    del proto.graph.value_info[:]
    return proto


def images(count: int) -> Iterator[dict[str, Any]]:
    """Images of waves and noise, each made when it is asked for."""
    rng = np.random.default_rng(0)
    line = np.linspace(0, 20, SIZE, dtype=np.float32)
    for _ in range(count):
        a, b, c = rng.uniform(0.1, 3, 3).astype(np.float32)
        wave = np.sin(a * line[:, None] + b * line[None, :] + c)[None, None]
        yield {"image": wave + rng.standard_normal((1, 3, SIZE, SIZE), np.float32) / 4}


def peak() -> float:
    """The largest resident set so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def by_graphopt(proto: onnx.ModelProto, count: int, method: str) -> float:
    """Calibrate, once the float model has run; the peak before that."""
    import graphopt

    graphopt.compile(graphopt.optimize(graphopt.import_onnx(proto)), threads=1).run(next(images(1)))
    before = peak()
    graphopt.quantize(proto, images(count), method=method, compare=False, threads=1)
    return before


def by_onnxruntime(proto: onnx.ModelProto, count: int, method: str) -> float:
    """The same by ``quantize_static``."""
    import onnxruntime as ort
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Images one after the other."""

        def __init__(self) -> None:
            self.left = images(count)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

    ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, next(images(1)))
    before = peak()
    methods = {"minmax": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy}
    with tempfile.TemporaryDirectory() as folder:
        quantize_static(
            proto, Path(folder, "int8.onnx"), Reader(), quant_format=QuantFormat.QDQ, calibrate_method=methods[method]
        )
    return before


def main() -> None:
    """Print one row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--method", choices=("minmax", "entropy"), default="minmax")
    parser.add_argument("--peer", action="store_true", help="ONNX Runtime instead of graphopt")
    options = parser.parse_args()
    start = time.perf_counter()
    run = by_onnxruntime if options.peer else by_graphopt
    before = run(model(), options.images, options.method)
    print(
        f"{'ONNX Runtime' if options.peer else 'graphopt'}, {options.method}, {options.images} images: {before:.0f} MiB once the "
        f"model has run, peak {peak():.0f} MiB, {peak() - before:.0f} above it, {time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
