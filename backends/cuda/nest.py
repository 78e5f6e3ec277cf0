"""The generic GPU schedule. Total over all kernels: whatever has a lowering runs, on as many threads as it has elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.dialect import CUDA_C, Dialect
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cuda.copies import copied
from graphopt.backends.cuda.elementwise import elementwise
from graphopt.backends.cuda.grid import is_launch, side_by_side
from graphopt.backends.cuda.hand_written import independent, launches
from graphopt.backends.cuda.reduction import reduction
from graphopt.backends.tensors.schedule import Evaluate, Schedule, StridedCopy
from graphopt.backends.tensors.tensor import Expr


class CudaSchedule(Schedule):
    """The schedule of GPUs: kernels can't call the process that launches them, nor choose among launches."""

    calls_back = picks_loops = False
    merges_copies = spreads_work = True

    def dialect(self, caps: Caps) -> Dialect:
        """CUDA C."""
        return CUDA_C

    def nest(self, shape: tuple[Expr, ...], evaluate: Evaluate, caps: Caps) -> list[Any]:
        """Launches that compute every element."""
        index = tuple(0 if isinstance(d, int) and d == 1 else tirx.Var(f"p{a}", "int64") for a, d in enumerate(shape))
        probe = evaluate(index, lambda dt: tirx.const(0, dt))
        return (elementwise if probe.reduction is None else reduction)(shape, evaluate, caps)

    def copy(self, copy: StridedCopy, caps: Caps) -> list[Any] | None:
        """A launch, by tiles of shared memory where the copy transposes."""
        return copied(copy, caps)

    def together(self, statements: Sequence[Any]) -> list[Any]:
        """One launch in place of several."""
        return [side_by_side(statements)] if all(map(is_launch, statements)) else list(statements)

    def each(self, variables: Sequence[Any], extents: Sequence[Expr], body: Any) -> Any:
        """A loop that `serial` gives a thread for each iteration."""
        return independent(variables, extents, body)

    def serial(self, statements: Sequence[Any]) -> list[Any]:
        """A launch of one thread, or of a thread for each iteration of what is independent."""
        return launches(statements)
