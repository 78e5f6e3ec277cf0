"""Transposed convolution, Einsum and products against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from graphopt.driver.compiling import compile
from graphopt.errors import InputError, UnsupportedOpError
from tests.support.ort import run_ort
from tests.support.run_node import check, model_with, node, same

Array = npt.NDArray[Any]


def rand(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)


def scatter(
    x: Array, w: Array, strides: list[int], dilations: list[int], group: int, pads: list[int], size: list[int]
) -> Array:
    """Transposed convolution from its definition: every input adds a scaled kernel to the output."""
    n, ic, h, width = x.shape
    oc = w.shape[1] * group
    full = np.zeros(
        (n, oc, h * strides[0] + w.shape[2] * dilations[0] + 8, width * strides[1] + w.shape[3] * dilations[1] + 8)
    )
    for c in range(ic):
        g = c // (ic // group)
        for i, j, a, b in np.ndindex(h, width, w.shape[2], w.shape[3]):
            p, q = i * strides[0] + a * dilations[0], j * strides[1] + b * dilations[1]
            full[:, g * w.shape[1] : (g + 1) * w.shape[1], p, q] += (
                x[:, c, i, j, None].astype(np.float64) * w[c, :, a, b]
            )
    return full[:, :, pads[0] : pads[0] + size[0], pads[1] : pads[1] + size[1]].astype(np.float32)


CASES: list[dict[str, Any]] = [
    {},
    {"strides": [2, 3], "pads": [1, 0, 0, 2]},
    {"strides": [3, 2], "output_padding": [1, 1], "pads": [1, 1, 1, 1]},
    {"dilations": [2, 1], "strides": [2, 1]},
    {"group": 2, "strides": [2, 2]},
]


@pytest.mark.parametrize("symbolic", [False, True])
def test_transposed_convolution(symbolic: bool) -> None:
    x = rand(2, 4, 3, 5)
    nodes, want, consts = [], {}, {"b": rand(4)}
    for i, attrs in enumerate(CASES[1:3] if symbolic else CASES):
        group = attrs.get("group", 1)
        w = rand(4, 4 // group, 3, 2, seed=i)
        consts[f"w{i}"] = w
        strides, dilations, pads = (
            attrs.get("strides", [1, 1]),
            attrs.get("dilations", [1, 1]),
            attrs.get("pads", [0] * 4),
        )
        extra = attrs.get("output_padding", [0, 0])
        size = [
            (x.shape[2 + a] - 1) * strides[a]
            + extra[a]
            + (w.shape[2 + a] - 1) * dilations[a]
            + 1
            - pads[a]
            - pads[2 + a]
            for a in (0, 1)
        ]
        nodes.append(node("ConvTranspose", f"x w{i} b", f"y{i}", **attrs))
        want[f"y{i}"] = scatter(x, w, strides, dilations, group, pads, size) + consts["b"][:, None, None]
    check(nodes, {"x": x}, consts, want, symbolic=symbolic)


EQUATIONS = [
    ("bij,bjk->bik", [(2, 3, 7), (2, 7, 5)]), ("ij->ji", [(3, 5)]), ("ii->i", [(4, 4)]), ("ii", [(4, 4)]), ("ij->", [(3, 5)]),
    ("...ij,...jk->...ik", [(2, 1, 3, 4), (5, 4, 2)]), ("i,j->ij", [(3,), (33,)]), ("a...->...", [(3, 4, 2)]),
    ("bhqd,bhkd->bhqk", [(1, 2, 3, 5), (1, 2, 4, 5)]), ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 2)]), ("ba,ab", [(2, 3), (3, 2)]),
]  # fmt: skip


def test_einsum() -> None:
    feed, nodes, want = {}, [], {}
    for n, (equation, shapes) in enumerate(EQUATIONS):
        operands = [rand(*s, seed=k) for k, s in enumerate(shapes)]
        names = [f"x{n}_{k}" for k in range(len(shapes))]
        feed |= dict(zip(names, operands))
        nodes.append(node("Einsum", " ".join(names), f"y{n}", equation=equation))
        want[f"y{n}"] = np.asarray(np.einsum(equation, *(o.astype(np.float64) for o in operands)), np.float32)
    check(nodes, feed, want=want)


def test_products() -> None:
    feed = {
        "a": rand(2, 3, 33),
        "b": rand(33, 5),
        "v": rand(33),
        "m": rand(4, 33),
        "c": rand(5),
        "i": np.arange(6, dtype=np.int32).reshape(2, 3),
    }
    feed["ha"], feed["hb"] = rand(3, 257).astype(np.float16), rand(257, 4).astype(np.float16)
    nodes = [
        node("MatMul", "a b", "ab"),
        node("MatMul", "a v", "av"),
        node("MatMul", "v b", "vb"),
        node("MatMul", "v v", "vv"),
    ]
    nodes += [
        node("Gemm", "m b c", "g", alpha=0.5, beta=2.0),
        node("Gemm", "i i", "gi", transB=1),
        node("MatMul", "ha hb", "h"),
    ]
    f = {k: v.astype(np.float64) for k, v in feed.items()}
    want = {
        "ab": f["a"] @ f["b"], "av": f["a"] @ f["v"], "vb": f["v"] @ f["b"], "vv": f["v"] @ f["v"],
        "g": 0.5 * f["m"] @ f["b"] + 2 * f["c"],
    }  # fmt: skip
    want = {k: np.asarray(v, np.float32) for k, v in want.items()}
    want |= {"gi": feed["i"] @ feed["i"].T, "h": (f["ha"] @ f["hb"]).astype(np.float16)}
    check(nodes, feed, want=want, atol=1e-5)


def test_nothing_to_sum() -> None:
    a, b = np.zeros((2, 0), np.float32), np.zeros((0, 3), np.float32)
    check(
        [node("MatMul", "a b", "y"), node("Gemm", "a b", "g")],
        {"a": a, "b": b},
        want={"y": np.zeros((2, 3), np.float32), "g": np.zeros((2, 3), np.float32)},
    )


@pytest.mark.parametrize("symbolic", [False, True])
def test_determinants(symbolic: bool) -> None:
    x, flat = rand(2, 3, 5, 5), rand(4, 4)
    flat[0, 0] = 0  # needs a pivot
    singular = np.ones((3, 3), np.float32)
    feed = {"x": x} if symbolic else {"x": x, "f": flat, "s": singular, "h": flat.astype(np.float16)}
    nodes = [node("Det", k, f"d{k}") for k in feed]
    want = {f"d{k}": np.asarray(np.linalg.det(v.astype(np.float64)), v.dtype) for k, v in feed.items()}
    check(nodes, feed, want=want, rtol=1e-4, atol=1e-5, symbolic=symbolic)


def test_deformable_convolution() -> None:
    x, w, bias = rand(2, 4, 5, 6), rand(4, 2, 3, 2), rand(4)
    offset, mask = rand(2, 2 * 3 * 2 * 2, 5, 5) * 2, rand(2, 2 * 3 * 2, 5, 5)
    nodes = [node("DeformConv", "x w o b m", "y", pads=[1, 0, 1, 0], group=2, offset_group=2, kernel_shape=[3, 2])]
    offset[0, 0, 0, 0] = 1e9
    want = np.zeros((2, 4, 5, 5))
    for n, oc, i, j in np.ndindex(want.shape):
        want[n, oc, i, j] = bias[oc]
        for ic, a, b in np.ndindex(2, 3, 2):
            ch = oc // 2 * 2 + ic
            plane = ch // 2 * 6 + a * 2 + b
            p, q = i - 1 + a + float(offset[n, 2 * plane, i, j]), j + b + float(offset[n, 2 * plane + 1, i, j])
            value = 0.0
            for r, s in ((np.floor(p) + u, np.floor(q) + v) for u in (0, 1) for v in (0, 1)):
                if 0 <= r < 5 and 0 <= s < 6:
                    value += x[n, ch, int(r), int(s)] * (1 - abs(p - r)) * (1 - abs(q - s))
            want[n, oc, i, j] += value * mask[n, plane, i, j] * w[oc, ic, a, b]
    consts = {"w": w, "b": bias}
    check(nodes, {"x": x, "o": offset, "m": mask}, consts, {"y": want.astype(np.float32)}, opset=22, atol=1e-4)


@pytest.mark.parametrize(
    ("x", "w", "attrs", "level"),
    [
        (rand(1, 4, 5), rand(4, 3, 2), {"group": 2, "strides": [2]}, 0),
        (rand(1, 8, 5, 6), rand(8, 3, 2, 2), {"strides": [2, 2]}, 2),
        (rand(1, 8, 5, 6), rand(8, 16, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}, 2),
    ],
    ids=["generic", "patch", "phased"],
)
def test_transposed_convolution_of_an_image_whose_channels_are_a_symbol(
    x: Any, w: Any, attrs: dict[str, Any], level: int
) -> None:
    """The weight says how many there are; another number is refused when the model is run."""
    model = model_with([node("ConvTranspose", "x w", "y", **attrs)], {"x": x}, {"w": w})
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "C"
    compiled = compile(model, "x86", level=level)
    same("y", compiled.run({"x": x})["y"], run_ort(model, {"x": x})[0])
    with pytest.raises(InputError, match="C"):
        compiled.run({"x": np.zeros((1, x.shape[1] + 2, *x.shape[2:]), np.float32)})


@pytest.mark.parametrize("level", [0, 2])
def test_transposed_convolution_whose_weight_has_symbols_for_channels(level: int) -> None:
    x, w = rand(1, 8, 5, 6), rand(8, 3, 2, 2)
    model = model_with([node("ConvTranspose", "x w", "y", strides=[2, 2])], {"x": x, "w": w})
    for value, axes in zip(model.graph.input, ((1,), (0, 1))):
        for axis in axes:
            value.type.tensor_type.shape.dim[axis].dim_param = f"{value.name}{axis}"
    with pytest.raises(UnsupportedOpError, match="unknown number of channels"):
        compile(model, "x86", level=level)
