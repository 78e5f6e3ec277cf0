"""Products of integers that are read as floats, as products of dequantized operands, for which there are kernels of integers.

Dynamic quantization writes ``Cast(MatMulInteger(x, w, zx, zw))`` with a zero point of x that is computed at run time, which
no kernel of integers subtracts ahead of its products. But ``sum((x - zx) (w - zw)) = sum((x - c) (w - zw)) - (zx - c) sum(w
- zw)`` for any constant c, and the second sum is known. Both terms are integers that float32 holds exactly as long as they
are below 2^24, as they are with c in the middle of the bytes and up to a thousand or more products; the difference is then
rounded once, as Cast does. Beyond, each term is rounded as well, by less than a part in 2^24 of the largest possible sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir.dtypes import DType
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Array, Node, Value
from graphopt.ops.context import InferContext
from graphopt.ops.conv import conv_window
from graphopt.rewrite.passes import register_pass
from graphopt.rewrite.pattern import any_, const, op, opt_any, opt_const
from graphopt.rewrite.rewrite_pass import RewritePass
from graphopt.rewrite.rule import Match, Rule

_MIDDLE = {DType.u8: 128, DType.i8: 0}
_BYTES = tuple(_MIDDLE)
_MOST_PRODUCTS = (2**31 - 1) // (255 * 255)
"""Of differences of bytes, for their sum to fit in 32 bits whatever they are."""


class _Product(Rule):
    """What products and convolutions share: the operands' checks, and the dequantized operands."""

    x, w, zx, zw = any_(), const(), opt_any(), opt_const()

    def check_operands(self, m: Match, rank: int) -> None:
        """Bytes, a weight of a rank, one zero point of the data, and Cast to float32.

        Raises:
            NoMatch: it is otherwise.
        """
        m.require(m.root.out.dtype is DType.f32, "the sums are not read as float32", m.root.out)
        m.require(m[self.x].dtype in _BYTES and m[self.w].dtype in _BYTES, "the operands are no bytes", m[self.x])
        m.require(len(m[self.w].shape) == rank, f"the weight is not of rank {rank}", m[self.w])
        zero = m.get(self.zx)
        m.require(zero is None or all(d == 1 for d in zero.shape), "the data have several zero points", zero)
        zeros = m.get(self.zw)
        m.require(zeros is None or len(zeros.shape) < 2, "the weight has a matrix of zero points", zeros)
        array = m.array(self.w)
        depth = array.size // max(array.shape[0 if rank > 2 else 1], 1)
        m.require(depth <= _MOST_PRODUCTS, f"a sum of {depth} products may not fit in 32 bits", m[self.w])

    def centre(self, m: Match) -> int:
        """What is subtracted from the data before they are multiplied: their zero point if it is known, else the middle."""
        zero = m.get(self.zx)
        if zero is None:
            return 0
        return int(zero.data.reshape(-1)[0]) if zero.data is not None else _MIDDLE[m[self.x].dtype]

    def is_exact(self, m: Match) -> bool:
        """Whether the zero point of the data is known."""
        zero = m.get(self.zx)
        return zero is None or zero.data is not None

    def differences(self, m: Match, axis: int) -> Array:
        """The weight less its zero points, which go along an axis where they are several."""
        array = m.array(self.w).astype(np.int64)
        zeros = m.get(self.zw)
        if zeros is None or zeros.data is None:
            return array
        found = zeros.data.astype(np.int64).reshape(-1)
        return array - found.reshape([-1 if i == axis else 1 for i in range(array.ndim)])

    def data(self, m: Match, e: Editor, x: Value) -> Value:
        """The data less their centre, as float32."""
        zero = e.constant(np.asarray(self.centre(m), x.dtype.numpy), "centre")
        return e.node("DequantizeLinear", [x, _one(e), zero], like=[m.root]).out

    def weight(self, m: Match, e: Editor, axis: int) -> Value:
        """The weight less its zero points, as float32."""
        zeros, w = m.get(self.zw), m[self.w]
        if zeros is None or zeros.data is None:
            return e.node("DequantizeLinear", [w, _one(e)], like=[m.root]).out
        if zeros.data.size == 1 or (zeros.data == zeros.data.reshape(-1)[0]).all():
            zero = e.constant(zeros.data.reshape(-1)[0].reshape(()), zeros.name)
            return e.node("DequantizeLinear", [w, _one(e), zero], like=[m.root]).out
        ones = e.constant(np.ones(zeros.data.shape, np.float32), "one")
        return e.node("DequantizeLinear", [w, ones, zeros], {"axis": axis}, like=[m.root]).out

    def corrected(self, m: Match, e: Editor, sums: Value, of_weight: Array) -> Value:
        """The sums less the zero point's distance from the centre times the sums of the weight.

        Args:
            of_weight: in a shape that broadcasts to the sums.
        """
        zero = m.get(self.zx)
        if zero is None or zero.data is not None:
            return sums
        scalar = e.node("Reshape", [zero, e.constant(np.zeros(0, np.int64), "scalar")]).out
        number = e.node("Cast", [scalar], {"to": DType.f32.onnx}).out
        distance = e.node("Sub", [number, e.constant(np.float32(self.centre(m)), "centre")]).out
        totals = e.constant(of_weight.astype(np.float32), f"{m[self.w].name}_sums")
        return e.node("Sub", [sums, e.node("Mul", [totals, distance]).out], like=[m.root]).out


