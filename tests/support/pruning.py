"""The proof that every pruning test ends in: the pruned graph computes what the original with zeroed channels computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx.reference import ReferenceEvaluator

from graphopt.driver.importing import import_onnx
from graphopt.driver.optimizing import export_onnx
from graphopt.ir.graph import Graph, Use
from graphopt.ir.printer import format_graph
from graphopt.ir.verifier import verify
from graphopt.passes.prune.apply import apply_plan
from graphopt.passes.prune.groups import PruneGroups, find_groups
from graphopt.passes.prune.mask import masked_graph
from graphopt.passes.prune.plan import PrunePlan
from tests.support.evaluate import random_inputs
from tests.support.onnx_graphs import model_of, rand
from tests.support.ort import run_ort
from tests.support.tolerance import assert_close

Feeds = Mapping[str, npt.NDArray[Any]]


def plans(groups: PruneGroups, seed: int = 0) -> Iterator[PrunePlan]:
    """A random share of every group, one channel left of every group, and each group alone."""
    rng = np.random.default_rng(seed)
    every: dict[int, npt.NDArray[np.bool_]] = {}
    lonely: dict[int, npt.NDArray[np.bool_]] = {}
    for group in groups.groups:
        every[group.index] = np.arange(group.size) < rng.integers(1, group.size)
        rng.shuffle(every[group.index])
        lonely[group.index] = np.arange(group.size) != rng.integers(group.size)
    if every:
        yield PrunePlan(groups, every)
        yield PrunePlan(groups, lonely)
    if len(every) > 1:
        for index, mask in every.items():
            yield PrunePlan(groups, {index: mask})


def check_plan(plan: PrunePlan, feeds: Feeds | None = None, *, reduction: int = 64, depth: int = 4) -> Graph:
    """Carry out a plan and compare with the masked original; nothing outside the plan changes. Returns the result."""
    graph = plan.groups.graph
    before = format_graph(graph)
    pruned, masked = apply_plan(plan), masked_graph(plan)
    assert format_graph(graph) == before, "the analysed graph was changed"
    verify(pruned)
    verify(masked)
    _check_outside(plan, pruned)
    given = random_inputs(graph) if feeds is None else feeds
    got, want = run(export_onnx(pruned), given), run(export_onnx(masked), given)
    for value, a, b in zip(graph.outputs, got, want, strict=True):
        assert_close(a, b, reduction=reduction, depth=depth, what=value.name)
    return pruned


def check_pruning(
    graph: Graph, expected: Mapping[str, int] | None = None, feeds: Feeds | None = None, **tolerance: int
) -> PruneGroups:
    """All of ``plans``. ``expected``: names and sizes of the groups."""
    groups = find_groups(graph)
    if expected is not None:
        found = {g.name: g.size for g in groups.groups}
        assert found == dict(expected), "\n".join([str(found), *map(str, groups.frozen)])
    for plan in plans(groups):
        check_plan(plan, feeds, **tolerance)
    return groups


def run(model: onnx.ModelProto, feeds: Feeds) -> list[npt.NDArray[Any]]:
    """Outputs from ONNX Runtime, or from ONNX's reference where it lacks the operator."""
    try:
        return run_ort(model, feeds)
    except Exception as e:  # ONNX Runtime's exceptions share no base class
        if "NOT_IMPLEMENTED" not in str(e) and "NotImplemented" not in type(e).__name__:
            raise
    wanted = {i.name for i in model.graph.input}
    return [np.asarray(o) for o in ReferenceEvaluator(model).run(None, {k: v for k, v in feeds.items() if k in wanted})]


def _check_outside(plan: PrunePlan, pruned: Graph) -> None:
    graph = plan.groups.graph
    for ours, theirs in ((graph.inputs, pruned.inputs), (graph.outputs, pruned.outputs)):
        assert [(v.name, v.type) for v in ours] == [(v.name, v.type) for v in theirs]
    nodes = {n.name: n for n in graph.nodes}
    for node in pruned.nodes:
        old = nodes.get(node.name)
        if old is None:
            continue  # numbers of extents that are put together at run time
        assert (old.op, old.domain) == (node.op, node.domain)
        assert [v and v.name for v in old.outputs] == [v and v.name for v in node.outputs]
        for index, (a, b) in enumerate(zip(old.inputs, node.inputs)):
            touched = any(m is not None and not m.all() for m in plan.keep(Use(old, index)))
            if old.op == "Conv" and index == 1 and old.attrs.get("group", 1) != 1:
                continue  # where each group loses other channels, the weights are cut group by group
            if a is not None and a.data is not None and not touched and (old.op, index) not in _REWRITTEN:
                assert b is not None
                assert b.data is not None
                assert a.name == b.name
                assert a.data.dtype == b.data.dtype
                np.testing.assert_array_equal(a.data, b.data)


_REWRITTEN = {
    *(("Slice", i) for i in (1, 2, 3, 4)), ("Gather", 1), ("Split", 1), ("Reshape", 1), ("Expand", 1), ("Resize", 3),
    ("Squeeze", 1), ("CenterCropPad", 1),
}  # fmt: skip


def sandwich(body: str, *, channels: int = 8, after: int | None = None, opset: int = 18, **consts: Any) -> Graph:
    """x: [2, 3, 6, 6] -> Conv -> h: [2, channels, 6, 6] -> ``body`` -> t: [2, after, ...] -> 1x1 Conv -> y."""
    lines = f"h = Conv(x, w)\n{body}\ny = Conv(t, v)"
    weights = {"w": rand(channels, 3, 1, 1), "v": rand(4, after or channels, 1, 1, seed=1)}
    model = model_of({"x": "float[2,3,6,6]"}, lines, opset=opset, **{**weights, **consts})
    result = model.graph.output[0].type.tensor_type
    if not result.HasField("shape"):  # ONNX's inference knows nothing of some operators
        for _ in range(4):
            result.shape.dim.add()
    return import_onnx(model)
