"""For processes that have no more of TVM than what runs models: a module that imports nothing else."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def run(path: str, a: Any, b: Any) -> list[dict[str, Any]]:
    """Results of a model's run on tensors of the GPU, of one that was recorded, and of one on arrays."""
    import tvm

    import graphopt
    from graphopt.backends.base.tvm_runtime import has_compiler

    assert not has_compiler()
    model = graphopt.load(path)
    x = tvm.runtime.tensor(a, device=tvm.cuda())
    found = [model.run({"a": x, "b": b}), model.graph()({"a": a, "b": b}), model.run({"a": a, "b": b})]
    assert "tvm.relax" not in sys.modules
    return [{name: np.asarray(value) for name, value in results.items()} for results in found]
