"""Models of one node of com.microsoft: what ONNX Runtime computes for them, and for the plain operators they are imported as."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from graphopt.driver.importing import import_onnx
from graphopt.ir.graph import Graph
from graphopt.ir.onnx_io import graph_to_onnx
from tests.support.ort import run_ort

Array = npt.NDArray[Any]


def model_of(
    op: str,
    operands: Mapping[str, Array | None],
    fed: str,
    outputs: Mapping[str, Any],
    *,
    domain: str = "com.microsoft",
    version: int = 19,
    symbolic: bool = False,
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one node.

    Args:
        operands: by name, in order; None marks one that is left out.
        fed: names of those that are inputs of the model, separated by spaces; the others are constants.
        outputs: name to numpy type, in order; a name of spaces marks a result that nobody asks for.
        symbolic: whether extents of inputs other than 1 get names, equal ones the same.
    """
    names = [name if array is not None else "" for name, array in operands.items()]
    given = {name: np.asarray(array) for name, array in operands.items() if array is not None}
    made = helper.make_node(op, names, [o.strip() for o in outputs], name="it", domain=domain, **attributes)
    inputs = []
    for name in fed.split():
        shape = [f"d{d}" if symbolic and d > 1 else d for d in given[name].shape]
        inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(given[name].dtype), shape))
    results = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), None)
        for name, dtype in outputs.items()
        if name.strip()
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in given.items() if name not in fed.split()]
    graph = helper.make_graph([made], "g", inputs, results, constants)
    opsets = [helper.make_opsetid("", version), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    for out in model.graph.output:
        out.type.tensor_type.ClearField("shape")
    return model


def both(
    model: onnx.ModelProto, feeds: Mapping[str, Array], spelled: onnx.ModelProto | None = None
) -> tuple[Graph, list[Array], list[Array]]:
    """The imported graph, what its plain operators give in ONNX Runtime, and what the model does, or the same one spelled out."""
    graph = import_onnx(model)
    assert all(not node.domain for node in graph.walk()), [n.qualified_op for n in graph.walk()]
    exported = graph_to_onnx(graph)
    onnx.checker.check_model(exported, full_check=True)
    return graph, run_ort(exported, feeds), run_ort(spelled or model, feeds)


def check_steps(
    op: str,
    operands: Mapping[str, Array | None],
    fed: str,
    dtype: Any,
    *,
    most: float = 0.02,
    spelled: Mapping[str, Array | None] | None = None,
    **options: Any,
) -> Graph:
    """Fail unless the integers are those of ONNX Runtime, but for a few that lie one step aside.

    ONNX Runtime multiplies by quotients of scales that it rounds first, so that numbers between two integers may go either way.

    Args:
        most: the largest share of those.
        spelled: operands that mean the same, where ONNX Runtime doesn't take these.
    """
    model = model_of(op, operands, fed, {"out": dtype}, **options)
    same = None if spelled is None else model_of(op, spelled, fed, {"out": dtype}, **options)
    feeds = {name: np.asarray(operands[name]) for name in fed.split()}
    graph, (got,), (want,) = both(model, feeds, same)
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    assert want.std() > 3, "the case tells nothing"
    apart = np.abs(got.astype(np.int64) - want.astype(np.int64))
    assert apart.max() <= 1, apart.max()
    assert (apart > 0).mean() <= most, (apart > 0).mean()
    return graph


def check_close(
    op: str, operands: Mapping[str, Array | None], fed: str, outputs: Mapping[str, Any], *, rtol: float = 1e-5, atol: float = 1e-5,
    **options: Any,
) -> Graph:  # fmt: skip
    """Fail unless all results are those of ONNX Runtime within a tolerance."""
    model = model_of(op, operands, fed, outputs, **options)
    feeds = {name: np.asarray(operands[name]) for name in fed.split()}
    graph, found, wanted = both(model, feeds)
    for got, want in zip(found, wanted):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        assert want.size < 2 or want.std() > 0, "the case tells nothing"
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol, atol)
    return graph
