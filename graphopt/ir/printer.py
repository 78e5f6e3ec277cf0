"""Text form of a graph, stable enough for golden tests and short enough to read."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from graphopt.ir.constraints import described
from graphopt.ir.graph import Array, Graph, Node, Value


def format_graph(graph: Graph, indent: str = "") -> str:
    """The graph as text: one node a line, constants abbreviated to a value or a hash."""
    head = ", ".join(f"%{v.name}: {v.type}" for v in graph.inputs)
    lines = [f"{indent}graph {graph.name}({head}) {{"]
    for value in sorted(graph.constants(), key=lambda v: v.name) if graph.parent is None else ():
        lines.append(f"{indent}  %{value.name}: {value.type} = {format_array(value.data)}")
    for left, right in graph.constraints:
        lines.append(f"{indent}  assume {described(left, right)}")
    for node in graph.nodes:
        lines.extend(format_node(node, indent + "  "))
    tail = ", ".join(f"%{v.name}" for v in graph.outputs)
    return "\n".join([*lines, f"{indent}  return {tail}", f"{indent}}}"])


def format_node(node: Node, indent: str = "") -> list[str]:
    """The lines of one node."""
    outs = ", ".join("_" if v is None else f"%{v.name}: {v.type}" for v in node.outputs)
    ins = ", ".join("_" if v is None else f"%{v.name}" for v in node.inputs)
    attrs = {k: v for k, v in sorted(node.attrs.items()) if not isinstance(v, Graph)}
    text = f"{indent}{outs} = {node.qualified_op}({ins})"
    if attrs:
        text += " {" + ", ".join(f"{k}={format_attr(v)}" for k, v in attrs.items()) + "}"
    lines = [text]
    for key, sub in sorted((k, v) for k, v in node.attrs.items() if isinstance(v, Graph)):
        lines.append(f"{indent}  {key}:")
        lines.append(format_graph(sub, indent + "    "))
    return lines


def format_attr(value: Any) -> str:
    """An attribute value as text."""
    if isinstance(value, np.ndarray):
        return format_array(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(format_attr(v) for v in value) + "]"
    return str(value)


def format_array(array: Array | None) -> str:
    """Up to eight elements in full, else a digest of the bytes."""
    if array is None:
        return "?"
    if array.size <= 8:
        return str(array.tolist())
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:10]
    return f"<sha256:{digest}>"


def format_value(value: Value) -> str:
    """Name and type."""
    return f"%{value.name}: {value.type}"
