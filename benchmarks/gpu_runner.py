"""On a machine with a GPU: is what artefacts compute right, and how fast is it? ``run.py`` of the folder that ``gpu.py`` makes.

    python run.py [--only WORD] [--write FILE.md] [--json FILE.json] [--no-torch]

Needs numpy, a driver for CUDA 13 and its runtime library (torch brings it); everything else is in the folder. With torch, and
torchvision for the models that it has, the same is timed there: eager (channels_last, cudnn.benchmark), torch.compile
(max-autotune) and CUDA graphs. Times are medians between CUDA events; nothing is built.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import lzma
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TOLERANCE = {"fp32": 5e-3, "fp16": 1e-2, "bf16": 5e-2, "int8": 1e-2}
"""Largest relative L2 error of any output. Products of float32 are in tf32. Sums of integers are the processor's to the bit, but a
float before a QuantizeLinear may lie on the other side of a tie."""


@dataclass
class Outcome:
    """What came of one case.

    Attributes:
        error: relative L2 error of the worst output against the processor's.
        run_us, graph_us: one run, started kernel by kernel and as a recorded graph.
        peers: the same in torch, by how.
        failed: why there is no result.
    """

    model: str
    precision: str
    batch: int
    error: float | None = None
    run_us: float | None = None
    graph_us: float | None = None
    peers: dict[str, float] = field(default_factory=dict)
    failed: str = ""


class Clock:
    """Time between two places on a stream, by events of CUDA's runtime library."""

    def __init__(self, library: Any, stream: int) -> None:
        self._cuda, self._stream = library, ctypes.c_void_p(stream)

    def median_us(self, start: Callable[[], object], repeat: int, batch: int = 10) -> float:
        """Of one call, which puts work on the stream; so many are timed together ``repeat`` times."""
        times = []
        for _ in range(3):
            start()
        for _ in range(repeat):
            with self._events() as (first, last):
                self._cuda.cudaEventRecord(first, self._stream)
                for _ in range(batch):
                    start()
                self._cuda.cudaEventRecord(last, self._stream)
                self._cuda.cudaEventSynchronize(last)
                milliseconds = ctypes.c_float()
                self._cuda.cudaEventElapsedTime(ctypes.byref(milliseconds), first, last)
            times.append(milliseconds.value * 1e3 / batch)
        return sorted(times)[len(times) // 2]

    @contextmanager
    def _events(self) -> Iterator[tuple[ctypes.c_void_p, ctypes.c_void_p]]:
        first, last = ctypes.c_void_p(), ctypes.c_void_p()
        for event in (first, last):
            self._cuda.cudaEventCreate(ctypes.byref(event))
        try:
            yield first, last
        finally:
            for event in (first, last):
                self._cuda.cudaEventDestroy(event)


def feed_of(inputs: dict[str, Any], seed: int) -> dict[str, Any]:
    """Seeded inputs of a case: the same numbers wherever they are drawn."""
    import numpy as np

    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(spec["shape"], np.float32).astype(spec["dtype"]) for name, spec in inputs.items()}


def measured(case: dict[str, Any], repeat: int) -> Outcome:
    """Load a case's artefact, compare and time it."""
    import numpy as np

    import graphopt
    from graphopt.backends.cuda.gpu.libraries import cudart

    outcome = Outcome(case["model"], case["precision"], case["batch"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.gopt")
        path.write_bytes(lzma.decompress((HERE / case["artifact"]).read_bytes()))
        model = graphopt.load(path)
    feed = feed_of(case["inputs"], case["seed"])
    with np.load(HERE / case["expected"]) as expected:
        wanted = {name: expected[name] for name in expected.files}
    outcome.error = max(relative_error(value, wanted[name]) for name, value in model.run(feed).items())
    graph = model.graph(feed)
    outcome.error = max(outcome.error, *(relative_error(v, wanted[n]) for n, v in graph(feed).items()))
    if not outcome.error <= TOLERANCE[case["precision"]]:
        outcome.failed = "wrong results"
    device = graph_device(graph)
    stream = device.new_stream()
    try:
        clock = Clock(cudart(), stream)
        outcome.graph_us = clock.median_us(lambda: graph(stream=stream), repeat)
        outcome.run_us = clock.median_us(lambda: model.run(graph.inputs, stream=stream), repeat)
    finally:
        device.delete_stream(stream)
    return outcome


def graph_device(graph: Any) -> Any:
    """Where a recorded run takes place."""
    return graph._executor.accelerator


def relative_error(found: Any, wanted: Any) -> float:
    """L2 norm of the difference over that of what is wanted; infinite where something is no number."""
    import numpy as np

    a, b = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    if not np.isfinite(a).all() or a.shape != b.shape:
        return float("inf")
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))


