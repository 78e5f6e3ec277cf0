"""``graphopt check MODEL --float MODEL``: a quantized model compiled and in a reference, layer by layer against the float one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from graphopt.driver.compiling import signature_of
from graphopt.driver.importing import import_onnx
from graphopt.driver.input_shapes import ShapeSpec
from graphopt.driver.precision.noise import Noise
from graphopt.driver.quantized_check.cut import quantizing_nodes
from graphopt.driver.quantized_check.steps import Run, SteppedCheck, Steps, dequantized, stepped_check
from graphopt.driver.random_inputs import completed_inputs
from graphopt.driver.reference import make_reference
from graphopt.errors import AccuracyError, UserError
from graphopt.ir.graph import Array, Graph
from graphopt.ir.onnx_io import graph_to_onnx
from graphopt.ir.outputs import inner_values, with_outputs

if TYPE_CHECKING:
    from graphopt.driver.checking import Options
    from graphopt.ir.onnx_load import ModelSource

ASTRAY_DB = 10.0
"""A value is far from float below that: the error is a third of it."""
_SUFFIXES = ("_QuantizeLinear_Input",)
"""What quantizers put behind the name of a value that they need a second one of."""


@dataclass(frozen=True)
class FloatRow:
    """One value of the quantized model that the float model has too.

    Attributes:
        value: its name there.
        node: that makes it, as ``name (Op)``.
        reference_db: signal to noise in dB of the quantized model in the reference: of what integers stand for, if there are any.
        compiled_db: the same of the compiled model; None for a value whose integers aren't looked at.
        steps: how the integers of the two differ, None for a value that has none.
    """

    value: str
    node: str
    reference_db: float
    compiled_db: float | None
    steps: Steps | None


@dataclass(frozen=True)
class QuantizedReport:
    """A quantized model in three ways.

    Attributes:
        source, float_source: of the two models.
        target: compiled for.
        reference: that ran both.
        rows: in order of computation.
        check: of the compiled model against the reference.
        random: inputs that were random, for which ranges may be too narrow.
    """

    source: str
    float_source: str
    target: str
    reference: str
    rows: tuple[FloatRow, ...]
    check: SteppedCheck
    random: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the compiled model does what the reference does."""
        return self.check.ok

    @property
    def astray(self) -> FloatRow | None:
        """The first value that is far from float in the reference: the file's fault, not the compiler's."""
        return next((row for row in self.rows if row.reference_db < ASTRAY_DB), None)

    @property
    def loss(self) -> tuple[FloatRow, float] | None:
        """The value that lies farthest below all before it, and how many decibels; None where none does."""
        least, found = math.inf, None
        for row in self.rows:
            lost = least - row.reference_db
            if math.isfinite(least) and lost > (0 if found is None else found[1]):
                found = row, lost
            least = min(least, row.reference_db)
        return found

    def error(self) -> AccuracyError | None:
        """Where the compiled model differs from the reference, None where it doesn't."""
        found: list[tuple[str, str, str]] = [
            (step.node, step.value, step.problem) for step in self.check.steps if step.problem is not None
        ] + [("", c.name, c.problem) for c in self.check.outputs if c.problem is not None]
        if not found:
            return None
        node, value, problem = found[0]
        return AccuracyError(
            f"{self.source} compiled for {self.target}: %{value} differs from {self.reference}: {problem}", node=node or None,
            notes=[f"%{value}: {problem}" for _, value, problem in found[1:6]],
            hint="compile with a lower -O or --skip-pass to go around it, and please report it",
        )  # fmt: skip


