"""Small graphs for tests, written as ONNX text, and the checks that every pass must pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser

from graphopt.driver.importing import import_onnx
from graphopt.driver.optimizing import export_onnx, optimize
from graphopt.ir.graph import Graph
from graphopt.ir.printer import format_graph
from graphopt.rewrite.passes import Pass, PassContext
from graphopt.rewrite.remarks import Remarks
from tests.support.evaluate import random_inputs
from tests.support.ort import run_ort
from tests.support.tolerance import assert_close


def model_of(
    inputs: Mapping[str, str], body: str, outputs: str = "y", *, opset: int = 18, **consts: Any
) -> onnx.ModelProto:
    """A model. ``inputs``: name to ``"float[1,3,N]"``; ``body``: a node a line; ``outputs``: ``"y z:int64"``."""
    nodes = [parser.parse_node(line.strip()) for line in body.strip().splitlines() if line.strip()]
    ins = []
    for name, text in inputs.items():
        kind, _, dims = text.partition("[")
        shape = [int(d) if d.strip().isdigit() else d.strip() for d in dims.rstrip("]").split(",") if d.strip()]
        ins.append(helper.make_tensor_value_info(name, _code(kind), shape))
    outs = []
    for item in outputs.split():
        name, _, kind = item.partition(":")
        outs.append(helper.make_tensor_value_info(name, _code(kind or "float"), None))
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in consts.items()]
    graph = helper.make_graph(nodes, "g", ins, outs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)  # the checker wants shapes of outputs


def _code(kind: str) -> int:
    return int(onnx.TensorProto.DataType.Value({"float": "FLOAT"}.get(kind, kind.upper())))


def graph_of(inputs: Mapping[str, str], body: str, outputs: str = "y", **consts: Any) -> Graph:
    """The imported graph of ``model_of``."""
    return import_onnx(model_of(inputs, body, outputs, **consts))


def ops(graph: Graph) -> list[str]:
    """Operators in order."""
    return [n.op for n in graph.nodes]


def rand(*shape: int, seed: int = 0, positive: bool = False) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Seeded normal numbers, or numbers in [0.5, 1.5)."""
    rng = np.random.default_rng(seed + sum(shape))
    data = rng.random(shape) + 0.5 if positive else rng.standard_normal(shape)
    return data.astype(np.float32)


def run_pass(
    graph: Graph, passes: str | Pass | Sequence[str | Pass], *, reduction: int = 64, ctx: PassContext | None = None
) -> tuple[Graph, Remarks]:
    """Run passes with verification; check results in ONNX Runtime, input untouched, and idempotence."""
    before, remarks = format_graph(graph), Remarks()
    chosen = [passes] if isinstance(passes, (str, Pass)) else list(passes)
    after = optimize(graph, passes=chosen, verify_each=True, remarks=remarks, for_export=False, ctx=ctx)
    assert format_graph(graph) == before, "the input graph was changed"
    assert [v.name for v in after.outputs] == [v.name for v in graph.outputs]
    feeds = random_inputs(graph)
    results = run_ort(export_onnx(after), feeds), run_ort(export_onnx(graph), feeds)
    for value, got, want in zip(graph.outputs, *results):
        assert_close(got, want, reduction=reduction, depth=4, what=value.name)
    again = optimize(after, passes=chosen, verify_each=True, for_export=False)
    assert format_graph(again) == format_graph(after), "a second run changes the graph again"
    assert again.version == after.version, "a second run reports changes"
    return after, remarks


def assert_fires(graph: Graph, passes: str | Sequence[str], expected: Sequence[str], **kwargs: Any) -> Graph:
    """The pass turns the graph into nodes with the ``expected`` operators."""
    after, remarks = run_pass(graph, passes, **kwargs)
    assert ops(after) == list(expected), "\n".join(str(r) for r in remarks)
    return after


def assert_refuses(graph: Graph, passes: str, reason: str, rule: str | None = None) -> None:
    """The pass leaves the graph alone and says why."""
    after, remarks = run_pass(graph, passes)
    assert format_graph(after) == format_graph(graph)
    texts = [r.text for r in remarks.refusals(rule)]
    assert any(reason in t for t in texts), f"{reason!r} is not among {texts}"
