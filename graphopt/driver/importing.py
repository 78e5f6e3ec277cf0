"""From an ONNX model to a verified, fully typed graph in canonical form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphopt.driver.input_shapes import ShapeSpec, apply_shapes
from graphopt.driver.input_values import fix_values
from graphopt.errors import GraphOptError
from graphopt.ir.graph import Graph
from graphopt.ir.onnx_io import graph_from_onnx
from graphopt.ir.onnx_load import ModelSource, load_model
from graphopt.ir.verifier import verify
from graphopt.ops.canonicalize import canonicalize
from graphopt.ops.settle import settle
from graphopt.rewrite.remarks import Remark, Remarks


def import_onnx(
    src: ModelSource,
    shapes: Mapping[str, ShapeSpec] | None = None,
    values: Mapping[str, Any] | None = None,
    *,
    strict: bool = False,
    remarks: Remarks | None = None,
) -> Graph:
    """Load, check, normalise and type an ONNX model.

    Args:
        src: path of an .onnx file, its bytes, or a ModelProto (which is not changed).
        shapes: input name to shape, as ``(1, 3, 224, 224)``, ``("N", 3, "H", "W")`` or ``"Nx3x224x224"``. An integer
        fixes a symbolic
            dimension everywhere it occurs, a name renames it; the dimensions ``?`` and ``-1`` are left as they are.
        values: input name to a number or array that it always has; such inputs become constants.
        strict: refuse whatever the ONNX checker refuses. By default a model that breaks a rule of the specification but has
            one meaning only is accepted, as runtimes do.
        remarks: receives what was accepted in this way.

    Returns:
        A graph whose nodes have the newest form of their operator, with every value typed and decided ``If`` nodes
        inlined.

    Raises:
        ModelError: the model is missing, damaged, inconsistent or unsafe to read.
        UnsupportedOpError: an operator, attribute or shape form that is not handled.
        UserError: ``shapes`` or ``values`` names no input, or contradicts the model.
    """
    model = load_model(src, strict=strict)
    try:
        graph = graph_from_onnx(model)
        apply_shapes(graph, shapes or {})
        fix_values(graph, values or {})
        canonicalize(graph)
        settle(graph)
        verify(graph)
    except GraphOptError as e:
        if model.source not in str(e):
            e.add_note_line(f"in model {model.source}")
        raise
    if remarks is not None:
        for d in graph.deviations:
            remarks.add(Remark("import", d.rule, d.where, d.text, applied=True))
    return graph
