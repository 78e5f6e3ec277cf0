"""Sizes that only run time tells, where positions are numbers of 32 bits: checked by the host before it launches anything."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cuda.kernels.thread_block import LARGEST_POSITION
from graphopt.backends.tensors.checks import refuse_if
from graphopt.backends.tensors.index import i64
from graphopt.backends.tensors.tensor import Expr


def require_positions(where: str, *shapes: Sequence[Expr]) -> None:
    """Emits a check for each shape of unknown size that its elements can be counted; a broken one is an ``InputError``.

    Args:
        where: label of the node concerned.
        shapes: physical shapes of what the kernel indexes.
    """
    for shape in shapes:
        open_ = [extent for extent in shape if not isinstance(extent, int)]
        if not open_:
            continue
        elements = tirx.const(1.0, "float64")
        for extent in shape:
            elements = elements * i64(extent).astype("float64")
        too_many = elements > tirx.const(float(LARGEST_POSITION), "float64")
        why = f"a tensor of more than {LARGEST_POSITION} elements, which kernels of GPUs can't number"
        T.add_to_parent(refuse_if(too_many, where, why, [(f"extent {i}", extent) for i, extent in enumerate(shape)]))
