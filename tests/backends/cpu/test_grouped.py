"""Grouped convolutions against a float64 oracle, and as the kernels that models get."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.kernels import grouped_blocked, grouped_pointwise
from graphopt.backends.cpu.kernels.grouped_pointwise import GroupedPointwiseConfig
from graphopt.backends.program.program import KernelStep
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.templates.storing import StoreStyle
from graphopt.driver.compiling import to_program
from tests.support.conv_kernels import (
    LEVELS,
    assert_close,
    build,
    call,
    caps_of,
    inputs_of,
    oracle,
    to_logical,
    to_physical,
)
from tests.support.run_node import reference, run, same


def pointwise(inputs: int, outputs: int, groups: int, size: tuple[int, int], batch: int = 1) -> Conv2dSpec:
    return Conv2dSpec(batch, inputs, *size, outputs, (1, 1), groups=groups)


POINTWISE = {
    "several tiles": pointwise(24, 60, 4, (9, 21), 2),
    "fewer pixels than a tile": pointwise(20, 35, 5, (7, 7)),
    "fewer pixels than a vector": pointwise(6, 4, 2, (3, 3), 2),
    "one pixel": pointwise(8, 6, 2, (1, 1)),
    "one channel a group": pointwise(5, 10, 5, (4, 9)),
    "whole vectors": pointwise(8, 16, 2, (8, 16)),
}


def compute(spec: Conv2dSpec, level: str, x: np.ndarray, weight: np.ndarray, **options: Any) -> np.ndarray:
    caps = caps_of(level)
    assert grouped_pointwise.supports(spec, caps) is None
    config = options.pop("config", None) or grouped_pointwise.default_config(spec, caps)
    function = build(grouped_pointwise.emit(spec, config, **options), level)
    packed = grouped_pointwise.packing(spec, config)(weight)
    return call(function, [x, packed], tuple(int(d) for d in spec.output_shape))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise_matches_oracle(name: str, level: str) -> None:
    spec = POINTWISE[name]
    x, weight = inputs_of(spec)
    assert_close(compute(spec, level, x, weight), oracle(x, weight, spec), spec.reduction)


@pytest.mark.parametrize(
    "config",
    [
        GroupedPointwiseConfig(8, 3, 4, False),
        GroupedPointwiseConfig(4, 1, 7),
        GroupedPointwiseConfig(16, 5, 2),
        GroupedPointwiseConfig(1, 2, 20),
    ],
    ids=str,
)
@pytest.mark.parametrize("style", list(StoreStyle))
def test_pointwise_every_config_is_correct(config: GroupedPointwiseConfig, style: StoreStyle) -> None:
    spec = POINTWISE["several tiles"]
    x, weight = inputs_of(spec)
    actual = compute(spec, "x86-64-v3", x, weight, config=config, style=style)
    assert_close(actual, oracle(x, weight, spec), spec.reduction)


@pytest.mark.parametrize("style", list(StoreStyle))
def test_pointwise_epilogue_sees_logical_indices(style: StoreStyle) -> None:
    spec = POINTWISE["several tiles"]
    x, weight = inputs_of(spec)

    def epilogue(value: Any, index: tuple[Any, ...], extras: Any) -> Any:
        n, c, h, w = (tirx.Cast("float32", i) for i in index)
        return n * 1000000.0 + c * 10000.0 + h * 100.0 + w

    actual = compute(spec, "x86-64-v3", x, weight, epilogue=epilogue, style=style)
    n, c, h, w = np.indices(actual.shape)
    np.testing.assert_array_equal(actual, n * 1000000 + c * 10000 + h * 100 + w)


def test_pointwise_refuses_with_a_reason() -> None:
    base = POINTWISE["several tiles"]
    caps = caps_of("x86-64-v2")
    refusals = {
        "groups": replace(base, groups=1),
        "1x1": replace(base, kernel=(3, 3)),
        "padding": replace(base, pads=(1, 1, 1, 1)),
        "steps": replace(base, strides=(2, 2)),
        "plain": replace(base, in_block=8),
        "sizes": replace(base, in_height=tirx.Var("h", "int64")),
        "empty": replace(base, batch=0),
    }
    for word, spec in refusals.items():
        assert word in (grouped_pointwise.supports(spec, caps) or "")


def test_packing_rejects_another_shape() -> None:
    packing = grouped_pointwise.packing(POINTWISE["several tiles"], GroupedPointwiseConfig(8, 2, 4))
    with pytest.raises(ValueError, match="expected"):
        packing(np.zeros((60, 24, 1, 1), np.float32))


def blocked(
    inputs: int, outputs: int, groups: int, size: tuple[int, int], kernel: tuple[int, int], **options: Any
) -> Conv2dSpec:
    options = {"in_block": 16, "out_block": 16, **options}
    return Conv2dSpec(options.pop("batch", 1), inputs, *size, outputs, kernel, groups=groups, **options)


BLOCKED = {
    "4 a group": blocked(32, 32, 8, (6, 17), (3, 3), pads=(1, 1, 1, 1), batch=2),
    "2 a group, stride 2": blocked(16, 16, 8, (9, 9), (3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
    "8 a group, dilated": blocked(16, 16, 2, (12, 11), (3, 3), pads=(2, 0, 2, 3), dilations=(2, 1)),
    "16 a group": blocked(32, 32, 2, (7, 7), (3, 3), pads=(1, 1, 1, 1)),
    "32 a group": blocked(64, 64, 2, (5, 6), (3, 1), pads=(1, 0, 1, 0)),
    "fewer in than out": blocked(8, 64, 4, (6, 7), (3, 3), pads=(1, 1, 1, 1), in_block=8),
    "more in than out": blocked(96, 32, 2, (6, 7), (2, 2)),
    "plain data": blocked(10, 32, 2, (6, 7), (3, 3), pads=(1, 1, 1, 1), in_block=1),
    "1x1": blocked(32, 64, 2, (6, 7), (1, 1), strides=(2, 2)),
    "blocks of 8": blocked(24, 24, 6, (6, 7), (3, 3), pads=(1, 1, 1, 1), in_block=8, out_block=8),
}


def compute_blocked(spec: Conv2dSpec, level: str, x: np.ndarray, weight: np.ndarray, **options: Any) -> np.ndarray:
    caps = caps_of(level)
    assert grouped_blocked.supports(spec, caps) is None
    config = grouped_blocked.default_config(spec, caps)
    function = options.pop("function", None) or build(grouped_blocked.emit(spec, config, **options), level)
    arrays = [to_physical(x, spec.in_block), grouped_blocked.packing(spec, config)(weight)]
    return to_logical(call(function, arrays, tuple(int(d) for d in spec.output_shape)), spec.out_block)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", BLOCKED)
def test_blocked_matches_oracle(name: str, level: str) -> None:
    spec = BLOCKED[name]
    if grouped_blocked.supports(spec, caps_of(level)) is not None:
        assert level == "x86-64-v2"  # vectors of 4 can't span groups of 8
        assert spec.out_channels // spec.groups % 4 != 0
        return
    x, weight = inputs_of(spec)
    assert_close(compute_blocked(spec, level, x, weight), oracle(x, weight, spec), spec.reduction)


@pytest.mark.parametrize("name", ["4 a group", "16 a group"])
def test_blocked_symbolic_height_and_width(name: str) -> None:
    base = replace(BLOCKED[name], batch=1)
    symbolic = replace(base, in_height=tirx.Var("h", "int64"), in_width=tirx.Var("w", "int64"))
    config = grouped_blocked.default_config(symbolic, caps_of("x86-64-v3"))
    if name == "4 a group":  # shorter rows than the default ones: the same loops, in half of the code
        config = replace(config, tile=4)
    function = build(grouped_blocked.emit(symbolic, config), "x86-64-v3")
    for height, width in [(4, 5), (3, 33)]:
        spec = replace(base, in_height=height, in_width=width)
        x, weight = inputs_of(spec)
        actual = compute_blocked(spec, "x86-64-v3", x, weight, function=function)
        assert_close(actual, oracle(x, weight, spec), spec.reduction)


def test_blocked_groups_do_not_mix() -> None:
    """What a group's data holds, not even a NaN, reaches no other group's results."""
    spec = BLOCKED["4 a group"]
    x, weight = inputs_of(spec)
    x[0, 5], x[1, 30] = np.nan, np.inf
    actual = compute_blocked(spec, "x86-64-v3", x, weight)
    assert np.isnan(actual[0, 4:8]).all()
    actual[0, 4:8] = actual[1, 28:32] = 0
    assert np.isfinite(actual).all()


def test_blocked_refuses_with_a_reason() -> None:
    base = BLOCKED["4 a group"]
    caps = caps_of("x86-64-v2")
    refusals = {
        "groups": replace(base, groups=1),
        "blocks": replace(base, out_block=1),
        "cut": replace(base, out_channels=48, groups=16),
        "negative": replace(base, pads=(-1, 0, 0, 0)),
        "empty": replace(base, in_height=1, pads=(0, 0, 0, 0)),
    }
    for word, spec in refusals.items():
        assert word in (grouped_blocked.supports(spec, caps) or "")


def bottleneck_model(channels: int, groups: int) -> Any:
    """1x1, grouped 3x3 and 1x1 convolutions, as in ResNeXt."""
    rng = np.random.default_rng(3)

    def weight(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(rng.standard_normal(shape, dtype=np.float32) * 0.3, name)

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "w2", "b2"], ["c"], group=groups, pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["s"]),
        helper.make_node("Conv", ["s", "w3"], ["y"]),
    ]
    constants = [
        weight("w1", channels, 8, 1, 1), weight("w2", channels, channels // groups, 3, 3), weight("b2", channels),
        weight("w3", 8, channels, 1, 1),
    ]  # fmt: skip
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, [1, 8, 11, 10])], [value("y", TensorProto.FLOAT, [1, 8, 6, 5])],
        constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.mark.parametrize(
    ("channels", "groups", "template"),
    [(32, 8, "conv2d-grouped"), (64, 2, "conv2d-grouped"), (36, 3, "generic")],
)
def test_models_get_the_blocked_kernel(channels: int, groups: int, template: str) -> None:
    model = bottleneck_model(channels, groups)
    _, _, program = to_program(model, "x86", threads=1)
    kernels = [step.template for step in program.steps if isinstance(step, KernelStep)]
    assert template in kernels
    feed = {"x": np.random.default_rng(0).standard_normal((1, 8, 11, 10), dtype=np.float32)}
    same("y", run(model, feed)["y"], reference(model, feed)["y"], rtol=1e-4, atol=1e-4)


def unit_model(batch: int) -> Any:
    """A unit of ShuffleNet: grouped 1x1, shuffle of channels, depthwise, grouped 1x1, residual."""
    rng = np.random.default_rng(3)

    def weight(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(rng.standard_normal(shape, dtype=np.float32) * 0.3, name)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], group=4),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Reshape", ["r", "split"], ["s"]),
        helper.make_node("Transpose", ["s"], ["t"], perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["t", "joined"], ["u"]),
        helper.make_node("Conv", ["u", "w2"], ["d"], group=20, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["d", "w3"], ["e"], group=4),
        helper.make_node("Add", ["x", "e"], ["f"]),
        helper.make_node("Relu", ["f"], ["y"]),
    ]
    constants = [
        weight("w1", 20, 5, 1, 1), weight("b1", 20), weight("w2", 20, 1, 3, 3), weight("w3", 20, 5, 1, 1),
        numpy_helper.from_array(np.array([batch, 4, 5, 7, 9]), "split"),
        numpy_helper.from_array(np.array([batch, 20, 7, 9]), "joined"),
    ]  # fmt: skip
    value = helper.make_tensor_value_info
    shape = [batch, 20, 7, 9]
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, shape)], [value("y", TensorProto.FLOAT, shape)], constants
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.mark.parametrize("batch", [1, 2])
def test_models_get_the_kernel_with_its_epilogue(batch: int) -> None:
    model = unit_model(batch)
    _, _, program = to_program(model, "x86", threads=1)
    kernels = [step for step in program.steps if isinstance(step, KernelStep)]
    assert [step.template for step in kernels].count("conv2d-grouped-1x1") == 2
    assert len(kernels) == 4  # two of them, the shuffle and the depthwise convolution
    feed = {"x": np.random.default_rng(0).standard_normal((batch, 20, 7, 9), dtype=np.float32)}
    same("y", run(model, feed)["y"], reference(model, feed)["y"], rtol=1e-4, atol=1e-4)
