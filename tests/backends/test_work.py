"""What a kernel step says that it has to move."""

from __future__ import annotations

import numpy as np

from graphopt.backends.program.program import KernelStep
from graphopt.driver.compiling import to_program
from tests.support.onnx_graphs import model_of


def steps(model: object) -> list[KernelStep]:
    """Kernels that compute something, those that only check sizes left out."""
    kernels = to_program(model, "x86-64-v3", threads=1)[2].kernels  # type: ignore[arg-type]
    return [step for step in kernels if step.template != "dims"]


def test_operands_and_results_count_once() -> None:
    model = model_of({"a": "float[3,40]", "b": "float[40]"}, "s = Add(a, b)\ny = Mul(s, a)")
    (step,) = steps(model)
    assert step.bytes == 4 * (120 + 40 + 120)
    assert step.flops == 240


def test_who_picks_elements_reads_no_more_than_it_picks() -> None:
    model = model_of({"x": "float[1000,8]"}, "t = Gather(x, i)\ny = Transpose<perm = [1, 0]>(t)", i=np.array([7, 3]))
    gather = next(step for step in steps(model) if "gather" in step.function)
    result = sum(b.static_bytes or 0 for b in gather.outputs)
    assert gather.bytes is not None
    assert 2 * result <= gather.bytes < 4 * 8000


def test_symbolic_sizes_are_unknown() -> None:
    (step,) = steps(model_of({"x": "float[N,8]"}, "y = Relu(x)"))
    assert step.bytes is None
    assert step.flops is None
