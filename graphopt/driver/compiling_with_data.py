"""``graphopt.compile``: compilation of a model that may be quantized before."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphopt.driver import compiling
from graphopt.driver.input_shapes import ShapeSpec
from graphopt.driver.quantize.before_compiling import quantized_before
from graphopt.ir.graph import Graph
from graphopt.ir.levels import DEFAULT_LEVEL

if TYPE_CHECKING:
    from graphopt.driver.calibration_source import Source
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
    calibration: Source | None = None,
    state: Mapping[str, str] | str | None = None,
) -> CompiledModel:
    """Compile a model for a target.

    Args:
        precision: as below, or ``"int8"``: quantize first, as ``graphopt.quantize`` does by default, and compile that.
        calibration: for ``"int8"``: inputs like those that the model will see, as ``graphopt.quantize`` takes them.

    All other arguments are those of ``graphopt.driver.compiling.compile``, which knows nothing of data:
    """
    quantized = quantized_before(
        src, precision, calibration, level=level, shapes=shapes, values=values, strict=strict, threads=threads
    )
    if quantized is not None:
        src, shapes, values, precision = quantized, None, None, None
    return compiling.compile(
        src, target, threads=threads, shapes=shapes, values=values, strict=strict, level=level, exact=exact, passes=passes,
        skip=skip, verify_each=verify_each, remarks=remarks, cache=cache, jobs=jobs, plan=plan, precision=precision, state=state,
    )  # fmt: skip


if compile.__doc__ is not None and compiling.compile.__doc__ is not None:  # python -OO leaves both out
    compile.__doc__ += "\n".join(compiling.compile.__doc__.splitlines()[1:])
