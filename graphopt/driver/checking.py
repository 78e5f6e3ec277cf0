"""``graphopt check``: compile, run, compare with the reference; on a difference, find the node where it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from graphopt.driver.accuracy import L2_ALLOWED, Comparison, compare_all, longest_sum, summing_depth
from graphopt.driver.compiling import compile
from graphopt.driver.edge_types import in_types_of
from graphopt.driver.importing import import_onnx
from graphopt.driver.input_shapes import ShapeSpec
from graphopt.driver.quantized_check.cut import quantizing_nodes
from graphopt.driver.quantized_check.steps import stepped_check
from graphopt.driver.random_inputs import completed_inputs
from graphopt.driver.reference import Reference, make_reference
from graphopt.errors import AccuracyError, GraphOptError
from graphopt.ir.graph import Array, Graph
from graphopt.ir.kernel_plan import KernelPlan
from graphopt.ir.levels import DEFAULT_LEVEL
from graphopt.ir.onnx_io import graph_to_onnx
from graphopt.ir.outputs import inner_values, with_outputs
from graphopt.ir.precision_choices import PrecisionChoices, casts_edges, precision_name, read_precision

if TYPE_CHECKING:
    from graphopt.ir.onnx_load import ModelSource
    from graphopt.ir.precision_choices import PrecisionSource


@dataclass(frozen=True)
class Layer:
    """Comparison of one inner value.

    Attributes:
        node: the node that makes it, as ``name (Op)``.
    """

    node: str
    comparison: Comparison


@dataclass
class CheckReport:
    """What ``check_model`` found.

    Attributes:
        outputs: one comparison for each output.
        layers: inner values in order of computation; only filled when an output differs.
        culprit: the first node whose result differs, as ``name (Op)``.
        explanation: where the difference arises, in a sentence.
        ties: how many integers behind QuantizeLinear are one step off where the float lies between two; that is no difference.
        hint: what to do about a difference.
    """

    source: str
    target: str
    reference: str
    seed: int
    outputs: list[Comparison]
    layers: list[Layer] = field(default_factory=list)
    culprit: str | None = None
    explanation: str = ""
    ties: int = 0
    hint: str = "compile with a lower -O or --skip-pass to go around it, and please report it"

    @property
    def ok(self) -> bool:
        """Whether every output is within the tolerance table."""
        return all(c.ok for c in self.outputs)

    def error(self) -> AccuracyError | None:
        """The failure as an exception, None when there is none."""
        bad = [c for c in self.outputs if not c.ok]
        if not bad:
            return None
        return AccuracyError(
            f"{self.source} compiled for {self.target}: output {bad[0].name!r} differs from {self.reference}: "
            f"{bad[0].problem}",
            node=self.culprit,
            notes=[f"{c.name}: {c.problem}" for c in bad[1:6]] + ([self.explanation] if self.explanation else []),
            hint=self.hint,
        )


@dataclass(frozen=True)
class Options:
    """How to compile; as the arguments of ``graphopt.compile``."""

    target: str | Mapping[str, Any] = "native"
    threads: int | None = None
    level: int = DEFAULT_LEVEL
    passes: Sequence[Any] | None = None
    skip: Sequence[str] = ()
    verify_each: bool = False
    exact: bool = False
    plan: KernelPlan | str | os.PathLike[str] | None = None
    precision: PrecisionSource | None = None

    def compile(self, graph: Graph) -> Any:
        """The compiled model."""
        return compile(
            graph,
            self.target,
            threads=self.threads,
            level=self.level,
            passes=self.passes,
            skip=self.skip,
            verify_each=self.verify_each,
            exact=self.exact,
            plan=self.plan,
            precision=self.precision,
        )

    def tolerance(self, graph: Graph) -> dict[str, Any]:
        """What ``compare_all`` may let pass: rounding of the model's own types, or what 16 bits may cost."""
        if (precision := precision_name(read_precision(self.precision))) is not None:
            return {"l2": L2_ALLOWED[precision]}
        return {"reduction": longest_sum(graph), "depth": summing_depth(graph)}

    def for_parts(self) -> Options:
        """The same for a graph with other outputs: what plans say of kernels and nodes that are others then is left out, and
        outputs are not cast, since inner values are among them."""
        plan, precision = self.plan, read_precision(self.precision)
        if plan is not None:
            plan = replace(plan if isinstance(plan, KernelPlan) else KernelPlan.load(plan), fitting_only=True)
        if isinstance(precision, PrecisionChoices):
            precision = replace(precision, fitting_only=True, io="keep")
        return replace(self, plan=plan, precision=precision)


