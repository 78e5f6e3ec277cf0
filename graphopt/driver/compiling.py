"""From a model or graph to a compiled model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphopt.driver.input_shapes import ShapeSpec
from graphopt.errors import UnsupportedOpError
from graphopt.ir.graph import Graph, Value
from graphopt.ir.levels import DEFAULT_LEVEL
from graphopt.ir.nominal import NominalSizes, nominal_sizes
from graphopt.ir.options import CompileOptions
from graphopt.ir.state import State
from graphopt.ir.types import TensorType
from graphopt.runtime.session import StateSpec
from graphopt.runtime.signature import Signature, TensorSpec

if TYPE_CHECKING:
    from graphopt.backends.program.program import Program
    from graphopt.ir.fused import FusedGraph
    from graphopt.ir.kernel_plan import KernelPlan
    from graphopt.ir.onnx_load import ModelSource
    from graphopt.ir.precision_choices import PrecisionSource
    from graphopt.rewrite.remarks import Remarks
    from graphopt.runtime.model import CompiledModel


def compile(
    src: ModelSource | Graph,
    target: str | Mapping[str, Any] = "native",
    *,
    threads: int | None = None,
    shapes: Mapping[str, ShapeSpec] | None = None,
    values: Mapping[str, Any] | None = None,
    strict: bool = False,
    level: int = DEFAULT_LEVEL,
    exact: bool = False,
    passes: Sequence[Any] | None = None,
    skip: Sequence[str] = (),
    verify_each: bool = False,
    remarks: Remarks | None = None,
    cache: bool = True,
    jobs: int | None = None,
    plan: KernelPlan | str | os.PathLike[str] | None = None,
    precision: PrecisionSource | None = None,
    state: Mapping[str, str] | str | None = None,
) -> CompiledModel:
    """Compile a model for a target.

    Args:
        src: path, bytes, ModelProto, or an imported graph (taken as it is, still optimised).
        target: this machine by default; see ``graphopt targets`` for others.
        threads: CPU threads; by default all cores of the process's affinity mask.
        shapes: fixes or renames symbolic input dimensions: ``{"x": (1, 3, 224, 224)}`` or ``{"x": "Nx3xHxW"}``.
        values: inputs that always have the same value, such as a sampling rate: they become constants, and branches that
            they decide go away.
        strict: refuse whatever the ONNX checker refuses; by default a model that breaks a rule of the specification but has
            one meaning only is accepted, with a remark.
        level: each does what those before it do.
            0: nothing; every node is a plain loop nest of its own, for bisecting;
            1: exact but for rounding in folded constants: dead code, no-ops, common subexpressions;
                kernels are fused and come from templates;
            2: rounding may differ: weights folded, well-known subgraphs recognised, transposes moved;
            3: also what pays only sometimes: every BatchNormalization turned into arithmetic; 0 * x is 0: dead channels removed.
        exact: leave out kernels that round otherwise than the sums that operators are defined by (Winograd convolution,
            some ten times the rounding error of a direct one, a fraction of its time), and round results of 16-bit floats behind
            every node, where CPUs otherwise hand float32 to the next.
        passes: graph passes to run instead of the level's; ``"O2"`` stands for all that level 2 runs.
        skip: names of passes to leave out.
        verify_each: check the graph's invariants after every pass.
        remarks: receives what passes did and refused to do, with reasons.
        cache: use compiled kernels that lie on disk and leave new ones there; where, and how to turn it off for good, is
            said in `graphopt.backends.build.object_cache`.
        plan: kernels that are not chosen by cost, or the file that holds them (``compiled.plan.save(path)`` writes one).
        precision: ``"fp16"`` or ``"bf16"``: store and compute in 16 bits what bears it, as ``graphopt.convert`` does; inputs and
            outputs stay as they are. Or a plan of precisions or its file, whose name ends in ``.json``: what ``graphopt.convert``
            makes by the plan is compiled; ``level`` is about what comes after that. By default the model's own types.
        state: outputs that are inputs of the next run with something appended, such as keys and values of earlier tokens:
            ``{"present.0.key": "past.0.key"}``. They stay in the model's memory and are never copied; the model runs by
            ``model.session(capacity=1024)``. ``"auto"`` keeps all that there are, which ``graphopt.find_state(model)`` lists.
        jobs: processes that compile kernels at once; by default ``$GRAPHOPT_JOBS``, else as many as the process may use CPUs.

    Raises:
        ModelError, UnsupportedOpError, TargetError, CompileError: see the classes.
        UserError: a plan doesn't fit, with the node and why; there is no such precision; an output can't be kept as a state.
    """
    from graphopt.backends.build.object_cache import default_cache
    from graphopt.backends.targets.compilation import build_program
    from graphopt.runtime.model import CompiledModel

    graph, fused, program = to_program(
        src, target, threads=threads, shapes=shapes, values=values, strict=strict, level=level, exact=exact,
        passes=passes, skip=skip, verify_each=verify_each, remarks=remarks, plan=plan, precision=precision, state=state,
    )  # fmt: skip
    built = build_program(program, default_cache() if cache else None, jobs)
    states = fused.options.states
    signature = signature_of(graph, states)
    specs = [StateSpec(_spec(s.past), s.present.name, s.axis, s.appended) for s in states]
    return CompiledModel.from_program(signature, program, built, source=graph.source, states=specs)


def to_program(
    src: ModelSource | Graph,
    target: str | Mapping[str, Any] = "native",
    *,
    threads: int | None = None,
    shapes: Mapping[str, ShapeSpec] | None = None,
    values: Mapping[str, Any] | None = None,
    strict: bool = False,
    level: int = DEFAULT_LEVEL,
    exact: bool = False,
    passes: Sequence[Any] | None = None,
    skip: Sequence[str] = (),
    verify_each: bool = False,
    remarks: Remarks | None = None,
    plan: KernelPlan | str | os.PathLike[str] | None = None,
    precision: PrecisionSource | None = None,
    state: Mapping[str, str] | str | None = None,
) -> tuple[Graph, FusedGraph, Program]:
    """The three levels of a model for a target; arguments as in ``compile``."""
    from graphopt.backends.targets.compilation import fuse_for, lower_fused, require_states
    from graphopt.backends.targets.grammar import parse_target
    from graphopt.driver.importing import import_onnx
    from graphopt.driver.plans import graph_digest, plan_for, require_used
    from graphopt.ir.precision_choices import precision_name, read_precision
    from graphopt.passes.layout.states import states_of
    from graphopt.passes.precision.narrow_format import format_of

    precision = read_precision(precision)
    if (name := precision_name(precision)) is not None:
        format_of(name)  # refuses what there is not before any work
    goal = parse_target(target if isinstance(target, str) else dict(target), threads)
    if not isinstance(src, Graph):
        src = import_onnx(src, shapes=shapes, values=values, strict=strict, remarks=remarks)
    model = graph_digest(src)
    wanted = plan_for(plan, goal, model)
    graph = prepare(src, shapes, level, passes, skip, verify_each, remarks, values, strict, precision)
    signature_of(graph)  # refuses inputs and outputs that are no tensors before any work
    states = tuple(states_of(graph, state)) if state else ()
    if states:
        require_states(goal)
    fused = fuse_for(graph, goal, CompileOptions(level, exact, wanted, states, nominal_of(graph)))
    program = lower_fused(fused, goal)
    program.model = model
    require_used(wanted, program)
    return graph, fused, program


def nominal_of(graph: Graph) -> NominalSizes:
    """The sizes to assume for a graph's symbols where choices are made ahead of run time."""
    shapes = (v.type.shape for v in graph.inputs if isinstance(v.type, TensorType) and v.type.shape is not None)
    made = (v.type for node in graph.nodes for v in node.outputs if v is not None)
    derived = (d for type_ in made if isinstance(type_, TensorType) and type_.shape is not None for d in type_.shape)
    return nominal_sizes(shapes, graph.bounds, graph.likely, derived)


