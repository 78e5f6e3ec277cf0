"""First layers as convolutions of rows: exact sums of integers, whatever the kernel, step and padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.backends.base.element_type import Conversion, computed_type, converted_while_read, element_type
from graphopt.backends.base.tvm_api import tvm
from graphopt.backends.cpu.cost.direct import default_config, predicted_cycles
from graphopt.backends.cpu.kernels.conv2d_direct import emit
from graphopt.backends.cpu.kernels.conv2d_tile import packing
from graphopt.backends.cpu.kernels.rows_together import row_form
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.types import KernelTypes
from graphopt.ir.dtypes import DType
from tests.support.conv_kernels import build, caps_of, to_logical

LEVEL = "x86-64-v3"


def types(zero_point: int = 0) -> KernelTypes:
    """Bytes that are multiplied as integers of 16 bits."""
    data = converted_while_read(element_type(DType.u8), Conversion(DType.i16, zero_point))
    weight = converted_while_read(element_type(DType.i8), Conversion(DType.i16))
    return KernelTypes(data, weight, computed_type("int32"), element_type(DType.f32))


def exact(x: np.ndarray, w: np.ndarray, spec: Conv2dSpec, zero_point: int) -> np.ndarray:
    """The sums in 64 bits; padding is zero."""
    top, left, bottom, right = spec.pads
    data = np.pad(x.astype(np.int64) - zero_point, ((0, 0), (0, 0), (top, bottom), (left, right)))
    out = np.zeros((x.shape[0], w.shape[0], int(spec.out_height), int(spec.out_width)), np.int64)
    for ky in range(spec.kernel[0]):
        for kx in range(spec.kernel[1]):
            y, x0 = ky * spec.dilations[0], kx * spec.dilations[1]
            part = data[:, :, y :: spec.strides[0], x0 :: spec.strides[1]][:, :, : out.shape[2], : out.shape[3]]
            out += np.einsum("nchw,oc->nohw", part, w[:, :, ky, kx].astype(np.int64))
    return out


def check(spec: Conv2dSpec, zero_point: int, seed: int = 0, extreme: bool = False) -> None:
    config = default_config(spec, caps_of(LEVEL))
    assert config.dot == "vpmaddwd"
    rng = np.random.default_rng(seed)
    shape = (int(spec.batch), spec.in_channels, int(spec.in_height), int(spec.in_width))
    x = np.full(shape, 255, np.uint8) if extreme else rng.integers(0, 256, shape, np.uint8)
    kernel = (spec.out_channels, spec.in_channels, *spec.kernel)
    w = np.full(kernel, -128, np.int8) if extreme else rng.integers(-128, 128, kernel).astype(np.int8)
    function = emit(spec, config, epilogue=lambda value, index, operands: value.astype("float32"))
    out = tvm.runtime.tensor(np.full([int(d) for d in spec.output_shape], np.nan, np.float32))
    build(function, LEVEL)(tvm.runtime.tensor(x), tvm.runtime.tensor(packing(spec, config)(w)), out)
    np.testing.assert_array_equal(to_logical(out.numpy(), spec.out_block), exact(x, w, spec, zero_point))


FORMS = {
    "resnet": Conv2dSpec(1, 3, 37, 45, 32, (7, 7), (2, 2), (3, 3, 3, 3)),
    "mobilenet": Conv2dSpec(2, 3, 32, 32, 16, (3, 3), (2, 2), (0, 0, 1, 1)),
    "alexnet": Conv2dSpec(1, 3, 43, 47, 16, (11, 11), (4, 4), (2, 2, 2, 2)),
    "one channel": Conv2dSpec(1, 1, 20, 21, 8, (5, 3), (1, 2), (2, 1, 2, 1)),
    "wide padding": Conv2dSpec(1, 3, 5, 6, 8, (3, 5), (2, 2), (2, 4, 2, 4)),
    "rows apart": Conv2dSpec(1, 5, 17, 16, 8, (3, 3), (1, 2), (2, 1, 2, 0), (2, 1)),
    "plain result": Conv2dSpec(1, 3, 30, 33, 10, (3, 3), (2, 2), (1, 1, 1, 1)),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("zero_point", [0, 131])
def test_sums_are_exact(name: str, zero_point: int) -> None:
    spec = FORMS[name]
    block = next((b for b in (16, 8) if spec.out_channels % b == 0), 1)
    full = Conv2dSpec(**{**spec.__dict__, "out_block": block, "types": types(zero_point)})
    form = row_form(full, 2)
    assert form is not full
    assert form.static_plane == full.static_plane
    assert form.kernel[0] * form.kernel[1] < -(-full.in_channels // 2) * full.kernel[0] * full.kernel[1]
    check(full, zero_point)
    check(full, zero_point, extreme=True)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_window(data: st.DataObject) -> None:
    channels, kernel = (
        data.draw(st.sampled_from([1, 3, 5, 7])),
        data.draw(st.tuples(st.integers(1, 4), st.integers(1, 6))),
    )
    strides = data.draw(st.tuples(st.integers(1, 3), st.sampled_from([2, 4])))
    pads = data.draw(st.tuples(*[st.integers(0, 3)] * 4))
    size = tuple(data.draw(st.integers(k, k + 12)) for k in kernel)
    zero_point = data.draw(st.integers(0, 255))
    check(Conv2dSpec(1, channels, *size, 8, kernel, strides, pads, out_block=8, types=types(zero_point)), zero_point)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(Conv2dSpec(1, 4, 20, 20, 8, (3, 3), (2, 2)), id="pairs of channels"),
        pytest.param(Conv2dSpec(1, 3, 20, 20, 8, (3, 3), (1, 1)), id="half a pair a step"),
        pytest.param(Conv2dSpec(1, 3, 20, 20, 8, (3, 3), (2, 2), dilations=(1, 2)), id="pixels apart"),
        pytest.param(Conv2dSpec(1, 3, 20, 20, 8, (3, 1), (2, 2)), id="no pair saved"),
        pytest.param(Conv2dSpec(1, 3, tvm.tirx.Var("h", "int64"), 20, 8, (3, 3), (2, 2)), id="symbolic"),
    ],
)
def test_what_stays_as_it_is(spec: Conv2dSpec) -> None:
    assert row_form(spec, 2) is spec
    assert row_form(FORMS["resnet"], 1) is FORMS["resnet"]


def test_the_prediction_counts_its_steps() -> None:
    caps = caps_of(LEVEL)
    rows, four = (Conv2dSpec(1, c, 224, 224, 64, (7, 7), (2, 2), (3,) * 4, out_block=16, types=types()) for c in (3, 4))
    config = default_config(rows, caps)
    assert predicted_cycles(rows, config, caps) == pytest.approx(
        77 / 98 * predicted_cycles(four, config, caps), rel=0.1
    )
