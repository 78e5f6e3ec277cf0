"""The zero point of a kernel's data as its operand, so that layers that differ in it share a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.backends.base.element_type import GivenZeroPoint, element_type
from graphopt.backends.base.formula import Formula
from graphopt.backends.base.template import Computed
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.specs.types import KernelTypes
from graphopt.backends.templates.integer_products import IntegerProducts
from graphopt.backends.templates.storing import ExtraOperand
from graphopt.backends.tensors.flatten import with_shapes
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Array


@dataclass(frozen=True)
class _Number(Formula):
    """A zero point as a number of 32 bits."""

    @property
    def dtype(self) -> DType:
        """int32."""
        return DType.i32

    @property
    def shape(self) -> tuple[int, ...]:
        """One number."""
        return (1,)

    def __call__(self, *arrays: Array) -> Array:
        """The number."""
        return np.asarray(arrays[0]).reshape(-1)[:1].astype(np.int32)


def given_zero_point(
    types: KernelTypes, integers: IntegerProducts | None
) -> tuple[Sequence[ExtraOperand], Sequence[Computed]]:
    """The parameter and the operand of a kernel that is given the zero point of its data; nothing for others.

    Args:
        types: those of the kernel.
        integers: how it multiplies.
    """
    if _given(types) is None or integers is None or integers.zero_point is None:
        return (), ()
    return (ExtraOperand("zero_point", (1,), element_type(DType.i32)),), (Computed((integers.zero_point,), _Number()),)


def with_zero_point(function: Any, types: KernelTypes) -> Any:
    """The kernel with its zero point read from its last operand before the result, if it is given one."""
    given = _given(types)
    if given is None:
        return function
    operand = function.params[len(function.params) - 2]
    return with_shapes(function, {}, {given.variable: tirx.BufferLoad(operand, [0])})


def _given(types: KernelTypes) -> GivenZeroPoint | None:
    conversion = types.input.conversion
    zero_point = None if conversion is None else conversion.zero_point
    return zero_point if isinstance(zero_point, GivenZeroPoint) else None
