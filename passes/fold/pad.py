"""Pad folded into the convolution or pooling that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir.editor import Editor
from graphopt.ir.graph import Value
from graphopt.ops.context import InferContext, attr, content_of
from graphopt.ops.movement import pad_amounts
from graphopt.passes.fold.linear_node import LINEAR_ATTRS
from graphopt.rewrite.passes import register_pass
from graphopt.rewrite.pattern import any_, op, opt_any, opt_const
from graphopt.rewrite.rewrite_pass import RewritePass
from graphopt.rewrite.rule import Match, Rule

POOL_ATTRS = (
    "auto_pad",
    "ceil_mode",
    "count_include_pad",
    "dilations",
    "kernel_shape",
    "pads",
    "storage_order",
    "strides",
)
NOT_NEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Abs", "Softmax", "Exp", "Softplus"})


class PadRule(Rule):
    """Base: reads the amounts, refuses padding of other axes than the spatial ones."""

    x = any_()
    fill = opt_const()
    pad = op("Pad", x, any_(), fill, opt_any())

    def amounts(self, m: Match) -> list[int]:
        """New explicit padding: the window's own plus the Pad's, in ONNX order."""
        node = m.node(self.pad)
        given = node.input(1)
        known = given is not None and content_of(given) is not None
        m.require(known, "the amounts are not known", given)
        assert node.graph is not None
        found = pad_amounts(InferContext(node, node.graph))
        numbers = [(b, e) for b, e in found if isinstance(b, int) and isinstance(e, int)]
        m.require(len(numbers) == len(found), "the amounts are not known", given)
        m.require(not any(b or e for b, e in numbers[:2]), "it pads batch or channels", given)
        m.require(all(b >= 0 and e >= 0 for b, e in numbers), "it crops", given)
        m.require((attr(m.root, "auto_pad") or "NOTSET") in ("NOTSET", "VALID"), "padding is automatic", m.root)
        spatial = numbers[2:]
        own = self.own_pads(m)
        return [o + p for o, p in zip(own, [*(b for b, _ in spatial), *(e for _, e in spatial)])]

    @staticmethod
    def own_pads(m: Match) -> list[int]:
        """The window's explicit padding."""
        rank = len(m.root.out.shape) - 2
        if attr(m.root, "auto_pad") == "VALID":
            return [0] * 2 * rank
        return [int(p) for p in attr(m.root, "pads") or [0] * 2 * rank]

    def fill_value(self, m: Match) -> float:
        """What the Pad fills with."""
        fill = m.get(self.fill)
        return 0.0 if fill is None or fill.data is None else float(np.asarray(fill.data).reshape(-1)[0])

    def rebuilt(self, m: Match, e: Editor, **attrs: Any) -> Value:
        """The root node reading x, with the pads summed up."""
        merged = {k: v for k, v in m.root.attrs.items() if k != "auto_pad"} | {"pads": self.amounts(m)} | attrs
        return e.node(m.root.op, [m[self.x], *m.root.inputs[1:]], merged).out


class FoldPadIntoConv(PadRule):
    """Conv(Pad(x, p, 0), W, b?, pads=q) -> Conv(x, W, b?, pads=p + q)

    Does not fire for other modes than constant, other values than 0, or other axes than the spatial ones.
    """

    x, fill = any_(), opt_const()
    pad = op("Pad", x, any_(), fill, opt_any())
    root = op("Conv", pad, any_(), opt_any(), keep=LINEAR_ATTRS)

    def check(self, m: Match) -> None:
        """Zeros around the picture."""
        m.require(self.fill_value(m) == 0, "it does not pad with zeros", m.get(self.fill))
        self.amounts(m)

    def rewrite(self, m: Match, e: Editor) -> Value:
        """The padded convolution."""
        return self.rebuilt(m, e)


class FoldPadIntoMaxPool(PadRule):
    """MaxPool(Pad(x, p, v), pads=q) -> MaxPool(x, pads=p + q) where v is -infinity, or v is 0 and x never negative.

    MaxPool's own padding never wins; zeros do over negative numbers.
    """

    x, fill = any_(), opt_const()
    pad = op("Pad", x, any_(), fill, opt_any())
    root = op("MaxPool", pad, keep=POOL_ATTRS)

    def check(self, m: Match) -> None:
        """The fill never decides the maximum."""
        value = self.fill_value(m)
        producer = m[self.x].producer
        positive = producer is not None and not producer.domain and producer.op in NOT_NEGATIVE
        harmless = value == -np.inf or (value == 0 and positive)
        m.require(harmless, "the fill value may be the maximum", m.get(self.fill) or m[self.x])
        _check_window(m, self.amounts(m))

    def rewrite(self, m: Match, e: Editor) -> Value:
        """The padded pooling."""
        return self.rebuilt(m, e)


class FoldPadIntoAveragePool(PadRule):
    """AveragePool(Pad(x, p, 0), pads=q) -> AveragePool(x, pads=p + q, count_include_pad=1)

    Fires where zeros were counted before: q is 0, or count_include_pad was set. Not in ceil mode, whose last window may
    be cut off.
    """

    x, fill = any_(), opt_const()
    pad = op("Pad", x, any_(), fill, opt_any())
    root = op("AveragePool", pad, keep=POOL_ATTRS)

    def check(self, m: Match) -> None:
        """Zeros that count."""
        m.require(self.fill_value(m) == 0, "it does not pad with zeros", m.get(self.fill))
        m.require(not attr(m.root, "ceil_mode"), "ceil mode counts differently", m.root)
        counted = not any(self.own_pads(m)) or bool(attr(m.root, "count_include_pad"))
        m.require(counted, "the pooling's own padding does not count, the Pad's does", m.root)
        _check_window(m, self.amounts(m))

    def rewrite(self, m: Match, e: Editor) -> Value:
        """The padded pooling."""
        return self.rebuilt(m, e, count_include_pad=1)


def _check_window(m: Match, pads: list[int]) -> None:
    """Runtimes refuse padding as wide as the window, and a window of nothing but padding has no maximum."""
    kernel = [int(k) for k in attr(m.root, "kernel_shape")]
    m.require(all(p < k for p, k in zip(pads, kernel * 2)), "the padding would be as wide as the window", m.root)
    m.require(not attr(m.root, "ceil_mode"), "ceil mode drops windows that start in the padding", m.root)


@register_pass
@dataclass(frozen=True)
class FoldPad(RewritePass):
    """Folds Pad into the padding of the convolution or pooling after it, where the fill value allows it."""

    name: ClassVar[str] = "fold-pad"
    rules: ClassVar[tuple[Rule, ...]] = (FoldPadIntoConv(), FoldPadIntoMaxPool(), FoldPadIntoAveragePool())
