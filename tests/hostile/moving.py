"""Operators that read or write at positions given by values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tests.hostile.cases import (
    BOOL,
    FLOAT,
    HOSTILE,
    INT32,
    INT64,
    Case,
    Feed,
    Random,
    floats,
    inside,
    integers,
    model,
    node,
    wide,
)


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _picking()
    yield from _writing()
    yield from _cutting()
    yield from _lengths()
    yield from _arithmetic()


def _picking() -> Iterator[Case]:
    x = {"x": (FLOAT, ("n", 3))}
    for name, kind, dtype in (("int64", INT64, np.int64), ("int32", INT32, np.int32)):
        yield Case(
            f"Gather {name}",
            model([node("Gather", "x i", "y")], {**x, "i": (kind, ("k", 2))}, {"y": (FLOAT, 3)}),
            lambda rng, dtype=dtype: {"x": floats(rng, 4, 3), "i": integers(rng, 6, -4, 3, dtype).reshape(3, 2)},
            lambda f: inside(f["i"], 4),
        )
    yield Case(
        "Gather of an axis of unknown extent with a constant",
        model([node("Gather", "x i", "y")], x, {"y": (FLOAT, 2)}, {"i": np.array([4, 0])}),
        lambda rng: {"x": floats(rng, int(rng.integers(1, 8)), 3)},
        lambda f: len(f["x"]) > 4,
    )
    yield Case(
        "GatherElements",
        model([node("GatherElements", "x i", "y", axis=0)], {**x, "i": (INT64, ("k", "l"))}, {"y": (FLOAT, 2)}),
        lambda rng: {
            "x": floats(rng, 4, 3),
            "i": integers(rng, 6, -4, 3).reshape(*((2, 3) if rng.random() < 0.8 else (1, 6))),
        },
        lambda f: inside(f["i"], 4) and f["i"].shape[1] <= 3,
    )
    yield Case(
        "GatherND",
        model([node("GatherND", "x i", "y")], {**x, "i": (INT64, ("k", 2))}, {"y": (FLOAT, 1)}),
        lambda rng: {"x": floats(rng, 4, 3), "i": np.stack([integers(rng, 3, -4, 3), integers(rng, 3, -3, 2)], 1)},
        lambda f: inside(f["i"][:, 0], 4) and inside(f["i"][:, 1], 3),
    )
    yield Case(
        "TopK",
        model(
            [node("TopK", "x k", "v i")],
            {"x": (FLOAT, ("n", 5)), "k": (INT64, (1,))},
            {"v": (FLOAT, 2), "i": (INT64, 2)},
        ),
        lambda rng: {"x": floats(rng, 3, 5), "k": integers(rng, 1, 0, 6)},
        lambda f: None if wide(f["k"])[0] == 0 else 0 < wide(f["k"])[0] <= 5,
    )
    yield Case(
        "Compress",
        model([node("Compress", "x c", "y", axis=0)], {**x, "c": (BOOL, ("k",))}, {"y": (FLOAT, 2)}),
        lambda rng: {"x": floats(rng, 4, 3), "c": rng.random(int(rng.integers(0, 5))) < 0.5},
        lambda f: True,
    )
    yield Case(
        "RoiAlign",
        model(
            [node("RoiAlign", "x r b", "y", output_height=2, output_width=2, sampling_ratio=2)],
            {"x": (FLOAT, ("n", 1, 4, 4)), "r": (FLOAT, ("k", 4)), "b": (INT64, ("k",))},
            {"y": (FLOAT, 4)},
        ),
        lambda rng: {"x": floats(rng, 3, 1, 4, 4), "r": np.abs(floats(rng, 2, 4)), "b": integers(rng, 2, 0, 2)},
        lambda f: all(0 <= b < 3 for b in wide(f["b"])),
    )


def _writing() -> Iterator[Case]:
    x = {"x": (FLOAT, ("n", 3))}
    yield Case(
        "ScatterElements",
        model(
            [node("ScatterElements", "x i u", "y", axis=0)],
            {**x, "i": (INT64, ("k", "l")), "u": (FLOAT, ("k", "l"))},
            {"y": (FLOAT, 2)},
        ),
        lambda rng: {"x": floats(rng, 4, 3), "i": integers(rng, 3, -4, 3).reshape(1, 3), "u": floats(rng, 1, 3)},
        lambda f: inside(f["i"], 4),
    )
    yield Case(
        "ScatterND",
        model(
            [node("ScatterND", "x i u", "y", reduction="add")],
            {**x, "i": (INT64, ("k", 1)), "u": (FLOAT, ("k", 3))},
            {"y": (FLOAT, 2)},
        ),
        lambda rng: {"x": floats(rng, 4, 3), "i": integers(rng, 2, -4, 3).reshape(2, 1), "u": floats(rng, 2, 3)},
        lambda f: inside(f["i"], 4),
    )
    yield Case(
        "TensorScatter",
        model(
            [node("TensorScatter", "x u i", "y", axis=1)],
            {"x": (FLOAT, ("n", 5, 2)), "u": (FLOAT, ("n", "k", 2)), "i": (INT64, ("n",))},
            {"y": (FLOAT, 3)},
            opset=24,
        ),
        lambda rng: {"x": floats(rng, 2, 5, 2), "u": floats(rng, 2, 2, 2), "i": integers(rng, 2, 0, 4)},
        lambda f: all(0 <= i <= 3 for i in wide(f["i"])),
    )
    yield Case(
        "MaxUnpool",
        model(
            [node("MaxUnpool", "x i", "y", kernel_shape=[2, 2], strides=[2, 2])],
            {"x": (FLOAT, (1, 1, "h", 2)), "i": (INT64, (1, 1, "h", 2))},
            {"y": (FLOAT, 4)},
        ),
        lambda rng: {"x": floats(rng, 1, 1, 2, 2), "i": _distinct(rng, 4, 16).reshape(1, 1, 2, 2)},
        lambda f: all(0 <= i < 16 for i in wide(f["i"])),
    )


def _distinct(rng: Random, count: int, limit: int) -> npt.NDArray[np.int64]:
    found = rng.permutation(limit)[:count].astype(np.int64)
    if rng.random() < 0.35:
        found[rng.integers(count)] = HOSTILE[rng.integers(len(HOSTILE))]
    return found if len(set(wide(found))) == count else rng.permutation(limit)[:count].astype(np.int64)


def _cutting() -> Iterator[Case]:
    operands = dict.fromkeys("beas", (INT64, (1,)))
    yield Case(
        "Slice",
        model([node("Slice", "x b e a s", "y")], {"x": (FLOAT, ("n", 7)), **operands}, {"y": (FLOAT, 2)}),
        lambda rng: {
            "x": floats(rng, 4, 7),
            "b": integers(rng, 1, -8, 8),
            "e": integers(rng, 1, -8, 8),
            "a": integers(rng, 1, -2, 1),
            "s": integers(rng, 1, -3, 3),
        },
        lambda f: inside(f["a"], 2) and wide(f["s"])[0] != 0 and (True if abs(wide(f["s"])[0]) < 2**62 else None),
    )
    yield Case(
        "Split",
        model(
            [node("Split", "x s", "a b", axis=0)],
            {"x": (FLOAT, ("n", 3)), "s": (INT64, (2,))},
            {"a": (FLOAT, 2), "b": (FLOAT, 2)},
        ),
        _split,
        lambda f: min(wide(f["s"])) >= 0 and sum(wide(f["s"])) == 4,
    )
    yield Case(
        "Trilu",
        model([node("Trilu", "x k", "y")], {"x": (FLOAT, ("n", 3)), "k": (INT64, ())}, {"y": (FLOAT, 2)}),
        lambda rng: {"x": floats(rng, 4, 3), "k": integers(rng, 1, -5, 5)[0]},
        lambda f: True if abs(int(f["k"])) < 2**31 else None,
    )


def _split(rng: Random) -> Feed:
    first = int(rng.integers(0, 5))
    sizes = np.array([first, 4 - first]) if rng.random() < 0.5 else integers(rng, 2, -1, 4)
    if rng.random() < 0.1:
        sizes = np.array([2**62, 4 - 2**62])
    return {"x": floats(rng, 4, 3), "s": sizes.astype(np.int64)}


def _lengths() -> Iterator[Case]:
    yield Case(
        "ReverseSequence",
        model(
            [node("ReverseSequence", "x l", "y", time_axis=0, batch_axis=1)],
            {"x": (FLOAT, ("t", "b")), "l": (INT64, ("b",))},
            {"y": (FLOAT, 2)},
        ),
        lambda rng: {"x": floats(rng, 4, 3), "l": integers(rng, 3, 0, 4)},
        lambda f: all(0 <= n <= 4 for n in wide(f["l"])),
    )
    weights = np.random.default_rng(0)
    consts = {"w": floats(weights, 1, 8, 3), "r": floats(weights, 1, 8, 2)}
    yield Case(
        "LSTM",
        model(
            [node("LSTM", "x w r _ l", "y", hidden_size=2)],
            {"x": (FLOAT, ("t", "b", 3)), "l": (INT32, ("b",))},
            {"y": (FLOAT, 4)},
            consts,
        ),
        # the reference evaluator ignores lengths: only whole sequences are compared
        lambda rng: {
            "x": floats(rng, 4, 2, 3),
            "l": np.full(2, 4, np.int32) if rng.random() < 0.4 else integers(rng, 2, 0, 5, np.int32),
        },
        lambda f: (True if set(wide(f["l"])) == {4} else None) if all(0 <= n <= 4 for n in wide(f["l"])) else False,
    )
    consts = {"w": floats(weights, 1, 6, 3), "r": floats(weights, 1, 6, 2)}
    yield Case(
        "GRU",
        model(
            [node("GRU", "x w r _ l", "y", hidden_size=2)],
            {"x": (FLOAT, ("t", "b", 3)), "l": (INT32, ("k",))},
            {"y": (FLOAT, 4)},
            consts,
        ),
        lambda rng: {"x": floats(rng, 4, 2, 3), "l": integers(rng, int(rng.integers(1, 4)), 0, 5, np.int32)},
        lambda f: None if len(f["l"]) == 2 and all(0 <= n <= 4 for n in wide(f["l"])) else False,
    )
    yield Case(
        "NonMaxSuppression",
        model(
            [node("NonMaxSuppression", "b s m o t", "y")],
            {"b": (FLOAT, (1, "n", 4)), "s": (FLOAT, (1, 1, "n")), "m": (INT64, (1,))},
            {"y": (INT64, 2)},
            {"o": np.array([0.5], np.float32), "t": np.array([-9], np.float32)},
        ),
        lambda rng: {"b": floats(rng, 1, 5, 4), "s": floats(rng, 1, 1, 5), "m": integers(rng, 1, 0, 6)},
        lambda f: True if 0 < wide(f["m"])[0] < 2**31 else None,
    )


def _arithmetic() -> Iterator[Case]:
    pair = dict.fromkeys("ab", (INT64, ("n",)))
    for op in ("Div", "Mod"):
        # what a division by 0 gives is left open; it must not trap
        yield Case(
            op,
            model([node(op, "a b", "y")], pair, {"y": (INT64, 1)}),
            lambda rng: {"a": integers(rng, 5, -9, 9), "b": integers(rng, 5, -3, 3)},
            lambda f: True if not {0, -1} & set(wide(f["b"])) and min(wide(f["a"]) + wide(f["b"])) >= 0 else None,
        )
