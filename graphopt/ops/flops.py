"""Arithmetic that an operator asks for, whatever algorithm computes it: the numerator of GFLOP/s.

A multiply-add counts as two. Taps that fall into padding count, as is usual for convolutions. Element-wise operators count one
operation an element, transcendental ones too: such kernels are bound by memory, and the count only has to be comparable. What
only moves data counts nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from graphopt.ir.graph import Node
from graphopt.ops.context import attr
from graphopt.ops.recurrent import gate_count
from graphopt.ops.registry import BROADCAST, ELEMENTWISE, MOVEMENT, REDUCE, has_trait

_FREE = frozenset({"Identity", "Dropout", "BitCast", "Cast", "CastLike"})
_MOVING = frozenset({
    "GatherElements", "GatherND", "Pad", "ScatterElements", "ScatterND", "TensorScatter", "ReverseSequence",
    "ConstantOfShape", "Range", "EyeLike", "Trilu", "OneHot", "Shape", "Size", "NonZero", "Compress", "CenterCropPad",
    "MaxUnpool", "Col2Im",
})  # fmt: skip
_PER_ELEMENT = {
    "Softmax": 4, "LogSoftmax": 4, "LayerNormalization": 7, "RMSNormalization": 5, "InstanceNormalization": 7,
    "GroupNormalization": 7, "BatchNormalization": 2, "LpNormalization": 4, "MeanVarianceNormalization": 6,
}  # fmt: skip
"""Operations an element of the operand: passes over the row, each an add or multiply, and the exponential as one."""
_RESIZE_TAPS = {"nearest": 0, "linear": 2, "cubic": 4}


def group_flops(nodes: Iterable[Node]) -> int | None:
    """Operations of several nodes together; None when a size is symbolic."""
    total = 0
    for node in nodes:
        count = node_flops(node)
        if count is None:
            return None
        total += count
    return total


def node_flops(node: Node) -> int | None:
    """Operations of one node; None when a size that it takes is symbolic or a rank is unknown.

    Operators of other domains and those without a formula count one operation an element of their first result.
    """
    try:
        if not node.domain and node.op in _COUNTS:
            return _COUNTS[node.op](node)
        if not node.domain and (node.op in _FREE or node.op in _MOVING or has_trait(node, MOVEMENT)):
            return 0
        if not node.domain and node.op in _PER_ELEMENT:
            return _PER_ELEMENT[node.op] * _count(node, 0)
        if has_trait(node, REDUCE):
            return _count(node, 0)
        if has_trait(node, ELEMENTWISE):
            operands = sum(v is not None for v in node.inputs) if has_trait(node, BROADCAST) else 2
            return max(operands - 1, 1) * _out(node)
        return _out(node)
    except _Unknown:
        return None


class _Unknown(Exception):
    """A size is not known before run time."""


def _shape(node: Node, i: int) -> tuple[int, ...]:
    value = node.input(i)
    if value is None:
        raise _Unknown
    return _ints(value.shape)


def _ints(shape: Iterable[object]) -> tuple[int, ...]:
    dims = tuple(shape)
    if not all(isinstance(d, int) for d in dims):
        raise _Unknown
    return tuple(d for d in dims if isinstance(d, int))


def _count(node: Node, i: int) -> int:
    return math.prod(_shape(node, i))


def _out(node: Node, i: int = 0) -> int:
    value = node.output(i)
    if value is None:
        return 0
    return math.prod(_ints(value.shape))


def _conv(node: Node) -> int:
    """Weight is [out channels, in channels / group, *kernel]: its tail is what one result element sums."""
    weight = 3 if node.op == "QLinearConv" else 1
    return 2 * _out(node) * math.prod(_shape(node, weight)[1:]) + (
        _out(node) if node.op == "Conv" and node.input(2) else 0
    )


def _conv_transpose(node: Node) -> int:
    """Weight is [in channels, out channels / group, *kernel]: every element of the operand is scattered over its tail."""
    return 2 * _count(node, 0) * math.prod(_shape(node, 1)[1:])


def _deform_conv(node: Node) -> int:
    """A convolution whose every tap is a bilinear sample (four multiply-adds)."""
    taps = math.prod(_shape(node, 1)[1:])
    return 2 * _out(node) * taps + 8 * math.prod(_ints(node.out.shape[2:])) * _shape(node, 0)[0] * taps


def _matmul(node: Node) -> int:
    return 2 * _out(node) * _shape(node, 0)[-1]


def _gemm(node: Node) -> int:
    a = _shape(node, 0)
    inner = a[0] if attr(node, "transA") else a[1]
    return 2 * _out(node) * inner + (_out(node) if node.input(2) else 0)


def _attention(node: Node) -> int:
    """Two matrix products around a softmax; keys of earlier calls (input 4) lengthen the sequence."""
    q, k, v = (_shape(node, i) for i in range(3))
    if len(q) == 4:
        rows, size, v_size, present = math.prod(q[:3]), q[3], v[3], k[2]
    else:
        heads, kv_heads = int(attr(node, "q_num_heads")), int(attr(node, "kv_num_heads"))
        rows, size, v_size, present = q[0] * q[1] * heads, q[2] // heads, v[2] // kv_heads, k[1]
    present += _shape(node, 4)[2] if node.input(4) is not None else 0
    return rows * present * (2 * size + 2 * v_size + _PER_ELEMENT["Softmax"])


def _recurrent(node: Node) -> int:
    """Products with the input and the state for every gate, step, direction; then about ten operations a state element."""
    gates = gate_count(node.op)
    x, r = _shape(node, 0), _shape(node, 2)
    steps = x[0] * x[1] * r[0]
    return steps * r[2] * (2 * gates * (x[2] + r[2]) + 10)


def _pool(node: Node) -> int:
    return _out(node) * math.prod(int(k) for k in attr(node, "kernel_shape"))


def _reduce(node: Node) -> int:
    return _count(node, 0)


def _lrn(node: Node) -> int:
    return (2 * int(attr(node, "size")) + 4) * _count(node, 0)


def _resize(node: Node) -> int:
    """Separable taps along every axis that changes."""
    before, after = _shape(node, 0), _ints(node.out.shape)
    mode = str(attr(node, "mode") or "nearest")
    axes = sum(a != b for a, b in zip(before, after))
    taps = _RESIZE_TAPS.get(mode, 0)
    return 2 * math.prod(after) * taps**axes if taps else 0


def _einsum(node: Node) -> int:
    """One multiply-add for every combination of subscripts, an ellipsis taken for its longest operand."""
    terms = str(attr(node, "equation")).replace(" ", "").partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    wide = 1
    for i, term in enumerate(terms):
        shape = _shape(node, i)
        before, dots, after = term.partition("...")
        end = len(shape) - len(after)
        for letter, extent in [*zip(before, shape), *zip(after, shape[end:])]:
            sizes[letter] = max(sizes.get(letter, 1), extent)
        if dots:
            wide = max(wide, math.prod(shape[len(before) : end]))
    return 2 * wide * math.prod(sizes.values())


_REDUCTIONS = (
    "ArgMax",
    "ArgMin",
    "CumSum",
    "CumProd",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GlobalLpPool",
    "TopK",
)
_COUNTS: dict[str, Callable[[Node], int]] = {
    "Conv": _conv, "ConvInteger": _conv, "QLinearConv": _conv, "ConvTranspose": _conv_transpose,
    "DeformConv": _deform_conv, "MatMul": _matmul, "MatMulInteger": _matmul, "QLinearMatMul": _matmul, "Gemm": _gemm,
    "Attention": _attention, "LSTM": _recurrent, "GRU": _recurrent, "RNN": _recurrent, "MaxPool": _pool,
    "AveragePool": _pool, "LpPool": _pool, "LRN": _lrn, "Resize": _resize, "Einsum": _einsum,
    **dict.fromkeys(_REDUCTIONS, _reduce),
}  # fmt: skip
