"""Packed weights start on a cache line and hold what they should."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.backends.templates.packed_array import aligned_copy, aligned_zeros, for_each


@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (0, 4), (7, 1, 9)])
def test_alignment_and_content(shape: tuple[int, ...]) -> None:
    zeros = aligned_zeros(shape, np.float32)
    assert zeros.shape == shape
    assert zeros.dtype == np.float32
    assert not zeros.size or zeros.ctypes.data % 64 == 0
    assert not zeros.any()
    source = np.random.default_rng(0).random(shape, np.float32).T
    copy = aligned_copy(source)
    assert not copy.size or copy.ctypes.data % 64 == 0
    assert copy.flags.c_contiguous
    np.testing.assert_array_equal(copy, source)


@pytest.mark.parametrize("nbytes", [0, 1 << 30])
def test_every_index_once(nbytes: int) -> None:
    seen: list[int] = []
    for_each(seen.append, 100, nbytes)
    assert sorted(seen) == list(range(100))


def test_an_error_comes_through() -> None:
    def fail(i: int) -> None:
        raise ValueError(str(i))

    with pytest.raises(ValueError, match="0"):
        for_each(fail, 3, 1 << 30)
