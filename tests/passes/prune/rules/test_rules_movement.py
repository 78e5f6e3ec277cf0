"""Operators that move data or change shapes, and extents as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from graphopt.passes.prune.apply import apply_plan
from graphopt.passes.prune.plan import PrunePlan
from tests.support.onnx_graphs import graph_of, rand
from tests.support.pruning import check_pruning, sandwich

FAR = np.iinfo(np.int64).max


def ints(**values: Any) -> dict[str, np.ndarray[Any, Any]]:
    """int64 constants."""
    return {k: np.asarray(v, np.int64) for k, v in values.items()}


CASES: dict[str, tuple[str, dict[str, int], dict[str, Any]]] = {
    "transpose there and back": ("a = Transpose<perm=[0,2,3,1]>(h)\nt = Transpose<perm=[0,3,1,2]>(a)", {"h": 8}, {}),
    "transpose reverses": ("a = Transpose(h)\nt = Transpose(a)", {"h": 8}, {}),
    "concat of batches": ("t = Concat<axis=0>(h, h)", {"h": 8}, {}),
    "concat along space": ("t = Concat<axis=-1>(h, h)", {"h": 8}, {}),
    "concat of two along space": (
        "g = Conv(x, u)\nt = Concat<axis=2>(h, g)",
        {"h": 8},
        {"u": rand(8, 3, 1, 1, seed=3)},
    ),
    "concat with itself": ("t = Concat<axis=1>(h, h)", {"h": 8}, {"after": 16}),
    "concat with a constant": ("t = Concat<axis=1>(h, c)", {"h": 8, "y": 5}, {"after": 13, "c": rand(2, 5, 6, 6)}),
    "concat of one": ("t = Concat<axis=-3>(h)", {"h": 8}, {}),
    "concat with the input": ("t = Concat<axis=1>(h, x)", {"h": 8}, {"after": 11}),
    "split into halves": ("a, b = Split<axis=1,num_outputs=2>(h)\nt = Mul(a, b)", {"h": 4}, {"after": 4}),
    "split unevenly": (
        "a, b, d = Split<axis=-3>(h, k)\nt = Concat<axis=1>(d, a)",
        {"h": 3, "h#2": 4},
        {"after": 7, **ints(k=[3, 1, 4])},
    ),
    "split along space": ("a, b = Split<axis=2,num_outputs=2>(h)\nt = Add(a, b)", {"h": 8}, {}),
    "split in thirds with a rest": (
        "a, b, d = Split<axis=1,num_outputs=3>(h)\nt = Concat<axis=1>(b, a)",
        {"h": 3, "h#2": 3, "h#3": 2},
        {"after": 6},
    ),
    "slice of channels": ("t = Slice(h, a, b, k)", {"h": 3, "h#2": 5}, {"after": 5, **ints(a=[2], b=[7], k=[1])}),
    "slice from the end": ("t = Slice(h, a, b, k)", {"h": 4, "h#2": 4}, {"after": 4, **ints(a=[-5], b=[-1], k=[-3])}),
    "slice backwards": ("t = Slice(h, a, b, k, s)", {"h": 8}, {**ints(a=[-1], b=[-FAR], k=[1], s=[-1])}),
    "slice backwards in part": (
        "t = Slice(h, a, b, k, s)",
        {"h": 3, "h#2": 5},
        {"after": 5, **ints(a=[6], b=[1], k=[1], s=[-1])},
    ),
    "slice beyond the end": ("t = Slice(h, a, b, k)", {"h": 4, "h#2": 4}, {"after": 4, **ints(a=[4], b=[FAR], k=[1])}),
    "slice without axes": (
        "t = Slice(h, a, b)",
        {"h": 3, "h#2": 5},
        {"after": 5, **ints(a=[0, 3, 1, 0], b=[FAR, FAR, 5, 6])},
    ),
    "slice of space": ("t = Slice(h, a, b, k, s)", {"h": 8}, {**ints(a=[0, 5], b=[6, 0], k=[2, 3], s=[2, -1])}),
    "slice with a stride": ("t = Slice(h, a, b, k, s)", {}, {"after": 4, **ints(a=[0], b=[8], k=[1], s=[2])}),
    "slices that overlap": (
        "p = Slice(h, a, b, k)\nq = Slice(h, d, e, k)\nt = Concat<axis=1>(p, q)",
        {"h": 2, "h#2": 3, "h#3": 2},
        {"after": 10, **ints(a=[0], b=[5], d=[2], e=[7], k=[1])},
    ),
    "slice that is empty": (
        "p = Slice(h, a, b, k)\nt = Concat<axis=1>(p, h)",
        {"h": 8},
        {**ints(a=[3], b=[3], k=[1])},
    ),
    "gather of channels": ("t = Gather<axis=1>(h, i)", None, {"after": 6, **ints(i=[7, 0, -2, 3, 7, 5])}),
    "gather of one channel": (
        "p = Gather<axis=1>(h, i)\nq = Unsqueeze(p, k)\nt = Mul(h, q)",
        {"h": 7},
        {**ints(i=-3, k=[1])},
    ),
    "gather of space": ("p = Gather<axis=-1>(h, i)\nt = Identity(p)", {"h": 8}, {**ints(i=[5, 0, 0])}),
    "gather of a table of channels": (
        "p = Gather<axis=1>(h, i)\nt = ReduceMax<keepdims=0>(p, k)",
        {"h": 4},
        {"after": 2, **ints(i=[[7, 0], [2, 3]], k=[1])},
    ),
    "pad of space": ("t = Pad(h, p)", {"h": 8}, {**ints(p=[0, 0, 1, 2, 0, 0, 0, 1])}),
    "crop of space": ("t = Pad(h, p)", {"h": 8}, {**ints(p=[0, 0, -1, 2, 0, 0, 0, -1])}),
    "pad with a value": ("t = Pad(h, p, c, k)", {"h": 8}, {"c": np.float32(3), **ints(p=[1, 2], k=[-1])}),
    "pad by reflection": ('t = Pad<mode="reflect">(h, p)', {"h": 8}, {**ints(p=[0, 0, 1, 2, 0, 0, 0, 1])}),
    "pad of channels": ("t = Pad(h, p)", {}, {"after": 10, **ints(p=[0, 1, 0, 0, 0, 1, 0, 0])}),
    "depth to space": ("t = DepthToSpace<blocksize=2>(h)", {"h": 2}, {"after": 2}),
    "depth to space by columns": ('t = DepthToSpace<blocksize=2,mode="CRD">(h)', {"h": 2}, {"after": 2}),
    "space to depth": ("t = SpaceToDepth<blocksize=2>(h)", {"h": 8}, {"after": 32}),
    "tile of channels": ("t = Tile(h, r)", {"h": 8}, {"after": 24, **ints(r=[1, 3, 1, 2])}),
    "tile of batches": ("t = Tile(h, r)", {"h": 8}, {**ints(r=[2, 1, 1, 1])}),
    "expand of space": (
        "p = GlobalMaxPool(h)\nt = Expand(p, e)",
        {"h": 8},
        {**ints(e=[2, 8, 6, 1])},
    ),
    "expand adds an axis": (
        "p = Expand(h, e)\nt = ReduceSum<keepdims=0>(p, k)",
        {"h": 8},
        {**ints(e=[3, 1, 8, 1, 1], k=[0])},
    ),
    "squeeze without names": (
        "p = GlobalAveragePool(h)\nq = Squeeze(p)\nt = Unsqueeze(q, k)",
        {"h": 8},
        {**ints(k=[2, -1])},
    ),
    "squeeze of named axes": (
        "p = GlobalAveragePool(h)\nq = Squeeze(p, k)\nt = Unsqueeze(q, k)",
        {"h": 8},
        {**ints(k=[2, 3])},
    ),
    "flatten and back": ("f = Flatten(h)\nt = Reshape(f, s)", {"h": 8}, {**ints(s=[2, 8, 6, 6])}),
    "reshape merges space": ("f = Reshape(h, s)\nt = Reshape(f, u)", {"h": 8}, {**ints(s=[0, 0, -1], u=[2, 8, 6, 6])}),
    "reshape splits channels": (
        "f = Reshape(h, s)\nt = Reshape(f, u)",
        {"h": 2, "h#2": 4},
        {**ints(s=[2, 2, 4, 6, 6], u=[2, 8, 6, -1])},
    ),
    "channel shuffle": (
        "f = Reshape(h, s)\ng = Transpose<perm=[0,2,1,3,4]>(f)\nt = Reshape(g, u)",
        {"h": 2, "h#2": 4},
        {**ints(s=[2, 2, 4, 6, 6], u=[2, -1, 6, 6])},
    ),
    "reshape to other factors": (
        "f = Reshape(h, s)\nt = Reshape(f, u)",
        None,
        {"channels": 12, "after": 12, **ints(s=[2, 3, 4, 6, 6], u=[2, 12, 6, 6])},
    ),
    "reshape in two ways": (
        "f = Reshape(h, s)\ng = Reshape(h, u)\na = Reshape(f, k)\nb = Reshape(g, k)\nt = Add(a, b)",
        None,
        {"channels": 12, "after": 12, **ints(s=[2, 3, 4, 6, 6], u=[2, 4, 3, 6, 6], k=[2, 12, 6, 6])},
    ),
    "reshape splits into pairs of rows": (
        "f = Reshape(h, s)\nt = Reshape(f, u)",
        {"h": 8},
        {**ints(s=[2, 16, 3, 6], u=[2, 8, 6, 6])},
    ),
    "reshape mixes channels with space": (
        "f = Reshape(h, s)\nt = Reshape(f, u)",
        {},
        {"channels": 5, "after": 5, **ints(s=[2, 6, 5, 6], u=[2, 5, 6, 6])},
    ),
    "reshape of rows to channels": (
        "f = Reshape(h, s)\nt = Identity(f)",
        {"h": 6},
        {"channels": 6, "after": 12, **ints(s=[2, 12, 3, 6])},
    ),
}


@pytest.mark.parametrize(("body", "expected", "consts"), CASES.values(), ids=CASES)
def test_movement(body: str, expected: dict[str, int] | None, consts: Mapping[str, Any]) -> None:
    check_pruning(sandwich(body, **consts), expected)


EXTENTS: dict[str, tuple[str, str, dict[str, int]]] = {
    "view(n, -1)": (
        "s = Shape(h)\nn = Gather(s, zero)\nu = Unsqueeze(n, first)\nk = Concat<axis=0>(u, minus)\nt = Reshape(h, k)",
        "y = Gemm(t, flat)", {"h": 8},
    ),
    "view with channels from the shape": (
        """
        s = Shape<start=0,end=2>(h)
        k = Concat<axis=0>(s, minus)
        f = Reshape(h, k)
        t = ReduceMean<keepdims=0>(f, two)
        """,
        "y = Gemm(t, v)", {"h": 8},
    ),
    "half of the channels from the shape": (
        """
        s = Shape(h)
        a = Gather(s, zero)
        c = Gather(s, one)
        d = Div(c, twice)
        au = Unsqueeze(a, first)
        du = Unsqueeze(d, first)
        k = Concat<axis=0>(au, two, du, minus)
        f = Reshape(h, k)
        g = Transpose<perm=[0,2,1,3]>(f)
        ct = Unsqueeze(c, first)
        back = Concat<axis=0>(au, ct, minus)
        r = Reshape(g, back)
        t = ReduceMean<keepdims=0>(r, two)
        """,
        "y = Gemm(t, v)", {"h": 2, "h#2": 4},
    ),
    "expand to another's shape": (
        "s = Shape(h)\np = GlobalMaxPool(h)\ne = Expand(p, s)\nm = Mul(e, h)\nt = ReduceMean<keepdims=0>(m, space)",
        "y = Gemm(t, v)", {"h": 8},
    ),
    "counted as a number": (
        "s = Shape(h)\nc = Gather(s, one)\nf = Cast<to=1>(c)\nd = Div(h, f)\nt = ReduceMean<keepdims=0>(d, space)",
        "y = Gemm(t, v)", {},
    ),
    "counted by size": (
        "c = Size(h)\nf = Cast<to=1>(c)\nd = Div(h, f)\nt = ReduceMean<keepdims=0>(d, space)", "y = Gemm(t, v)", {},
    ),
    "batch counted as a number": (
        "s = Shape(h)\nc = Gather(s, zero)\nf = Cast<to=1>(c)\nd = Div(h, f)\nt = ReduceMean<keepdims=0>(d, space)",
        "y = Gemm(t, v)", {"h": 8},
    ),
    "the channels of one are the space of another": (
        """
        s = Shape(h)
        c = Gather(s, one)
        u = Unsqueeze(c, first)
        k = Concat<axis=0>(minus, u)
        g = Conv(x, w2)
        r = Reshape(g, k)
        q = ReduceMax<keepdims=0>(r)
        m = Mul(h, q)
        t = ReduceMean<keepdims=0>(m, space)
        """,
        "y = Gemm(t, v)", {"h": 8},
    ),
}  # fmt: skip


@pytest.mark.parametrize("batch", [2, "N"])
@pytest.mark.parametrize(("body", "last", "expected"), EXTENTS.values(), ids=EXTENTS)
def test_extents_as_numbers(body: str, last: str, expected: dict[str, int], batch: object) -> None:
    graph = graph_of(
        {"x": f"float[{batch},3,4,4]"}, f"h = Conv(x, w)\n{body}\n{last}", w=rand(8, 3, 1, 1), w2=rand(8, 3, 1, 1, seed=3),
        v=rand(8, 5), flat=rand(128, 5), **ints(zero=0, one=1, twice=2, first=[0], two=[2], minus=[-1], space=[2, 3]),
    )  # fmt: skip
    check_pruning(graph, expected)


def test_channel_extents_may_leave_the_graph_only_whole() -> None:
    graph = graph_of({"x": "float[1,3,4,4]"}, "h = Conv(x, w)\ns = Shape(h)\ny = Conv(h, v)", "y s:int64",
                     w=rand(8, 3, 1, 1), v=rand(2, 8, 1, 1))  # fmt: skip
    check_pruning(graph, {})


def test_symbolic_space() -> None:
    """Targets whose space is only known at run time: copied, deduced, or put together from what was there."""
    graph = graph_of(
        {"x": "float[N,3,H,W]"},
        """
        h = Conv(x, w)
        f = Reshape(h, to3)
        g = Transpose<perm=[0,2,1]>(f)
        m = MatMul(g, u)
        r = Relu(m)
        k = MatMul(r, z)
        b = Transpose<perm=[0,2,1]>(k)
        s = Shape(x)
        hw = Slice(s, two, four)
        n = Slice(s, none, one)
        to4 = Concat<axis=0>(n, ten, hw)
        i = Reshape(b, to4)
        y = Conv(i, v)
        """,
        w=rand(8, 3, 1, 1), u=rand(8, 12), z=rand(12, 10), v=rand(2, 10, 1, 1),
        **ints(to3=[0, 8, -1], two=[2], four=[4], none=[0], one=[1], ten=[10]),
    )  # fmt: skip
    check_pruning(graph, {"h": 8, "m": 12, "k": 10})


def test_symbolic_slice_beside_channels() -> None:
    graph = graph_of(
        {"x": "float[N,3,H,W]", "n": "int64[1]"},
        "h = Conv(x, w)\np = Slice(h, a, b, k)\nq = Slice(p, zero, n, three)\ny = Conv(q, v)",
        w=rand(8, 3, 1, 1), v=rand(2, 5, 1, 1), **ints(a=[1, 0], b=[6, -1], k=[1, 2], zero=[0], three=[3]),
    )  # fmt: skip
    feeds = {"x": rand(2, 3, 5, 4), "n": np.asarray([3])}
    check_pruning(graph, {"h": 3, "h#2": 5}, feeds)


def test_run_time_bounds_of_channels_freeze() -> None:
    graph = graph_of(
        {"x": "float[1,3,4,4]", "n": "int64[1]"},
        "h = Conv(x, w)\nq = Slice(h, zero, n, one)\ny = ReduceSum(q)",
        w=rand(8, 3, 1, 1), **ints(zero=[0], one=[1]),
    )  # fmt: skip
    check_pruning(graph, {})


def test_extents_multiplied_with_unknown_ones_stay() -> None:
    """[N*C, H*W] can't be written without the count of channels: two extents are only known at run time."""
    graph = graph_of(
        {"x": "float[N,3,H,W]"},
        """
        h = Conv(x, w)
        g = Conv(x, w2)
        s = Shape(h)
        n = Gather(s, zero)
        c = Gather(s, one)
        r = Gather(s, two)
        l = Gather(s, three)
        nc = Mul(n, c)
        rl = Mul(r, l)
        k = Concat<axis=0>(nc, rl)
        f = Reshape(g, k)
        m = ReduceMax<keepdims=0>(f)
        i = Conv(h, v)
        y = Add(i, m)
        """,
        w=rand(8, 3, 1, 1), w2=rand(8, 3, 1, 1, seed=3), v=rand(2, 8, 1, 1),
        **ints(zero=[0], one=[1], two=[2], three=[3]),
    )  # fmt: skip
    groups = check_pruning(graph, {})
    assert any("counts them for" in f.reason for f in groups.frozen if f.name == "h")


def test_target_with_several_unknown_extents_is_put_together() -> None:
    """Only the numbers of channels in it are replaced; what was assumed of it is assumed of what is left."""
    graph = graph_of(
        {"x": "float[N,3,H,W]", "z": "float[A,B]"},
        """
        h = Conv(x, w)
        g = Transpose<perm=[1,0,2,3]>(h)
        s = Shape(z)
        k = Concat<axis=0>(eight, s)
        f = Reshape(g, k)
        y = Einsum<equation="cab,cd->dab">(f, v)
        """,
        w=rand(8, 3, 1, 1), v=rand(8, 2), eight=np.asarray([8]),
    )  # fmt: skip
    feeds = {"x": rand(2, 3, 4, 6), "z": rand(12, 4)}
    groups = check_pruning(graph, {"h": 8}, feeds)
    pruned = apply_plan(PrunePlan(groups, {0: np.arange(8) < 5}))
    assert "Where" in [n.op for n in pruned.nodes]
    assert len(pruned.constraints) == len(graph.constraints)