# -- torch -------------------------------------------------------------------------------------------------------------


def torch_times(case: dict[str, Any], repeat: int) -> dict[str, float]:
    """The same model in torch, where it has it; by how, in microseconds. An empty result says that it hasn't."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    if case["precision"] not in types:
        return {}
    kind = types[case["precision"]]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as graphopt
    torch.backends.cudnn.benchmark = True
    shapes = [spec["shape"] for spec in case["inputs"].values()]
    inputs = [torch.randn(*shape, device="cuda", dtype=kind) for shape in shapes]
    call: Callable[..., Any]
    if case["model"].startswith("matmul"):
        call = torch.matmul
    else:
        network = torchvision_model(case["model"])
        if network is None:
            return {}
        call = network.cuda().eval().to(kind).to(memory_format=torch.channels_last)
        inputs = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
    found: dict[str, float] = {}
    with torch.no_grad():
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            from graphopt.backends.cuda.gpu.libraries import cudart

            clock = Clock(cudart(), stream.cuda_stream)
            found["eager"] = clock.median_us(lambda: call(*inputs), repeat)
            found["graph"] = clock.median_us(_captured(torch, call, inputs, stream), repeat)
            if not case["model"].startswith("matmul"):
                best = torch.compile(call, mode="max-autotune")
                found["compile"] = clock.median_us(lambda: best(*inputs), repeat)
    return found


def _captured(torch: Any, call: Callable[..., Any], inputs: list[Any], stream: Any) -> Callable[[], None]:
    for _ in range(3):
        call(*inputs)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        call(*inputs)
    replay: Callable[[], None] = graph.replay
    return replay


def torchvision_model(name: str) -> Any:
    """The network of that name with random weights; None where torchvision, or the network in it, isn't there."""
    try:
        from torchvision import models  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return None
    known = {"squeezenet": "squeezenet1_0", "inception_v1": "googlenet", "bvlc_alexnet": "alexnet"}
    make = getattr(models, known.get(name, name), None)
    return None if make is None else make(weights=None)


# -- report ------------------------------------------------------------------------------------------------------------


def table(outcomes: list[Outcome], device: str) -> list[str]:
    """The report, line by line."""
    lines = [
        f"# Models on {device}",
        "",
        "Medians between CUDA events, in microseconds a run; inputs and outputs stay on the GPU. `graph` is a recorded run. The "
        "error is the relative L2 error of the worst output against graphopt on a processor. `torch` columns are torch's own "
        "networks with weights of their own: eager in channels_last with cudnn.benchmark, that as a CUDA graph, and torch.compile "
        "with max-autotune.",
        "",
        "| model | precision | batch | error | run | graph | torch eager | torch graph | torch.compile | graph / best of torch |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for o in outcomes:
        peers = [o.peers.get(how) for how in ("eager", "graph", "compile")]
        best = min((p for p in peers if p is not None), default=None)
        ratio = "" if best is None or not o.graph_us else f"{best / o.graph_us:.2f}"
        error = o.failed or ("" if o.error is None else f"{o.error:.1e}")
        cells = [o.model, o.precision, str(o.batch), error, *map(_number, (o.run_us, o.graph_us, *peers)), ratio]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def main(arguments: list[str] | None = None) -> int:
    """Run all cases; the exit code says whether all were right."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-torch", action="store_true")
    args = parser.parse_args(arguments)
    os.environ["TVM_USE_RUNTIME_LIB"] = "1"
    site = HERE / "site"
    if site.is_dir():
        sys.path.insert(0, str(site))
    from graphopt.backends.cuda.gpu.driver import gpu_at

    device = str(gpu_at(0))
    outcomes = []
    for case in json.loads((HERE / "cases.json").read_text()):
        name = f"{case['model']}-{case['precision']}-{case['batch']}"
        if args.only not in name:
            continue
        try:
            outcome = measured(case, args.repeat)
        except Exception as error:  # the others are worth having all the same
            outcome = Outcome(case["model"], case["precision"], case["batch"], failed=str(error).splitlines()[0])
        if not args.no_torch and not outcome.failed:
            try:
                outcome.peers = torch_times(case, args.repeat)
            except Exception as error:
                print(f"{name}: torch: {error}", file=sys.stderr)
        error = "" if outcome.error is None else f" (error {outcome.error:.1e})"
        times = f"{_number(outcome.run_us)} us, graph {_number(outcome.graph_us)} us"
        print(f"{name}: {outcome.failed or 'right'}{error}, {times}", flush=True)
        outcomes.append(outcome)
    lines = table(outcomes, device)
    if args.write:
        args.write.write_text("\n".join(lines) + "\n")
    if args.json:
        args.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1) + "\n")
    return int(any(o.failed for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