def _one(e: Editor) -> Value:
    return e.constant(np.float32(1), "one")


class IntegerMatMul(_Product):
    """Cast(MatMulInteger(x, W, zx, zW)) -> MatMul(x - c, W - zW) - (zx - c) sum(W - zW)

    Does not fire unless W is a constant matrix and the Cast is one to float32.
    """

    product = op("MatMulInteger", _Product.x, _Product.w, _Product.zx, _Product.zw)
    root = op("Cast", product, keep={"to", "saturate", "round_mode"})

    def check(self, m: Match) -> None:
        """A matrix of weights."""
        self.check_operands(m, 2)

    def rewrite(self, m: Match, e: Editor) -> Value:
        """The product, and the correction by column."""
        weight = self.weight(m, e, 1)
        sums = e.node("MatMul", [self.data(m, e, m[self.x]), weight], like=[m.node(self.product)]).out
        return self.corrected(m, e, sums, self.differences(m, 1).sum(0))


class IntegerConv(_Product):
    """Cast(ConvInteger(x, W, zx, zW)) -> Conv(x - c, W - zW) - (zx - c) sum(W - zW)

    Where the zero point is computed, the data are padded with it beforehand: then every window sums all weights. Does not fire
    unless W is constant, of rank 4, and the Cast is one to float32.
    """

    product = op(
        "ConvInteger", _Product.x, _Product.w, _Product.zx, _Product.zw,
        keep={"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"},
    )  # fmt: skip
    root = op("Cast", product, keep={"to", "saturate", "round_mode"})

    def check(self, m: Match) -> None:
        """Images, and padding that is known."""
        self.check_operands(m, 4)
        m.require(
            self.is_exact(m) or _pads(m.node(self.product)) is not None, "the padding depends on the shape", m.root
        )

    def rewrite(self, m: Match, e: Editor) -> Value:
        """The convolution, and the correction by output channel."""
        node, x, zero = m.node(self.product), m[self.x], m.get(self.zx)
        attrs: dict[str, Any] = dict(node.attrs)
        pads = _pads(node)
        if not self.is_exact(m) and pads and zero is not None:
            if any(pads):
                rank = len(x.shape) - 2
                widths = np.asarray([0, 0, *pads[:rank], 0, 0, *pads[rank:]], np.int64)
                scalar = e.node("Reshape", [zero, e.constant(np.zeros(0, np.int64), "scalar")]).out
                x = e.node("Pad", [x, e.constant(widths, "pads"), scalar], like=[m.root]).out
            attrs = {k: v for k, v in attrs.items() if k not in ("pads", "auto_pad")}
        sums = e.node("Conv", [self.data(m, e, x), self.weight(m, e, 0)], attrs, like=[node]).out
        totals = self.differences(m, 0).reshape(m.array(self.w).shape[0], -1).sum(1)
        return self.corrected(m, e, sums, totals.reshape(-1, 1, 1))


def _pads(node: Node) -> list[int] | None:
    """Padding at the beginning and end of all axes, None where it depends on extents that aren't known."""
    assert node.graph is not None
    window = conv_window(InferContext(node, node.graph))
    found = [p for p in (*window.pads_begin, *window.pads_end) if isinstance(p, int)]
    return found if len(found) == 2 * len(window.kernel) else None


@register_pass
@dataclass(frozen=True)
class LowerIntegerProducts(RewritePass):
    """Turns MatMulInteger and ConvInteger whose sums are read as floats into products of dequantized operands."""

    name: ClassVar[str] = "lower-integer-products"
    rules: ClassVar[tuple[Rule, ...]] = (IntegerMatMul(), IntegerConv())
