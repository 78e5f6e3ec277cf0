"""Pointwise convolutions of planes whose sizes only run time knows, as convolutions of one long row.

Their output pixels each read the input pixel at their place, so that rows needn't be told apart: tiles cross from one row into the
next, and no pixel's row and column are computed by a division. Of slices, each is such a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from graphopt.backends.base.template import KernelCall
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.tensors.flatten import with_shapes
from graphopt.backends.tensors.tensor import Expr
from graphopt.ir.dims import Dim


def flat_plane(call: KernelCall, spec: Conv2dSpec) -> Conv2dSpec | None:
    """The convolution of one row that computes a call; None if it has rows of its own, or its size is known.

    Operands of the epilogue must have the plane of the result, or be broadcast along it: a place in the row is one in the plane.
    """
    plain = spec.kernel == (1, 1) and spec.strides == (1, 1) and not any(spec.pads)
    if not plain or spec.static_plane is not None:
        return None
    plane = call.group.anchor.out.shape[-2:]
    for node in call.group.epilogue:
        for value in node.inputs:
            if value is not None and value.shape[-2:] not in (plane, (1, 1)) and _reaches_plane(value.shape):
                return None
    rows, columns = spec.nominal[1:]
    return replace(spec, in_height=1, in_width=tirx.Var("plane", "int64"), nominal=(spec.nominal[0], 1, rows * columns))


def _reaches_plane(shape: tuple[Dim, ...]) -> bool:
    return any(d != 1 for d in shape[-2:])


def with_plane(call: KernelCall, function: Any, spec: Conv2dSpec, dims: Mapping[Dim, Expr]) -> Any:
    """A kernel with parameters in the shapes that the model has them in; as it is unless `flat_plane` made its specification."""
    x = call.group.anchor.inputs[0]
    assert x is not None
    if not isinstance(spec.in_width, tirx.Var) or any(spec.in_width.same_as(v) for v in dims.values()):
        return function
    height, width = (dims.get(d, d) for d in x.shape[-2:])
    whole = replace(spec, in_height=height, in_width=width)
    shapes = {0: whole.input_shape, len(function.params) - 1: whole.output_shape}
    return with_shapes(function, shapes, {spec.in_width: height * width})