def prepare(
    src: ModelSource | Graph,
    shapes: Mapping[str, ShapeSpec] | None,
    level: int,
    passes: Sequence[Any] | None,
    skip: Sequence[str],
    verify_each: bool,
    remarks: Remarks | None = None,
    values: Mapping[str, Any] | None = None,
    strict: bool = False,
    precision: PrecisionSource | None = None,
) -> Graph:
    """Import and optimise, with every operator in a form that has a kernel."""
    from graphopt.backends.lower.lowerable import is_lowerable
    from graphopt.backends.program.compilable import require_compilable
    from graphopt.driver.importing import import_onnx
    from graphopt.driver.optimizing import highest_level, optimize
    from graphopt.driver.precision.choices import cast_as_planned
    from graphopt.ir.precision_choices import PrecisionChoices, read_precision
    from graphopt.passes.pipelines import kernel_phases
    from graphopt.passes.precision.cast_floats import cast_pass
    from graphopt.rewrite.passes import PassContext
    from graphopt.rewrite.pipeline import Phase

    graph = src
    if not isinstance(graph, Graph):
        graph = import_onnx(graph, shapes=shapes, values=values, strict=strict, remarks=remarks)
    precision = read_precision(precision)
    casting: tuple[Phase, ...] = ()
    if isinstance(precision, PrecisionChoices):  # its names of nodes are those of the graph that convert casts
        graph = cast_as_planned(graph, precision, level, skip=skip, verify_each=verify_each, remarks=remarks)
    elif precision is not None:
        casting = (Phase("precision", (cast_pass(precision),)),)
    graph = optimize(
        graph, level, passes, skip=skip, verify_each=verify_each, remarks=remarks, for_export=False,
        ctx=PassContext(lowerable=is_lowerable),
        more=(*casting, *kernel_phases(highest_level(level, passes), clean_up=level > 0)),
    )  # fmt: skip
    require_compilable(graph, is_lowerable)
    return graph


