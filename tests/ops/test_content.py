"""Integers that are followed as dimensions, where they are beyond the range of their type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.driver.importing import import_onnx
from graphopt.driver.optimizing import export_onnx, optimize
from tests.support.ort import run_ort
from tests.support.run_node import model_with, node, same


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
@pytest.mark.parametrize(("op", "by"), [("Add", 1), ("Mul", 3), ("Sub", -2)])
def test_integers_wrap_around(dtype: Any, op: str, by: int) -> None:
    """As kernels and every runtime have it. Dimensions don't wrap: such a number isn't followed, and folding computes it."""
    limits = np.array([np.iinfo(dtype).max, 5], dtype)
    feed = {"x": np.zeros(2, dtype)}
    nodes = [node(op, "c by", "far"), node("Add", "far x", "y"), node("Sub", "far c", "back")]
    model = model_with(nodes, feed, {"c": limits, "by": np.array(by, dtype)})
    optimised = export_onnx(optimize(import_onnx(model), level=2))
    for name, got, want in zip(("far", "y", "back"), run_ort(optimised, feed), run_ort(model, feed)):
        same(name, got, want)
