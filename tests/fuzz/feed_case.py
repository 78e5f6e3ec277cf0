"""Hostile arrays for small compiled models: an InputError, or what the same values give as plain arrays."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto, helper

import graphopt
from graphopt.errors import GraphOptError, InternalError
from graphopt.runtime.model import CompiledModel

Draw = Callable[[st.SearchStrategy[Any]], Any]

DTYPES = ("f4", ">f4", "f8", "f2", "i8", "i4", "u1", "?", "c8", "O", "U3", "S3", "M8[s]", "V4")
LAYOUTS = ("plain", "fortran", "strided", "reversed", "readonly", "odd", "repeated", "list", "memoryview")


@functools.cache
def models() -> tuple[CompiledModel, ...]:
    """A fixed and a symbolic shape, integers, truth values, a scalar, two inputs that share a dimension."""
    f, i, b = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
    node = helper.make_node

    def model(nodes: list[Any], *inputs: tuple[str, int, list[Any]], result: int = f) -> CompiledModel:
        infos = [helper.make_tensor_value_info(name, type_, dims) for name, type_, dims in inputs]
        out = helper.make_empty_tensor_value_info("y")
        out.type.tensor_type.elem_type = result
        graph = helper.make_graph(nodes, "g", infos, [out])
        built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        return graphopt.compile(built, level=0, threads=1, jobs=1)

    return (
        model([node("Abs", ["x"], ["y"])], ("x", f, [2, 3])),
        model([node("ReduceSum", ["x"], ["y"], keepdims=0)], ("x", f, ["N", 3])),
        model([node("Neg", ["x"], ["y"])], ("x", i, ["N"]), result=i),
        model([node("Not", ["x"], ["y"])], ("x", b, [4]), result=b),
        model([node("Sqrt", ["x"], ["y"])], ("x", f, [])),
        model([node("MatMul", ["x", "z"], ["y"])], ("x", f, ["N", "K"]), ("z", f, ["K", 2])),
    )


@st.composite
def feeds(draw: Draw) -> tuple[int, Any]:
    """A model's index and what is passed to it."""
    index = draw(st.integers(0, len(models()) - 1))
    if draw(st.integers(0, 9)) == 0:
        return index, draw(
            st.one_of(st.none(), st.integers(), st.text(max_size=3), st.lists(st.none(), max_size=2), st.just({}))
        )
    feed: dict[Any, Any] = {}
    for spec in models()[index].inputs:
        name = draw(st.sampled_from([spec.name] * 9 + [spec.name.upper(), "", 3, None, b"x"]))
        feed[name] = _array(draw, spec)
    return index, feed


def _array(draw: Draw, spec: Any) -> Any:
    if draw(st.integers(0, 12)) == 0:
        return draw(st.sampled_from([None, "text", {}, [], [[1.0], [1.0, 2.0]], 3, 2.5, object(), [None], (1,)]))
    dtype = spec.dtype.numpy if draw(st.integers(0, 4)) else np.dtype(draw(st.sampled_from(DTYPES)))
    shape = [d if isinstance(d, int) else draw(st.integers(0, 4)) for d in spec.shape]
    kind = draw(st.integers(0, 8))
    if kind == 0:
        shape = draw(st.lists(st.integers(0, 4), max_size=5))
    elif kind == 1 and shape:
        shape[draw(st.integers(0, len(shape) - 1))] = draw(st.sampled_from([0, 1, 7, 1000]))
    count = int(np.prod(shape))
    plain = np.arange(count, dtype=np.int64).astype(dtype) if dtype.kind in "fiub?c" else np.zeros(count, dtype)
    return _laid_out(plain.reshape(shape), draw(st.sampled_from(LAYOUTS)))


def _laid_out(a: Any, layout: str) -> Any:
    if layout == "fortran":
        return np.asfortranarray(a)
    if layout == "strided" and a.ndim:
        wide = np.zeros([2 * d for d in a.shape], a.dtype)
        part = wide[tuple(slice(None, None, 2) for _ in a.shape)]
        part[...] = a
        return part
    if layout == "reversed" and a.ndim:
        return np.ascontiguousarray(a[::-1])[::-1]
    if layout == "readonly":
        a.flags.writeable = False
    if layout == "odd" and a.dtype.kind in "fiu" and a.size:
        odd = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
        odd[...] = a
        return odd
    if layout == "repeated" and a.size:
        return np.broadcast_to(a.reshape(-1)[0], a.shape)
    if layout == "list":
        return a.tolist()
    if layout == "memoryview" and a.dtype.kind in "fiu":
        return memoryview(a)
    return a


def check_feed(case: tuple[int, Any]) -> str:
    """ "refused" or "ran".

    Raises:
        AssertionError: the result isn't that of the same values in plain arrays.
        Exception: anything but a GraphOptError is a bug.
    """
    index, feed = case
    model = models()[index]
    try:
        got = model.run(feed)
    except InternalError:
        raise
    except GraphOptError:
        return "refused"
    plain = {name: np.array(value, order="C", copy=True) for name, value in feed.items()}
    for name, want in model.run(plain).items():
        np.testing.assert_array_equal(got[name], want)
    return "ran"
