"""Depthwise convolution against a float64 oracle, and as the kernel that models get."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.kernels import depthwise as kernel
from graphopt.backends.cpu.kernels import depthwise_plain
from graphopt.backends.cpu.kernels.plain_config import PlainWindowConfig
from graphopt.backends.cpu.kernels.sliding_config import SlidingConfig
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


def spec_of(channels: int, size: tuple[int, int], kernel_size: tuple[int, int], **options: Any) -> Conv2dSpec:
    block = options.pop("block", 16)
    return Conv2dSpec(
        options.pop("batch", 1), channels, *size, channels, kernel_size, groups=channels, in_block=block,
        out_block=block, **options,
    )  # fmt: skip


SPECS = {
    "3x3": spec_of(32, (9, 37), (3, 3), pads=(1, 1, 1, 1), batch=2),
    "3x3 stride 2": spec_of(16, (15, 35), (3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
    "3x3 stride 2, padded at the end": spec_of(48, (16, 16), (3, 3), strides=(2, 2), pads=(0, 0, 1, 1)),
    "3x3 no padding": spec_of(8, (5, 21), (3, 3), block=8),
    "5x5": spec_of(24, (7, 7), (5, 5), pads=(2, 2, 2, 2), block=8),
    "5x5 stride 2": spec_of(16, (14, 13), (5, 5), strides=(2, 2), pads=(1, 2, 2, 1)),
    "7x7, rows in a loop": spec_of(16, (11, 49), (7, 7), pads=(3, 3, 3, 3)),
    "dilated": spec_of(16, (20, 21), (3, 3), pads=(4, 6, 4, 6), dilations=(4, 6)),
    "1x9": spec_of(16, (3, 20), (1, 9), pads=(0, 4, 0, 4)),
    "9x1": spec_of(16, (20, 3), (9, 1), pads=(4, 0, 4, 0)),
    "wide kernel": spec_of(16, (3, 20), (2, 15), pads=(0, 7, 1, 9)),
    "asymmetric": spec_of(12, (13, 10), (4, 3), strides=(3, 2), pads=(2, 0, 1, 3), dilations=(1, 2), block=4),
    "padding exceeds input": spec_of(8, (2, 2), (3, 3), pads=(4, 5, 4, 5), block=8),
    "one pixel": spec_of(16, (1, 1), (3, 3), pads=(1, 1, 1, 1)),
}


def compute(spec: Conv2dSpec, level: str, x: np.ndarray, weight: np.ndarray, **options: Any) -> np.ndarray:
    caps = caps_of(level)
    assert kernel.supports(spec, caps) is None
    config = options.pop("config", None) or kernel.default_config(spec, caps)
    function = build(kernel.emit(spec, config, **options), level)
    shape = (x.shape[0], *(int(d) for d in spec.output_shape[1:]))
    arrays = [to_physical(x, spec.in_block), kernel.packing(spec, config)(weight)]
    return to_logical(call(function, arrays, shape), spec.out_block)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SPECS)
def test_matches_oracle(name: str, level: str) -> None:
    spec = SPECS[name]
    x, weight = inputs_of(spec)
    assert_close(compute(spec, level, x, weight), oracle(x, weight, spec), spec.reduction)


def plain(spec: Conv2dSpec) -> Conv2dSpec:
    return replace(spec, in_block=1, out_block=1)


def compute_plain(spec: Conv2dSpec, level: str, x: np.ndarray, weight: np.ndarray, **options: Any) -> np.ndarray:
    caps = caps_of(level)
    assert depthwise_plain.supports(spec, caps) is None
    config = options.pop("config", None) or depthwise_plain.default_config(spec, caps)
    function = build(depthwise_plain.emit(spec, config, **options), level)
    arrays = [x, depthwise_plain.packing(spec, config)(weight)]
    return call(function, arrays, tuple(int(d) for d in spec.output_shape))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SPECS)
def test_plain_matches_oracle(name: str, level: str) -> None:
    spec = plain(SPECS[name])
    x, weight = inputs_of(spec)
    assert_close(compute_plain(spec, level, x, weight), oracle(x, weight, spec), spec.reduction)


@pytest.mark.parametrize(
    "config",
    [
        PlainWindowConfig(16, 2, 2, 4),
        PlainWindowConfig(8, 1, 9, 9, False),
        PlainWindowConfig(4, 3, 1, 1),
        PlainWindowConfig(1, 1, 1, 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("style", list(StoreStyle))
def test_plain_every_config_is_correct(config: PlainWindowConfig, style: StoreStyle) -> None:
    spec = plain(SPECS["3x3"])
    x, weight = inputs_of(spec)
    actual = compute_plain(spec, "x86-64-v3", x, weight, config=config, style=style)
    assert_close(actual, oracle(x, weight, spec), spec.reduction)


def test_plain_epilogue_sees_logical_indices() -> None:
    spec = plain(SPECS["3x3 stride 2"])
    x, weight = inputs_of(spec)

    def epilogue(value: Any, index: tuple[Any, ...], extras: Any) -> Any:
        n, c, h, w = (tirx.Cast("float32", i) for i in index)
        return n * 1000000.0 + c * 10000.0 + h * 100.0 + w

    actual = compute_plain(spec, "x86-64-v3", x, weight, epilogue=epilogue)
    n, c, h, w = np.indices(actual.shape)
    np.testing.assert_array_equal(actual, n * 1000000 + c * 10000 + h * 100 + w)


def test_plain_refuses_with_a_reason() -> None:
    base = plain(SPECS["3x3"])
    caps = caps_of("x86-64-v2")
    refusals = {
        "filter": replace(base, groups=16),
        "plain": SPECS["3x3"],
        "window": replace(base, kernel=(15, 15), pads=(7, 7, 7, 7)),
        "long": replace(base, in_width=100000),
        "negative": replace(base, pads=(-1, 0, 0, 0)),
        "empty": replace(base, in_height=1, pads=(0, 0, 0, 0)),
    }
    for word, spec in refusals.items():
        assert word in (depthwise_plain.supports(spec, caps) or "")


@pytest.mark.parametrize("config", [SlidingConfig(16, 5), SlidingConfig(8, 3, False), SlidingConfig(4, 40)], ids=str)
@pytest.mark.parametrize("name", ["3x3", "5x5 stride 2"])
def test_every_config_is_correct(name: str, config: SlidingConfig) -> None:
    spec = SPECS[name]
    x, weight = inputs_of(spec)
    assert_close(compute(spec, "x86-64-v3", x, weight, config=config), oracle(x, weight, spec), spec.reduction)


@pytest.mark.parametrize("name", ["3x3", "asymmetric", "3x3 no padding", "dilated", "wide kernel"])
@pytest.mark.few(2)
def test_symbolic_height_and_width(name: str) -> None:
    base = SPECS[name]
    n, h, w = (tirx.Var(v, "int64") for v in "nhw")
    symbolic = replace(base, batch=n, in_height=h, in_width=w)
    # Shorter rows than the default ones: the same loops, in less code. The models below get the default.
    config = replace(kernel.default_config(symbolic, caps_of("x86-64-v3")), tile=4)
    function = build(kernel.emit(symbolic, config), "x86-64-v3")
    for height, width in [(4, 5), (5, 33), (9, 14)]:
        spec = replace(base, batch=2, in_height=height, in_width=width)
        x, weight = inputs_of(spec)
        arrays = [to_physical(x, spec.in_block), kernel.packing(symbolic, config)(weight)]
        actual = call(function, arrays, tuple(int(d) for d in spec.output_shape))
        assert_close(to_logical(actual, spec.out_block), oracle(x, weight, spec), spec.reduction)


def test_epilogue_sees_logical_indices() -> None:
    spec = SPECS["3x3"]
    x, weight = inputs_of(spec)

    def epilogue(value: Any, index: tuple[Any, ...], extras: Any) -> Any:
        n, c, h, w = (tirx.Cast("float32", i) for i in index)
        return n * 1000000.0 + c * 10000.0 + h * 100.0 + w

    actual = compute(spec, "x86-64-v3", x, weight, epilogue=epilogue)
    n, c, h, w = np.indices(actual.shape)
    np.testing.assert_array_equal(actual, n * 1000000 + c * 10000 + h * 100 + w)


def test_padding_never_meets_infinite_weights() -> None:
    """Zero times infinity is NaN: padding mustn't be multiplied when the standard says the products aren't there."""
    spec = spec_of(8, (5, 5), (3, 3), pads=(1, 1, 1, 1), block=8)
    x = np.ones((1, 8, 5, 5), np.float32)
    weight = np.ones((8, 1, 3, 3), np.float32)
    weight[:, :, 0, 0] = np.inf
    actual = compute(spec, "x86-64-v3", x, weight)
    assert np.isinf(actual[:, :, 1:, 1:]).all()
    assert np.isfinite(actual[:, :, 0, :]).all()
    assert np.isfinite(actual[:, :, :, 0]).all()


def test_extreme_values_stay_in_their_channel() -> None:
    spec = SPECS["3x3"]
    x, weight = inputs_of(spec)
    x[0, 3, 4, 20], x[1, 17, 0, 0] = np.nan, np.inf
    actual = compute(spec, "x86-64-v3", x, weight)
    assert np.isnan(actual[0, 3, 3:6, 19:22]).all()
    assert np.isinf(actual[1, 17, :2, :2]).all()
    actual[0, 3, 3:6, 19:22] = actual[1, 17, :2, :2] = 0
    assert np.isfinite(actual).all()


def test_refuses_with_a_reason() -> None:
    base = SPECS["3x3"]
    caps = caps_of("x86-64-v2")
    refusals = {
        "filter": replace(base, groups=16),
        "blocks": replace(base, out_block=8),
        "multiple": replace(base, in_channels=24, out_channels=24, groups=24),
        "negative": replace(base, pads=(-1, 0, 0, 0)),
        "empty": replace(base, in_height=1, pads=(0, 0, 0, 0)),
    }
    for word, spec in refusals.items():
        assert word in (kernel.supports(spec, caps) or "")


def test_packing_rejects_another_shape() -> None:
    with pytest.raises(ValueError, match="expected"):
        kernel.packing(SPECS["3x3"], SlidingConfig(16, 4))(np.zeros((32, 2, 3, 3), np.float32))


def block_model(activation: str, size: tuple[int | str, int | str]) -> Any:
    """The inverted residual of a mobile network: 1x1, depthwise, 1x1."""
    rng = np.random.default_rng(3)

    def weight(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(rng.standard_normal(shape, dtype=np.float32) * 0.3, name)

    tail = {
        "Clip": [helper.make_node("Clip", ["d", "low", "high"], ["a"])],
        "HardSwish": [helper.make_node("HardSwish", ["d"], ["a"])],
        "SiLU": [helper.make_node("Sigmoid", ["d"], ["s"]), helper.make_node("Mul", ["d", "s"], ["a"])],
        "Residual": [helper.make_node("Add", ["d", "e"], ["a"])],
    }[activation]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["e"]),
        helper.make_node("Conv", ["e", "w2", "b2"], ["d"], group=24, pads=[1, 1, 1, 1]),
        *tail,
        helper.make_node("Conv", ["a", "w3"], ["y"]),
    ]
    constants = [
        weight("w1", 24, 8, 1, 1), weight("w2", 24, 1, 3, 3), weight("b2", 24), weight("w3", 8, 24, 1, 1),
        numpy_helper.from_array(np.float32(0), "low"), numpy_helper.from_array(np.float32(6), "high"),
    ]  # fmt: skip
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, [1, 8, *size])], [value("y", TensorProto.FLOAT, [1, 8, *size])],
        constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.mark.parametrize(
    ("activation", "size"),
    [
        *(pytest.param(name, (11, 13), id=f"{name}-static") for name in ("Clip", "HardSwish", "SiLU", "Residual")),
        pytest.param("Residual", ("h", "w"), id="Residual-symbolic"),
        *(
            pytest.param(name, ("h", "w"), id=f"{name}-symbolic", marks=pytest.mark.slow)
            for name in ("Clip", "HardSwish", "SiLU")
        ),
    ],
)
@pytest.mark.few(3)
def test_models_get_the_kernel_with_its_epilogue(activation: str, size: tuple[int | str, int | str]) -> None:
    model = block_model(activation, size)
    _, _, program = to_program(model, "x86", threads=1)
    kernels = [step for step in program.steps if isinstance(step, KernelStep)]
    assert [step.template for step in kernels].count("conv2d-depthwise") == 1
    assert len(kernels) <= 4  # three convolutions and the way out of the channel blocks at most
    feed = {"x": np.random.default_rng(0).standard_normal((1, 8, 11, 13), dtype=np.float32)}
    same("y", run(model, feed)["y"], reference(model, feed)["y"], rtol=1e-4, atol=1e-4)
