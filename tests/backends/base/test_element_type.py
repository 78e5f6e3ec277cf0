"""Elements that are stored narrower than they are computed with: conversions of every kind of number, in every width of vectors."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from graphopt.backends.base.element_type import ELEMENT_TYPES, FLOAT32, ElementType
from graphopt.backends.base.tvm_api import tirx, tvm
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.prim_func import build_prim_func
from graphopt.ir.dtypes import DType
from tests.support.conv_kernels import LEVELS, build, caps_of

TYPES = {DType.f16: np.dtype(np.float16), DType.bf16: np.dtype(ml_dtypes.bfloat16)}
LANES = [1, 4, 8, 16]
LOWER_HALVES = (0x0000, 0x0001, 0x0FFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0xEFFF, 0xF000, 0xFFFF)
"""Lower halves of a float32 around what is in the middle between two numbers of either type."""


def copied(source: ElementType, target: ElementType, lanes: int, x: np.ndarray, level: str) -> np.ndarray:
    """``x`` read as one type and stored as another in vectors of ``lanes``, as its bits."""

    def body(inputs: list[View], _: list[tirx.Buffer], output: View) -> None:
        with T.serial(0, x.size // lanes) as i:
            place = tirx.Ramp(tirx.Cast("int64", i) * lanes, T.int64(1), lanes) if lanes > 1 else i
            output.store(inputs[0][place], [place])

    caps_of(level)
    kernel = build(build_prim_func("copied", [("x", x.shape, source)], (), (x.shape, target), body), level)
    output = tvm.runtime.tensor(np.zeros(x.shape, target.storage))
    kernel(tvm.runtime.tensor(x), output)
    result: np.ndarray = output.numpy()
    return result


def assert_same(actual: np.ndarray, expected: np.ndarray) -> None:
    """The same bits, whatever those of a NaN are."""
    wide = [a.astype(np.float32) for a in (actual, expected)]
    nan = np.isnan(wide[1])
    np.testing.assert_array_equal(np.isnan(wide[0]), nan)
    bits = f"uint{8 * actual.itemsize}"
    np.testing.assert_array_equal(actual.view(bits)[~nan], expected.view(bits)[~nan])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_narrowing_rounds_to_the_nearest_to_even_in_the_middle(dtype: DType, lanes: int, level: str) -> None:
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    x = (upper[:, None] | np.array(LOWER_HALVES, np.uint32)).reshape(-1).view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(TYPES[dtype])
    result = copied(FLOAT32, ELEMENT_TYPES[dtype], lanes, x, level).view(TYPES[dtype])
    assert_same(result, expected)
    bits, quiet = result.view(np.uint16), 0x200 if dtype is DType.f16 else 0x40
    assert (bits[np.isnan(x)] & quiet).all(), "a signalling NaN"


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_widening_keeps_every_number(dtype: DType, lanes: int, level: str) -> None:
    row = ELEMENT_TYPES[dtype]
    stored = np.arange(1 << 16, dtype=np.uint16)
    result = copied(row, FLOAT32, lanes, stored.view(row.storage), level)
    assert_same(result, stored.view(TYPES[dtype]).astype(np.float32))
