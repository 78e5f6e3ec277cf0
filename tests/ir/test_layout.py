"""Layouts against numpy's own reshaping and transposing, and how they are spelled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from graphopt.ir.layout import PLAIN, Layout, channel_blocks, channels_last

Ordered = Callable[[np.ndarray], np.ndarray]
NESTED = Layout((1, 0, 2, 3), ((0, 2), (1, 4), (0, 3)))
"""``IOHW2o4i3o``: an axis cut twice."""


def blocked(x: np.ndarray) -> np.ndarray:
    n, c, *rest = x.shape
    return np.moveaxis(x.reshape(n, c // 4, 4, *rest), 2, -1)


def nested(x: np.ndarray) -> np.ndarray:
    o, i, h, w = x.shape
    cut = x.reshape(o // 6, 2, 3, i // 4, 4, h, w)
    return cut.transpose(3, 0, 5, 6, 1, 4, 2)


CASES: list[tuple[Layout, tuple[int, ...], Ordered]] = [
    (PLAIN, (3, 5), lambda x: x),
    (channel_blocks(4), (3, 8), blocked),
    (channel_blocks(4), (2, 12, 5), blocked),
    (channel_blocks(4), (3, 4, 5, 7), blocked),
    (channel_blocks(4), (1, 8, 3, 2, 5), blocked),
    (channels_last(3), (2, 3, 5), lambda x: np.moveaxis(x, 1, -1)),
    (channels_last(4), (2, 3, 5, 7), lambda x: np.moveaxis(x, 1, -1)),
    (channels_last(5), (2, 1, 3, 5, 7), lambda x: np.moveaxis(x, 1, -1)),
    (NESTED, (12, 8, 3, 1), nested),
]


@pytest.mark.parametrize(("layout", "shape", "ordered"), CASES)
def test_an_element_lies_where_numpy_puts_it(layout: Layout, shape: tuple[int, ...], ordered: Ordered) -> None:
    x = np.arange(np.prod(shape)).reshape(shape)
    stored = ordered(x)
    assert layout.fits(shape)
    assert layout.physical_shape(shape) == stored.shape
    np.testing.assert_array_equal(stored[layout.physical_index(np.indices(shape))], x)
    np.testing.assert_array_equal(x[layout.logical_index(np.indices(stored.shape))], stored)


@pytest.mark.parametrize(("layout", "shape", "ordered"), CASES)
def test_the_same_bytes_are_told_from_others(layout: Layout, shape: tuple[int, ...], ordered: Ordered) -> None:
    for extents in (shape, (*shape[:2], *(1 for _ in shape[2:])), (1, *shape[1:]), (shape[0], 4, *shape[2:])):
        if layout.fits(extents):
            x = np.arange(np.prod(extents)).reshape(extents)
            assert layout.keeps_order(extents) == np.array_equal(ordered(x).reshape(-1), x.reshape(-1))


def test_names() -> None:
    assert [channel_blocks(16).name(r) for r in (2, 3, 4, 5)] == ["NC16c", "NCW16c", "NCHW16c", "NCDHW16c"]
    assert [channels_last(r).name(r) for r in (3, 4, 5)] == ["NWC", "NHWC", "NDHWC"]
    assert [str(s) for s in (PLAIN, channel_blocks(8), channels_last(4))] == ["plain", "NC...8c", "NHWC"]
    assert NESTED.name(4) == "CNHW2n4c3n"
    assert channel_blocks(8).name(6) == "ABCDEF8b"


def test_equal_layouts_are_one_key() -> None:
    assert Layout((0, 1, 2)) == PLAIN
    assert hash(Layout((0, 1, 2))) == hash(PLAIN)
    assert channels_last(2).is_plain
    assert (channel_blocks(8).channel_block, channels_last(4).channel_block, NESTED.channel_block) == (8, 0, 0)
    assert Layout(blocks=((0, 8),)).channel_block == 0


def test_what_fits() -> None:
    assert not channel_blocks(8).fits((1, 12, 3, 3))
    assert not channel_blocks(8).fits((8,))
    assert not channels_last(4).fits((1, 2, 3))
    with pytest.raises(ValueError, match="rank 3"):
        channels_last(4).physical_shape((1, 2, 3))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Layout((0, 2)),
        lambda: Layout(blocks=((1, 1),)),
        lambda: Layout((0, 1), ((2, 4),)),
        lambda: channels_last(1),
    ],
)
def test_what_is_no_layout(wrong: Callable[[], Layout]) -> None:
    with pytest.raises(ValueError, match=r"order of axes|blocks of axes|no channels"):
        wrong()
