"""Packed weights start on a cache line and hold what they should."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.backends.cpu.kernels.packed_array import aligned_copy, aligned_zeros


@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (0, 4), (7, 1, 9)])
def test_alignment_and_content(shape: tuple[int, ...]) -> None:
    zeros = aligned_zeros(shape)
    assert zeros.shape == shape
    assert zeros.dtype == np.float32
    assert not zeros.size or zeros.ctypes.data % 64 == 0
    assert not zeros.any()
    source = np.random.default_rng(0).random(shape, np.float32).T
    copy = aligned_copy(source)
    assert not copy.size or copy.ctypes.data % 64 == 0
    assert copy.flags.c_contiguous
    np.testing.assert_array_equal(copy, source)
