"""Attributes that are integers in ONNX but mean yes or no: checked once, when a node is imported."""

from __future__ import annotations

from graphopt.errors import ModelError
from graphopt.ir.graph import Node

_FLAGS = frozenset({
    "align_corners", "allowzero", "antialias", "broadcast", "ceil_mode", "center_point_box", "count_include_pad",
    "detect_negative", "detect_positive", "exclude_outside", "exclusive", "fmod", "input_forget", "interleaved", "inverse",
    "is_causal", "is_test", "keepdims", "largest", "layout", "linear_before_reset", "new_axis", "noop_with_empty_axes",
    "onesided", "output_sequence", "periodic", "reverse", "saturate", "select_last_index", "sorted", "spatial",
    "storage_order", "training_mode", "transA", "transB", "upper",
})  # fmt: skip


def check_flags(node: Node) -> None:
    """Refuse other values than 0 and 1, of which some runtimes make a yes and others, or other operators, a no.

    Raises:
        ModelError: it names the attribute and its value.
    """
    if node.domain:
        return
    for name, value in node.attrs.items():
        if name in _FLAGS and isinstance(value, int) and value not in (0, 1):
            raise ModelError(
                f"attribute {name} is {value}; it means yes (1) or no (0)",
                code="invalid-node",
                node=node.label,
                hint=f"set {name} to 0 or 1: runtimes disagree about other values",
            )