def find_state(
    src: ModelSource | Graph,
    *,
    shapes: Mapping[str, str | Sequence[int | str]] | None = None,
    values: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Outputs of a model that are inputs with something appended, each with that input: what ``compile(state=...)`` can keep.

    Raises:
        ModelError, UnsupportedOpError: see the classes.
    """
    from graphopt.passes.layout.states import find_states

    graph = prepare(src, shapes, DEFAULT_LEVEL, None, (), False, values=values)
    return {state.present.name: state.past.name for state in find_states(graph)}


def _spec(value: Value) -> TensorSpec:
    return TensorSpec(value.name, value.dtype, value.shape)


def signature_of(graph: Graph, states: Sequence[State] = ()) -> Signature:
    """Entry signature of a graph, without what stays in the model's memory.

    Raises:
        UnsupportedOpError: an input or output is no tensor of known rank.
    """
    kept = {value for state in states for value in (state.past, state.present)}
    inputs, outputs = ([v for v in values if v not in kept] for values in (graph.inputs, graph.outputs))
    specs = []
    for value in (*inputs, *outputs):
        if not isinstance(value.type, TensorType) or value.type.shape is None:
            raise UnsupportedOpError(
                f"%{value.name} is {value.type or 'of unknown type'}; only tensors of known rank enter and leave a compiled model",
                code="unsupported-type", hint="export the model with tensors as inputs and outputs, with known ranks",
            )  # fmt: skip
        specs.append(_spec(value))
    count = len(inputs)
    constraints = tuple((a, b, why) for (a, b), why in graph.constraints.items())
    return Signature(tuple(specs[:count]), tuple(specs[count:]), constraints)
