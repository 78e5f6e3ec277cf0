"""Whatever is passed to a model ends in its result or in an InputError that says what is expected."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.errors import InputError
from graphopt.ir.dims import symbol
from graphopt.ir.dtypes import DType
from graphopt.runtime.model import CompiledModel
from graphopt.runtime.signature import Signature, TensorSpec
from tests.cli.conftest import small_model

X = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def compiled() -> CompiledModel:
    return graphopt.compile(small_model(), level=0, threads=1)


class Unwilling:
    """An array of another library that can't be copied here."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("it is on another device")


@pytest.mark.parametrize(
    ("feed", "words"),
    [
        (None, "None"), ([X], "a list"), (X, "ndarray"), ("x", "a str"), (3, "a int"),
        ({}, "missing"), ({1: X}, "a int"), ({b"x": X}, "a bytes"), ({None: X}, "None"), ({("x",): X}, "a tuple"),
        ({"x": X, 2: X}, "a int"), ({"X": X}, "no input 'X'"),
        ({"x": [[1.0], [1.0, 2.0]]}, "nested evenly"), ({"x": None}, "dtype object"), ({"x": "text"}, "dtype <U4"),
        ({"x": {}}, "dtype object"), ({"x": Unwilling()}, "another device"), ({"x": X.astype(object)}, "dtype object"),
        ({"x": X.astype(np.float64)}, "dtype float64"), ({"x": X.astype(">f4")}, "dtype >f4"),
        ({"x": X[0]}, "1 dimensions"), ({"x": X[None]}, "3 dimensions"), ({"x": X.T}, "dimension 1 must be 8"),
        ({"x": X[:, :0]}, "dimension 1 must be 8"),
        ({"x": np.ma.masked_array(X, X > 0)}, "masked"),
        ({"x": np.zeros((3, 8), [("a", "f4")])}, "dtype"),
    ],
)  # fmt: skip
def test_refused_with_what_is_expected(compiled: CompiledModel, feed: Any, words: str) -> None:
    with pytest.raises(InputError) as caught:
        compiled.run(feed)
    assert words in str(caught.value)


def test_any_layout_gives_the_same(compiled: CompiledModel) -> None:
    (want,) = compiled(X)
    frozen = X.copy()
    frozen.flags.writeable = False
    wide = np.zeros((6, 16), np.float32)
    wide[::2, ::2] = X
    odd = np.empty(X.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(X.shape)
    odd[...] = X
    for given in (
        np.asfortranarray(X), frozen, wide[::2, ::2], np.ascontiguousarray(X[::-1])[::-1], odd, memoryview(X),
        np.ma.masked_array(X),
    ):  # fmt: skip
        np.testing.assert_array_equal(compiled.run({"x": given})["y"], want)
    np.testing.assert_array_equal(compiled.run(UserDict(x=X))["y"], want)


def test_no_rows(compiled: CompiledModel) -> None:
    assert compiled.run({"x": X[:0]})["y"].shape == (0, 5)


def test_arrays_like_the_last_ones_are_taken_as_they_are_and_others_are_not() -> None:
    n = symbol("N")
    specs = TensorSpec("x", DType.f32, (n, 2)), TensorSpec("y", DType.f32, (n,))
    signature = Signature(specs, ())
    x, y = np.ones((3, 2), np.float32), np.zeros(3, np.float32)
    signature.check({"x": x, "y": y})
    first, second = signature.check({"y": y, "x": x})
    assert first is x
    assert second is y
    turned = np.arange(6, dtype=np.float32).reshape(2, 3).T
    first, _ = signature.check({"x": turned, "y": y})
    assert first.flags.c_contiguous
    np.testing.assert_array_equal(first, turned)
    wrong: list[Any] = [
        {"x": x.astype(">f4"), "y": y}, {"x": x.astype(np.float64), "y": y}, {"x": x, "y": y[:2]}, {"x": x},
        {"x": x, "z": y}, {"x": x, "y": y, "z": y}, {"x": None, "y": y}, [("x", x), ("y", y)],
    ]  # fmt: skip
    for feed in wrong:
        with pytest.raises(InputError):
            signature.check(feed)
        signature.check({"x": x, "y": y})
