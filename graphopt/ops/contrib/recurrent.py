"""DynamicQuantizeLSTM: an LSTM whose weights are integers."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.graph import Value
from graphopt.ops.contrib.affine import dequantized, is_single
from graphopt.ops.contrib.builder import Builder
from graphopt.ops.contrib.table import becomes_plain


@becomes_plain(
    "DynamicQuantizeLSTM",
    operands="X W R B? sequence_lens? initial_h? initial_c? P? W_scale W_zero_point R_scale R_zero_point",
    attributes="activation_alpha activation_beta activations clip direction hidden_size input_forget",
    outputs=3,
)
def lstm(b: Builder) -> Sequence[Value | None]:
    """LSTM with dequantized weights, which are [directions, rows, 4 * hidden] here and turned in ai.onnx.

    ONNX Runtime also rounds the data to 8 bits, all of it at once, and the hidden state at every step, by ranges over those
    sequences of the batch that one thread computes. Such ranges depend on the number of threads, so there is one result that
    depends on the model alone: that of the weights with data as they are, which is nearer to the float model's.
    """
    inputs = [b.x("X"), _weight(b, "W"), _weight(b, "R"), *b.node.inputs[3:8]]
    attributes = b.kept(*b.entry.attributes)
    results: list[Value | None] = list(b.emit_all("LSTM", inputs, attributes, 3))
    return results[: len(b.node.outputs)]


def _weight(b: Builder, name: str) -> Value:
    """The numbers of a weight as ai.onnx wants them: [directions, 4 * hidden, rows].

    The integers are turned, not the numbers, so that constants stay integers; their scales then lie along axis 1.
    """
    integers, scale, zero_point = b.x(name), b.x(f"{name}_scale"), b.x(f"{name}_zero_point")
    if b.rank(integers) != 3:
        raise b.invalid(f"{name} is {integers.type}; [directions, rows, 4 * hidden_size] is needed")
    turned = b.transposed(integers, [0, 2, 1])
    if is_single(b, scale) and is_single(b, zero_point):
        return dequantized(b, turned, scale, zero_point)
    if b.rank(scale) != b.rank(zero_point) or b.rank(scale) > 2:
        raise b.invalid(f"{name} has a scale {scale.type} and a zero point {zero_point.type}")
    if b.rank(scale) == 1:
        return dequantized(b, turned, scale, zero_point, 0)
    directions, rows, columns = b.shape(integers)
    if not isinstance(directions, int) or not isinstance(rows, int) or not isinstance(columns, int):
        raise b.refuse(f"{name} of an extent that is only known at run time", "make the weights constants")
    if directions == 1:
        return dequantized(b, turned, b.reshaped(scale, [columns]), b.reshaped(zero_point, [columns]), 1)
    # a scale for each pair of direction and column: blocks that take in all rows
    shape = [directions, columns, 1]
    operands = [turned, b.reshaped(scale, shape), b.reshaped(zero_point, shape)]
    return b.emit("DequantizeLinear", operands, {"axis": 2, "block_size": rows})
