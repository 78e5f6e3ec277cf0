"""Sizes of images that kernels are chosen for where only run time knows them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphopt.backends.base.template import KernelCall
from graphopt.ir.dims import Dim


def assumed_plane(call: KernelCall, batch: Dim, result: Sequence[Dim]) -> tuple[int, int, int]:
    """Images, rows and columns to assume where they are symbolic; slices of a third axis are images.

    Args:
        call: which knows what is likely.
        batch: images.
        result: shape of what a window makes of them: images, channels, and two axes or three.
    """
    images = math.prod(call.nominal(d) for d in (batch, *result[2:-2]))
    return images, call.nominal(result[-2]), call.nominal(result[-1])
