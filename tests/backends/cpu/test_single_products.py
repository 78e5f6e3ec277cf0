"""Dequantized bytes that no dot product multiplies are multiplied as whole numbers, one by one: against int64, to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import graphopt
from tests.support.run_node import node

Array = np.ndarray[Any, Any]
STEP = np.float32(0.0137)


@dataclass(frozen=True)
class Case:
    """One convolution of bytes.

    Attributes:
        shape: of the data.
        weight: its shape.
        template: that computes it.
        attrs: of the node.
        data: type of the data.
        stored: type of the weight.
        zero: the data's zero point, from the least number of its type.
        weight_zero: the weight's zero point.
        values: of data and weight, or one less; random numbers over their types where it is left out.
        turned: whether it is a transposed convolution.
        blocked: whether a 1x1 convolution before it gives data in blocks of channels.
        sums: type that the kernel adds up in.
    """

    shape: tuple[int, ...]
    weight: tuple[int, ...]
    template: str
    attrs: dict[str, Any] = field(default_factory=dict)
    data: Any = np.uint8
    stored: Any = np.int8
    zero: int = 117
    weight_zero: int = 0
    values: tuple[int, int] | None = None
    turned: bool = False
    blocked: bool = False
    sums: str = "float32"


def depthwise(channels: int, size: tuple[int, int], kernel: tuple[int, int], **options: Any) -> Case:
    attrs = {"group": channels, **options.pop("attrs", {})}
    template = options.pop("template", "conv2d-depthwise-plain")
    return Case((2, channels, *size), (channels, 1, *kernel), template, attrs, **options)


SAME = {"pads": [1] * 4}
CASES = {
    "depthwise": depthwise(5, (9, 13), (3, 3), attrs=SAME),
    "depthwise of signed bytes": depthwise(6, (8, 11), (5, 3), attrs={"pads": [2, 1, 2, 1]}, data=np.int8, zero=0),
    "depthwise, stride 2": depthwise(3, (12, 15), (3, 3), attrs={**SAME, "strides": [2, 2]}, zero=0),
    "depthwise, dilated": depthwise(7, (14, 17), (3, 3), attrs={"pads": [2, 4, 1, 3], "dilations": [2, 3]}, zero=255),
    "depthwise, weights with a zero point": depthwise(4, (9, 9), (3, 3), attrs=SAME, stored=np.uint8, weight_zero=131),
    "unsigned weights": depthwise(4, (9, 9), (3, 3), attrs=SAME, stored=np.uint8),
    "depthwise, the largest": depthwise(4, (9, 9), (3, 3), attrs=SAME, zero=0, values=(255, -128)),
    "depthwise, the least": depthwise(4, (9, 9), (3, 3), attrs=SAME, zero=255, values=(0, -128)),
    "depthwise in blocks": depthwise(32, (9, 40), (3, 3), attrs=SAME, blocked=True, template="conv2d-depthwise"),
    "depthwise in blocks, stride 2": depthwise(
        24, (12, 61), (5, 5), attrs={"pads": [2, 1, 2, 1], "strides": [2, 2]}, blocked=True, template="conv2d-depthwise"
    ),
    "depthwise, sums of 26 bits": depthwise(
        16, (30, 40), (23, 23), blocked=True, template="conv2d-depthwise", zero=2, values=(255, -128), sums="int32"
    ),
    "groups, 1x1": Case((2, 12, 7, 9), (18, 4, 1, 1), "conv2d-grouped-1x1", {"group": 3}),
    "groups of a block": Case((1, 32, 9, 7), (32, 16, 3, 3), "conv2d-grouped", {"group": 2, **SAME}, blocked=True),
    "groups in a vector": Case((1, 32, 9, 7), (32, 4, 3, 3), "conv2d-grouped", {"group": 8, **SAME}, data=np.int8, blocked=True),
    "groups, sums of 27 bits": Case(
        (1, 256, 5, 7), (32, 128, 4, 4), "conv2d-grouped", {"group": 2}, blocked=True, zero=0, values=(255, -128), sums="int32",
    ),
    "patches": Case((2, 6, 5, 9), (6, 3, 2, 2), "conv-transpose-patch", {"strides": [2, 2]}, turned=True),
    "transposed": Case(
        (1, 6, 7, 9), (6, 16, 4, 3), "conv-transpose", {"strides": [2, 1], "pads": [1, 1, 2, 1]}, turned=True
    ),
    "transposed, weights with a zero point": Case(
        (1, 3, 5, 6), (3, 5, 3, 3), "conv-transpose", {"strides": [2, 2], "pads": [1] * 4}, turned=True,
        stored=np.uint8, weight_zero=200, data=np.int8,
    ),
    "transposed, sums of 27 bits": Case(
        (1, 512, 3, 4), (512, 8, 3, 3), "conv-transpose", turned=True, zero=0, values=(255, -128), sums="int32"
    ),
}  # fmt: skip


def _integers(rng: np.random.Generator, dtype: Any, shape: Sequence[int], value: int | None) -> Array:
    info = np.iinfo(dtype)
    least, most = (info.min, info.max) if value is None else (max(value - 1, info.min), max(value, info.min + 1))
    return rng.integers(least, most + 1, shape).astype(dtype)


def _sums(x: Array, w: Array, case: Case) -> Array:
    """By the definition, element of the kernel by element, in int64."""
    attrs = case.attrs
    strides, dilations = attrs.get("strides", [1, 1]), attrs.get("dilations", [1, 1])
    top, left, bottom, right = attrs.get("pads", [0] * 4)
    height, width = w.shape[2:]
    if case.turned:
        extents = [(e - 1) * s + k for e, s, k in zip(x.shape[2:], strides, (height, width))]
        whole = np.zeros((x.shape[0], w.shape[1], *extents), np.int64)
        for ky, kx in np.ndindex(height, width):
            part = np.einsum("nchw,co->nohw", x, w[:, :, ky, kx])
            rows, columns = (
                slice(ky, extents[0] - height + ky + 1, strides[0]),
                slice(kx, extents[1] - width + kx + 1, strides[1]),
            )
            whole[:, :, rows, columns] += part
        return whole[:, :, top : extents[0] - bottom, left : extents[1] - right]
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    reach = [(k - 1) * d + 1 for k, d in zip((height, width), dilations)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    groups = attrs.get("group", 1)
    parts = zip(np.split(windows, groups, 1), np.split(w, groups))
    return np.concatenate([np.einsum("nchwij,ocij->nohw", a, b) for a, b in parts], 1)


class Branches:
    """A model with a branch a case, so that they are compiled at once, what it is fed, and what is right."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.feed: dict[str, Array] = {}
        self.want: dict[str, Array] = {}
        nodes, constants = [], {}
        for i, (name, case) in enumerate(CASES.items()):
            value, factor = case.values or (None, None)
            x, w = _integers(rng, case.data, case.shape, value), _integers(rng, case.stored, case.weight, factor)
            zero = int(np.iinfo(case.data).min) + case.zero
            outputs = w.shape[1] if case.turned else w.shape[0]
            scales = rng.uniform(0.002, 0.02, outputs).astype(np.float32)
            bias = rng.integers(-5000, 5000, outputs).astype(np.int32)
            with_bias = i % 2 == 0
            given = {
                "s": STEP,
                "z": np.array(zero, case.data),
                "w": w,
                "u": scales,
                "v": np.full(outputs, case.weight_zero, case.stored),
            }
            given |= {"b": bias, "t": scales * STEP} if with_bias else {}
            constants |= {f"{k}{i}": v for k, v in given.items()}
            axis = 1 if case.turned else 0
            self.feed[f"x{i}"] = x
            if case.blocked:
                x = self._mixed(nodes, constants, i, case, x)
            data, bias_name = f"{'m' if case.blocked else 'x'}{i}", f" f{i}" if with_bias else ""
            nodes += [
                node("DequantizeLinear", f"{data} s{i} z{i}", f"d{i}"),
                node("DequantizeLinear", f"w{i} u{i} v{i}", f"e{i}", axis=axis),
                *([node("DequantizeLinear", f"b{i} t{i}", f"f{i}", axis=0)] if with_bias else []),
                node(
                    "ConvTranspose" if case.turned else "Conv", f"d{i} e{i}{bias_name}", f"y{i}", name=name, **case.attrs
                ),
            ]  # fmt: skip
            sums = _sums(x.astype(np.int64) - zero, w.astype(np.int64) - case.weight_zero, case)
            if with_bias:
                sums = sums + bias.reshape(-1, 1, 1)
            assert sums.any()
            self.want[f"y{i}"] = sums.astype(np.float32) * (scales * STEP).reshape(-1, 1, 1)
        inputs = [_info(k, v) for k, v in self.feed.items()]
        tensors = [numpy_helper.from_array(np.asarray(a), k) for k, a in constants.items()]
        graph = helper.make_graph(nodes, "g", inputs, [_info(k, v) for k, v in self.want.items()], tensors)
        self.model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)

    def _mixed(self, nodes: list[onnx.NodeProto], constants: dict[str, Array], i: int, case: Case, x: Array) -> Array:
        """A 1x1 convolution before case ``i``: what it gives, values of both signs over most of the type, or the greatest only."""
        rng = np.random.default_rng(i)
        channels, info = case.shape[1], np.iinfo(case.data)
        zero = np.array(int(info.min) + case.zero, case.data)
        w = rng.integers(-128, 128, (channels, channels, 1, 1)).astype(np.int8)
        factor = np.float32(0.002)
        if case.values:
            w, factor = np.full(w.shape, 127, np.int8), np.float32(1)
        constants |= {f"p{i}": w, f"q{i}": factor}
        nodes += [
            node("DequantizeLinear", f"x{i} s{i} z{i}", f"g{i}"),
            node("DequantizeLinear", f"p{i} q{i}", f"h{i}"),
            node("Conv", f"g{i} h{i}", f"k{i}"),
            node("QuantizeLinear", f"k{i} s{i} z{i}", f"m{i}"),
        ]
        sums = _sums(x.astype(np.int64) - zero, w.astype(np.int64), Case(x.shape, w.shape, ""))
        steps = np.rint(sums.astype(np.float32) * (factor * (STEP / STEP))) + zero
        return np.clip(steps, info.min, info.max).astype(case.data)


def _info(name: str, array: Array) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


BRANCHES = Branches()


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64"])
def test_convolutions(target: str) -> None:
    compiled = graphopt.compile(BRANCHES.model, target, threads=2)
    assert compiled.program is not None
    chosen = compiled.program.choices()
    assert {name: chosen[name].template for name in CASES} == {name: case.template for name, case in CASES.items()}
    got = compiled.run(BRANCHES.feed)
    for i, name in enumerate(CASES):
        np.testing.assert_array_equal(got[f"y{i}"], BRANCHES.want[f"y{i}"], err_msg=name)
