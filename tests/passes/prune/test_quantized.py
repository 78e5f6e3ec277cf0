"""Channels of quantized models: layers whose weights lie behind DequantizeLinear are found, judged and cut as float ones are."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from graphopt.driver.importing import import_onnx
from graphopt.driver.pruning import prune
from graphopt.ir.graph import Graph, Use
from graphopt.passes.prune.groups import find_groups
from graphopt.passes.prune.importance.criterion import CRITERIA
from graphopt.passes.prune.labels import Role
from tests.support.onnx_graphs import graph_of, model_of, rand
from tests.support.pruning import check_pruning

RNG = np.random.default_rng(0)
Array = np.ndarray[Any, Any]
LAYERS = {"first": (8, 3, 3, 3), "wise": (8, 1, 3, 3), "second": (12, 8, 1, 1), "last": (5, 12)}


def weights(*, quantized: bool) -> dict[str, Array]:
    """Weights of the network below as floats, or as integers with a scale and zero point an output channel and an int32 bias."""
    found: dict[str, Array] = {}
    rng = np.random.default_rng(0)
    for name, shape in LAYERS.items():
        w, bias = rng.standard_normal(shape), rng.standard_normal(shape[0])
        spread = (-1, *[1] * (len(shape) - 1))
        scale = (np.abs(w).reshape(shape[0], -1).max(1) / 80).astype(np.float32)
        zero = rng.integers(-40, 41, shape[0]).astype(np.int8)
        if quantized:
            q = np.clip(np.rint(w / scale.reshape(spread)) + zero.reshape(spread), -128, 127).astype(np.int8)
            steps = (scale * np.float32(0.04)).astype(np.float32)
            found |= {f"{name}_q": q, f"{name}_s": scale, f"{name}_z": zero, f"{name}_bs": steps,
                      f"{name}_bq": np.rint(bias / steps).astype(np.int32)}  # fmt: skip
        else:
            found |= {f"{name}_w": w.astype(np.float32), f"{name}_b": bias.astype(np.float32)}
    return found


def network(*, quantized: bool) -> onnx.ModelProto:
    """Conv -> Relu -> depthwise Conv -> Conv -> pool -> Gemm, with pairs before each layer if quantized."""
    attrs = {"first": "<pads=[1,1,1,1]>", "wise": "<pads=[1,1,1,1],group=8>", "second": "", "last": "<transB=1>"}
    lines, data = [], "x"
    for name in LAYERS:
        if quantized:
            lines += [
                f"{name}_w = DequantizeLinear<axis=0>({name}_q, {name}_s, {name}_z)",
                f"{name}_b = DequantizeLinear<axis=0>({name}_bq, {name}_bs)",
                f"{name}_i = QuantizeLinear({data}, s, z)",
                f"{name}_d = DequantizeLinear({name}_i, s, z)",
            ]
            data = f"{name}_d"
        op = "Gemm" if name == "last" else "Conv"
        lines.append(f"{name} = {op}{attrs[name]}({data}, {name}_w, {name}_b)")
        lines.append(f"{name}_r = Relu({name})")
        data = f"{name}_r"
        if name == "second":
            lines += ["pooled = GlobalAveragePool(second_r)", "flat = Flatten(pooled)"]
            data = "flat"
    given = weights(quantized=quantized) | ({"s": np.float32(0.04), "z": np.uint8(90)} if quantized else {})
    return model_of({"x": "float[2,3,6,6]"}, "\n".join(lines), "last_r", **given)


def imported(*, quantized: bool) -> Graph:
    return import_onnx(network(quantized=quantized))


def test_layers_behind_dequantize_linear() -> None:
    """The proof of every plan, groups called after the layers, and scales, zero points and biases cut with them."""
    groups = check_pruning(imported(quantized=True), {"first": 8, "second": 12})
    assert [group.name for group in groups.groups] == ["first", "second"]
    first = groups.groups[0]
    assert {node.name for node in first.layers} == {"first", "wise", "second"}
    cut = {(m.value.name, m.axis) for m in first.members if isinstance(m.slot, Use)}
    assert cut == {
        ("first_q", 0), ("first_s", 0), ("first_z", 0), ("first_bq", 0), ("first_bs", 0), ("wise_q", 0), ("wise_s", 0),
        ("wise_z", 0), ("wise_bq", 0), ("wise_bs", 0), ("second_q", 1),
    }  # fmt: skip
    assert {m.value.name for m in first.of_role(Role.OUT)} == {"first_q", "wise_q"}


@pytest.mark.parametrize("criterion", ["l1", "l2", "fpgm"])
def test_importance_is_that_of_the_numbers(criterion: str) -> None:
    """Integers say nothing without scale and zero point."""
    found = []
    for quantized in (False, True):
        groups = find_groups(imported(quantized=quantized))
        found.append(CRITERIA[criterion].score(groups))
    for index, scores in found[0].items():
        np.testing.assert_allclose(found[1][index], scores, rtol=0.03)
        assert scores.std() > 0.1


def test_weights_quantized_in_the_graph() -> None:
    """As PyTorch exports models trained with fake quantization: the layer's weight is the float before the pair."""
    graph = graph_of(
        {"x": "float[1,3,5,5]"},
        """
        wq = QuantizeLinear<axis=0>(w, s8, z8)
        wd = DequantizeLinear<axis=0>(wq, s8, z8)
        a = Conv(x, wd)
        r = Relu(a)
        vq = QuantizeLinear(v, s, z)
        vd = DequantizeLinear(vq, s, z)
        y = Conv(r, vd)
        """,
        opset=18, w=rand(8, 3, 3, 3), s8=rand(8, positive=True) / 50, z8=np.zeros(8, np.int8), v=rand(2, 8, 1, 1),
        s=np.float32(0.02), z=np.int8(0),
    )  # fmt: skip
    groups = check_pruning(graph, {"a": 8})
    assert {m.value.name for m in groups.groups[0].of_role(Role.OUT)} == {"w"}


def test_the_driver_proves_it() -> None:
    pruned, report = prune(network(quantized=True), ratio=0.5)
    assert pruned.nodes
    row = report.outputs[0]
    assert row.error is not None
    assert row.allowed is not None
    assert row.error <= row.allowed
    kept = {v.name: v.data.shape for v in pruned.constants() if v.data is not None}
    assert kept["first_q"] == (4, 3, 3, 3)
    assert kept["first_s"] == kept["first_bq"] == (4,)
    assert kept["second_q"] == (8, 4, 1, 1)
    assert kept["last_q"] == (5, 8)
