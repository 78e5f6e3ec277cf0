"""Transposed convolutions against float64 oracles, and as the kernels that models get."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.kernels import conv_transpose, patch_upsample
from graphopt.backends.cpu.kernels.patch_upsample import PatchConfig
from graphopt.backends.program.program import KernelStep
from graphopt.backends.specs.transposed_convolution import PatchSpec, TransposedSpec
from graphopt.backends.templates.storing import StoreStyle
from graphopt.driver.compiling import to_program
from tests.support.conv_kernels import LEVELS, assert_close, build, call, caps_of, to_logical, to_physical
from tests.support.run_node import reference, run, same

PATCHES = {
    "several tiles": PatchSpec(2, 5, 3, 37, 7, (2, 2)),
    "one channel": PatchSpec(1, 24, 6, 20, 1, (2, 2)),
    "tall patches": PatchSpec(1, 3, 4, 17, 2, (3, 1)),
    "wide patches": PatchSpec(1, 3, 4, 9, 3, (1, 4)),
    "patches of 3": PatchSpec(1, 4, 5, 33, 2, (3, 3)),
    "one pixel": PatchSpec(1, 6, 1, 1, 2, (2, 2)),
    "narrow": PatchSpec(3, 6, 4, 3, 5, (2, 2)),
}


def inputs_of(spec: PatchSpec) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    x = rng.standard_normal([int(d) for d in spec.input_shape], dtype=np.float32)
    return x, rng.standard_normal((spec.in_channels, spec.out_channels, *spec.scale), dtype=np.float32)


def patch_oracle(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    patches = np.einsum("nihw,ioab->nohawb", x.astype(np.float64), weight.astype(np.float64))
    n, o, h, a, w, b = patches.shape
    result: np.ndarray = patches.reshape(n, o, h * a, w * b)
    return result


def compute(spec: PatchSpec, level: str, x: np.ndarray, weight: np.ndarray, **options: Any) -> np.ndarray:
    caps = caps_of(level)
    assert patch_upsample.supports(spec, caps) is None
    config = options.pop("config", None) or patch_upsample.default_config(spec, caps)
    function = options.pop("function", None) or build(patch_upsample.emit(spec, config, **options), level)
    arrays = [x, patch_upsample.packing(spec, config)(weight)]
    n, _, h, w = x.shape
    return call(function, arrays, (n, spec.out_channels, h * spec.scale[0], w * spec.scale[1]))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", PATCHES)
def test_patches_match_oracle(name: str, level: str) -> None:
    spec = PATCHES[name]
    x, weight = inputs_of(spec)
    assert_close(compute(spec, level, x, weight), patch_oracle(x, weight), spec.in_channels)


@pytest.mark.parametrize("config", [PatchConfig(8, 2, 3), PatchConfig(4, 3, 1, False), PatchConfig(1, 2, 20)], ids=str)
@pytest.mark.parametrize("style", list(StoreStyle))
def test_patches_every_config_is_correct(config: PatchConfig, style: StoreStyle) -> None:
    spec = PATCHES["several tiles"]
    x, weight = inputs_of(spec)
    actual = compute(spec, "x86-64-v3", x, weight, config=config, style=style)
    assert_close(actual, patch_oracle(x, weight), spec.in_channels)


@pytest.mark.parametrize("style", list(StoreStyle))
def test_patches_epilogue_sees_logical_indices(style: StoreStyle) -> None:
    spec = PATCHES["several tiles"]
    x, weight = inputs_of(spec)

    def epilogue(value: Any, index: tuple[Any, ...], extras: Any) -> Any:
        n, c, h, w = (tirx.Cast("float32", i) for i in index)
        return n * 1000000.0 + c * 10000.0 + h * 100.0 + w

    actual = compute(spec, "x86-64-v3", x, weight, epilogue=epilogue, style=style)
    n, c, h, w = np.indices(actual.shape)
    np.testing.assert_array_equal(actual, n * 1000000 + c * 10000 + h * 100 + w)


def test_patches_symbolic_sizes() -> None:
    base = PATCHES["several tiles"]
    n, h, w = (tirx.Var(name, "int64") for name in "nhw")
    symbolic = replace(base, batch=n, height=h, width=w)
    config = patch_upsample.default_config(symbolic, caps_of("x86-64-v3"))
    function = build(patch_upsample.emit(symbolic, config), "x86-64-v3")
    for height, width in [(3, 5), (2, 8), (4, 61)]:
        spec = replace(base, height=height, width=width)
        x, weight = inputs_of(spec)
        actual = compute(spec, "x86-64-v3", x, weight, function=function, config=config)
        assert_close(actual, patch_oracle(x, weight), spec.in_channels)


def test_patches_refuse_with_a_reason() -> None:
    base = PATCHES["several tiles"]
    caps = caps_of("x86-64-v2")
    for word, spec in {"strides": replace(base, scale=(5, 5)), "empty": replace(base, height=0)}.items():
        assert word in (patch_upsample.supports(spec, caps) or "")


def test_packing_of_patches_rejects_another_shape() -> None:
    with pytest.raises(ValueError, match="expected"):
        patch_upsample.packing(PATCHES["several tiles"], PatchConfig(8, 1, 1))(np.zeros((7, 5, 2, 2), np.float32))


PHASED = {
    "3x3 stride 2": TransposedSpec(1, 8, 5, 19, 16, (3, 3), (2, 2), (1, 1, 0, 0), 8, 16),
    "4x4 stride 2": TransposedSpec(2, 16, 6, 7, 32, (4, 4), (2, 2), (1, 1, 1, 1), 16, 16),
    "3x3 stride 1": TransposedSpec(1, 16, 5, 33, 16, (3, 3), (1, 1), (1, 1, 1, 1), 16, 16),
    "2x2 stride 2": TransposedSpec(1, 16, 5, 6, 16, (2, 2), (2, 2), (0, 0, 0, 0), 16, 16),
    "cropped by more than its reach": TransposedSpec(1, 4, 8, 9, 8, (3, 2), (2, 2), (2, 3, 3, 1), 1, 8),
    "padded at the end": TransposedSpec(1, 4, 4, 5, 8, (3, 3), (3, 3), (0, 0, -2, -1), 4, 8),
    "strides differ": TransposedSpec(1, 3, 4, 6, 8, (5, 4), (3, 1), (1, 2, 2, 0), 1, 8),
    "one row": TransposedSpec(1, 4, 1, 1, 8, (2, 2), (2, 2), (1, 0, 0, 1), 4, 8),
    "plain result": TransposedSpec(1, 16, 4, 6, 21, (4, 4), (2, 2), (1, 1, 1, 1), 16, 1),
    "plain result of one channel": TransposedSpec(2, 5, 4, 6, 1, (3, 3), (2, 2), (0, 0, 0, 0), 1, 1),
}


def phased_oracle(x: np.ndarray, weight: np.ndarray, spec: TransposedSpec) -> np.ndarray:
    """Every input pixel spreads over its window of the output, in float64; what lies outside is dropped."""
    n, _, height, width = x.shape
    out = np.zeros((n, spec.out_channels, int(spec.out_extent(0)), int(spec.out_extent(1))))
    for y in range(height):
        for x_ in range(width):
            for ky in range(spec.kernel[0]):
                for kx in range(spec.kernel[1]):
                    oy, ox = y * spec.strides[0] + ky - spec.pads[0], x_ * spec.strides[1] + kx - spec.pads[1]
                    if 0 <= oy < out.shape[2] and 0 <= ox < out.shape[3]:
                        out[:, :, oy, ox] += x[:, :, y, x_].astype(np.float64) @ weight[:, :, ky, kx].astype(np.float64)
    return out


def phased_inputs(spec: TransposedSpec) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    x = rng.standard_normal((spec.batch, spec.in_channels, spec.height, spec.width), dtype=np.float32)
    return x, rng.standard_normal((spec.in_channels, spec.out_channels, *spec.kernel), dtype=np.float32)


def compute_phased(spec: TransposedSpec, level: str, x: np.ndarray, weight: np.ndarray, **options: Any) -> np.ndarray:
    caps = caps_of(level)
    assert conv_transpose.supports(spec, caps) is None
    config = conv_transpose.default_config(spec, caps)
    function = options.pop("function", None) or build(conv_transpose.emit(spec, config, **options), level)
    arrays = [to_physical(x, spec.in_block), conv_transpose.packing(spec, config)(weight)]
    return to_logical(call(function, arrays, tuple(int(d) for d in spec.output_shape)), spec.out_block)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", PHASED)
def test_phases_match_oracle(name: str, level: str) -> None:
    spec = PHASED[name]
    x, weight = phased_inputs(spec)
    reduction = spec.in_channels * spec.kernel[0] * spec.kernel[1]
    assert_close(compute_phased(spec, level, x, weight), phased_oracle(x, weight, spec), reduction)


@pytest.mark.parametrize("name", ["3x3 stride 2", pytest.param("4x4 stride 2", marks=pytest.mark.slow), "plain result"])
def test_phases_of_symbolic_sizes(name: str) -> None:
    base = replace(PHASED[name], batch=1)
    symbolic = replace(base, height=tirx.Var("h", "int64"), width=tirx.Var("w", "int64"))
    # Shorter rows than the default ones: the same loops, in less code. The models below get the default.
    config = replace(conv_transpose.default_config(symbolic, caps_of("x86-64-v3")), tile=2)
    function = build(conv_transpose.emit(symbolic, config), "x86-64-v3")
    for height, width in [(1, 1), (4, 21)]:
        spec = replace(base, height=height, width=width)
        x, weight = phased_inputs(spec)
        actual = compute_phased(spec, "x86-64-v3", x, weight, function=function)
        assert_close(actual, phased_oracle(x, weight, spec), spec.in_channels * 16)


@pytest.mark.parametrize("name", ["4x4 stride 2", "plain result"])
def test_phases_epilogue_sees_logical_indices(name: str) -> None:
    spec = PHASED[name]
    x, weight = phased_inputs(spec)

    def epilogue(value: Any, index: tuple[Any, ...], extras: Any) -> Any:
        n, c, h, w = (tirx.Cast("float32", i) for i in index)
        return n * 1000000.0 + c * 10000.0 + h * 100.0 + w

    actual = compute_phased(spec, "x86-64-v3", x, weight, epilogue=epilogue)
    n, c, h, w = np.indices(actual.shape)
    np.testing.assert_array_equal(actual, n * 1000000 + c * 10000 + h * 100 + w)


def test_phases_refuse_with_a_reason() -> None:
    base = PHASED["4x4 stride 2"]
    caps = caps_of("x86-64-v2")
    refusals = {
        "gaps": replace(base, strides=(5, 5)),
        "block": replace(base, out_channels=24),
        "empty": replace(base, height=0),
        "may be": replace(base, height=tirx.Var("h", "int64"), pads=(2, 1, 2, 1)),
    }
    for word, spec in refusals.items():
        assert word in (conv_transpose.supports(spec, caps) or "")


def model_of(outputs: int, attributes: dict[str, Any], size: tuple[int | str, int | str]) -> Any:
    """A convolution, a transposed one with bias, and an activation."""
    rng = np.random.default_rng(3)
    kernel = attributes["kernel_shape"]
    constants = [
        numpy_helper.from_array(rng.standard_normal(shape, dtype=np.float32) * 0.3, name)
        for name, shape in {"w": (16, 3, 1, 1), "v": (16, outputs, *kernel), "b": (outputs,)}.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("ConvTranspose", ["c", "v", "b"], ["t"], **attributes),
        helper.make_node("Sigmoid", ["t"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, [1, 3, *size])],
        [value("y", TensorProto.FLOAT, [1, outputs, "oh", "ow"])], constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


PATCH = {"kernel_shape": [2, 2], "strides": [2, 2]}
NODES: dict[str, tuple[int, dict[str, Any], str]] = {
    "patches": (5, PATCH, "conv-transpose-patch"),
    "one channel": (1, PATCH, "conv-transpose-patch"),
    "cropped": (4, {**PATCH, "pads": [1, 1, 0, 0]}, "conv-transpose"),
    "padded at the end": (4, {**PATCH, "output_padding": [1, 1]}, "conv-transpose"),
    "overlapping, in blocks": (
        8,
        {"kernel_shape": [3, 3], "strides": [2, 2], "output_padding": [1, 1]},
        "conv-transpose",
    ),
    "stride 1": (8, {"kernel_shape": [4, 3], "pads": [1, 1, 2, 1]}, "conv-transpose"),
    "gaps": (4, {"kernel_shape": [1, 1], "strides": [2, 2]}, "generic"),
}


LONG_TO_COMPILE = ("cropped", "padded at the end", "overlapping, in blocks")
"""With open sizes; the phases of such kernels are tested by themselves too."""


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *(pytest.param(name, (6, 9), id=f"{name}-static") for name in NODES),
        *(
            pytest.param(
                name, ("h", "w"), id=f"{name}-symbolic", marks=pytest.mark.slow if name in LONG_TO_COMPILE else ()
            )
            for name in NODES
        ),
    ],
)
@pytest.mark.few(4)
def test_models_get_the_kernel_with_its_epilogue(name: str, size: tuple[int | str, int | str]) -> None:
    outputs, attributes, template = NODES[name]
    model = model_of(outputs, attributes, size)
    _, _, program = to_program(model, "x86", threads=1)
    kernels = {s.function: s.template for s in program.steps if isinstance(s, KernelStep)}
    assert template in {t for f, t in kernels.items() if f.startswith("convtranspose")}
    feed = {"x": np.random.default_rng(0).standard_normal((1, 3, 6, 9), dtype=np.float32)}
    same("y", run(model, feed)["y"], reference(model, feed)["y"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("channels", "height"), [(3, 6), (64, 40)])
def test_patches_read_plain_data_whatever_comes_before(channels: int, height: int) -> None:
    """The convolution may run on blocks where that pays for a copy; patches on blocks would take many times as long."""
    rng = np.random.default_rng(3)
    shapes = {"w": (16, channels, 3, 3), "v": (16, 5, 2, 2)}
    constants = [
        numpy_helper.from_array(rng.standard_normal(s, dtype=np.float32) / np.float32(s[1] ** 0.5 * 3), n)
        for n, s in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["c", "v"], ["y"], strides=[2, 2]),
    ]
    value, dtype = helper.make_tensor_value_info, TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "g", [value("x", dtype, [1, channels, height, 9])], [value("y", dtype, [1, 5, 2 * height, 18])], constants
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    _, _, program = to_program(model, "x86", threads=1)
    assert "conv-transpose-patch" in [s.template for s in program.steps if isinstance(s, KernelStep)]
    feed = {"x": rng.standard_normal((1, channels, height, 9), dtype=np.float32)}
    same("y", run(model, feed)["y"], reference(model, feed)["y"], rtol=1e-4, atol=1e-4)
