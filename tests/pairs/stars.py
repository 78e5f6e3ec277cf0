"""Kernels of many pairs: a first operator and up to 23 others that each take its result."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from graphopt.backends.base.tvm_api import tirx, tvm_ffi
from graphopt.backends.program.program import KernelStep
from graphopt.backends.targets.compilation import build_program
from graphopt.driver.compiling import signature_of, to_program
from graphopt.errors import GraphOptError
from graphopt.ir.fused import FusedGraph
from graphopt.passes.partition.partition import MAX_NODES
from graphopt.runtime.model import CompiledModel
from tests.pairs.anchors import Anchor, Joins, anchors
from tests.pairs.operators import FLOATS, Form, element_wise, forms
from tests.pairs.oracle import expected, model_of

Array = npt.NDArray[Any]

SHAPES: tuple[tuple[int, ...], ...] = (
    (33,), (3, 17), (2, 1, 16), (7,), (5, 8), (1, 15), (2, 3, 1), (1,), (2, 3, 9), (4, 64), (130, 140), (1, 1, 33),
)  # fmt: skip
"""Extents around the width of vectors; one is large enough for threads."""
ROUND_SHAPES: tuple[tuple[int, ...], ...] = ((5, 8), (2, 1, 16), (4, 64), (2, 3, 1), (1,), (130, 144))
"""Extents that take one copy of the loop's body, for three of four stars: each copy takes as long to compile."""
FEWER = ("same", "scalar", "one", "row", "column")
"""How an operand is broadcast."""
BATCH = 12
"""Stars to a compiled model."""
TOLERANCE = {
    "float16": (4e-3, 2e-3),
    "bfloat16": (8e-3, 1e-6),
    "float32": (2e-5, 2e-6),
    "float64": (1e-10, 1e-12),
}


@dataclass(frozen=True)
class Star:
    """A first operator, the ones that take its result, and what was chosen for them.

    Attributes:
        anchor: what makes the value that ``others`` take, in place of ``first``; each of them has one of its own.
    """

    first: Form
    others: tuple[Form, ...]
    shape: tuple[int, ...]
    turn: int
    anchor: Anchor | None = None

    def names(self) -> list[str]:
        """The pairs in it."""
        first = self.anchor.name if self.anchor else self.first.name
        return [f"{first} -> {o.name} ({self.first.source}, {list(self.shape)})" for o in self.others]


@cache
def vectorised(source: str) -> dict[str, bool]:
    """Whether the loops around each form of a type are vectorised; one that isn't makes the whole kernel scalar."""
    plan = _Plan()
    outs = {plan.apply(f, plan.operand(f.source, "value", (33,), "same"), (33,), 0): f.name for f in forms(source)}
    program = to_program(plan.model(), "x86", threads=1, level=1, passes=[])[2]
    return {
        outs[step.outputs[0].name]: _has_vector_loop(program.functions[step.function])
        for step in program.steps
        if isinstance(step, KernelStep)
    }


def _has_vector_loop(function: Any) -> bool:
    found: list[Any] = []
    tvm_ffi.structural_walk(function.body, [(tirx.For, lambda loop: found.append(loop.kind))])
    return tirx.ForKind.VECTORIZED in found


