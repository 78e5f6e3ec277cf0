"""Comparing arrays of any element type."""

from __future__ import annotations

from typing import Any

import numpy as np


def wide(x: Any) -> Any:
    """Floats of any width as float64, everything else unchanged, so that numpy can compare it."""
    x = np.asarray(x)
    return x if x.dtype.kind in "biuOSUc" else x.astype(np.float64)
