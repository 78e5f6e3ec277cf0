"""Direct convolution against a plain float64 oracle, over shapes, layouts, epilogues and instruction sets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.tvm_api import cpu_pass_context, relax, tirx, tvm
from graphopt.backends.cpu.cost.direct import default_config
from graphopt.backends.cpu.kernels import conv2d_direct as kernel
from graphopt.backends.cpu.kernels import conv2d_tile as tile
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.targets.compilation import build_module
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.runnable import can_run_here
from graphopt.backends.templates.packed_array import aligned_copy
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand, StoreStyle
from tests.support.conv_kernels import LEVELS, inputs_of, oracle, to_logical, to_physical


def spec_of(channels: int, size: tuple[int, int], out: int, kernel_size: tuple[int, int], **options: Any) -> Conv2dSpec:
    return Conv2dSpec(options.pop("batch", 1), channels, *size, out, kernel_size, **options)


SPECS = {
    "first layer, RGB": spec_of(3, (30, 37), 32, (7, 7), strides=(2, 2), pads=(3, 3, 3, 3), out_block=16),
    "alexnet first": spec_of(3, (67, 67), 24, (11, 11), strides=(4, 4), pads=(2, 2, 2, 2), out_block=8),
    "3x3": spec_of(32, (14, 29), 64, (3, 3), pads=(1, 1, 1, 1), in_block=16, out_block=16),
    "3x3 stride 2": spec_of(16, (15, 15), 48, (3, 3), strides=(2, 2), pads=(0, 0, 1, 1), in_block=16, out_block=16),
    "3x3 narrow": spec_of(32, (7, 7), 32, (3, 3), pads=(1, 1, 1, 1), in_block=16, out_block=16),
    "3x3 tiny": spec_of(16, (2, 3), 16, (3, 3), pads=(1, 1, 1, 1), in_block=8, out_block=16, batch=2),
    "1x1": spec_of(64, (7, 9), 80, (1, 1), in_block=16, out_block=16, batch=2),
    "1x1 stride 2": spec_of(32, (14, 14), 32, (1, 1), strides=(2, 2), in_block=16, out_block=8),
    "1x1 padded": spec_of(8, (5, 6), 8, (1, 1), pads=(1, 0, 2, 3), in_block=8, out_block=8),
    "1x1 one pixel": spec_of(32, (1, 1), 96, (1, 1), in_block=16, out_block=16, batch=3),
    "5x5": spec_of(24, (12, 11), 20, (5, 5), pads=(2, 2, 2, 2), in_block=8, out_block=4),
    "1x7": spec_of(16, (9, 17), 16, (1, 7), pads=(0, 3, 0, 3), in_block=16, out_block=16),
    "7x1": spec_of(16, (17, 9), 16, (7, 1), pads=(3, 0, 3, 0), in_block=16, out_block=16),
    "dilated": spec_of(8, (20, 21), 16, (3, 3), pads=(6, 6, 6, 6), dilations=(6, 6), in_block=8, out_block=16),
    "widely dilated": spec_of(8, (9, 14), 16, (3, 3), pads=(9, 9, 9, 9), dilations=(9, 9), in_block=8, out_block=16),
    "wide kernel": spec_of(8, (2, 33), 16, (1, 19), pads=(0, 11, 0, 9), in_block=8, out_block=16),
    "wide kernel, dilated, stride 2": spec_of(
        8, (2, 33), 16, (1, 7), strides=(1, 2), pads=(0, 21, 0, 25), dilations=(1, 5), in_block=8, out_block=16
    ),
    "causal": spec_of(8, (1, 30), 16, (1, 3), pads=(0, 16, 0, 0), dilations=(1, 8), in_block=8, out_block=16),
    "asymmetric": spec_of(
        6, (13, 10), 16, (4, 3), strides=(3, 2), pads=(2, 0, 1, 3), dilations=(1, 2), in_block=2, out_block=16
    ),
    "padding exceeds input": spec_of(4, (2, 2), 8, (3, 3), pads=(4, 5, 4, 5), in_block=4, out_block=8),
    "plain in and out, odd channels": spec_of(5, (9, 10), 13, (3, 3), pads=(1, 1, 1, 1), batch=2),
    "plain out, one channel": spec_of(16, (8, 8), 1, (3, 3), pads=(1, 1, 1, 1), in_block=16),
    "plain out, several panels": spec_of(16, (6, 7), 150, (1, 1), in_block=16),
    "plain, 24 channels": spec_of(24, (5, 13), 24, (3, 3), pads=(1, 1, 1, 1), batch=2),
    "plain, one column": spec_of(5, (7, 1), 24, (3, 1), pads=(1, 0, 1, 0)),
    "plain, wide": spec_of(3, (4, 225), 32, (3, 3), strides=(2, 1), pads=(1, 1, 1, 1)),
    "plain, rows of 7": spec_of(16, (7, 7), 64, (3, 3), pads=(1, 1, 1, 1)),
    "plain 1x1": spec_of(24, (9, 7), 64, (1, 1), batch=2),
    "plain 1x1, 1000 channels": spec_of(32, (7, 7), 1000, (1, 1)),
    "plain 1x1 stride 2": spec_of(16, (9, 13), 40, (1, 1), strides=(2, 2)),
    "many blocks": spec_of(16, (4, 4), 176, (3, 3), in_block=16, out_block=16),
    "blocks of 24": spec_of(24, (6, 5), 24, (3, 3), pads=(1, 1, 1, 1), in_block=24, out_block=24),
}


def caps_of(level: str) -> Caps:
    target = parse_target(level)
    if not can_run_here(target):
        pytest.skip(f"needs a processor of {level}")
    return target.caps


def build(func: Any, level: str) -> Any:
    with cpu_pass_context():
        return tvm.compile(tvm.IRModule({"conv": func}), parse_target(level).tvm_target()).jit()


def run(
    spec: Conv2dSpec,
    level: str,
    x: np.ndarray,
    weight: np.ndarray,
    *,
    config: kernel.Conv2dConfig | None = None,
    epilogue: EpilogueFn | None = None,
    extras: tuple[tuple[str, np.ndarray], ...] = (),
    style: StoreStyle = StoreStyle.unrolled,
) -> np.ndarray:
    """Compiles, runs and returns the output as NCHW; the output starts as NaN so that no element may be left out."""
    caps = caps_of(level)
    assert tile.supports(spec, caps) is None
    config = config or default_config(spec, caps)
    operands = tuple(ExtraOperand(name, value.shape) for name, value in extras)
    func = kernel.emit(spec, config, epilogue, operands, "conv", style)
    module = build(func, level)
    shape = [x.shape[0], *(int(d) for d in spec.output_shape[1:])]
    output = tvm.runtime.tensor(np.full(shape, np.nan, np.float32))
    arrays = [to_physical(x, spec.in_block), tile.packing(spec, config)(weight), *(v for _, v in extras)]
    module["conv"](*(tvm.runtime.tensor(a) for a in arrays), output)
    return to_logical(output.numpy(), spec.out_block)


def assert_close(actual: np.ndarray, expected: np.ndarray, reduction: int) -> None:
    tolerance = 2e-7 * 8 * np.sqrt(reduction)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=tolerance * max(1.0, np.sqrt(reduction)))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SPECS)
def test_matches_oracle(name: str, level: str) -> None:
    spec = SPECS[name]
    x, weight = inputs_of(spec)
    assert_close(run(spec, level, x, weight), oracle(x, weight, spec), spec.reduction)


CONFIGS = [
    tile.Conv2dConfig(lanes=16, oc_vectors=2, ow_tile=6),
    tile.Conv2dConfig(lanes=8, oc_vectors=3, ow_tile=4, cache_tiles=5),
    tile.Conv2dConfig(lanes=16, oc_vectors=1, ow_tile=3, oh_tile=2),
    tile.Conv2dConfig(lanes=4, oc_vectors=8, ow_tile=1, oh_tile=3, cache_tiles=4),
    tile.Conv2dConfig(lanes=16, oc_vectors=2, ow_tile=50, oh_tile=1),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("name", ["3x3", "asymmetric", "1x1", "plain out, several panels", "dilated"])
def test_every_config_is_correct(name: str, config: kernel.Conv2dConfig) -> None:
    spec = SPECS[name]
    x, weight = inputs_of(spec)
    assert_close(run(spec, "x86-64-v3", x, weight, config=config), oracle(x, weight, spec), spec.reduction)


@pytest.mark.parametrize(
    "name",
    [
        "3x3",
        "plain in and out, odd channels",
        "1x1",
        "plain 1x1",
        "plain, rows of 7",
        "plain, wide",
        "plain 1x1, 1000 channels",
    ],
)
def test_epilogue_of_scale_bias_residual_relu(name: str) -> None:
    spec = SPECS[name]
    x, weight = inputs_of(spec)
    rng = np.random.default_rng(1)
    scale = rng.standard_normal(spec.out_channels, dtype=np.float32)
    bias = rng.standard_normal(spec.out_channels, dtype=np.float32)
    plain = oracle(x, weight, spec)
    residual = rng.standard_normal(plain.shape, dtype=np.float32)

    def epilogue(value: Any, index: tuple[Any, ...], extras: Any) -> Any:
        n, c, h, w = index
        block = spec.out_block
        at = (n, c, h, w) if block == 1 else (n, tirx.floordiv(c, block), h, w, tirx.floormod(c, block))
        return tirx.max(value * extras[0][c] + extras[1][c] + extras[2][at], tirx.const(0, "float32"))

    extras = (("scale", scale), ("bias", bias), ("residual", to_physical(residual, spec.out_block)))
    actual = run(spec, "x86-64-v3", x, weight, epilogue=epilogue, extras=extras)
    per_channel = (slice(None), None, None)
    expected = np.maximum(plain * scale[per_channel] + bias[per_channel] + residual, 0)
    assert_close(actual, expected, spec.reduction)


@pytest.mark.parametrize("style", StoreStyle)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["plain 1x1", "plain, 24 channels", "plain, one column"])
def test_plain_output_with_an_epilogue_of_the_channel_alone(name: str, level: str, style: StoreStyle) -> None:
    spec = SPECS[name]
    x, weight = inputs_of(spec)
    bias = np.random.default_rng(1).standard_normal(spec.out_channels, dtype=np.float32)

    def epilogue(value: Any, index: tuple[Any, ...], extras: Any) -> Any:
        return tirx.max(value + extras[0][index[1]], tirx.const(0, "float32"))

    actual = run(spec, level, x, weight, epilogue=epilogue, extras=(("bias", bias),), style=style)
    assert_close(actual, np.maximum(oracle(x, weight, spec) + bias[:, None, None], 0), spec.reduction)


def test_stores_stay_within_the_output() -> None:
    """What lies behind a plane and behind the output keeps its value."""
    spec = SPECS["plain 1x1, 1000 channels"]
    x, weight = inputs_of(spec)
    size = spec.out_channels * 49
    for level in LEVELS:
        config = default_config(spec, caps_of(level))
        memory = aligned_copy(np.full(size + 64, 7, np.float32))
        output = tvm.runtime.from_dlpack(memory[:size].reshape(1, spec.out_channels, 7, 7))
        packed = tile.packing(spec, config)(weight)
        build(kernel.emit(spec, config, name="conv"), level)["conv"](
            tvm.runtime.tensor(x), tvm.runtime.tensor(packed), output
        )
        assert (memory[size:] == 7).all()
        assert_close(memory[:size].reshape(1, spec.out_channels, 7, 7), oracle(x, weight, spec), spec.reduction)


@pytest.mark.parametrize("name", ["3x3", "plain 1x1", "plain, rows of 7"])
def test_epilogue_sees_logical_indices(name: str) -> None:
    spec = replace(SPECS[name], batch=2)
    x, weight = inputs_of(spec)

    def epilogue(value: Any, index: tuple[Any, ...], extras: Any) -> Any:
        n, c, h, w = (tirx.Cast("float32", i) for i in index)
        return n * 1000000.0 + c * 10000.0 + h * 100.0 + w

    actual = run(spec, "x86-64-v3", x, weight, epilogue=epilogue)
    n, c, h, w = np.indices(actual.shape)
    np.testing.assert_array_equal(actual, n * 1000000 + c * 10000 + h * 100 + w)


def test_padding_never_meets_infinite_weights() -> None:
    """Zero times infinity is NaN: padding mustn't be multiplied when the standard says the products aren't there."""
    spec = spec_of(8, (5, 5), 8, (3, 3), pads=(1, 1, 1, 1), in_block=8, out_block=8)
    x = np.ones((1, 8, 5, 5), np.float32)
    weight = np.ones((8, 8, 3, 3), np.float32)
    weight[:, :, 0, 0] = np.inf
    actual = run(spec, "x86-64-v3", x, weight)
    assert not np.isnan(actual).any()
    assert np.isinf(actual[:, :, 1:, 1:]).all()
    assert np.isfinite(actual[:, :, 0, :]).all()


def test_extreme_values_pass_through() -> None:
    spec = SPECS["1x1"]
    x, weight = inputs_of(spec)
    x[0, 0, 0, 0], x[1, 3, 2, 4], x[1, 0, 6, 8] = np.nan, np.inf, 3e38
    actual = run(spec, "x86-64-v3", x, weight)
    assert np.isnan(actual[0, :, 0, 0]).all()
    assert np.isinf(actual[1, :, 2, 4]).all()
    touched = np.zeros(actual.shape, bool)
    touched[0, :, 0, 0] = touched[1, :, 2, 4] = touched[1, :, 6, 8] = True
    assert np.isfinite(actual[~touched]).all()


def test_symbolic_batch() -> None:
    spec = replace(SPECS["3x3 narrow"], batch=tirx.Var("n", "int64"))
    for batch in (1, 3):
        x, weight = inputs_of(spec, batch)
        assert_close(run(spec, "x86-64-v3", x, weight), oracle(x, weight, spec), spec.reduction)


@pytest.mark.parametrize("level", ["x86-64-v4", "x86-64-v3"])
@pytest.mark.parametrize(
    "name",
    [
        "3x3",
        "asymmetric",
        "1x1",
        "1x7",
        "dilated",
        "plain in and out, odd channels",
        "widely dilated",
        "causal",
        "wide kernel",
        "wide kernel, dilated, stride 2",
    ],
)
def test_symbolic_height_and_width(name: str, level: str) -> None:
    base = SPECS[name]
    symbolic = replace(base, in_height=tirx.Var("h", "int64"), in_width=tirx.Var("w", "int64"))
    config = default_config(symbolic, caps_of(level))
    module = build(kernel.emit(symbolic, config, name="conv"), level)
    for height, width in [(4, 4), (5, 33), (9, 14), (3, 71)]:
        spec = replace(base, in_height=height, in_width=width)
        x, weight = inputs_of(spec)
        output = tvm.runtime.tensor(np.full([int(d) for d in spec.output_shape], np.nan, np.float32))
        packed = tile.packing(symbolic, config)(weight)
        module["conv"](tvm.runtime.tensor(to_physical(x, spec.in_block)), tvm.runtime.tensor(packed), output)
        assert_close(to_logical(output.numpy(), spec.out_block), oracle(x, weight, spec), spec.reduction)


@pytest.mark.parametrize("axis", ["in_height", "in_width"])
def test_one_symbolic_size(axis: str) -> None:
    base = SPECS["3x3 stride 2"]
    spec = replace(base, **{axis: tirx.Var("s", "int64")})
    x, weight = inputs_of(base)
    config = default_config(spec, caps_of("x86-64-v3"))
    module = build(kernel.emit(spec, config, name="conv"), "x86-64-v3")
    output = tvm.runtime.tensor(np.full([int(d) for d in base.output_shape], np.nan, np.float32))
    arrays = to_physical(x, base.in_block), tile.packing(spec, config)(weight)
    module["conv"](*(tvm.runtime.tensor(a) for a in arrays), output)
    assert_close(to_logical(output.numpy(), base.out_block), oracle(x, weight, base), base.reduction)
    with pytest.raises(ValueError, match="static"):
        kernel.emit(spec, replace(config, oh_tile=2))


def test_runs_in_the_relax_vm() -> None:
    """The emitted function has no block structure; the VM must take it through ``call_tir`` all the same."""
    spec = SPECS["3x3"]
    caps = caps_of("x86-64-v3")
    config = default_config(spec, caps)
    x, weight = inputs_of(spec)
    builder = relax.BlockBuilder()
    func = builder.add_func(kernel.emit(spec, config, name="conv"), "conv")
    data = relax.Var("data", relax.TensorType(spec.input_shape, "float32"))
    packed = relax.const(tile.packing(spec, config)(weight))
    with builder.function("main", [data]):
        with builder.dataflow():
            call = relax.call_tir(func, [data, packed], relax.TensorType(spec.output_shape, "float32"))
            result = builder.emit_output(builder.emit(call))
        builder.emit_func_output(result)
    built = build_module(builder.get(), parse_target("x86-64-v3"))
    vm = built.load().vm()
    actual = to_logical(vm["main"](tvm.runtime.tensor(to_physical(x, spec.in_block))).numpy(), spec.out_block)
    assert_close(actual, oracle(x, weight, spec), spec.reduction)


@pytest.mark.parametrize(("bits", "registers", "most"), [(512, 32, 28), (256, 16, 12), (128, 16, 12)])
def test_default_config_fits_the_registers(bits: int, registers: int, most: int) -> None:
    caps = Caps(vector_bits=bits, vector_registers=registers, fma=True)
    for spec in SPECS.values():
        config = default_config(spec, caps)
        assert config.accumulators <= most
        assert config.accumulators + config.oc_vectors + 1 <= registers
        assert config.lanes * 32 <= bits
        assert spec.out_block == 1 or 0 in (spec.out_block % config.lanes, config.lanes % spec.out_block)


def test_refuses_with_a_reason() -> None:
    caps = Caps(vector_bits=256)
    base = SPECS["3x3"]
    assert tile.supports(base, caps) is None
    refusals = {
        "group": replace(base, groups=2),
        "input": replace(base, in_channels=24),
        "output": replace(base, out_channels=40),
        "negative": replace(base, pads=(-1, 0, 0, 0)),
        "empty": replace(base, in_height=1, pads=(0, 0, 0, 0)),
    }
    for word, spec in refusals.items():
        assert word in (tile.supports(spec, caps) or "")


def test_packing_rejects_another_shape() -> None:
    spec = SPECS["3x3"]
    config = default_config(spec, Caps(vector_bits=256))
    with pytest.raises(ValueError, match="expected"):
        tile.packing(spec, config)(np.zeros((1, 2, 3, 3), np.float32))
