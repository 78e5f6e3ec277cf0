"""States: what is appended to them is written behind what is there, in memory that stays from run to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt.backends.lower.copy import emit_copy
from graphopt.backends.program.program import KernelStep
from graphopt.errors import InternalError
from graphopt.ir.dims import Dim
from graphopt.ir.fused import Group

if TYPE_CHECKING:
    from graphopt.backends.program.lowering import Lowering


def append(lowering: Lowering, group: Group) -> bool:
    """Lower a group if it appends to a state: its past stays where it is."""
    state = next((s for s in lowering.fused.options.states if s.concat in group.nodes), None)
    if state is None:
        return False
    if len(group.nodes) > 1:
        raise InternalError(f"{len(group.nodes)} nodes are fused where a state grows", node=group.anchor.label)
    whole = lowering.buffer(state.present)
    layout = lowering.fused.layout(state.present)
    position: Dim = state.past.shape[state.axis]
    for value in state.concat.inputs[1:]:
        assert value is not None
        begin = tuple(position if axis == state.axis else 0 for axis in range(len(value.shape)))
        function, sources, symbols = emit_copy(
            value, lowering.fused, lowering.target.caps, lowering.platform.schedule, lowering.names, layout,
            state.present.shape, begin,
        )  # fmt: skip
        lowering.dims.settle(state.concat.label)
        lowering.dims.require(symbols, state.concat.label)
        operands = [lowering.buffer(v) for v in sources]
        kernel = lowering.add(function, "append", operands)
        step = KernelStep(kernel, operands, [whole], symbols, f"{state.concat.name} append", "append")
        lowering.out.steps.append(step)
        position = position + value.shape[state.axis]
    return True
