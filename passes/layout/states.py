"""Which inputs a model appends to and returns, so that they can stay in its memory."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.errors import UserError
from graphopt.ir.dims import as_symbol, symbols_of
from graphopt.ir.graph import Graph, Value
from graphopt.ir.state import State
from graphopt.ir.types import TensorType
from graphopt.ops.context import InferContext
from graphopt.passes.partition.shape_arithmetic import is_shape_arithmetic

_HINT = "leave it out of state, and pass it to each run; `graphopt.find_state(model)` says which pairs there are"


def find_states(graph: Graph) -> list[State]:
    """All pairs of an output and an input that could be kept."""
    found = []
    for present in graph.outputs:
        node = present.producer
        if node is not None and node.op == "Concat" and not node.domain and node.inputs[0] in graph.inputs:
            state = _state(graph, present)
            if isinstance(state, State):
                found.append(state)
    return found


def states_of(graph: Graph, wanted: Mapping[str, str] | str) -> list[State]:
    """The states that the caller names.

    Args:
        wanted: an input for each output that the next run gets there; ``"auto"`` for all that there are.

    Raises:
        UserError: there is no such output or input, or the output is not the input with something appended.
    """
    if isinstance(wanted, str):
        found = find_states(graph)
        if wanted != "auto" or not found:
            raise UserError(
                f"state is {wanted!r}" if found else "no output of the model is an input with something appended",
                code="no-state", hint='write state="auto", or an input for each output: {"present.0.key": "past.0.key"}',
            )  # fmt: skip
        wanted = {state.present.name: state.past.name for state in found}
    outputs, inputs = ({v.name: v for v in values} for values in (graph.outputs, graph.inputs))
    found = []
    for output, given in wanted.items():
        for kind, name, there in (("output", output, outputs), ("input", given, inputs)):
            if name not in there:
                raise UserError(
                    f"state names the {kind} {name!r}, which the model doesn't have",
                    code="no-such-state", hint=f"its {kind}s are " + ", ".join(map(repr, there)),
                )  # fmt: skip
        state = _state(graph, outputs[output])
        if not isinstance(state, State):
            raise UserError(
                f"output {output!r} can't be kept for input {given!r}: {state}", code="no-state", hint=_HINT
            )
        if state.past is not inputs[given]:
            raise UserError(
                f"output {output!r} is appended to input {state.past.name!r}, not to {given!r}", code="no-state",
                hint=f"write state={{{output!r}: {state.past.name!r}}}",
            )  # fmt: skip
        found.append(state)
    for state in found:
        others = symbols_of(*(d for v in graph.inputs if v is not state.past and v.type is not None for d in v.shape))
        if not symbols_of(state.appended) <= others | {state.length}:
            raise UserError(
                f"how much is appended to {state.past.name!r}, {state.appended}, does not follow from the shapes of inputs",
                code="no-state", hint=_HINT,
            )  # fmt: skip
    for kind, values in (("length", {s.length for s in found}), ("growth", {s.appended for s in found})):
        if len(values) > 1:
            raise UserError(
                f"the states have more than one {kind}: " + ", ".join(sorted(map(str, values))), code="no-state",
                hint="states of one session have one length; give dimensions that agree one name with --shape",
            )  # fmt: skip
    return found


def _state(graph: Graph, present: Value) -> State | str:
    """The state that an output is, or why it is none."""
    node = present.producer
    if node is None or node.op != "Concat" or node.domain:
        return "it is not the result of a Concat"
    past = node.inputs[0]
    if past is None or past not in graph.inputs:
        return f"the first operand of {node.label} is not an input of the model"
    if not isinstance(past.type, TensorType) or past.type.shape is None or present.escapes != 1:
        return f"%{present.name} is returned more than once, or of unknown rank"
    others = [use.node for use in past.uses if not (use.node.op == "Shape" and is_shape_arithmetic(use.node))]
    if past.escapes or others != [node]:
        return f"%{past.name} is also read by other nodes than {node.label}"
    assert node.graph is not None
    axis = InferContext(node, node.graph).axis(int(node.attrs["axis"]), len(past.shape))
    if as_symbol(past.shape[axis]) is None:
        return f"the length of %{past.name} along axis {axis} is {past.shape[axis]}, which doesn't grow"
    rest = [d for a, d in enumerate(past.shape) if a != axis]
    if not all(isinstance(d, int) for d in rest):
        return f"%{past.name} has more than one symbolic dimension, {past.type}: fix the others with --shape"
    return State(past, present, axis)
