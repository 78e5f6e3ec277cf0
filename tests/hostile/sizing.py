"""Operators whose result's extents follow from values."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from tests.hostile.cases import (
    FLOAT,
    FLOATS,
    INT32,
    INT64,
    Case,
    Feed,
    Random,
    both,
    fits,
    floats,
    inside,
    integers,
    model,
    node,
    wide,
)


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _shapes()
    yield from _ranges()
    yield from _windows()
    yield from _resizes()


def _shapes() -> Iterator[Case]:
    yield Case(
        "ConstantOfShape",
        model([node("ConstantOfShape", "s", "y")], {"s": (INT64, (2,))}, {"y": (FLOAT, 2)}),
        lambda rng: {"s": integers(rng, 2)},
        lambda f: fits(*wide(f["s"])),
    )
    yield Case(
        "Expand",
        model([node("Expand", "x s", "y")], {"x": (FLOAT, (3, 1)), "s": (INT64, (2,))}, {"y": (FLOAT, 2)}),
        lambda rng: {"x": floats(rng, 3, 1), "s": integers(rng, 2, 0) | np.array([1, 0])},
        lambda f: both(wide(f["s"])[0] in (1, 3), fits(3, wide(f["s"])[1])),
    )
    yield Case(
        "Tile",
        model([node("Tile", "x r", "y")], {"x": (FLOAT, ("n", 2)), "r": (INT64, (2,))}, {"y": (FLOAT, 2)}),
        lambda rng: {"x": floats(rng, 3, 2), "r": integers(rng, 2)},
        lambda f: both(all(r >= 0 for r in wide(f["r"])), fits(3 * wide(f["r"])[0], 2 * wide(f["r"])[1])),
    )
    yield Case(
        "Pad",
        model([node("Pad", "x p", "y")], {"x": (FLOAT, (3, "n")), "p": (INT64, (4,))}, {"y": (FLOAT, 2)}),
        lambda rng: {"x": floats(rng, 3, 4), "p": integers(rng, 4)},
        _pad,
    )
    yield Case(
        "Pad of an axis given",
        model(
            [node("Pad", "x p _ a", "y")],
            {"x": (FLOAT, (3, "n")), "p": (INT64, (2,)), "a": (INT64, (1,))},
            {"y": (FLOAT, 2)},
        ),
        lambda rng: {"x": floats(rng, 3, 4), "p": integers(rng, 2, 0), "a": integers(rng, 1, -2, 1)},
        _pad_axis,
    )
    yield Case(
        "OneHot",
        model(
            [node("OneHot", "i d v", "y")],
            {"i": (INT64, ("n",)), "d": (INT64, ()), "v": (FLOAT, (2,))},
            {"y": (FLOAT, 2)},
        ),
        lambda rng: {"i": integers(rng, 3, -5, 5), "d": integers(rng, 1)[0], "v": np.array([0, 1], np.float32)},
        lambda f: both(fits(3, int(f["d"])), True if inside(f["i"], max(int(f["d"]), 0)) else None),
    )
    yield Case(
        "Reshape",
        model([node("Reshape", "x s", "y")], {"x": (FLOAT, (2, "n")), "s": (INT64, (2,))}, {"y": (FLOAT, 2)}),
        lambda rng: {"x": floats(rng, 2, 6), "s": integers(rng, 2, -1, 6)},
        lambda f: _reshape(wide(f["s"]), (2, 6)),
    )
    yield Case(
        "Reshape with -1",
        model([node("Reshape", "x s", "y")], {"x": (FLOAT, ("n",))}, {"y": (FLOAT, 2)}, {"s": np.array([-1, 5])}),
        lambda rng: {"x": floats(rng, int(rng.integers(0, 16)))},
        lambda f: len(f["x"]) % 5 == 0,
    )
    yield Case(
        "Unsqueeze",
        model([node("Unsqueeze", "x a", "y")], {"x": (FLOAT, (3, "n")), "a": (INT64, (1,))}, {"y": (FLOAT, 3)}),
        lambda rng: {"x": floats(rng, 3, 4), "a": integers(rng, 1, -3, 2)},
        lambda f: inside(f["a"], 3),
    )
    yield Case(
        "HannWindow",
        model([node("HannWindow", "s", "y")], {"s": (INT64, ())}, {"y": (FLOAT, 1)}),
        lambda rng: {"s": integers(rng, 1, 1)[0]},  # a negative size gives nothing: it is defined by a Range
        lambda f: fits(int(f["s"])) if int(f["s"]) > 1 else None,
    )
    yield Case(
        "CenterCropPad",
        model([node("CenterCropPad", "x s", "y")], {"x": (FLOAT, (3, "n")), "s": (INT64, (2,))}, {"y": (FLOAT, 2)}),
        lambda rng: {"x": floats(rng, 3, 4), "s": integers(rng, 2, 1)},
        lambda f: fits(*wide(f["s"])),
    )


def _pad(f: Feed) -> bool | None:
    p = wide(f["p"])
    rows, columns = 3 + p[0] + p[2], 4 + p[1] + p[3]
    if min(rows, columns) < 0:
        return False
    # the reference evaluator can't crop
    return fits(rows, columns) if min(p) >= 0 or fits(rows, columns) is False else None


def _pad_axis(f: Feed) -> bool | None:
    if not inside(f["a"], 2):
        return False
    extents = [3, 4]
    extents[wide(f["a"])[0]] += sum(wide(f["p"]))
    return fits(*extents) if min(wide(f["p"])) >= 0 or fits(*extents) is False else None


def _reshape(wanted: list[int], x: tuple[int, ...]) -> bool | None:
    target = [x[i] if d == 0 else d for i, d in enumerate(wanted)]
    total, rest = math.prod(x), math.prod(d for d in target if d != -1)
    if min(target) < -1 or target.count(-1) > 1:
        return False
    return (rest > 0 and total % rest == 0) if -1 in target else rest == total


def _ranges() -> Iterator[Case]:
    for name, kind, dtype in (("int64", INT64, np.int64), ("int32", INT32, np.int32)):

        def feed(rng: Random, dtype: type = dtype) -> Feed:
            return {n: integers(rng, 1, -3, 9, dtype)[0] for n in "abd"}

        def legal(f: Feed) -> bool | None:
            a, b, d = (int(f[n]) for n in "abd")
            largest = 2**62
            if d == 0:
                return False
            count = max(-((a - b) // d), 0)
            return (
                fits(count) if max(abs(a), abs(b), abs(d), abs(b - a)) < largest else None if count <= 2**20 else False
            )

        yield Case(
            f"Range {name}",
            model([node("Range", "a b d", "y")], dict.fromkeys("abd", (kind, ())), {"y": (kind, 1)}),
            feed,
            legal,
        )

    def count(f: Feed) -> bool | None:
        a, b, d = (float(f[n]) for n in "abd")
        if d == 0 or not all(map(math.isfinite, (a, b, d))):
            return None if d and not any(map(math.isnan, (a, b, d))) else False
        return fits(max(math.ceil((b - a) / d), 0)) if abs((b - a) / d) < 2**60 else None if (b - a) / d < 0 else False

    yield Case(
        "Range float32",
        model([node("Range", "a b d", "y")], dict.fromkeys("abd", (FLOAT, ())), {"y": (FLOAT, 1)}),
        lambda rng: {n: np.float32(FLOATS[rng.integers(len(FLOATS))]) for n in "abd"},
        count,
    )


def _windows() -> Iterator[Case]:
    def image(rng: Random) -> Feed:
        return {"x": floats(rng, int(rng.integers(1, 3)), 2, *(int(v) for v in rng.integers(1, 7, 2)))}

    def large_enough(f: Feed) -> bool:
        return min(f["x"].shape[2:]) >= 3

    weight = np.ones((2, 2, 3, 3), np.float32)
    for op, operands, consts in (("MaxPool", "x", {}), ("AveragePool", "x", {}), ("Conv", "x w", {"w": weight})):
        made = node(op, operands, "y", kernel_shape=[3, 3])
        yield Case(
            op, model([made], {"x": (FLOAT, ("n", 2, "h", "w"))}, {"y": (FLOAT, 4)}, consts), image, large_enough
        )
    yield Case(
        "Gemm",
        model(
            [node("Gemm", "a b c", "y")],
            {"a": (FLOAT, ("n", 3)), "c": (FLOAT, ("m", 4))},
            {"y": (FLOAT, 2)},
            {"b": np.ones((3, 4), np.float32)},
        ),
        lambda rng: {"a": floats(rng, int(rng.integers(1, 5)), 3), "c": floats(rng, int(rng.integers(1, 8)), 4)},
        lambda f: True if len(f["c"]) == len(f["a"]) else None if len(f["c"]) == 1 else False,
    )
    yield Case(
        "SpaceToDepth",
        model([node("SpaceToDepth", "x", "y", blocksize=2)], {"x": (FLOAT, ("n", 2, "h", "w"))}, {"y": (FLOAT, 4)}),
        image,
        lambda f: all(d % 2 == 0 for d in f["x"].shape[2:]),
    )
    yield Case(
        "STFT",
        model(
            [node("STFT", "x s _ l", "y")],
            {"x": (FLOAT, (1, "n", 1)), "s": (INT64, ()), "l": (INT64, ())},
            {"y": (FLOAT, 4)},
        ),
        lambda rng: {"x": floats(rng, 1, 9, 1), "s": integers(rng, 1, 1, 4)[0], "l": integers(rng, 1, 2, 9)[0]},
        lambda f: None if int(f["s"]) > 0 and 0 < int(f["l"]) <= 9 else False,
    )
    yield Case(
        "AffineGrid",
        model([node("AffineGrid", "t s", "y")], {"t": (FLOAT, ("n", 2, 3)), "s": (INT64, (4,))}, {"y": (FLOAT, 4)}),
        lambda rng: {"t": floats(rng, 2, 2, 3), "s": np.array([2, 1, *integers(rng, 2, 1, 4)], np.int64)},
        lambda f: both(fits(*wide(f["s"])), None if min(wide(f["s"])) < 1 else True),
    )
    yield Case(
        "AffineGrid of another batch",
        model([node("AffineGrid", "t s", "y")], {"t": (FLOAT, ("n", 2, 3)), "s": (INT64, (4,))}, {"y": (FLOAT, 4)}),
        lambda rng: {"t": floats(rng, 2, 2, 3), "s": np.array([*integers(rng, 1, 1, 4), 1, 2, 2], np.int64)},
        lambda f: wide(f["s"])[0] == 2,
    )
    yield Case(
        "Col2Im",
        model(
            [node("Col2Im", "x i b", "y")],
            {"x": (FLOAT, (1, 4, "l")), "i": (INT64, (2,))},
            {"y": (FLOAT, 4)},
            {"b": np.array([2, 2])},
        ),
        lambda rng: {"x": floats(rng, 1, 4, int(rng.choice([4, 6]))), "i": integers(rng, 2, 2, 4)},
        lambda f: min(wide(f["i"])) >= 1 and (wide(f["i"])[0] - 1) * (wide(f["i"])[1] - 1) == f["x"].shape[2],
    )
    yield Case(
        "DFT",
        model(
            [node("DFT", "x l a", "y")],
            {"x": (FLOAT, (1, "n", 1)), "l": (INT64, ())},
            {"y": (FLOAT, 3)},
            {"a": np.array(1)},
        ),
        # a short signal in a long transform costs its own length for each frequency, not the transform's
        lambda rng: {
            "x": floats(rng, 1, 6, 1),
            "l": rng.choice([-(2**63), -1, 0, 1, 5, 6, 9, 1_000_000, 2**40, 2**62, 2**63 - 1]),
        },
        lambda f: None if not f["l"] else 0 < int(f["l"]) <= 1_000_000,
    )


def _resizes() -> Iterator[Case]:
    def scales(rng: Random) -> Feed:
        found = np.array([1, 1, *rng.choice([0.5, 1, 2, 3], 2)], np.float32)
        if rng.random() < 0.4:
            found[rng.integers(2, 4)] = FLOATS[rng.integers(len(FLOATS))]
        return {"x": floats(rng, 1, 2, 4, 5), "s": found}

    def scaled(f: Feed) -> bool | None:
        s = [float(v) for v in f["s"]]
        if not all(math.isfinite(v) and v > 0 for v in s):
            return False
        verdict = fits(2, *(math.floor(d * v) for d, v in zip((4, 5), s[2:])))
        return None if verdict and min(d * v for d, v in zip((4, 5), s[2:])) < 1 else verdict

    def sizes(rng: Random) -> Feed:
        return {"x": floats(rng, 1, 2, 4, 5), "s": np.array([1, 2, *integers(rng, 2, 1, 9)], np.int64)}

    common = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    x = {"x": (FLOAT, (1, 2, "h", "w"))}
    yield Case(
        "Resize by scales",
        model([node("Resize", "x _ s", "y", **common)], {**x, "s": (FLOAT, (4,))}, {"y": (FLOAT, 4)}),
        scales,
        scaled,
    )
    yield Case(
        "Resize to sizes",
        model([node("Resize", "x _ _ s", "y", **common)], {**x, "s": (INT64, (4,))}, {"y": (FLOAT, 4)}),
        sizes,
        lambda f: both(fits(*wide(f["s"])), None if 0 in wide(f["s"]) else True),
    )