def stars(source: str, fast: dict[str, dict[str, bool]], start: int = 0) -> list[Star]:
    """Stars that hold every pair whose first operator takes the type."""
    out: list[Star] = []
    for first in forms(source):
        second = forms(first.result)
        by_kind = [[f for f in second if fast[first.result][f.name] is kind] for kind in (True, False)]
        if not fast[source][first.name]:
            by_kind = [list(second)]
        for group in by_kind:
            for i in range(0, len(group), MAX_NODES - 1):
                turn, others = start + len(out), tuple(group[i : i + MAX_NODES - 1])
                shapes = SHAPES if turn % 4 == 0 else ROUND_SHAPES
                out.append(Star(first, others, shapes[turn // 4 % len(shapes)], turn))
    return out


def anchored(dtype: str) -> list[Star]:
    """Every form on a type behind every anchor."""
    out: list[Star] = []
    group = forms(dtype)
    for anchor in anchors(dtype):
        value = Form(anchor.op, anchor.op, dtype, dtype)
        size = BATCH if anchor.joins is Joins.one else MAX_NODES - 1
        begins = range(0, len(group), size)
        # Operands behind stored results are the same, so that kernels are.
        turns = [i if anchor.joins is Joins.none else len(out) + i for i in begins]
        out += [Star(value, group[i : i + size], anchor.shape, turn, anchor) for i, turn in zip(begins, turns)]
    return sorted(out, key=lambda s: s.turn if s.anchor is not None and s.anchor.joins is Joins.none else -1)


def batches(chosen: Sequence[Star]) -> list[Sequence[Star]]:
    """Stars that one model is made of: fewer where each pair is a kernel, many where their kernels are the same."""
    out: list[Sequence[Star]] = []
    for _, part in itertools.groupby(chosen, lambda s: (s.anchor.joins, s.first.source) if s.anchor else None):
        some = list(part)
        joins = some[0].anchor.joins if some[0].anchor else Joins.many
        size = {Joins.one: 2, Joins.many: BATCH, Joins.none: 20}[joins]
        out += [some[i : i + size] for i in range(0, len(some), size)]
    return out


def failures(batch: Sequence[Star]) -> list[str]:
    """Pairs that don't compile, don't fuse or give wrong results, each with what happened."""
    try:
        return _failures_of_model(batch)
    except (GraphOptError, AssertionError) as error:
        if len(batch) > 1:
            half = len(batch) // 2
            return failures(batch[:half]) + failures(batch[half:])
        (star,) = batch
        if len(star.others) > 1:
            half = len(star.others) // 2
            parts = (star.others[:half], star.others[half:])
            return [f for part in parts for f in failures([replace(star, others=part)])]
        return [f"{star.names()[0]}: {type(error).__name__}: {str(error)[-300:]}"]


def _failures_of_model(batch: Sequence[Star]) -> list[str]:
    plan = _Plan()
    placed = [plan.star(star) for star in batch]
    graph, fused, program = to_program(plan.model(), "x86", threads=1 + batch[0].turn % 2, level=1, passes=[])
    for star, (first, outs) in zip(batch, placed):
        if star.anchor is None or star.anchor.joins is Joins.many:
            _one_kernel(fused, star, [first, *outs])
        elif star.anchor.joins is Joins.one:
            _behind_anchor(fused, star, outs)
    built = build_program(program, None, 1)
    compiled = CompiledModel.from_program(signature_of(graph), program, built, source=graph.source)
    got = {name: np.asarray(value) for name, value in compiled.run(dict(plan.feed)).items()}
    wrong: list[str] = []
    for star, (first, outs) in zip(batch, placed):
        alone = star.anchor.name if star.anchor else star.first.name
        wrong += plan.compare(f"{alone} ({star.first.source}, {list(star.shape)})", first, got)
        for name, out in zip(star.names(), outs):
            wrong += plan.compare(name, out, got)
    return wrong


def _one_kernel(fused: FusedGraph, star: Star, outputs: Sequence[str]) -> None:
    groups = [g for g in fused.groups if any(v is not None and v.name in outputs for n in g.nodes for v in n.outputs)]
    assert len(groups) == 1, f"{star.first.name} and what follows it make {len(groups)} kernels"


def _behind_anchor(fused: FusedGraph, star: Star, outputs: Sequence[str]) -> None:
    for form, out in zip(star.others, outputs):
        (group,) = [g for g in fused.groups if any(v is not None and v.name == out for v in g.outputs)]
        assert len(group.nodes) == 2, f"{star.names()[0]}: {form.name} is a kernel of its own"


class _Plan:
    """A model being made of stars, its inputs, and the node behind every output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.feed: dict[str, Array] = {}
        self.constants: dict[str, Array] = {}
        self.made: dict[str, tuple[Form, onnx.NodeProto, tuple[int, ...]]] = {}

    def star(self, star: Star) -> tuple[str, list[str]]:
        """Add a star: names of the first result and of the others."""
        if star.anchor is None:
            value = self.operand(star.first.source, "value", star.shape, "same")
            first = self.apply(star.first, value, star.shape, star.turn)
        else:
            first = self._anchor(star.anchor, star.first)
        alone = star.anchor if star.anchor is not None and star.anchor.joins is Joins.one else None
        outs = []
        for i, form in enumerate(star.others):
            value, known_as = (self._anchor(alone, None), first) if alone else (first, None)
            outs.append(self.apply(form, value, star.shape, star.turn + i, known_as))
        return first, outs

    def _anchor(self, anchor: Anchor, shown: Form | None) -> str:
        """Add an anchor, its result an output only if ``shown``."""
        self.feed.update({k: v for k, v in anchor.inputs.items() if k not in anchor.constants})
        names = {k: k if k not in anchor.constants else f"{anchor.name}_{k}" for k in anchor.inputs}
        self.constants.update({names[k]: anchor.inputs[k] for k in anchor.constants})
        out = f"y{len(self.nodes)}"
        node = helper.make_node(anchor.op, list(names.values()), [out], **anchor.attributes)
        self.nodes.append(node)
        if shown is not None:
            self.made[out] = (shown, node, anchor.shape)
        return out

    def apply(self, form: Form, value: str, shape: tuple[int, ...], turn: int, known_as: str | None = None) -> str:
        """Add a node: the name of its result. ``known_as`` names the output that tells the value, if it is none itself."""
        operands = [self._second(form, kind, shape, turn + i) for i, kind in enumerate(form.operands)]
        out = f"y{len(self.nodes)}"
        node = form.node(value, operands, out)
        self.nodes.append(node)
        told = form.node(known_as or value, operands, out)
        self.made[out] = (form, told, shape)
        return out

    def _second(self, form: Form, kind: str, shape: tuple[int, ...], turn: int) -> str:
        types = {"condition": "bool", "float": "float32", "int32": "int32", "scale": "float32"}
        dtype = form.result if (form.op, kind) == ("QuantizeLinear", "zero") else types.get(kind, form.source)
        fewer = "scalar" if kind in ("low", "high", "scale", "zero") else FEWER[turn % len(FEWER)]
        if form.op == "PRelu" and fewer == "scalar":
            fewer = "one"  # the slope has at least one dimension
        return self.operand(dtype, kind, shape, fewer)

    def operand(self, dtype: str, kind: str, shape: tuple[int, ...], fewer: str) -> str:
        """An input of the model; equal requests share one."""
        if fewer == "scalar":
            shape = ()
        elif fewer == "one":
            shape = (1,)
        elif fewer == "row":
            shape = shape[-1:]
        elif fewer == "column":
            shape = (*shape[:-1], 1)
        name = "_".join([kind, dtype, *map(str, shape), "of"]) + str(len(shape))
        if name not in self.feed:
            self.feed[name] = _values(dtype, kind, shape)
        return name

    def model(self) -> onnx.ModelProto:
        """The model, every result an output."""
        outputs = {k: (f.result, shape) for k, (f, _, shape) in self.made.items()}
        return model_of(self.nodes, self.feed, outputs, self.constants)

    def compare(self, name: str, out: str, got: dict[str, Array]) -> list[str]:
        """What is wrong with a result, given the compiled model's own values of its operands."""
        form, node, shape = self.made[out]
        known = self.feed | self.constants | got
        operands = [known[i] for i in node.input]
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            want, counts = expected(form, node, operands)
        value = got[out]
        if value.dtype != want.dtype or value.shape != shape:
            return [f"{name}: {value.dtype}{list(value.shape)} instead of {want.dtype}{list(shape)}"]
        want = np.broadcast_to(want, shape)
        if str(value.dtype) in TOLERANCE:
            rtol, atol = TOLERANCE[str(value.dtype)]
            a, b = value.astype(np.float64), want.astype(np.float64)
            right = np.isclose(a, b, rtol, atol, equal_nan=True)
        else:
            right = value == want
        bad = np.argwhere(~(right | ~np.broadcast_to(counts, shape)))
        if not len(bad):
            return []
        at = tuple(int(i) for i in bad[0])
        read = [np.broadcast_to(o, shape)[at] for o in operands] if form.op in element_wise() else ""
        return [f"{name}: {len(bad)} wrong, at {list(at)} {value[at]} instead of {want[at]} for {read}"]


def _values(dtype: str, kind: str, shape: tuple[int, ...]) -> Array:
    rng = np.random.default_rng([sum(shape), len(shape), len(kind)])
    if dtype == "bool":
        return np.asarray(rng.random(shape) < 0.5)
    if kind in ("low", "high"):
        return (
            np.asarray((1 if kind == "low" else 3), dtype)
            if dtype.startswith("u")
            else np.asarray(-1 if kind == "low" else 2, dtype)
        )
    if kind == "scale":
        return np.asarray(0.375, dtype)
    if kind in ("small", "zero"):
        return np.asarray(rng.integers(1, 4, shape), dtype)
    if dtype in FLOATS:
        ordinary = np.asarray(np.round(rng.standard_normal(shape) * 2, 3)).astype(dtype)
        limits = ml_dtypes.finfo(dtype)
        special = [np.inf, -0.0, np.nan, limits.max, -np.inf, limits.smallest_subnormal, 0.0, limits.min, -limits.tiny]
    else:
        ordinary = np.asarray(rng.integers(0 if dtype.startswith("u") else -9, 10, shape)).astype(dtype)
        special = [np.iinfo(dtype).max, 0, np.iinfo(dtype).min, 1]
    return _with_special(ordinary, np.array(special, dtype), rng)


def _with_special(ordinary: Array, special: Array, rng: np.random.Generator) -> Array:
    """Every third element replaced by one of ``special``, in turn."""
    flat = ordinary.reshape(-1)
    turns = np.arange(int(rng.integers(3)), flat.size, 3)
    flat[turns] = special[(np.arange(turns.size) + int(rng.integers(special.size))) % special.size]
    return flat.reshape(ordinary.shape)
