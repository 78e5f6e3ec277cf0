"""Seeded random inputs for a signature, of sizes and ranges that models take."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphopt.errors import InputError, UserError
from graphopt.ir.constraints import bounds_of
from graphopt.ir.dims import Dim, SymExpr, as_symbol, subs, symbols_of
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Array
from graphopt.ir.intervals import Interval
from graphopt.runtime.signature import Signature, TensorSpec

BATCH_EXTENT = 2
"""What an open dimension stands for."""
IMAGE_EXTENT = 64
"""... and what the last two of a tensor of rank four stand for: divisible by the strides of common networks."""


def random_inputs(signature: Signature, seed: int = 0, extents: Mapping[str, int] | None = None) -> dict[str, Array]:
    """Inputs by name: normal floats, bytes over their whole range, other integers from 0 to 2.

    Args:
        signature: of the model.
        seed: the same seed gives the same arrays.
        extents: sizes of symbolic dimensions.

    Raises:
        UserError: no sizes that satisfy the model could be guessed.
    """
    rng = np.random.default_rng(seed)
    sizes: dict[str, int] = dict(extents or {})
    for spec in signature.inputs:
        for axis, dim in enumerate(spec.shape):
            name = as_symbol(dim)
            if name is not None:
                image = len(spec.shape) == 4 and axis >= 2
                sizes[name] = max(sizes.get(name, 0), IMAGE_EXTENT if image else BATCH_EXTENT)
    bounds = bounds_of((left, right) for left, right, _ in signature.constraints)
    sizes = {name: bounds.get(name, Interval()).nearest(size) for name, size in sizes.items()}
    sizes.update(extents or {})
    feed = {spec.name: _array(spec, rng, sizes) for spec in signature.inputs}
    try:
        signature.check(feed)
    except InputError as error:
        raise UserError(
            f"can't guess input sizes that fit the model: {error.message}",
            code="unknown-sizes",
            notes=error.notes,
            hint="fix them with --shape name=1x3x224x224 (shapes= in Python), or pass the inputs",
        ) from error
    return feed


def _array(spec: TensorSpec, rng: np.random.Generator, sizes: Mapping[str, int]) -> Array:
    shape = tuple(_extent(dim, sizes) for dim in spec.shape)
    dtype = spec.dtype
    if dtype.is_float:
        return rng.standard_normal(shape).astype(dtype.numpy)
    if dtype is DType.bool_:
        return rng.integers(0, 2, shape).astype(bool)
    if dtype in (DType.u8, DType.i8):
        low = 0 if dtype is DType.u8 else -128
        return rng.integers(low, low + 256, shape).astype(dtype.numpy)
    if dtype.is_int:
        return rng.integers(0, 3, shape).astype(dtype.numpy)
    raise UserError(f"can't make random data for input {spec}", code="unknown-data", hint="pass it with --input")


def _extent(dim: Dim, sizes: Mapping[str, int]) -> int:
    if isinstance(dim, SymExpr):
        dim = subs(dim, {name: sizes.get(name, BATCH_EXTENT) for name in symbols_of(dim)})
    assert isinstance(dim, int)
    return dim


def completed_inputs(signature: Signature, given: Mapping[str, Array], seed: int = 0) -> dict[str, Array]:
    """The given inputs, and random ones for those that are missing, of sizes that go with them.

    Raises:
        UserError: as ``random_inputs``.
    """
    if all(spec.name in given for spec in signature.inputs):
        return dict(given)
    sizes: dict[str, int] = {}
    for spec in signature.inputs:
        array = given.get(spec.name)
        if array is not None and array.ndim == len(spec.shape):
            sizes.update({s: n for n, dim in zip(array.shape, spec.shape) if (s := as_symbol(dim)) is not None})
    return {**random_inputs(signature, seed, sizes), **given}
