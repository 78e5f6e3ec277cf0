"""Checking GPU code without a GPU, serially on the CPU: the check is right, and notices what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphopt.backends.base.tvm_api import te, tirx, topi, tvm
from graphopt.backends.cuda.cpu_check import run_serialised, serialised
from graphopt.backends.cuda.launch import is_bound, require_bound
from graphopt.errors import InternalError
from tests.support.demo_module import demo_module
from tests.support.gpu_binding import bind_everything, bound_module

Case = tuple[Any, list[Any], Callable[..., Any]]


def _placeholders(*shapes: tuple[int, ...], dtype: str = "float32") -> list[Any]:
    return [te.placeholder(shape, name=f"p{index}", dtype=dtype) for index, shape in enumerate(shapes)]


def _matmul(n: int, m: int, k: int) -> Case:
    a, b = _placeholders((n, k), (k, m))
    r = te.reduce_axis((0, k), "r")
    c = te.compute((n, m), lambda i, j: te.sum(a[i, r] * b[r, j], axis=r), name="c")
    return te.create_prim_func([a, b, c]), [(n, k), (k, m)], lambda x, y: x @ y


def _unary(shape: tuple[int, ...], build: Callable[[Any], Any], expected: Callable[[Any], Any]) -> Case:
    (a,) = _placeholders(shape)
    return te.create_prim_func([a, build(a)]), [shape], expected


CASES: dict[str, Callable[[], Case]] = {
    "matmul": lambda: _matmul(65, 70, 33),
    "elementwise": lambda: _unary((3, 5, 7), lambda a: te.compute(a.shape, lambda *i: tirx.exp(a(*i))), np.exp),
    "scalar": lambda: _unary((), lambda a: te.compute((), lambda: a() + 1.0), lambda x: x + 1),
    "full-sum": lambda: _unary((9, 70), lambda a: topi.sum(a, keepdims=True), lambda x: x.sum(keepdims=True)),
}


@pytest.mark.parametrize("name", CASES)
def test_threads_as_loops_compute_the_same(name: str) -> None:
    func, shapes, expected = CASES[name]()
    bound = bind_everything(func)
    assert is_bound(bound)
    rng = np.random.default_rng(0)
    inputs = [rng.uniform(0.1, 1, shape).astype("float32") for shape in shapes]
    want = np.asarray(expected(*inputs))
    out = np.full(want.shape, np.nan, "float32")
    run_serialised(bound, [*inputs, out])
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-6)
    assert "thread_binding" not in serialised(bound).script()


def test_the_check_notices_a_wrong_index() -> None:
    """A check that can't fail checks nothing."""
    (a,) = _placeholders((64,))
    wrong = te.create_prim_func([a, te.compute((64,), lambda i: a[(i + 1) % 64])])
    x = np.arange(64, dtype="float32")
    out = np.zeros(64, "float32")
    run_serialised(bind_everything(wrong), [x, out])
    assert not np.array_equal(out, x)


@pytest.mark.parametrize("batch", [8, None])
def test_kernels_that_launch_no_threads_are_refused(batch: int | None) -> None:
    module = demo_module(batch)
    with pytest.raises(InternalError, match="launches no threads"):
        require_bound(module)
    require_bound(bound_module(module))


def test_names_are_identifiers_of_c() -> None:
    function = bind_everything(_matmul(8, 8, 8)[0])
    with pytest.raises(InternalError, match="identifier"):
        require_bound(tvm.IRModule({"a.b": function}))
