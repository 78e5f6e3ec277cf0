"""Reductions, pooling, softmax and scans against numpy and ONNX's reference evaluator."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.ops.registry import REDUCE
from graphopt.ops.table import ops_with
from tests.support.run_node import check, node


def rand(*shape: int, dtype: str = "float32") -> np.ndarray:
    return (np.random.default_rng(sum(shape)).standard_normal(shape) * 3).astype(dtype)


@pytest.mark.parametrize("symbolic", [False, True])
def test_reductions(symbolic: bool) -> None:
    x = np.abs(rand(3, 7, 33)) + np.float32(0.5)
    consts = {"last": np.array([-1]), "first": np.array([0]), "two": np.array([0, 2]), "none": np.array([], np.int64)}
    nodes = []
    for op in ops_with(REDUCE):
        nodes.append(node(op, "x last", f"a_{op}", keepdims=0))
        nodes.append(node(op, "x two", f"b_{op}", keepdims=1))
        if not symbolic:
            nodes.append(node(op, "x first", f"c_{op}", keepdims=0))
    for op in ("ReduceSum", "ReduceMax", "ReduceMean", "ReduceLogSumExp"):
        nodes += [node(op, "x none", f"all_{op}", keepdims=0), node(op, "x none", f"no_{op}", noop_with_empty_axes=1)]
    check(
        [n for n in nodes if not n.output[0].startswith("no_ReduceLog")], {"x": x}, consts, rtol=3e-5, symbolic=symbolic
    )


def test_composite_reductions_of_no_axes_still_compute() -> None:
    x = np.array([1.0, 2.0, 4.0], np.float32)
    consts = {"none": np.array([], np.int64)}
    nodes = [
        node(op, "x none", op, noop_with_empty_axes=1)
        for op in ("ReduceSumSquare", "ReduceLogSum", "ReduceL1", "ReduceL2")
    ]
    want = {"ReduceSumSquare": x * x, "ReduceLogSum": np.log(x), "ReduceL1": x, "ReduceL2": x}
    check(nodes, {"x": x}, consts, want)


def test_stable_logsumexp_and_infinities() -> None:
    x = np.array([[1000, 1000.5], [-1000, -1001], [-np.inf, -np.inf], [np.inf, 1], [np.nan, 1]], np.float32)
    with np.errstate(all="ignore"):
        want = np.logaddexp(*x.astype(np.float64).T).astype(np.float32)
    nodes = [node("ReduceLogSumExp", "x a", "y", keepdims=0), node("ReduceMax", "x a", "m", keepdims=0)]
    check(nodes, {"x": x}, {"a": np.array([1])}, {"y": want, "m": x.max(1)})


def test_empty_sets() -> None:
    x, i, b = np.zeros((2, 0, 3), np.float32), np.zeros((2, 0), np.int32), np.zeros((2, 0), bool)
    nodes = [
        node(op, "x a", op, keepdims=0)
        for op in ("ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceLogSumExp")
    ]
    nodes += [
        node("ReduceMax", "i a", "imax", keepdims=0),
        node("ReduceMin", "i a", "imin"),
        node("ReduceMax", "b a", "bmax"),
        node("ReduceMin", "b a", "bmin"),
    ]
    full = lambda v: np.full((2, 3), v, np.float32)  # noqa: E731
    want = {
        "ReduceSum": full(0), "ReduceProd": full(1), "ReduceMax": full(-np.inf), "ReduceMin": full(np.inf),
        "ReduceMean": full(np.nan), "ReduceLogSumExp": full(-np.inf), "imax": np.full(2, -(2**31), np.int32),
        "imin": np.full((2, 1), 2**31 - 1, np.int32), "bmax": np.zeros((2, 1), bool), "bmin": np.ones((2, 1), bool),
    }  # fmt: skip
    check(nodes, {"x": x, "i": i, "b": b}, {"a": np.array([1])}, want)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32", "uint64", "float16", "float64"])
def test_other_dtypes(dtype: str) -> None:
    x = (np.arange(35).reshape(5, 7) % 9 + 1).astype(dtype)
    wide = "float64" if dtype == "float16" else dtype
    nodes = [
        node(op, "x a", op, keepdims=0)
        for op in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceSumSquare", "ReduceL1", "ReduceMean")
    ]
    v = x.astype(wide)
    want = {
        "ReduceSum": v.sum(1), "ReduceMax": v.max(1), "ReduceMin": v.min(1), "ReduceSumSquare": (v * v).sum(1),
        "ReduceL1": v.sum(1), "ReduceMean": v.sum(1) / 7 if v.dtype.kind == "f" else v.sum(1) // 7,
    }  # fmt: skip
    check(nodes, {"x": x}, {"a": np.array([1])}, {k: w.astype(dtype) for k, w in want.items()})


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32", "uint64"])
def test_logarithms_of_sums_of_integers(dtype: str) -> None:
    """ONNX allows them until opset 27: computed in float64, as its function body says, and cut to the integer below."""
    x = np.array([[3, 1, 2, 3, 3, 3], [40, 40, 41, 42, 42, 0]], dtype)
    v = x.astype(np.float64)
    want = {"ReduceLogSum": np.log(v.sum(1)), "ReduceLogSumExp": np.log(np.exp(v).sum(1))}
    nodes = [node(op, "x a", op, keepdims=0) for op in want]
    check(nodes, {"x": x}, {"a": np.array([1])}, {k: w.astype(dtype) for k, w in want.items()})


def test_bool_extremes() -> None:
    b = np.array([[0, 1, 0], [1, 1, 1], [0, 0, 0]], bool)
    nodes = [node("ReduceMax", "b a", "any", keepdims=0), node("ReduceMin", "b a", "all", keepdims=0)]
    check(nodes, {"b": b}, {"a": np.array([1])}, {"any": b.any(1), "all": b.all(1)})


def test_arg_extremes() -> None:
    x = np.array([[1, 3, 3, 2], [0, 0, 0, 0], [np.nan, 5, 1, 5], [4, np.nan, np.nan, 9], [-np.inf] * 4], np.float32)
    nodes = [
        node(op, "x", f"{op}{axis}{k}", axis=axis, keepdims=k)
        for op in ("ArgMax", "ArgMin")
        for axis in (0, 1)
        for k in (0, 1)
    ]
    want = {
        f"{n}{a}{k}": np.expand_dims(f(x, a), a) if k else f(x, a)
        for n, f in (("ArgMax", np.argmax), ("ArgMin", np.argmin))
        for a in (0, 1)
        for k in (0, 1)
    }
    check(nodes, {"x": x}, want=want)
    y = np.array([[1, 3, 3, 2], [0, 0, 0, 0]], np.int32)
    check([node("ArgMax", "y", "l", axis=1, select_last_index=1, keepdims=0)], {"y": y}, want={"l": np.array([2, 3])})


@pytest.mark.parametrize("symbolic", [False, True])
def test_softmax_family(symbolic: bool) -> None:
    x = rand(2, 5, 33)
    nodes = [node(op, "x", f"{op}{a + 3}", axis=a) for op in ("Softmax", "LogSoftmax", "Hardmax") for a in (-1, -2)]
    check(nodes, {"x": x}, symbolic=symbolic)


def test_softmax_of_large_numbers() -> None:
    x = np.array([[1e4, 1e4 + 1, -np.inf], [-1e30, 0, 1], [np.nan, 0, 0]], np.float32)
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    check(
        [node("Softmax", "x", "y"), node("LogSoftmax", "x", "z")],
        {"x": x},
        want={"y": (e / e.sum(1, keepdims=True)).astype(np.float32)},
    )


@pytest.mark.parametrize("symbolic", [False, True])
def test_scans(symbolic: bool) -> None:
    x, i = rand(3, 9), np.arange(1, 8, dtype=np.int64).reshape(1, 7)
    nodes, want = [], {}
    for e in (0, 1):
        for r in (0, 1):
            nodes += [
                node("CumSum", "x one", f"s{e}{r}", exclusive=e, reverse=r),
                node("CumProd", "i one", f"p{e}{r}", exclusive=e, reverse=r),
            ]
            for name, v, fn, start in ((f"s{e}{r}", x, np.cumsum, 0), (f"p{e}{r}", i, np.cumprod, 1)):
                v = v[:, ::-1] if r else v
                v = np.concatenate([np.full_like(v[:, :1], start), v[:, :-1]], 1) if e else v
                y = fn(v, 1, dtype=v.dtype)
                want[name] = np.ascontiguousarray(y[:, ::-1] if r else y)
    check(nodes, {"x": x, "i": i}, {"one": np.array(1)}, want, opset=26, symbolic=symbolic)


def test_scan_of_nothing() -> None:
    x = np.zeros((3, 0), np.float32)
    check([node("CumSum", "x one", "y")], {"x": x}, {"one": np.array(1)}, {"y": x})


def test_pools() -> None:
    x = rand(2, 3, 11, 9)
    nodes = []
    for n, attrs in enumerate((
        {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]},
        {"kernel_shape": [2, 3], "dilations": [2, 1], "strides": [1, 2]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
    )):  # fmt: skip
        nodes += [node("MaxPool", "x", f"m{n}", **attrs), node("AveragePool", "x", f"a{n}", **attrs)]
        nodes.append(node("AveragePool", "x", f"i{n}", count_include_pad=1, **attrs))
    nodes += [node("LpPool", "x", f"l{p}", kernel_shape=[3, 2], p=p, pads=[1, 1, 0, 0]) for p in (1, 2, 3)]
    nodes += [
        node("GlobalAveragePool", "x", "ga"),
        node("GlobalMaxPool", "x", "gm"),
        node("GlobalLpPool", "x", "gl", p=3),
    ]
    check(nodes, {"x": x}, want=_pool_reference(nodes, x), rtol=2e-5)


def _pool_reference(nodes: list, x: np.ndarray) -> dict[str, np.ndarray]:
    """Window by window, from the definition."""
    out = {}
    for n in nodes:
        attrs = {a.name: list(a.ints) or a.i or a.s.decode() for a in n.attribute}
        name, op = n.output[0], n.op_type
        v = x.astype(np.float64)
        if op.startswith("Global"):
            p = attrs.get("p", 1)
            y = {
                "GlobalAveragePool": v.mean((2, 3)),
                "GlobalMaxPool": v.max((2, 3)),
                "GlobalLpPool": (np.abs(v) ** p).sum((2, 3)) ** (1 / p),
            }[op]
            out[name] = y[:, :, None, None].astype(np.float32)
            continue
        k, s, d = attrs["kernel_shape"], attrs.get("strides", [1, 1]), attrs.get("dilations", [1, 1])
        pads = attrs.get("pads", [0] * 4)
        size = []
        for a in (0, 1):
            extent, reach = x.shape[2 + a], (k[a] - 1) * d[a] + 1
            if attrs.get("auto_pad"):
                count = -(-extent // s[a])
                total = max((count - 1) * s[a] + reach - extent, 0)
                pads[a], pads[a + 2] = total // 2, total - total // 2
            else:
                span = extent + pads[a] + pads[a + 2] - reach
                count = (-(-span // s[a]) if attrs.get("ceil_mode") else span // s[a]) + 1
                if (count - 1) * s[a] >= extent + pads[a]:
                    count -= 1
            size.append(count)
        y = np.zeros((*x.shape[:2], *size))
        for i in range(size[0]):
            for j in range(size[1]):
                rows, cols = ([q * s[a] - pads[a] + t * d[a] for t in range(k[a])] for a, q in ((0, i), (1, j)))
                inside = [(r, c) for r in rows for c in cols if 0 <= r < x.shape[2] and 0 <= c < x.shape[3]]
                window = np.stack([v[:, :, r, c] for r, c in inside], -1)
                if op == "MaxPool":
                    y[:, :, i, j] = window.max(-1)
                elif op == "LpPool":
                    y[:, :, i, j] = (np.abs(window) ** attrs["p"]).sum(-1) ** (1 / attrs["p"])
                else:
                    padded = [
                        (r, c) for r in rows for c in cols if r < x.shape[2] + pads[2] and c < x.shape[3] + pads[3]
                    ]
                    y[:, :, i, j] = window.sum(-1) / len(padded if attrs.get("count_include_pad") else inside)
        out[name] = y.astype(np.float32)
    return out


def test_max_pool_indices() -> None:
    x = np.array(
        [[[[1, 5, 5, 0], [2, 5, 4, 9], [7, 7, 9, 9]]], [[[0, 0, 0, 0], [0, 0, 0, 0], [3, 0, 0, 0]]]], np.float32
    )
    nodes = [
        node("MaxPool", "x", "y i", kernel_shape=[2, 2]),
        node("MaxPool", "x", "z j", kernel_shape=[2, 2], storage_order=1),
    ]
    row = np.array([[[[1, 1, 7], [8, 10, 7]]], [[[12, 13, 14], [20, 17, 18]]]])
    place = row % 12
    column = row // 12 * 12 + place % 4 * 3 + place // 4
    check(nodes, {"x": x}, want={"i": row, "j": column})
