"""Cast between all element types that have kernels."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from graphopt.errors import UserError
from tests.support.run_node import check, model_with, node, run

DTYPES = (
    "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool",
)  # fmt: skip


def to(dtype: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.few(6)
def test_all_targets(source: str) -> None:
    if source == "bool":
        x = np.array([False, True, True])
    elif source.startswith("float"):
        x = np.array([0, -0.0, 0.4, 1.9, 2.5, 100.7, 127], source)
    else:
        info = np.iinfo(source)
        x = np.array([info.min, info.max, 0, 1, 77, info.max - 1], source)
    nodes = [node("Cast", "x", f"y_{d}", to=to(d)) for d in DTYPES if d != source]
    with np.errstate(all="ignore"):
        want = {f"y_{d}": x.astype(d) for d in DTYPES if d != source}
    check(nodes, {"x": x}, want=want, rtol=0, atol=0)


def test_negative_floats_wrap_as_in_numpy() -> None:
    x = np.array([-1.5, -100.9, 300.2, 70000.0], np.float32)
    nodes = [
        node("Cast", "x", f"y_{d}", to=to(d)) for d in ("int8", "uint8", "int16", "uint16", "int32", "int64", "uint32")
    ]
    want = {
        f"y_{d}": x.astype(np.int64).astype(d) for d in ("int8", "uint8", "int16", "uint16", "int32", "int64", "uint32")
    }
    check(nodes, {"x": x}, want=want)


def test_nan_is_true_and_large_numbers_stay_exact() -> None:
    x = np.array([np.nan, np.inf, 0, -0.0, 1e-45], np.float32)
    check([node("Cast", "x", "y", to=to("bool"))], {"x": x}, want={"y": np.array([True, True, False, False, True])})
    big = np.array([2.0**63, 1.5 * 2.0**63, 2.0**40, 3.7], np.float64)
    check([node("Cast", "x", "y", to=to("uint64"))], {"x": big}, want={"y": big.astype(np.uint64)})


def test_double_to_half_rounds_once() -> None:
    tie = 1 + 2.0**-11  # half way between two float16; a hair more must round up
    x = np.array(
        [tie, tie + 2.0**-40, -tie - 2.0**-40, 1 + 3 * 2.0**-11 - 2.0**-40, 65519.99999999, 65520, 1e-8, np.nan, 1e300]
    )
    with np.errstate(all="ignore"):
        check([node("Cast", "x", "y", to=to("float16"))], {"x": x}, want={"y": x.astype(np.float16)}, rtol=0, atol=0)


def test_to_bfloat16_rounds_once() -> None:
    import ml_dtypes

    with np.errstate(all="ignore"):
        x = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16) | np.uint32(0x8000)  # in the middle of two bfloat16
        x = np.concatenate([x - 1, x, x + 1]).astype(np.uint32).view(np.float32)
        x = x[~np.isnan(x)]
        want = x.astype(ml_dtypes.bfloat16)
        for source in (x, x.astype(np.float64)):
            model = model_with([node("Cast", "x", "y", to=16)], {"x": source})
            y = run(model, {"x": source})["y"]
            np.testing.assert_array_equal(y.view(np.uint16), want.view(np.uint16))


def test_other_types_are_refused() -> None:
    x = np.ones(3, np.float32)
    for code in (8, 17, 22):  # string, float8, int4
        with pytest.raises(UserError):
            run(model_with([node("Cast", "x", "y", to=code)], {"x": x}), {"x": x})
