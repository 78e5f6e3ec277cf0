"""RotaryEmbedding as ONNX Runtime had it before ai.onnx."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.graph import Value
from graphopt.ops.contrib.affine import is_single
from graphopt.ops.contrib.builder import Builder
from graphopt.ops.contrib.table import becomes_plain


@becomes_plain(
    "RotaryEmbedding",
    operands="input position_ids cos_cache sin_cache",
    attributes="interleaved is_packed_batching num_heads rotary_embedding_dim scale",
)
def rotary_embedding(b: Builder) -> Sequence[Value]:
    """The operator of ai.onnx with its tables before the positions, and with heads that the tables tell where no attribute does.

    Raises:
        UnsupportedOpError: sequences are packed, or a scale other than 1 is named, which ONNX Runtime's CPU kernel ignores.
    """
    if b.flag("is_packed_batching") or b.number("scale", 1.0) != 1.0:
        raise b.refuse("RotaryEmbedding of packed sequences or with a scale", "export the model without those options")
    x, cos = b.x("input"), b.x("cos_cache")
    attributes = {**b.kept("rotary_embedding_dim"), "interleaved": int(b.flag("interleaved"))}
    if b.rank(x) == 3:
        attributes["num_heads"] = b.integer("num_heads", 0) or _heads(b, x, cos)
    positions = b.x("position_ids")
    if is_single(b, positions) and b.rank(positions) < 2:
        positions = _positions_from(b, positions, x)
    return [b.emit("RotaryEmbedding", [x, cos, b.x("sin_cache"), positions], attributes)]


def _heads(b: Builder, x: Value, cos: Value) -> int:
    """How many heads there are: a row of the tables holds half of one."""
    width, half = b.shape(x)[2], b.shape(cos)[1]
    if not isinstance(width, int) or not isinstance(half, int):
        raise b.refuse("RotaryEmbedding of heads whose size isn't known", "name num_heads, or make shapes static")
    if not half or width % (2 * half):
        raise b.invalid(f"{width} features are no heads of {2 * half}")
    return width // (2 * half)


def _positions_from(b: Builder, first: Value, x: Value) -> Value:
    """[batch, sequence]: the positions from the first one on, the same in each sequence."""
    axis = 1 if b.rank(x) == 3 else 2
    length = b.emit("Squeeze", [b.emit("Shape", [x], {"start": axis, "end": axis + 1})])
    ordinal = b.emit("Range", [b.constant(0, "zero", "int64"), length, b.constant(1, "one", "int64")])
    row = b.emit("Unsqueeze", [b.emit("Add", [ordinal, first]), b.integer_list([0], "row")])
    extents = [b.emit("Shape", [x], {"start": a, "end": a + 1}) for a in (0, axis)]
    return b.emit("Expand", [row, b.emit("Concat", extents, {"axis": 0})])