def check_model(
    src: ModelSource,
    options: Options | None = None,
    *,
    shapes: Mapping[str, ShapeSpec] | None = None,
    values: Mapping[str, Any] | None = None,
    strict: bool = False,
    feed: Mapping[str, Array] | None = None,
    seed: int = 0,
    reference: str | None = None,
) -> CheckReport:
    """Compile a model, run it and compare every output with a reference, which runs the model as it came.

    With a precision, outputs may be as far off as 16 bits make them (``L2_ALLOWED``).

    Args:
        src: path, bytes or ModelProto.
        options: how to compile.
        shapes, values, strict: as for ``graphopt.compile``.
        feed: inputs; those missing are random.
        seed: of the random inputs.
        reference: ``onnxruntime`` or ``onnx``; by default the first that works.

    Raises:
        GraphOptError: the model can't be compiled or run. A difference is reported, not raised.
    """
    options = options or Options()
    options = replace(options, precision=read_precision(options.precision))
    graph = import_onnx(src, shapes=shapes, values=values, strict=strict)
    model = options.compile(graph)
    inputs = completed_inputs(model.signature, feed or {}, seed)
    if casts_edges(options.precision):
        inputs = in_types_of(graph.inputs, inputs)
        got = in_types_of(graph.outputs, model.run(in_types_of(model.inputs, inputs)))
    else:
        got = model.run(inputs)
    oracle, want = _expected(src, reference, {**inputs, **graph.fixed})
    # The reference's outputs carry the model's names; ours follow in the same order.
    renamed = dict(zip(want, got.values())) if len(want) == len(got) else got
    report = CheckReport(
        graph.source,
        str(options.target),
        oracle.kind,
        seed,
        compare_all(renamed, want, **options.tolerance(graph)),
    )
    if options.precision is not None:
        report.hint = (
            "keep what is sensitive in float32 with graphopt convert --keep or --max-error, or try the other precision"
        )
    if not report.ok and not _step_by_step(report, graph, options.for_parts(), inputs, got, oracle.kind):
        _localise(report, graph, options.for_parts(), inputs, oracle.kind)
    return report


def _expected(src: Any, kind: str | None, inputs: Mapping[str, Array]) -> tuple[Reference, dict[str, Array]]:
    oracle = make_reference(src, kind)
    try:
        return oracle, oracle(inputs)
    except GraphOptError:
        if kind is not None or oracle.kind == "onnx":
            raise
    oracle = make_reference(src, "onnx")
    return oracle, oracle(inputs)


def _step_by_step(
    report: CheckReport,
    graph: Graph,
    options: Options,
    inputs: Mapping[str, Array],
    got: Mapping[str, Array],
    kind: str,
) -> bool:
    """Look at the integers of a quantized model, whose outputs differ as soon as one of them lay at a tie. Tells whether that
    settles it."""
    if options.precision is not None or not quantizing_nodes(graph):
        return False
    try:
        found = stepped_check(graph, lambda part: options.compile(part).run(inputs), inputs, kind)
    except GraphOptError:
        return False  # what can't be looked at counts as it came
    wrong = next((step for step in found.steps if step.problem is not None), None)
    if wrong is not None:
        report.culprit = wrong.node or None
        report.explanation = (
            f"the first integers that differ are {wrong.integers!r}, made from {wrong.value!r}: {wrong.problem}"
        )
        return True
    bad = next((c for c in found.outputs if not c.ok), None)
    if bad is not None:
        maker = next(v.producer for v in graph.outputs if v.name == bad.name)
        report.culprit = None if maker is None else maker.label
        report.explanation = f"all integers are right, and {bad.name!r} isn't what comes of them: {bad.problem}"
        return True
    names = [name for name in got if name in found.got]
    looked_at = compare_all({n: found.got[n] for n in names}, {n: got[n] for n in names}, **options.tolerance(graph))
    if len(names) < len(got) or not all(c.ok for c in looked_at):
        return False  # what was looked at isn't what differs
    settled = {c.name: c for c in found.outputs}
    # The reference's outputs carry the model's names, in the same order.
    report.outputs = [
        replace(settled.get(name, c), name=c.name, problem=None, error=settled[name].error if name in settled else 0.0)
        for name, c in zip(got, report.outputs, strict=True)
    ]
    report.ties = found.ties
    return True


def _localise(report: CheckReport, graph: Graph, options: Options, inputs: Mapping[str, Array], kind: str) -> None:
    """Find the first node whose result differs; whatever fails meanwhile only makes the report shorter."""
    try:
        names = [value.name for value in inner_values(graph)]
        exposed = with_outputs(graph, names)
        want = dict(zip(names, make_reference(graph_to_onnx(exposed), kind)(inputs).values()))
        makers = {v.name: node.label for node in graph.nodes for v in node.outputs if v is not None}
        got = dict(zip(names, options.compile(exposed).run(inputs).values()))
        tolerance = options.tolerance(graph)
        report.layers = [Layer(makers[c.name], c) for c in compare_all(got, want, **tolerance)]
        first = next((layer for layer in report.layers if not layer.comparison.ok), None)
        if first is not None:
            report.culprit = first.node
            report.explanation = (
                f"the first value that differs is {first.comparison.name!r}: {first.comparison.problem}"
            )
            return
        found = _bisect(graph, options, inputs, names, want, tolerance)
        if found is None:
            report.explanation = "no inner value differs by itself: the import may have changed the model's meaning"
            return
        report.culprit = makers[found]
        report.explanation = f"{found!r} differs only when the values before it are not outputs: fusion is at fault"
    except GraphOptError as error:
        report.explanation = f"it could not be localised: {error.message}"


def _bisect(
    graph: Graph,
    options: Options,
    inputs: Mapping[str, Array],
    names: Sequence[str],
    want: Mapping[str, Array],
    tolerance: Mapping[str, Any],
) -> str | None:
    """The first value that differs when it alone is the output, assuming that all after it do too."""

    def differs(name: str) -> bool:
        part = with_outputs(graph, [name])
        got = next(iter(options.compile(part).run(inputs).values()))
        return not compare_all({name: got}, {name: want[name]}, **tolerance)[0].ok

    if not names or not differs(names[-1]):
        return None
    low, high = 0, len(names) - 1
    while low < high:
        middle = (low + high) // 2
        if differs(names[middle]):
            high = middle
        else:
            low = middle + 1
    return names[low]
