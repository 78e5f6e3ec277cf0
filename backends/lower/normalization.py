"""Normalisations by statistics of the data."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.backends.base.element_type import element_type
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.pointwise import cast
from graphopt.backends.lower.reduce import Axes
from graphopt.backends.lower.registry import LowerContext, Lowered, const, lowers
from graphopt.backends.tensors import math as m
from graphopt.backends.tensors.tensor import Expr, Index, Tensor, as_expr, broadcast_index, elementwise, let
from graphopt.ir.dtypes import DType


def _stash(c: LowerContext, dtype: str) -> tuple[str, str]:
    """What statistics are computed in and what type they have as outputs. Doubles are not reduced to the stash type's precision."""
    code = c.attr("stash_type")
    stash = element_type(DType.from_onnx(int(code)), c.node.label).compute if code is not None else dtype
    work = "float64" if "float64" in (stash, dtype) else "float32"
    return work, stash


def _moments(c: LowerContext, axes: Axes, work: str) -> tuple[Tensor, Tensor]:
    """Mean and variance, staged. Two passes: the mean of squares minus the squared mean cancels."""
    count = axes.count(work)
    x = axes.x
    total = axes.reduce(c, lambda i: cast(x(*i), work), work)
    mean = c.k.stage(elementwise(lambda v: v / count, work, axes.kept, total))

    def squared(i: Index) -> Expr:
        d = let(cast(x(*i), work) - mean(*axes.collapse(i)))
        return d * d

    spread = axes.reduce(c, squared, work)
    return mean, c.k.stage(elementwise(lambda v: v / count, work, axes.kept, spread))


def _inverse_root(v: Expr, epsilon: float) -> Expr:
    return m.like(1.0, v) / tirx.sqrt(v + m.like(epsilon, v))


@lowers("BatchNormalization")
def _batch_norm(c: LowerContext) -> Lowered:
    x, scale, shift, mean, var = c.operands
    dtype, eps = c.out_dtype(), float(c.attr("epsilon"))
    work = "float64" if "float64" in (x.dtype, mean.dtype) else "float32"
    outputs: list[Tensor] = []
    batch: Axes | None = None
    if c.attr("training_mode"):
        batch = Axes(x, (0, *range(2, x.rank)))
        momentum = float(c.attr("momentum"))
        old = (mean, var)
        current = _moments(c, batch, work)

        def running(previous: Tensor, now: Tensor) -> Tensor:
            def element(ch: Expr) -> Expr:
                value = now(*(ch if a == 1 else 0 for a in range(x.rank)))
                kept = cast(previous(ch), work) * const(momentum, work)
                return cast(kept + value * const(1.0 - momentum, work), previous.dtype)

            return Tensor(previous.shape, previous.dtype, element)

        outputs = [running(o, n) for o, n in zip(old, current)]
        mean, var = (_by_channel(t, x.rank) for t in current)

    def element(*i: Expr) -> Expr:
        ch = i[1] if len(i) > 1 else 0
        factor = cast(scale(ch), work) / tirx.sqrt(cast(var(ch), work) + const(eps, work))
        return cast((cast(x(*i), work) - cast(mean(ch), work)) * factor + cast(shift(ch), work), dtype)

    return [Tensor(c.out_shape(), dtype, element), *outputs]


def _by_channel(t: Tensor, rank: int) -> Tensor:
    return Tensor((t.shape[1],), t.dtype, lambda ch: t(*(ch if a == 1 else 0 for a in range(rank))))


def _scaled(c: LowerContext, work: str, value: Expr, index: Index) -> Expr:
    """value * scale (+ bias) with operands 1 and 2 broadcast to the data."""
    scale = c.broadcast_operand(1, c.shape(0))
    value = value * cast(scale(*broadcast_index(scale, index)), work)
    if c.has(2):
        bias = c.broadcast_operand(2, c.shape(0))
        value = value + cast(bias(*broadcast_index(bias, index)), work)
    return value


@lowers("LayerNormalization")
def _layer_norm(c: LowerContext) -> Lowered:
    x, dtype = c.x(0), c.out_dtype()
    axes = Axes(x, tuple(range(c.axis(int(c.attr("axis")), x.rank), x.rank)))
    work, stash = _stash(c, dtype)
    eps = float(c.attr("epsilon"))
    mean, var = _moments(c, axes, work)
    inverse = c.k.stage(elementwise(lambda v: _inverse_root(v, eps), work, axes.kept, var))

    def element(*i: Expr) -> Expr:
        at = axes.collapse(i)
        return cast(_scaled(c, work, (cast(x(*i), work) - mean(*at)) * inverse(*at), i), dtype)

    stats = [elementwise(lambda v: cast(v, stash), stash, axes.kept, t) for t in (mean, inverse)]
    return [Tensor(x.shape, dtype, element), *stats]


@lowers("RMSNormalization")
def _rms_norm(c: LowerContext) -> Lowered:
    x, dtype = c.x(0), c.out_dtype()
    axes = Axes(x, tuple(range(c.axis(int(c.attr("axis")), x.rank), x.rank)))
    work, _ = _stash(c, dtype)
    eps = float(c.attr("epsilon"))
    count = axes.count(work)

    def squared(i: Index) -> Expr:
        v = let(cast(x(*i), work))
        return v * v

    total = axes.reduce(c, squared, work)
    inverse = c.k.stage(elementwise(lambda v: _inverse_root(v / count, eps), work, axes.kept, total))

    def element(*i: Expr) -> Expr:
        return cast(_scaled(c, work, cast(x(*i), work) * inverse(*axes.collapse(i)), i), dtype)

    return Tensor(x.shape, dtype, element)


