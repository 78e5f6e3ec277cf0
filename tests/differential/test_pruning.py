"""Pruned models give what the original gives with the same channels set to zero: the proof that every index map is right."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.driver.accuracy import compare_all
from graphopt.ir.graph import Graph, Use
from graphopt.passes.prune.apply import apply_plan
from graphopt.passes.prune.choice.ranking import select
from graphopt.passes.prune.groups import PruneGroups, find_groups
from graphopt.passes.prune.importance import CRITERIA
from graphopt.passes.prune.labels import Role, Slot
from graphopt.passes.prune.mask import masked_graph
from graphopt.passes.prune.plan import Mask, PrunePlan
from tests.support.ort import run_ort
from tests.support.zoo_models import Arrays, assert_outputs, budget, zoo_model

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed (extra 'bench')"
)

RATIOS = (0.3, 0.5, 0.7)
LIGHT = ("digits", "squeezenet", "mobilenet_v2", "vit_tiny", "bert_tiny", "ppocr_cls")
SHORT = ("digits", "vit_tiny", "bert_tiny")
"""Those of the light ones that take little time to compile."""
MEDIUM = ("shufflenet", "ppocr_rec", "ppocr_det", "nudenet", "opennsfw")
HEAVY = ("resnet50", "inception_v2", "densenet121")
LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
SHAPE_ARITHMETIC = frozenset({"Shape", "Gather", "Slice", "Unsqueeze", "Concat", "Cast", "Mul", "Div", "Add", "Sub"})
OPEN = ("bert_tiny", "ppocr_rec", "ppocr_det", "nudenet", "opennsfw", "digits")
"""Models with open extents, pruned as they are: targets of reshapes are computed at run time."""


def _cases() -> list[Any]:
    """Models by ratios; of the heavy ones none is in the default run, of the medium ones the middle ratio."""
    return [
        pytest.param(name, ratio, marks=() if name in LIGHT or (name in MEDIUM and ratio == 0.5) else pytest.mark.slow)
        for name in (*LIGHT, *MEDIUM, *HEAVY)
        for ratio in RATIOS
    ]


def _in_turn() -> list[Any]:
    """Models with one of the ratios each: what compiling adds is kernels of odd sizes, and all ratios leave some."""
    return [
        pytest.param(name, RATIOS[i % len(RATIOS)], marks=() if name in SHORT else pytest.mark.slow)
        for i, name in enumerate((*LIGHT, *MEDIUM, *HEAVY))
    ]


@lru_cache(maxsize=2)
def _groups(name: str, static: bool = True) -> PruneGroups:
    model = zoo_model(name)
    return find_groups(graphopt.import_onnx(_scores(name), shapes=(model.shapes or None) if static else None))


def _scores(name: str) -> onnx.ModelProto:
    """The model without a last Softmax or Sigmoid, which hides differences where it is saturated."""
    proto = zoo_model(name).proto()
    producers = {out: node for node in proto.graph.node for out in node.output}
    for output in proto.graph.output:
        last = producers[output.name]
        if last.op_type in ("Softmax", "Sigmoid"):
            output.name = last.input[0]
            proto.graph.node.remove(last)
    return proto


@lru_cache(maxsize=4)
def _feed(name: str) -> Arrays:
    return zoo_model(name).inputs(3)


def random_plan(groups: PruneGroups, ratio: float, seed: int) -> PrunePlan:
    """The share of every group's channels, at random: no neighbours, no prefix, nothing that a wrong index would forgive."""
    rng = np.random.default_rng(seed)
    removed = {}
    for group in groups.groups:
        count = min(round(ratio * group.size), group.size - 1)
        mask = np.zeros(group.size, bool)
        mask[rng.permutation(group.size)[:count]] = True
        removed[group.index] = mask
    return PrunePlan(groups, removed)


def _ort(graph: Graph | onnx.ModelProto, feed: Arrays, inner: Sequence[str] = ()) -> Arrays:
    """Outputs, and inner values by name."""
    proto = graphopt.export_onnx(graph) if isinstance(graph, Graph) else graph
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    return dict(zip([o.name for o in proto.graph.output], run_ort(proto, feed), strict=True))


