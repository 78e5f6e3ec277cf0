"""Operators that move elements: odd shapes, every dtype width, copies that merge and transpose dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.run_node import check, node

RNG = np.random.default_rng(7)


def _ints(*shape: int, dtype: Any = np.float32) -> Any:
    return np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)


def _i64(*values: int) -> Any:
    return np.array(values, np.int64)


PERMS = [
    ((7, 33), (1, 0)),
    ((2, 3, 17, 19), (0, 2, 3, 1)),
    ((2, 17, 19, 3), (0, 3, 1, 2)),
    ((3, 1, 9, 8), (3, 1, 0, 2)),
    ((5, 0, 3), (2, 0, 1)),
]


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.int64, np.bool_])
def test_transposes_in_tiles_and_remainders(dtype: Any) -> None:
    nodes = [node("Transpose", f"x{n}", f"y{n}", perm=list(p)) for n, (_, p) in enumerate(PERMS)]
    feed = {
        f"x{n}": (_ints(*s) % 2 == 1 if dtype is np.bool_ else _ints(*s).astype(dtype))
        for n, (s, _) in enumerate(PERMS)
    }
    check(nodes, feed)


@pytest.mark.parametrize("symbolic", [False, True])
def test_transposes_of_symbolic_shapes(symbolic: bool) -> None:
    nodes = [node("Transpose", "x", "y", perm=[0, 2, 3, 1]), node("Transpose", "x", "z", perm=[3, 2, 1, 0])]
    check(nodes, {"x": _ints(2, 5, 11, 9)}, symbolic=symbolic)


def test_concat_of_parts_with_odd_and_empty_extents() -> None:
    feed = {"a": _ints(2, 3, 5), "b": _ints(2, 1, 5) + 100, "c": _ints(2, 0, 5), "d": _ints(2, 3, 5) - 50}
    nodes = [
        node("Concat", "a b c", "y", axis=1), node("Concat", "a d", "z", axis=-1), node("Concat", "a d", "w", axis=0),
        node("Concat", "a", "v", axis=2),
    ]  # fmt: skip
    check(nodes, feed)


def test_concat_of_symbolic_extents() -> None:
    feed = {"a": _ints(2, 3, 5), "b": _ints(2, 3, 5) + 100}
    check([node("Concat", "a b", "y", axis=0), node("Concat", "a b", "z", axis=2)], feed, symbolic=True)


def test_split_evenly_unevenly_and_into_empty_parts() -> None:
    nodes = [
        node("Split", "x s", "a b c", axis=1), node("Split", "x", "d e", axis=0, num_outputs=2),
        node("Split", "x", "f g h", axis=-1, num_outputs=3),
    ]  # fmt: skip
    check(nodes, {"x": _ints(4, 7, 8)}, {"s": _i64(3, 0, 4)})


SLICES = [
    ((1, 0, 2), (6, 3, 9), (0, 1, 2), (2, 1, 3)), ((-1, 2), (-100, 5), (0, 2), (-1, 1)),
    ((100, -100), (-100, 100), (1, 2), (-2, 5)),
    ((3,), (3,), (1,), (1,)), ((0,), (np.iinfo(np.int64).max,), (2,), (4,)), ((-3, -4), (-1, -2), (-1, -3), (1, 1)),
]  # fmt: skip


def test_slices_forward_backward_and_clamped() -> None:
    nodes, consts = [], {}
    for n, parts in enumerate(SLICES):
        for name, values in zip("beas", parts):
            consts[f"{name}{n}"] = np.array(values, np.int64)
        nodes.append(node("Slice", f"x b{n} e{n} a{n} s{n}", f"y{n}"))
    check(nodes, {"x": _ints(7, 5, 10)}, consts)


def test_tile_and_expand() -> None:
    nodes = [node("Tile", "x r", "y"), node("Expand", "x s", "z"), node("Expand", "v t", "w"), node("Tile", "x o", "u")]
    consts = {"r": _i64(2, 1, 3), "s": _i64(4, 3, 1, 5), "t": _i64(2, 3, 4), "o": _i64(1, 0, 1)}
    check(nodes, {"x": _ints(3, 1, 5), "v": _ints(1, 1)}, consts)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode: str) -> None:
    check([node("DepthToSpace", "x", "y", blocksize=2, mode=mode)], {"x": _ints(2, 12, 3, 5)})


def test_space_to_depth_and_views() -> None:
    nodes = [
        node("SpaceToDepth", "x", "y", blocksize=3), node("Reshape", "x s", "a"), node("Flatten", "x", "b", axis=2),
        node("Squeeze", "x q", "c"), node("Unsqueeze", "x u", "d"), node("Transpose", "a", "e", perm=[1, 0]),
    ]  # fmt: skip
    check(nodes, {"x": _ints(1, 2, 6, 9)}, {"s": _i64(4, -1), "q": _i64(0), "u": _i64(-1, 0)})


PADS = [(0, 1, 2, 0, 0, 3), (1, 0, 0, 0, 2, 0), (0, -1, 2, 0, -1, -2), (0, 0, 0, 0, 0, 0)]


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_constant_pads_add_and_crop(dtype: Any) -> None:
    nodes, consts = [], {"v": np.array(9, dtype)}
    for n, pads in enumerate(PADS):
        consts[f"p{n}"] = np.array(pads, np.int64)
        nodes.append(node("Pad", f"x p{n} v", f"y{n}"))
    x = _ints(2, 5, 7, dtype=dtype)

    def want(pads: Any) -> Any:
        padded = np.pad(x, [(max(b, 0), max(e, 0)) for b, e in zip(pads[:3], pads[3:])], constant_values=9)
        cut = tuple(slice(max(-b, 0), d - max(-e, 0)) for b, e, d in zip(pads[:3], pads[3:], padded.shape))
        return padded[cut]

    check(nodes, {"x": x}, consts, {f"y{n}": want(p) for n, p in enumerate(PADS)})


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_pads_that_repeat_the_data(mode: str) -> None:
    nodes = [node("Pad", "x p", "y", mode=mode), node("Pad", "x q _ a", "z", mode=mode)]
    check(nodes, {"x": _ints(3, 4, 5)}, {"p": _i64(0, 2, 3, 1, 3, 4), "q": _i64(2, 1), "a": _i64(-1)})


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_what_is_cropped_is_not_repeated(mode: Any, symbolic: bool) -> None:
    """The oracle crops first, as ONNX Runtime does; the reference has no negative amounts in these modes."""
    x = _ints(6, 7)
    pads = [(-1, 2, 3, -2), (2, -2, -1, 3), (-3, -1, 2, 4), (-2, 0, -1, 0)]
    nodes = [node("Pad", f"x p{n}", f"y{n}", mode=mode) for n in range(len(pads))]

    def want(amounts: tuple[int, ...]) -> Any:
        sides = list(zip(amounts[:2], amounts[2:]))
        kept = x[tuple(slice(max(-b, 0), d - max(-e, 0)) for (b, e), d in zip(sides, x.shape))]
        return np.pad(kept, [(max(b, 0), max(e, 0)) for b, e in sides], mode=mode)

    constants = {f"p{n}": _i64(*p) for n, p in enumerate(pads)}
    check(nodes, {"x": x}, constants, {f"y{n}": want(p) for n, p in enumerate(pads)}, symbolic=symbolic)


def test_pad_of_symbolic_shape() -> None:
    nodes = [node("Pad", "x p", "y"), node("Pad", "x p", "z", mode="reflect"), node("Pad", "x p", "w", mode="edge")]
    check(nodes, {"x": _ints(2, 3, 5, 7)}, {"p": _i64(0, 0, 1, 2, 0, 0, 2, 1)}, symbolic=True)


def test_center_crop_pad() -> None:
    nodes = [node("CenterCropPad", "x s", "y"), node("CenterCropPad", "x t", "z", axes=[-1, 0])]
    check(nodes, {"x": _ints(5, 8, 3)}, {"s": _i64(8, 5, 3), "t": _i64(6, 2)})


def test_generated_tensors() -> None:
    nodes = [
        node("EyeLike", "m", "eye", k=-1, dtype=1), node("Trilu", "m", "up", upper=1), node("Trilu", "m k", "low", upper=0),
        node("OneHot", "i depth values", "hot", axis=1), node("Range", "a b d", "r"), node("Range", "fa fb fd", "fr"),
        node("ConstantOfShape", "s", "zeros"), node("Size", "m", "size"), node("Shape", "m", "shape", start=-1),
    ]  # fmt: skip
    consts = {
        "k": np.array(2, np.int64), "depth": np.array(6, np.int64), "values": np.array([2, 5], np.int32), "s": _i64(2, 0, 3),
        "a": np.array(10, np.int32), "b": np.array(-7, np.int32), "d": np.array(-4, np.int32),
        "fa": np.array(1, np.float32), "fb": np.array(5, np.float32), "fd": np.array(0.5, np.float32),
    }  # fmt: skip
    check(nodes, {"m": _ints(4, 7), "i": np.array([[0, -1, 9], [5, -6, -7]], np.int64)}, consts)


def test_reverse_sequence() -> None:
    x = _ints(4, 3, 2)
    nodes = [
        node("ReverseSequence", "x l", "y", time_axis=0, batch_axis=1),
        node("ReverseSequence", "x m", "z", time_axis=1, batch_axis=0),
    ]
    check(nodes, {"x": x, "l": _i64(4, 1, 3), "m": _i64(3, 1, 2, 1)})
