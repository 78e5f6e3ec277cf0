"""GPU schedules: every PrimFunc gets one, and its indices are right (run serially on the CPU)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphopt.backends.base.tvm_api import te, tirx, topi, tvm
from graphopt.backends.cuda.cpu_check import run_serialised, serialised
from graphopt.backends.cuda.pipeline import bind_everything, is_bound, schedule_for_gpu, schedule_module
from graphopt.backends.targets.grammar import parse_target
from graphopt.errors import CompileError
from tests.support.demo_module import demo_module

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


def _softmax(x: Any) -> Any:
    exp = np.exp(x - x.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


CASES: dict[str, Callable[[], Case]] = {
    "matmul-tiles": lambda: _matmul(128, 128, 64),
    "matmul-ragged": lambda: _matmul(65, 70, 33),
    "matvec": lambda: _matmul(1, 64, 128),
    "elementwise": lambda: _unary((3, 5, 7), lambda a: te.compute(a.shape, lambda *i: tirx.exp(a(*i))), np.exp),
    "scalar": lambda: _unary((), lambda a: te.compute((), lambda: a() + 1.0), lambda x: x + 1),
    "row-sum": lambda: _unary((9, 70), lambda a: topi.sum(a, axis=1), lambda x: x.sum(1)),
    "full-sum": lambda: _unary((9, 70), lambda a: topi.sum(a, keepdims=True), lambda x: x.sum(keepdims=True)),
    "softmax": lambda: _unary((17, 100), lambda a: topi.nn.softmax(a, axis=1), _softmax),
    "transpose": lambda: _unary((33, 20), lambda a: topi.transpose(a), np.transpose),
    "pad": lambda: _unary((5, 6), lambda a: topi.nn.pad(a, [1, 2]), lambda x: np.pad(x, [(1, 1), (2, 2)])),
}


@pytest.mark.parametrize("scheduler", ["rules", "fallback"])
@pytest.mark.parametrize("name", CASES)
def test_schedules_compute_the_same(name: str, scheduler: str) -> None:
    func, shapes, expected = CASES[name]()
    scheduled = schedule_for_gpu(func, parse_target("cuda:sm_80")) if scheduler == "rules" else bind_everything(func)
    assert is_bound(scheduled)
    rng = np.random.default_rng(0)
    inputs = [rng.uniform(0.1, 1, shape).astype("float32") for shape in shapes]
    want = np.asarray(expected(*inputs))
    out = np.full(want.shape, np.nan, "float32")
    run_serialised(scheduled, [*inputs, out])
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-6)


def test_tiled_schedules_use_shared_memory_and_the_check_drops_it() -> None:
    scheduled = schedule_for_gpu(_matmul(128, 128, 64)[0], parse_target("cuda:sm_80"))
    assert '"shared"' in scheduled.script()
    check = serialised(scheduled).script()
    assert '"shared"' not in check
    assert '"local"' not in check
    assert "thread_binding" not in check


def test_the_check_notices_a_wrong_index() -> None:
    """A schedule check that can't fail checks nothing."""
    (a,) = _placeholders((64,))
    wrong = te.create_prim_func([a, te.compute((64,), lambda i: a[(i + 1) % 64])])
    x = np.arange(64, dtype="float32")
    out = np.zeros(64, "float32")
    run_serialised(bind_everything(wrong), [x, out])
    assert not np.array_equal(out, x)


def test_a_rule_that_breaks_leads_to_the_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    from tvm.s_tir.dlight import gpu

    def broken(*_arguments: Any) -> None:
        raise RuntimeError("broken rule")

    for rule in ("Matmul", "GEMV", "Reduction", "GeneralReduction", "Fallback"):
        monkeypatch.setattr(getattr(gpu, rule), "apply", broken)
    assert is_bound(schedule_for_gpu(_matmul(8, 8, 8)[0], parse_target("cuda:sm_80")))


def test_scheduled_functions_stay_as_they_are() -> None:
    func = bind_everything(_matmul(8, 8, 8)[0])
    assert schedule_for_gpu(func, parse_target("cuda:sm_80")).same_as(func)


@pytest.mark.parametrize("batch", [8, None])
def test_every_function_of_a_module(batch: int | None) -> None:
    module = schedule_module(demo_module(batch), parse_target("cuda:sm_80"))
    functions = [f for f in module.functions.values() if isinstance(f, tirx.PrimFunc)]
    assert len(functions) == 3
    assert all(is_bound(f) for f in functions)


def test_without_sblocks_there_is_nothing_to_bind() -> None:
    func = tirx.PrimFunc([], tirx.Evaluate(tvm.tirx.const(0, "int32")))
    with pytest.raises(CompileError) as caught:
        bind_everything(func)
    assert caught.value.code == "not-schedulable"