def _weighted(plan: PrunePlan) -> dict[str, list[Mask | None]]:
    """Results of all layers with weights, and what stays of their axes."""
    outputs = {value.name for value in plan.groups.graph.outputs}
    layers = dict.fromkeys(use.node for use, _ in plan.groups.labelling.roles if use.node.op in LAYERS)
    return {node.out.name: plan.keep(node.out) for node in layers if node.out.name not in outputs}


def _kept(array: np.ndarray[Any, Any], masks: list[Mask | None]) -> np.ndarray[Any, Any]:
    for axis, mask in enumerate(masks):
        if mask is not None:
            array = np.compress(mask, array, axis)
    return array


def _parameters(graph: Graph) -> int:
    return sum(value.data.size for value in graph.constants() if value.data is not None)


def _masked(plan: PrunePlan, feed: Arrays, inner: dict[str, list[Mask | None]]) -> Arrays:
    """What the pruned graph has to give."""
    found = _ort(masked_graph(plan), feed, list(inner))
    return {key: _kept(array, inner[key]) if key in inner else array for key, array in found.items()}


def _check(name: str, plan: PrunePlan, *, compiled: bool) -> None:
    feed = _feed(name)
    pruned = apply_plan(plan)
    proto = graphopt.export_onnx(pruned)
    onnx.checker.check_model(proto, full_check=True)
    inner = {} if compiled else _weighted(plan)
    want = _masked(plan, feed, inner)
    assert all(want[output.name].std() > 0 for output in pruned.outputs), "the masked original computes nothing"
    if not compiled:
        assert_outputs(name, _ort(proto, feed, list(inner)), want, "in ONNX Runtime")
    else:
        model = graphopt.compile(pruned, "x86")
        assert_outputs(name, model.run({spec.name: feed[spec.name] for spec in model.inputs}), want, "compiled")


@pytest.mark.parametrize(("name", "ratio"), _cases())
@pytest.mark.few(10)
def test_random_channels_in_onnxruntime(name: str, ratio: float) -> None:
    _check(name, random_plan(_groups(name), ratio, seed=int(10 * ratio)), compiled=False)


@pytest.mark.parametrize(("name", "ratio"), _in_turn())
def test_random_channels_compiled(name: str, ratio: float) -> None:
    _check(name, random_plan(_groups(name), ratio, seed=int(100 * ratio)), compiled=True)


RANKINGS = [(0.3, "global", 1), (0.5, "local", 8), (0.7, "isomorphic", 4)]


def _ranked() -> list[Any]:
    """Every model by every ranking in ONNX Runtime; the light ones compiled by one of them, in turn: what compiling adds doesn't
    depend on it, and all models are compiled with channels drawn at random."""
    cases = [(name, *ranking, False) for name in (*LIGHT, *MEDIUM, *HEAVY) for ranking in RANKINGS]
    cases += [(name, *RANKINGS[(i + 1) % len(RANKINGS)], True) for i, name in enumerate(LIGHT)]
    return [pytest.param(*case, marks=() if case[0] in LIGHT and not case[-1] else pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(("name", "ratio", "ranking", "multiple", "compiled"), _ranked())
@pytest.mark.few(9)
def test_ranked_by_weights(name: str, ratio: float, ranking: str, multiple: int, compiled: bool) -> None:
    groups = _groups(name)
    scores = CRITERIA["l2"].score(groups)
    plan = select(groups, scores, ratio=ratio, ranking=ranking, multiple=multiple)
    assert not plan.is_empty
    _check(name, plan, compiled=compiled)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in ("nudenet", "ppocr_det", "opennsfw") else ())
        for name in OPEN
    ],
)
def test_open_extents(name: str) -> None:
    model = zoo_model(name)
    plan = random_plan(_groups(name, static=False), 0.5, seed=1)
    pruned, masked = apply_plan(plan), masked_graph(plan)
    proto, other = graphopt.export_onnx(pruned), graphopt.export_onnx(masked)
    onnx.checker.check_model(proto, full_check=True)
    for shapes in ({}, *model.dynamic_shapes[:2]):
        feed = model.inputs(2, shapes)
        assert_outputs(name, _ort(proto, feed), _ort(other, feed), str(shapes or "standard shapes"))


