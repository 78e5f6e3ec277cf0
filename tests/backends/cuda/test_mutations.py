"""Mistakes in tensor-core kernels are caught: by the simulator, or by results that are wrong in some order of threads."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt

pytest.importorskip("ziglang")

from graphopt.backends.cuda.nvrtc import complete_source
from graphopt.backends.cuda.pack import cuda_source
from tests.support.cuda_on_cpu.finding import Finding
from tests.support.cuda_on_cpu.gpu import compiled_for_simulator, run_file, shared_gpu
from tests.support.cuda_on_cpu.mutations import MUTATIONS, Mutation
from tests.support.cuda_on_cpu.toolchain import kernel_library

Array = npt.NDArray[Any]
SCHEDULES = (0, 1)


def _model(nodes: list[Any], shape: tuple[int, ...], weights: dict[str, Array]) -> Any:
    graph = helper.make_graph(
        nodes,
        "problem",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _random(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float16)


def _matmul(rows: int, depth: int, columns: int) -> tuple[Any, Array, Array]:
    x, w = _random(rows, depth), _random(depth, columns)
    node = helper.make_node("MatMul", ["x", "w"], ["t"])
    model = _model([node, helper.make_node("Relu", ["t"], ["y"])], x.shape, {"w": w})
    return model, x, np.maximum(x.astype(np.float64) @ w.astype(np.float64), 0)


def _convolution() -> tuple[Any, Array, Array]:
    """16 channels of 9 x 11, a border of zeros, a bias: an implicit product with a window and channels last."""
    x, w, b = _random(1, 16, 9, 11), _random(24, 16, 3, 3), _random(24)
    node = helper.make_node("Conv", ["x", "w", "b"], ["t"], pads=[1, 1, 1, 1])
    model = _model([node, helper.make_node("Relu", ["t"], ["y"])], x.shape, {"w": w, "b": b})
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    y = np.einsum("ncyxij,ocij->noyx", windows, w.astype(np.float64)) + b.astype(np.float64)[:, None, None]
    return model, x, np.maximum(y, 0)


PROBLEMS = {
    "matmul": lambda: _matmul(
        100, 288, 72
    ),  # four stages, the last step in the first; rows and columns that don't fill tiles
    "ragged": lambda: _matmul(100, 100, 70),  # a depth that doesn't fill the last step, columns written two by two
    "convolution": _convolution,
}


@functools.cache
def _prepared(problem: str) -> tuple[Path, str, Array, Array]:
    """An artefact, the source of its kernels, the input and the expected output."""
    model, x, expected = PROBLEMS[problem]()
    compiled = graphopt.compile(model, "cuda:sm_80")
    folder = Path(tempfile.mkdtemp(prefix="mutations-"))
    assert compiled.built is not None
    source = cuda_source(compiled.built.executable.mod)  # type: ignore[attr-defined]
    return compiled_for_simulator(compiled, folder / "model.gopt"), source, x, expected


def _run(problem: str, source: str) -> str:
    """How a mistake shows: the kind of the finding, or "wrong values"; empty if it doesn't."""
    path, _, x, expected = _prepared(problem)
    library = str(kernel_library(complete_source(source)))
    try:
        for schedule in SCHEDULES:
            y = shared_gpu().call(run_file, str(path), {"x": x}, schedule, library)["y"]
            scale = np.abs(expected).max()
            if not np.allclose(y.astype(np.float64), expected, rtol=2e-3, atol=2e-3 * scale):
                return "wrong values"
    except Finding as found:
        return found.kind
    return ""


@pytest.mark.parametrize("problem", PROBLEMS)
def test_without_a_mistake(problem: str) -> None:
    """The oracle and the kernels agree, and nothing is found."""
    assert _run(problem, _prepared(problem)[1]) == ""


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
@pytest.mark.few(12)
def test_a_mistake_is_caught(mutation: Mutation) -> None:
    source = _prepared(mutation.problem)[1]
    changed = mutation.edit(source)
    assert changed != source
    caught = _run(mutation.problem, changed)
    print(f"{mutation.name} ({mutation.problem}): {caught or 'NOT CAUGHT'}")
    assert caught