@lowers("InstanceNormalization")
def _instance_norm(c: LowerContext) -> Lowered:
    x, scale, bias = c.operands
    dtype = c.out_dtype()
    axes = Axes(x, tuple(range(2, x.rank)))
    eps = float(c.attr("epsilon"))
    mean, var = _moments(c, axes, dtype)
    inverse = c.k.stage(elementwise(lambda v: _inverse_root(v, eps), dtype, axes.kept, var))

    def element(*i: Expr) -> Expr:
        at = axes.collapse(i)
        value = (cast(x(*i), dtype) - mean(*at)) * inverse(*at)
        return cast(value * cast(scale(i[1]), dtype) + cast(bias(i[1]), dtype), dtype)

    return Tensor(x.shape, dtype, element)


@lowers("GroupNormalization")
def _group_norm(c: LowerContext) -> Lowered:
    x, scale, bias = c.operands
    dtype = c.out_dtype()
    groups = int(c.attr("num_groups"))
    # a scale that is known decides where the channels are a symbol: inference has made them equal
    channels = x.shape[1] if isinstance(x.shape[1], int) else scale.shape[0]
    if not isinstance(channels, int):
        raise c.unsupported("GroupNormalization of an unknown number of channels", "fix it with --shape")
    size = channels // groups
    work, _ = _stash(c, dtype)
    split = Tensor((x.shape[0], groups, size, *x.shape[2:]), x.dtype, lambda n, g, ch, *at: x(n, g * size + ch, *at))
    axes = Axes(split, tuple(range(2, split.rank)))
    eps = float(c.attr("epsilon"))
    mean, var = _moments(c, axes, work)
    inverse = c.k.stage(elementwise(lambda v: _inverse_root(v, eps), work, axes.kept, var))

    def element(n: Expr, ch: Expr, *at: Expr) -> Expr:
        group = (n, ch // size if isinstance(ch, int) else tirx.floordiv(ch, as_expr(size)), *(0,) * (split.rank - 2))
        value = (cast(x(n, ch, *at), work) - mean(*group)) * inverse(*group)
        return cast(value * cast(scale(ch), work) + cast(bias(ch), work), dtype)

    return Tensor(x.shape, dtype, element)


@lowers("MeanVarianceNormalization")
def _mean_variance(c: LowerContext) -> Lowered:
    x, dtype = c.x(0), c.out_dtype()
    listed = c.attr("axes")
    axes = Axes(x, tuple(sorted({c.axis(int(a), x.rank) for a in (listed if listed is not None else (0, 2, 3))})))
    mean, var = _moments(c, axes, dtype)

    def element(*i: Expr) -> Expr:
        at = axes.collapse(i)
        # the constant of ONNX's definition
        return cast((cast(x(*i), dtype) - mean(*at)) / (tirx.sqrt(var(*at)) + const(1e-9, dtype)), dtype)

    return Tensor(x.shape, dtype, element)


@lowers("LpNormalization")
def _lp_norm(c: LowerContext) -> Lowered:
    x, dtype = c.x(0), c.out_dtype()
    axes = Axes(x, (c.axis(int(c.attr("axis")), x.rank),))
    p = int(c.attr("p"))
    if p not in (1, 2):
        raise c.invalid(f"LpNormalization with p={p}")

    def raised(i: Index) -> Expr:
        v = let(cast(x(*i), dtype))
        return tirx.abs(v) if p == 1 else v * v

    root: Callable[[Expr], Expr] = tirx.sqrt if p == 2 else lambda v: v
    norm = c.k.stage(elementwise(root, dtype, axes.kept, axes.reduce(c, raised, dtype)))

    def divided(v: Expr, n: Expr) -> Expr:
        n = let(n)
        empty = tirx.EQ(n, const(0.0, dtype))
        return cast(tirx.Select(empty, const(0.0, dtype), cast(v, dtype) / n), dtype)

    return elementwise(divided, dtype, x.shape, x, norm)


@lowers("LRN")
def _lrn(c: LowerContext) -> Lowered:
    x, dtype = c.x(0), c.out_dtype()
    size = int(c.attr("size"))
    alpha, beta, bias = float(c.attr("alpha")), float(c.attr("beta")), float(c.attr("bias"))
    before = (size - 1) // 2

    def body(i: Index, r: Index) -> Expr:
        ch = let(i[1] + r[0] - before + as_expr(0))
        inside = tirx.all(ch >= 0, ch < x.shape[1])
        v = let(cast(x(i[0], tirx.max(tirx.min(ch, x.shape[1] - 1), 0), *i[2:]), dtype))
        return tirx.Select(inside, v * v, const(0.0, dtype))

    total = c.k.reduce(x.shape, dtype, (size,), body)

    def element(v: Expr, s: Expr) -> Expr:
        base = let(s * const(alpha / size, dtype) + const(bias, dtype))
        if beta == 0.75:
            root = let(tirx.sqrt(base))
            return cast(cast(v, dtype) / (root * tirx.sqrt(root)), dtype)
        return cast(cast(v, dtype) / m.power(base, const(beta, dtype)), dtype)

    return elementwise(element, dtype, x.shape, x, total)
