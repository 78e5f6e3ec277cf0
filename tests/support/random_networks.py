"""Random networks for property tests of pruning: layers, and everything that channels pass between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from graphopt.ir.dims import symbol
from graphopt.ir.graph import Graph, Value
from tests.support.graphs import new_graph

T = TypeVar("T")
Choose = Callable[[Sequence[Any]], Any]


class Network:
    """Grows a graph step by step; every choice is made by ``choose`` out of a sequence."""

    def __init__(self, choose: Choose, *, symbolic: bool = False) -> None:
        self.choose = choose
        shape = (symbol("N") if symbolic else 2, self.pick(3, 4, 6), 4, self.pick(2, 4))
        self.graph, self.editor, x = new_graph(*shape)
        self.values = [x]
        self.shared: dict[tuple[int, ...], Value] = {}
        self.rng = np.random.default_rng(len(self.values))

    # -- making -------------------------------------------------------------------------------------------------
    def pick(self, *options: T) -> T:
        """One of the options."""
        found: T = self.choose(options)
        return found

    def weight(self, *shape: int, share: bool = False) -> Value:
        """A constant; ``share`` takes the one that others of this shape use."""
        if share and shape in self.shared and self.pick(True, False):
            return self.shared[shape]
        fan = math.prod(shape[1:]) or 1
        data = (self.rng.standard_normal(shape) / math.sqrt(fan)).astype(np.float32)
        self.shared[shape] = self.editor.constant(data, "w")
        return self.shared[shape]

    def ints(self, *numbers: int) -> Value:
        """A vector of int64."""
        return self.editor.constant(np.asarray(numbers, np.int64), "k")

    def add(self, op: str, *inputs: Value | None, outputs: int = 1, **attrs: Any) -> list[Value]:
        """A node's results."""
        made = self.editor.node(op, inputs, attrs, outputs=outputs).outputs
        return [v for v in made if v is not None]

    def one(self, op: str, *inputs: Value | None, **attrs: Any) -> Value:
        """A node's only result."""
        return self.add(op, *inputs, **attrs)[0]

    def grow(self) -> None:
        """One step from one of the last values."""
        x = self.pick(*self.values[-4:])
        steps = [*EVERYWHERE, *(IMAGES if len(x.shape) == 4 else ()), *(ROWS if len(x.shape) in (2, 3) else ())]
        step = self.pick(*steps)
        made = step(self, x)
        for value in made if isinstance(made, list) else [made]:
            if value is not None and 1 <= len(value.shape) <= 5 and size(value) <= 1 << 13:
                self.values.append(value)

    def finish(self) -> Graph:
        """Layers that read what nobody has read yet, each with an output."""
        open_ = [v for v in self.values if not v.uses and len(v.shape) > 1 and 0 not in v.shape][-3:]
        for x in open_ or self.values[-1:]:
            axis = self.pick(*static_axes(x)) if static_axes(x) else None
            if axis is None:
                y = self.one("ReduceMax", x, keepdims=0)
            else:
                last = len(x.shape) - 1
                order = [i for i in range(last + 1) if i != axis] + [axis]
                y = self.one("MatMul", self.one("Transpose", x, perm=order), self.weight(extent(x, axis), 3))
            self.editor.set_output(self.graph, len(self.graph.outputs), y)
        return self.graph


def extent(x: Value, axis: int) -> int:
    """A static extent."""
    dim = x.shape[axis]
    assert isinstance(dim, int)
    return dim


def static_axes(x: Value, at_least: int = 1) -> list[int]:
    """Axes of known extents."""
    return [i for i, d in enumerate(x.shape) if isinstance(d, int) and d >= at_least]


def size(x: Value) -> int:
    """Elements, symbols counted as 2."""
    return math.prod(d if isinstance(d, int) else 2 for d in x.shape)


def divisors(n: int) -> list[int]:
    """Proper and improper ones."""
    return [d for d in range(1, n + 1) if n % d == 0]


# -- steps for any tensor ---------------------------------------------------------------------------------------
def unary(n: Network, x: Value) -> Value:
    """Zero need not stay zero."""
    return n.one(n.pick("Relu", "Tanh", "Sigmoid", "Abs", "HardSwish", "Cos", "Softsign"), x)


