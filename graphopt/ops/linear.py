"""Linear operators (trait LINEAR): which axes of their operands are summed over, and which the result keeps."""

from __future__ import annotations

from graphopt.ir.graph import Node
from graphopt.ops.context import attr
from graphopt.ops.registry import CONVOLUTION, has_trait


def summed_axis(node: Node, index: int) -> int:
    """The axis of operand 0 or 1 of a linear node that sums run over, from the front.

    For convolutions it is that of the input channels; in a grouped one sums run over one group's part of it.
    """
    return _axes(node, index)[1]


def kept_axis(node: Node, index: int) -> int:
    """The axis of operand 0 or 1 whose indices are indices of the result too: rows, columns, output channels, the batch.

    The operand has at least two axes. A batched product keeps its leading axes besides. The second axis of a transposed
    convolution's weight holds the output channels of one group.
    """
    return _axes(node, index)[0]


def channel_axis(node: Node) -> int:
    """The axis of the result that the weight's output channels lie on, for weights on the right; from the front."""
    return 1 if has_trait(node, CONVOLUTION) else len(node.out.shape) - 1


def _axes(node: Node, index: int) -> tuple[int, int]:
    value = node.inputs[index]
    assert value is not None
    if has_trait(node, CONVOLUTION):
        return (1, 0) if index and node.op == "ConvTranspose" else (0, 1)
    rank = len(value.shape)
    if rank == 1:
        return 0, 0
    turned = node.op == "Gemm" and bool(attr(node, "transB" if index else "transA"))
    last = bool(index) == turned  # whether the summed axis is the last one
    return (rank - 2, rank - 1) if last else (rank - 1, rank - 2)