@pytest.mark.parametrize("name", [*LIGHT, *MEDIUM])
def test_interface_and_names_stay(name: str) -> None:
    groups = _groups(name)
    before = groups.graph
    original = _parameters(before)
    pruned = apply_plan(random_plan(groups, 0.5, seed=2))
    assert [(v.name, v.type) for v in pruned.inputs] == [(v.name, v.type) for v in before.inputs]
    assert [(v.name, v.type) for v in pruned.outputs] == [(v.name, v.type) for v in before.outputs]
    # Targets of reshapes that were computed become numbers; everything else is there, in order.
    names = {node.name for node in pruned.nodes}
    assert [node.name for node in pruned.nodes] == [node.name for node in before.nodes if node.name in names]
    assert {node.op for node in before.nodes if node.name not in names} <= SHAPE_ARITHMETIC
    assert _parameters(pruned) < 0.7 * original
    assert _parameters(before) == original, "the analysed graph is untouched"


@dataclass
class ShiftedPlan(PrunePlan):
    """A plan that takes one weight's input channels off by one, as a wrong index map would."""

    victim: Slot | None = field(default=None)

    def keep(self, slot: Slot) -> list[Mask | None]:
        masks = super().keep(slot)
        if slot != self.victim:
            return masks
        (axis,) = (axis for (use, axis), role in self.groups.labelling.roles.items() if use == slot and role is Role.IN)
        mask = masks[axis]
        assert mask is not None
        return [*masks[:axis], np.roll(mask, 1), *masks[axis + 1 :]]


def _wrong(name: str, masked: PrunePlan, plans: Sequence[PrunePlan]) -> list[bool]:
    """For each of the plans, whether the comparison notices that it differs from the masked one, somewhere."""
    feed, allowed, inner = _feed(name), budget(name), _weighted(masked)
    want = _masked(masked, feed, inner)
    found = [
        compare_all(
            _ort(apply_plan(plan), feed, list(inner)), want, reduction=allowed.reduction, depth=allowed.depth
        )
        for plan in plans
    ]  # fmt: skip
    return [not all(c.ok for c in outputs) for outputs in found]


NOTICED = [*LIGHT, *(pytest.param(name, marks=pytest.mark.slow) for name in ("shufflenet", "ppocr_rec"))]


@pytest.mark.parametrize("name", NOTICED)
def test_one_wrong_channel_is_noticed(name: str) -> None:
    plan = random_plan(_groups(name), 0.3, seed=4)
    group = max(plan.groups.groups, key=lambda g: g.parameters * g.size)
    mask = plan.removed[group.index].copy()
    at = int(np.flatnonzero(mask[:-1] & ~mask[1:])[0])
    mask[[at, at + 1]] = mask[[at + 1, at]]
    other = PrunePlan(plan.groups, {**plan.removed, group.index: mask})
    assert _wrong(name, plan, [plan, other]) == [False, True]


@pytest.mark.parametrize("name", NOTICED)
def test_a_shifted_index_map_is_noticed(name: str) -> None:
    plan = random_plan(_groups(name), 0.5, seed=5)
    victims: list[Use] = [
        use
        for (use, axis), role in plan.groups.labelling.roles.items()
        if role is Role.IN and (mask := plan.keep(use)[axis]) is not None and not mask.all()
    ]
    shifted = [victims[0], victims[len(victims) // 2], victims[-1]]
    plans = [ShiftedPlan(plan.groups, plan.removed, victim=victim) for victim in shifted]
    unnoticed = [victim.node.label for victim, noticed in zip(shifted, _wrong(name, plan, plans)) if not noticed]
    assert not unnoticed