def with_constant(n: Network, x: Value) -> Value:
    """A constant along some axes."""
    shape = [d if isinstance(d, int) and n.pick(True, False) else 1 for d in x.shape]
    shape = shape[n.pick(*range(len(shape))) :]
    return n.one(n.pick("Add", "Mul", "Sub", "Max", "PRelu"), x, n.weight(*shape, share=True))


def with_other(n: Network, x: Value) -> Value | None:
    """Another tensor, where the two broadcast."""
    fits = [v for v in n.values if _broadcasts(v, x)]
    return n.one(n.pick("Add", "Mul", "Min"), x, n.pick(*fits)) if fits else None


def _broadcasts(a: Value, b: Value) -> bool:
    return all(p == q or 1 in (p, q) for p, q in zip(a.shape[::-1], b.shape[::-1]))


def choice(n: Network, x: Value) -> Value:
    """Where, with a condition of its own."""
    return n.one("Where", n.one("Greater", x, n.weight(1)), x, n.weight(1))


def transpose(n: Network, x: Value) -> Value:
    """Two axes change places."""
    order = list(range(len(x.shape)))
    i, j = n.pick(*order), n.pick(*order)
    order[i], order[j] = order[j], order[i]
    return n.one("Transpose", x, perm=order)


def concat(n: Network, x: Value) -> Value | None:
    """With another tensor or a constant."""
    axis = n.pick(*range(len(x.shape)))
    same = [v for v in n.values if len(v.shape) == len(x.shape) and _beside(v, axis) == _beside(x, axis)]
    parts = [x, n.pick(*same)]
    if static_axes(x) == list(range(len(x.shape))) and n.pick(True, False, False):
        shape = [extent(x, i) for i in range(len(x.shape))]
        shape[axis] = n.pick(1, 2, 3)
        parts.insert(n.pick(0, 1), n.weight(*shape))
    return n.one("Concat", *parts, axis=n.pick(axis, axis - len(x.shape)))


def _beside(x: Value, axis: int) -> list[object]:
    return [d for i, d in enumerate(x.shape) if i != axis]


def split(n: Network, x: Value) -> list[Value] | None:
    """Into two or three parts, of which some stay unread."""
    axes = static_axes(x, 2)
    if not axes:
        return None
    axis = n.pick(*axes)
    cut = n.pick(*range(1, extent(x, axis)))
    return n.add("Split", x, n.ints(cut, extent(x, axis) - cut), outputs=2, axis=n.pick(axis, axis - len(x.shape)))


def cut(n: Network, x: Value) -> Value | None:
    """A slice, forwards or backwards, counted from either end."""
    axes = static_axes(x, 2)
    if not axes:
        return None
    axis = n.pick(*axes)
    last = extent(x, axis)
    start, end = n.pick(*range(-last, last)), n.pick(*range(-last, last), np.iinfo(np.int64).max, -(1 << 40))
    step = n.pick(1, 1, -1, 2)
    made = n.one("Slice", x, n.ints(start), n.ints(end), n.ints(n.pick(axis, axis - len(x.shape))), n.ints(step))
    return None if 0 in made.shape else made


def gather(n: Network, x: Value) -> Value | None:
    """Some positions of an axis, again and again."""
    axes = static_axes(x, 2)
    if not axes:
        return None
    axis = n.pick(*axes)
    places = [n.pick(*range(-extent(x, axis), extent(x, axis))) for _ in range(n.pick(1, 2, 3, 5))]
    return n.one("Gather", x, n.ints(*places), axis=axis)


def reshape(n: Network, x: Value) -> Value | None:
    """Other factors of the static axes; there and elsewhere back."""
    tail = (
        [extent(x, i) for i in range(1, len(x.shape))]
        if all(i in static_axes(x) for i in range(1, len(x.shape)))
        else []
    )
    if not tail or 0 in tail:
        return None
    total, target = math.prod(tail), []
    for _ in range(n.pick(0, 1, 2, 2)):
        target.append(n.pick(*divisors(total)))
        total //= target[-1]
    return n.one("Reshape", x, n.ints(0, *target, n.pick(total, -1)))


