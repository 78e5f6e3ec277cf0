"""Extents assumed where a choice has to be made ahead of run time: tiles, blocks, whether threads are worth starting.

A wrong guess costs time, never correctness. All guesses come from here, so that the kernels of one model assume the same sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from graphopt.ir.dims import Dim, SymExpr, as_symbol, subs
from graphopt.ir.intervals import Interval

BATCH = 1
"""Of the first of several axes."""
IMAGE_SIDE = 224
"""Of axes behind the channels of images, and of what else has four axes or more."""
DEPTH = 16
"""Of the first of three axes behind the channels: frames, slices."""
SEQUENCE = 128
LONGEST_SEQUENCE = 1 << 16
LEAST_DERIVED = 32
"""Of what a model makes of a sequence, such as audio that convolutions shorten 320 times: longer sequences are assumed instead."""
UNKNOWN = 64
"""Of extents that depend on data, or whose origin isn't known."""


@dataclass(frozen=True)
class NominalSizes:
    """What the symbols of a model are assumed to be.

    Attributes:
        sizes: symbol and extent.
    """

    sizes: tuple[tuple[str, int], ...] = ()

    def of(self, dim: Dim) -> int:
        """The extent to assume for a dimension, 1 at least."""
        if isinstance(dim, int):
            return max(dim, 1)
        env: dict[str, Dim] = dict.fromkeys(dim.symbols(), UNKNOWN)
        env.update({name: size for name, size in self.sizes if name in env})
        try:
            value = subs(dim, env)
        except ZeroDivisionError:  # a division by an extent that nobody would have at this size
            return UNKNOWN
        return max(value, 1) if isinstance(value, int) else UNKNOWN


NOTHING_KNOWN = NominalSizes()


def nominal_sizes(
    shapes: Iterable[tuple[Dim, ...]],
    ranges: Mapping[str, Interval],
    likely: Mapping[str, int],
    derived: Iterable[Dim] = (),
) -> NominalSizes:
    """Sizes to assume for the symbols of a model.

    Args:
        shapes: of the model's inputs.
        ranges: in which symbols are known to lie; an assumption outside is moved to the nearer end.
        likely: what users say.
        derived: extents of the model's other tensors, which shouldn't vanish.
    """
    found: dict[str, int] = {}
    sequences: list[str] = []
    for shape in shapes:
        for axis, dim in enumerate(shape):
            name = as_symbol(dim)
            if name is None or name in found:
                continue
            usual = _usual(axis, len(shape))
            found[name] = likely.get(name, ranges.get(name, Interval()).nearest(usual))
            if usual == SEQUENCE and name not in likely:
                sequences.append(name)
    dims = list(dict.fromkeys(derived))
    for name in sequences:
        found[name] = _long_enough(name, found, ranges.get(name, Interval()), dims)
    return NominalSizes(tuple(sorted(found.items())))


def _usual(axis: int, rank: int) -> int:
    """What an axis of an input usually is."""
    if axis == 0 and rank > 1:
        return BATCH
    if axis == 2 and rank == 5:
        return DEPTH
    return IMAGE_SIDE if rank > 3 else SEQUENCE


def _long_enough(name: str, sizes: Mapping[str, int], within: Interval, derived: Iterable[Dim]) -> int:
    """A power of two times the usual length at which no extent derived from it is small that a long sequence would make larger."""

    def at(size: int, dim: Dim) -> int:
        return NominalSizes(tuple({**sizes, name: size}.items())).of(dim)

    growing = [
        dim
        for dim in derived
        if isinstance(dim, SymExpr)
        and name in dim.symbols()
        and at(sizes[name], dim) < LEAST_DERIVED <= at(LONGEST_SEQUENCE, dim)
    ]
    size = sizes[name]
    while size < LONGEST_SEQUENCE and any(at(size, dim) < LEAST_DERIVED for dim in growing):
        size *= 2
    return within.nearest(size)
