"""What is added for a zero point that was left in the data: sums with padding by its table, against the definition."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.templates.zero_points import Border, WindowOffset

SMALL = st.integers(0, 4)
SIZE = st.integers(1, 9)


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(SIZE, SIZE),
    st.tuples(*[st.integers(1, 5)] * 2),
    st.tuples(*[st.integers(1, 3)] * 4),
    st.tuples(*[SMALL] * 4),
)
def test_the_table_completes_sums_over_data_as_it_is_stored(
    size: tuple[int, int], kernel: tuple[int, int], steps: tuple[int, ...], pads: tuple[int, int, int, int]
) -> None:
    strides, dilations = (steps[0], steps[1]), (steps[2], steps[3])
    spec = Conv2dSpec(1, 2, *size, 3, kernel, strides, pads, dilations)
    assert spec.static_plane is not None
    assume(min(spec.static_plane) > 0)
    rng = np.random.default_rng(0)
    x, w = rng.integers(0, 256, (2, *size)), rng.integers(-128, 128, (3, 2, *kernel))
    zero, turned = 117, -128

    def sums(data: np.ndarray) -> np.ndarray:
        """Over what is inside of the padding, whose elements are 0."""
        padded = np.pad(data, ((0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations)]
        windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(1, 2))
        taken = windows[:, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
        return np.einsum("chwij,ocij->ohw", taken, w)

    want = sums(x - zero) - sums(x)
    rows, columns = (Border.of(spec.window(axis), spec.static_plane[axis]) for axis in range(2))
    array = WindowOffset(3, turned, 0, rows, columns)(w.astype(np.int8), np.array([zero - turned]))
    assert array.shape == WindowOffset(3, turned, 0, rows, columns).shape
    for o, h, wide in np.ndindex(want.shape):
        place = (int(border.place(tirx.const(i, "int64"))) for border, i in ((rows, h), (columns, wide)))
        assert array[(*place, o)] == want[o, h, wide]