def shuffle(n: Network, x: Value) -> Value | None:
    """Channels in groups, transposed."""
    if not all(i in static_axes(x) for i in range(1, len(x.shape))) or not 2 <= len(x.shape) <= 4:
        return None
    channels = extent(x, 1)
    groups = n.pick(*divisors(channels))
    rest = [extent(x, i) for i in range(2, len(x.shape))]
    apart = n.one("Reshape", x, n.ints(0, groups, channels // groups, *rest))
    turned = n.one("Transpose", apart, perm=[0, 2, 1, *range(3, len(apart.shape))])
    return n.one("Reshape", turned, n.ints(0, channels, *rest))


def measured(n: Network, x: Value) -> Value | None:
    """A reshape whose target comes out of a Shape."""
    if len(x.shape) < 3 or not all(i in static_axes(x) for i in range(1, len(x.shape))):
        return None
    found = n.one("Shape", x)
    head = n.one("Slice", found, n.ints(0), n.ints(n.pick(1, 2)), n.ints(0))
    return n.one("Reshape", x, n.one("Concat", head, n.ints(-1), axis=0))


def total(n: Network, x: Value) -> Value:
    """A reduction over an axis."""
    axis = n.pick(*range(len(x.shape)))
    return n.one(n.pick("ReduceSum", "ReduceL2", "ReduceMean", "ReduceMax"), x, n.ints(axis), keepdims=1)


def softmax(n: Network, x: Value) -> Value:
    """Along an axis."""
    return n.one("Softmax", x, axis=n.pick(*range(-len(x.shape), len(x.shape))))


def tile(n: Network, x: Value) -> Value | None:
    """An axis repeated."""
    axes = static_axes(x)
    if not axes:
        return None
    axis = n.pick(*axes)
    return n.one("Tile", x, n.ints(*(2 if i == axis else 1 for i in range(len(x.shape)))))


def expand(n: Network, x: Value) -> Value:
    """Axes of 1 stretched."""
    return n.one("Expand", x, n.ints(*(n.pick(1, 3) if d == 1 else 1 for d in x.shape)))


def squeeze(n: Network, x: Value) -> Value | None:
    """Axes of 1 dropped, by name or not, or one added."""
    ones = [i for i, d in enumerate(x.shape) if d == 1]
    if not ones or len(ones) == len(x.shape):
        return n.one("Unsqueeze", x, n.ints(n.pick(0, 1, -1))) if len(x.shape) < 4 else None
    if len(static_axes(x)) == len(x.shape) and n.pick(True, False):
        return n.one("Squeeze", x)
    return n.one("Squeeze", x, n.ints(n.pick(*ones)))


def pad(n: Network, x: Value) -> Value | None:
    """One more at an end of an axis."""
    axis = n.pick(*range(len(x.shape)))
    return n.one("Pad", x, n.ints(0, 1), n.weight(), n.ints(axis))


def project(n: Network, x: Value) -> Value | None:
    """MatMul over the last axis."""
    last = len(x.shape) - 1
    if last < 1 or last not in static_axes(x):
        return None
    return n.one("MatMul", x, n.weight(extent(x, last), n.pick(2, 4, 6), share=True))


# -- steps for images -------------------------------------------------------------------------------------------
def conv(n: Network, x: Value) -> Value | None:
    """In groups that divide both sides, or depthwise, or transposed."""
    if any(i not in static_axes(x) for i in (1, 2, 3)):
        return None
    channels = extent(x, 1)
    groups = n.pick(1, 1, *divisors(channels))
    out = groups * n.pick(1, 2, 3, 4)
    bias = n.weight(out, share=True) if n.pick(True, False) else None
    if n.pick(True, True, False):
        kernel = n.pick(1, 3)
        w = n.weight(out, channels // groups, kernel, kernel, share=True)
        return n.one("Conv", x, w, bias, group=groups, pads=[kernel // 2] * 4)
    w = n.weight(channels, out // groups, 1, 1)
    return n.one("ConvTranspose", x, w, bias, group=groups)


def normalise(n: Network, x: Value) -> Value | None:
    """Per channel, per group of channels, or over some last axes."""
    if any(i not in static_axes(x) for i in (1, 2, 3)):
        return None
    channels = extent(x, 1)
    kind = n.pick("BatchNormalization", "InstanceNormalization", "GroupNormalization", "LayerNormalization")
    scale, shift = n.weight(channels, share=True), n.weight(channels, share=True)
    if kind == "BatchNormalization":
        data = np.abs(n.rng.standard_normal(channels)).astype(np.float32) + 0.5
        return n.one(kind, x, scale, shift, shift, n.editor.constant(data, "var"))
    if kind == "InstanceNormalization":
        return n.one(kind, x, scale, shift)
    if kind == "GroupNormalization":
        return n.one(kind, x, scale, shift, num_groups=n.pick(*divisors(channels)))
    axis = n.pick(1, 2, 3, -1)
    return n.one(kind, x, n.weight(*(extent(x, i) for i in range(axis % 4, 4))), axis=axis)


def excite(n: Network, x: Value) -> Value | None:
    """Squeeze and excite."""
    if 1 not in static_axes(x):
        return None
    channels = extent(x, 1)
    hidden = n.one("Relu", n.one("Conv", n.one("GlobalAveragePool", x), n.weight(3, channels, 1, 1)))
    return n.one("Mul", x, n.one("Sigmoid", n.one("Conv", hidden, n.weight(channels, 3, 1, 1))))


def pool(n: Network, x: Value) -> Value:
    """Over space."""
    op = n.pick("MaxPool", "AveragePool", "GlobalAveragePool")
    return n.one(op, x, **({} if op[0] == "G" else {"kernel_shape": [2, 1], "pads": [1, 0, 0, 0]}))


def resize(n: Network, x: Value) -> Value:
    """By scales."""
    scales = n.editor.constant(np.asarray([1, 1, n.pick(1, 2), 2], np.float32), "s")
    return n.one("Resize", x, None, scales, mode="nearest")


def space(n: Network, x: Value) -> Value | None:
    """Channels into space or back."""
    if 1 in static_axes(x) and extent(x, 1) % 4 == 0 and n.pick(True, False):
        return n.one("DepthToSpace", x, blocksize=2, mode=n.pick("DCR", "CRD"))
    if all(i in static_axes(x) and extent(x, i) % 2 == 0 for i in (2, 3)):
        return n.one("SpaceToDepth", x, blocksize=2)
    return None


# -- steps for rows ---------------------------------------------------------------------------------------------
def attend(n: Network, x: Value) -> Value | None:
    """Self-attention with heads, over the rows of a rank 3 tensor."""
    if len(x.shape) != 3 or not all(i in static_axes(x) for i in (1, 2)):
        return None
    heads, width, rows, columns = n.pick(1, 2, 3), n.pick(2, 3), extent(x, 1), extent(x, 2)
    q, k, v = (
        n.one("Transpose", n.one("Reshape", n.one("MatMul", x, n.weight(columns, heads * width)),
                                 n.ints(0, rows, heads, width)), perm=[0, 2, 1, 3])
        for _ in range(3)
    )  # fmt: skip
    p = n.one("Softmax", n.one("MatMul", q, n.one("Transpose", k, perm=[0, 1, 3, 2])))
    o = n.one("Transpose", n.one("MatMul", p, v), perm=[0, 2, 1, 3])
    return n.one("MatMul", n.one("Reshape", o, n.ints(0, 0, -1)), n.weight(heads * width, columns))


def gemm(n: Network, x: Value) -> Value | None:
    """With one of the two ways to store weights."""
    if len(x.shape) != 2 or 1 not in static_axes(x):
        return None
    out, turned = n.pick(2, 5), n.pick(0, 1)
    w = n.weight(*((out, extent(x, 1)) if turned else (extent(x, 1), out)))
    return n.one("Gemm", x, w, n.weight(*n.pick((out,), (1, out), (1,), ())), transB=turned)


EVERYWHERE = (
    unary, with_constant, with_other, with_other, choice, transpose, concat, concat, split, cut, gather, reshape, reshape,
    shuffle, measured, total, softmax, tile, expand, squeeze, pad, project, project,
)  # fmt: skip
IMAGES = (conv, conv, conv, conv, conv, normalise, normalise, excite, pool, resize, space)
ROWS = (attend, gemm, project)
