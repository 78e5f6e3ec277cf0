"""How a graph is compiled: one value that travels with it, from the driver through layouts to every kernel."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.kernel_plan import KernelPlan
from graphopt.ir.levels import DEFAULT_LEVEL
from graphopt.ir.nominal import NOTHING_KNOWN, NominalSizes
from graphopt.ir.state import State


@dataclass(frozen=True)
class CompileOptions:
    """What is asked for beyond the target; the same for a graph and its subgraphs.

    Attributes:
        level: the optimisation level (``graphopt.ir.levels``).
        exact: only kernels that add up the products an operator is defined by, no algorithm with other roundings, and every
            node's result in the type that ONNX says.
        plan: kernels that are not chosen by cost.
        states: inputs of the outermost graph that stay in the model's memory, where runs append to them.
        nominal: extents assumed where sizes are symbolic.
        adds_halves: products of float16 are added up in float16 as far as it is accurate; what the target can do, not asked for.
    """

    level: int = DEFAULT_LEVEL
    exact: bool = False
    plan: KernelPlan | None = None
    states: tuple[State, ...] = ()
    nominal: NominalSizes = NOTHING_KNOWN
    adds_halves: bool = False

    @property
    def optimizes_kernels(self) -> bool:
        """Whether kernels are fused, have layouts of their own and come from templates; else each node is a plain loop nest."""
        return self.level > 0

    @property
    def rounds_otherwise(self) -> bool:
        """Whether results may be rounded elsewhere than behind each node."""
        return self.level > 1 and not self.exact


DEFAULT_OPTIONS = CompileOptions()
