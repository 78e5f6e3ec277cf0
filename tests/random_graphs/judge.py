"""Whether a result is right: by the tolerance table, else by a proof in float64.

A graph may amplify rounding without bound: the difference of two nearly equal sums, a comparison of them, a division by it. Then
two right computations differ, and the tolerance table says nothing. What decides is the same graph in float64, where every
node's result is moved at random by as much as rounding may move it in the graph's own types. A result is right where it lies
among those of such runs, element by element; it is wrong where rounding can't explain it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, numpy_helper

from graphopt.driver.accuracy import EPS, bound, compare
from tests.random_graphs.case import Case
from tests.random_graphs.evaluate import WIDENED, Array, by_ort, by_reference, reads, wide, wide_values

SAMPLES = 32
_EXACT = {
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Expand", "Tile", "Concat", "Split", "Slice", "Pad", "Gather",
    "GatherElements", "GatherND", "OneHot", "Trilu", "DepthToSpace", "SpaceToDepth", "Identity", "Dropout", "Relu", "Abs", "Neg",
    "Sign", "Min", "Max", "Where", "Clip", "MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin", "NonZero", "Unique", "Compress",
    "ConstantOfShape", "Range", "TopK", "ArgMax", "ArgMin", "Floor", "Ceil", "Round", "Shape",
}  # fmt: skip
"""Operators that give numbers that they got, or whole ones: nothing is rounded."""
_SUMMING = {
    "MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "CumSum", "AveragePool", "GlobalAveragePool", "LpPool", "ReduceSum",
    "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp", "LayerNormalization",
    "RMSNormalization", "InstanceNormalization", "GroupNormalization", "BatchNormalization", "LRN", "LpNormalization",
    "MeanVarianceNormalization", "Resize", "Softmax", "LogSoftmax", "Sum", "Mean", "If", "ScatterElements", "ScatterND",
}  # fmt: skip
"""Operators whose results are rounded by as much as the terms are large, not the result."""
_CENTRING = {
    "LayerNormalization", "InstanceNormalization", "GroupNormalization", "MeanVarianceNormalization", "BatchNormalization",
}  # fmt: skip
"""Operators that subtract a mean, whose rounding moves each operand by as much as the largest may be rounded."""


@dataclass(frozen=True)
class Verdict:
    """On one output.

    Attributes:
        name: of the output.
        kind: ``equal`` (within the table), ``reference`` (ONNX's reference evaluator gives what we give),
            ``rounding`` (among the float64 runs), or ``wrong``.
        detail: how it differs from ONNX Runtime.
    """

    name: str
    kind: str
    detail: str = ""


def judge(case: Case, which: int, got: Mapping[str, Array]) -> list[Verdict]:
    """A verdict for every output of a graph on its feed ``which``."""
    want = case.expected[which]
    depth = max(1, min(4, len(case.nodes) // 4))
    verdicts, open_ones = [], {}
    for name in case.outputs:
        found = compare(name, got[name], want[name], reduction=64, depth=depth)
        if found.ok and _close_elementwise(got[name], want[name]):
            verdicts.append(Verdict(name, "equal"))
        else:
            open_ones[name] = found.problem or "single elements are far off"
    if open_ones:
        needed = upstream(case.nodes, open_ones)
        runs = _runs(needed, {**case.feeds[which], **case.constants}, set(case.constants), case.seed)
        for name, problem in open_ones.items():
            verdicts.append(_prove(name, got[name], [want[name], *(r[name] for r in runs if name in r)], problem))
    return verdicts


def _close_elementwise(got: Array, want: Array) -> bool:
    """Small elements beside large ones count too: the table's bound is relative to the largest."""
    if str(want.dtype) not in EPS or not want.size:
        return True
    a, b = got.astype(np.float64), want.astype(np.float64)
    fine = np.isfinite(b)
    if not fine.any():
        return True
    typical = float(np.median(np.abs(b[fine])))
    with np.errstate(all="ignore"):
        return bool(np.all(np.abs(a - b)[fine] <= 64 * bound(want.dtype, 64) * (np.abs(b[fine]) + typical) + 1e-30))


def upstream(nodes: Sequence[NodeProto], names: Iterable[str]) -> list[NodeProto]:
    """The nodes that the named values depend on."""
    wanted = set(names)
    kept = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted.update(reads(node))
    return kept[::-1]


def _runs(
    nodes: Sequence[NodeProto], given: Mapping[str, Array], constants: set[str], seed: int
) -> list[dict[str, Array]]:
    """The graph in float64: once as it is, then with every node's result moved by what rounding may do."""
    rng = np.random.default_rng(seed)
    runs = [_own_types(nodes, given)]
    for sample in range(SAMPLES):
        values = wide_values(given)
        types = {name: a.dtype for name, a in given.items()}
        for node in nodes:
            arrays = _wide_outputs(node, _centred(node, values, types, rng) if sample else values, constants)
            if arrays is None:
                break
            narrow = _narrow(node, types)
            for name, array in zip([o for o in node.output if o], arrays):
                types[name] = narrow if array.dtype == np.float64 else array.dtype
                values[name] = _moved(node, array, narrow, rng) if sample else array
        runs.append({k: _as(v, types[k]) for k, v in values.items() if k in types})
    return runs


def _centred(
    node: NodeProto, values: Mapping[str, Array], types: Mapping[str, np.dtype[np.generic]], rng: np.random.Generator
) -> Mapping[str, Array]:
    """The values as an operator that subtracts a mean sees them."""
    data = node.input[0] if node.op_type in _CENTRING else ""
    if not data or not np.isfinite(values[data]).any():
        return values
    array = values[data]
    unit = EPS[str(_narrow(node, types))] * np.abs(array[np.isfinite(array)]).max()
    return {**values, data: array + unit * rng.uniform(-1.0, 1.0, array.shape)}


def _own_types(nodes: Sequence[NodeProto], given: Mapping[str, Array]) -> dict[str, Array]:
    """The graph by ONNX's reference evaluator as it stands, as far as that goes."""
    values = dict(given)
    for node in nodes:
        try:
            arrays = by_reference(node, values)
        except Exception:  # any class: it has gaps
            break
        values.update(zip([o for o in node.output if o], arrays))
    return values


def _wide_outputs(node: NodeProto, values: Mapping[str, Array], constants: set[str]) -> list[Array] | None:
    """A node in float64, by whichever of the two evaluators has it."""
    widened = wide(node)
    fixed_float = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "Resize", "OneHot"}
    if node.op_type in fixed_float:
        values = dict(values)
        for name in node.input:
            if name and values[name].dtype == np.float64:
                values[name] = values[name].astype(np.float32)
    for attempt in (
        lambda: by_ort(widened, values, constants),
        lambda: by_reference(widened, values),
        lambda: by_ort(node, {k: _as(v, np.dtype(np.float32)) for k, v in values.items()}, constants),
    ):
        try:
            arrays = attempt()
        except Exception:  # any class: neither has all operators in float64
            continue
        return [a.astype(np.float64) if a.dtype in WIDENED else a for a in arrays]
    return None


