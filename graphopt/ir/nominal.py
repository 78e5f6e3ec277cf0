"""Extents assumed where a choice has to be made ahead of run time: tiles, blocks, whether threads are worth starting.

A wrong guess costs time, never correctness. All guesses come from here, so that the kernels of one model assume the same sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from graphopt.ir.dims import Dim, as_symbol, subs
from graphopt.ir.intervals import Interval

BATCH = 1
"""Of the first of several axes."""
IMAGE_SIDE = 224
"""Of axes behind the channels of images, and of what else has four axes or more."""
SEQUENCE = 128
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
    shapes: Iterable[tuple[Dim, ...]], ranges: Mapping[str, Interval], likely: Mapping[str, int]
) -> NominalSizes:
    """Sizes to assume for the symbols of a model.

    Args:
        shapes: of the model's inputs.
        ranges: in which symbols are known to lie; an assumption outside is moved to the nearer end.
        likely: what users say.
    """
    found: dict[str, int] = {}
    for shape in shapes:
        for axis, dim in enumerate(shape):
            name = as_symbol(dim)
            if name is not None and name not in found:
                usual = BATCH if axis == 0 and len(shape) > 1 else IMAGE_SIDE if len(shape) > 3 else SEQUENCE
                found[name] = likely.get(name, ranges.get(name, Interval()).nearest(usual))
    return NominalSizes(tuple(sorted(found.items())))