def check_quantized(
    src: ModelSource,
    float_src: ModelSource,
    options: Options,
    *,
    shapes: Mapping[str, ShapeSpec] | None = None,
    values: Mapping[str, Any] | None = None,
    strict: bool = False,
    feed: Mapping[str, Array] | None = None,
    seed: int = 0,
    reference: str | None = None,
) -> QuantizedReport:
    """Run a quantized model compiled and in a reference, and the float model that it was made from in the reference.

    Args:
        src: the quantized model: path, bytes or ModelProto.
        float_src: the float one. Values by the same name are compared, as graphopt and ONNX Runtime's quantizer keep names.
        options: how to compile.
        shapes, values, strict: as for ``graphopt.compile``.
        feed: inputs; those missing are random, which quantized models are not made for.
        seed: of the random inputs.
        reference: ``onnxruntime`` or ``onnx``; by default the first that works.

    Raises:
        UserError: the models don't belong together.
        GraphOptError: a model can't be compiled or run. A difference is reported, not raised.
    """
    if options.precision is not None:
        raise UserError(
            "a quantized model that is held against float can't be cast as well", code="bad-option",
            hint="leave --precision out, or --float",
        )  # fmt: skip
    graph, original = (import_onnx(m, shapes=shapes, values=values, strict=strict) for m in (src, float_src))
    inputs = completed_inputs(signature_of(graph), feed or {}, seed)
    parts = options.for_parts()
    report = check_against_float(
        graph,
        original,
        lambda part: parts.compile(part).run(inputs),
        inputs,
        target=str(options.target),
        kind=reference,
    )
    return replace(report, random=tuple(name for name in inputs if name not in (feed or {})))


def check_against_float(
    graph: Graph, original: Graph, run: Run, inputs: Mapping[str, Array], *, target: str, kind: str | None
) -> QuantizedReport:
    """Run a quantized graph compiled and in a reference, and the float one in the reference.

    Args:
        graph: quantized, as imported.
        original: in float, as imported; values of the same names are compared.
        run: compiles and runs a graph with other outputs.
        inputs: of both.
        target: name of what is compiled for.
        kind: of the reference.

    Raises:
        UserError: the models have other inputs, or no value in common.
        GraphOptError: one of them can't be run.
    """
    _require_same_inputs(graph, original)
    exact, oracle = _values(original, [v.name for v in inner_values(original)], inputs, kind)
    makers = {node.inputs[0].name: node for node in quantizing_nodes(graph) if node.inputs[0] is not None}
    pairs = {v.name: name for v in inner_values(graph) if (name := _name_in(v.name, exact)) is not None}
    if not pairs:
        raise UserError(
            f"{graph.source} has no value by the name of one of {original.source}", code="other-model",
            hint="give the float model that it was made from",
        )  # fmt: skip
    integers = [makers[name].out.name for name in pairs if name in makers]
    found, _ = _values(graph, [*pairs, *integers], inputs, kind)
    check = stepped_check(graph, run, inputs, kind)
    steps = {step.value: step for step in check.steps}
    rows = []
    labels = {v.name: node.label for node in graph.nodes for v in node.outputs if v is not None}
    for name, twin in pairs.items():
        maker = makers.get(name)
        if labels[name].endswith("(DequantizeLinear)"):
            continue  # what integers stand for is compared with the float that they are made from
        seen, got = found[name], check.got.get(name)
        if maker is not None:
            seen, got = (dequantized(maker, of[maker.out.name]) for of in (found, check.got))
        compiled = None if got is None else _decibels(exact[twin], got)
        rows.append(FloatRow(twin, labels[name], _decibels(exact[twin], seen), compiled, steps.get(name)))
    return QuantizedReport(graph.source, original.source, target, oracle, tuple(rows), check)


def _require_same_inputs(graph: Graph, original: Graph) -> None:
    names = [[v.name for v in g.inputs] for g in (graph, original)]
    if sorted(names[0]) != sorted(names[1]):
        raise UserError(
            f"the inputs of {graph.source} are {', '.join(names[0])}, those of {original.source} {', '.join(names[1])}",
            code="other-model", hint="give the float model that it was made from",
        )  # fmt: skip


def _values(
    graph: Graph, names: Sequence[str], inputs: Mapping[str, Array], kind: str | None
) -> tuple[dict[str, Array], str]:
    """Values by name in a reference, and which one that is."""
    oracle = make_reference(graph_to_onnx(with_outputs(graph, names)), kind)
    return dict(zip(names, oracle(inputs).values())), oracle.kind


def _name_in(name: str, known: Mapping[str, Any]) -> str | None:
    """The name of a value's twin."""
    if name in known:
        return name
    return next((short for s in _SUFFIXES if (short := name.removesuffix(s)) != name and short in known), None)


def _decibels(want: Array, got: Array) -> float:
    noise = Noise()
    if want.shape != got.shape:
        return -math.inf
    noise.add(want, got)
    return noise.sqnr_db