def _narrow(node: NodeProto, types: Mapping[str, np.dtype[np.generic]]) -> np.dtype[np.generic]:
    """The float type that a node's result has in the graph."""
    for attribute in node.attribute:
        if attribute.name == "to" and attribute.i in (1, 10, 11):
            return np.dtype({1: np.float32, 10: np.float16, 11: np.float64}[attribute.i])
        if attribute.name == "value" and attribute.t.data_type:
            return numpy_helper.to_array(attribute.t).dtype
    floats = [types[name] for name in reads(node) if name in types and types[name].kind == "f"]
    return (
        floats[-1] if node.op_type in ("Where", "OneHot") and floats else floats[0] if floats else np.dtype("float32")
    )


def _moved(node: NodeProto, array: Array, narrow: np.dtype[np.generic], rng: np.random.Generator) -> Array:
    if array.dtype != np.float64 or not array.size:
        return array
    eps = EPS[str(narrow)]
    rounded = _as(array, narrow).astype(np.float64)
    if node.op_type in _EXACT or node.op_type == "Cast":
        return rounded if node.op_type == "Cast" else array
    noise = rng.uniform(-1.0, 1.0, array.shape)
    size = np.abs(array)
    if node.op_type in _SUMMING and np.isfinite(size).any():
        size = size + float(size[np.isfinite(size)].max())
    with np.errstate(all="ignore"):
        moved = np.where(np.isfinite(array), array + 4 * eps * size * noise, array)
    return np.where(np.isfinite(rounded), moved, rounded)


def _as(array: Array, dtype: np.dtype[np.generic]) -> Array:
    with np.errstate(all="ignore"):
        return array.astype(dtype) if array.dtype == np.float64 and dtype.kind == "f" else array


def _prove(name: str, got: Array, runs: list[Array], problem: str) -> Verdict:
    """Whether a result lies among the runs: ONNX Runtime's, the reference evaluator's, and those in float64."""
    if len(runs) > 1 and got.dtype == runs[1].dtype and compare(name, got, runs[1], reduction=64).ok:
        return Verdict(name, "reference", problem)
    alike = [np.asarray(run) for run in runs if run.shape == got.shape and run.dtype == got.dtype]
    if len(alike) < 2:
        return Verdict(name, "wrong", problem)
    stack = np.stack([run.astype(np.float64) if run.dtype.kind == "f" else run for run in alike])
    if got.dtype.kind != "f":
        low, high = stack.min(0), stack.max(0)
        inside = (got >= low) & (got <= high)
        return Verdict(name, "rounding" if bool(np.all(inside)) else "wrong", problem)
    value = got.astype(np.float64)
    with np.errstate(all="ignore"):
        finite = np.where(np.isfinite(stack), stack, np.nan)
        low, high = np.fmin.reduce(finite), np.fmax.reduce(finite)
        spread = high - low
        largest = np.nanmax(np.abs(finite)) if np.isfinite(stack).any() else 0.0
        slack = (
            spread + bound(got.dtype, 64) * np.maximum(np.abs(high), np.abs(low)) + 1e-6 * bound(got.dtype) * largest
        )
        inside = (value >= low - slack) & (value <= high + slack)
    inside |= np.any((stack == value) | (np.isnan(stack) & np.isnan(value)), axis=0)
    wrong = int(np.sum(~inside))
    if not wrong:
        return Verdict(name, "rounding", problem)
    place = tuple(int(i) for i in np.argwhere(~inside)[0])
    runs_there = (
        f"{value[place]!r} at {list(place)}, runs {low[place]!r} to {high[place]!r}, ONNX Runtime {stack[0][place]!r}"
    )
    return Verdict(name, "wrong", f"{problem}; {wrong} of {got.size} beyond rounding: {runs_there}")
