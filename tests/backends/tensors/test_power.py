"""x**y of float32 against numpy in float64: every exponent, borders of overflow, all pairs of special values."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from graphopt.backends.base.tvm_api import cpu_pass_context, tirx, tvm
from graphopt.backends.cpu.nest import CpuSchedule
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.runnable import can_run_here
from graphopt.backends.tensors.builder import KernelBuilder, Output, reader
from graphopt.backends.tensors.power import power_float32
from graphopt.backends.tensors.tensor import Scope, elementwise, operations, scalar_loops, weight
from tests.backends.tensors.test_math import Array, every_exponent
from tests.support.run_node import check, node

SPECIAL = [
    0,
    1,
    2,
    0.5,
    3,
    np.inf,
    np.nan,
    1e-45,
    1.2e-38,
    1e38,
    16777215,
    16777216,
    33554432,
    1.0000001,
    0.99999994,
    1.5,
]


def operands() -> tuple[Array, Array]:
    special = np.array([*SPECIAL, *(-v for v in SPECIAL)], np.float32)
    a, b = (v.ravel() for v in np.meshgrid(special, special))
    rng = np.random.default_rng(0)
    wild = every_exponent(32)
    count = 1 << 14
    spread = np.exp(rng.uniform(-87, 88, count))
    # results along the whole range and beyond both ends of it
    full = rng.uniform(-160, 140, count) / np.log2(spread)
    x = [a, wild, spread, -np.exp(rng.uniform(-20, 20, count)), rng.uniform(0.5, 2, count)]
    y = [b, rng.permutation(wild), full, rng.integers(-8, 8, count), rng.uniform(-150, 150, count)]
    return tuple(np.concatenate([np.asarray(v, np.float32) for v in part]) for part in (x, y))  # type: ignore[return-value]


@pytest.mark.parametrize("level", ["x86-64-v4", "x86-64-v3", "x86-64"])
def test_error_and_special_values(level: str) -> None:
    target = parse_target(level, 1)
    if not can_run_here(target):
        pytest.skip(f"needs a processor of {level}")
    x, y = operands()
    builder = KernelBuilder(target.caps, CpuSchedule(), {})
    a, b, c = (tirx.decl_buffer(x.shape, "float32", n) for n in "abc")
    builder.emit(
        [Output(elementwise(power_float32, "float32", x.shape, *(reader(v, x.shape, "float32") for v in (a, b))), c)]
    )
    with cpu_pass_context():
        built = tvm.compile(tvm.IRModule({"f": builder.finish([a, b, c], "f")}), target=target.tvm_target())
    assert not re.search(r"\bpowf?@PLT", built.mod.inspect_source("asm"))
    out = tvm.runtime.tensor(np.zeros(x.shape, np.float32))
    built["f"](tvm.runtime.tensor(x), tvm.runtime.tensor(y), out)
    got = out.numpy()
    with np.errstate(all="ignore"):
        want = np.power(x.astype(np.float64), y.astype(np.float64))
        rounded = want.astype(np.float32)
        unit = np.maximum(np.spacing(np.abs(rounded)).astype(np.float64), 2.0**-149)
        error = np.abs(got.astype(np.float64) - want) / unit
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    number = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got[number]), np.signbit(want[number]))
    infinite = np.isinf(got) | np.isinf(rounded)
    # at the border itself one of the two may have rounded to infinity
    border = np.abs(np.abs(want) / (2.0**128 - 2.0**103) - 1) < 1e-8
    np.testing.assert_array_equal(got[infinite & ~border], rounded[infinite & ~border])
    plain = np.isfinite(rounded) & np.isfinite(got)
    worst = np.argmax(np.where(plain, error, 0))
    assert error[worst] <= 0.6, f"{x[worst]} ** {y[worst]} = {got[worst]}, want {want[worst]}"


def test_operator_with_broadcast_and_float16() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0.1, 4, (3, 5, 7)).astype(np.float32), rng.uniform(-3, 3, (5, 1)).astype(np.float32)
    check([node("Pow", "x y", "z")], {"x": x, "y": y})
    check([node("Pow", "x y", "z")], {"x": x.astype(np.float16), "y": y.astype(np.float16)})


def test_scalar_loops_keep_expressions_small() -> None:
    # TVM's passes took 5 s for two copies of the loop's body when the sum was 1592.
    x, y = (tirx.Var(name, "float32") for name in "xy")
    with Scope() as scope:
        scalar_loops()
        power_float32(x, y)
    assert sum(weight(bound) for _, bound in scope.binds) < 800
    # what it is taken to cost at run time, by which threads are started, is the same as in other loops
    with Scope() as plain:
        power_float32(x, y)
    assert max(operations(b) for _, b in scope.binds) == max(operations(b) for _, b in plain.binds) > 300


def test_scalar_loops_are_known_from_the_first_body_on() -> None:
    # A body whose large values come last branches there; those before them must be short already.
    target = parse_target("x86-64-v3", 1)
    builder = KernelBuilder(target.caps, CpuSchedule(), {})
    buffers = [tirx.decl_buffer((16,), "float32", name) for name in "xyz"]
    inputs = [reader(buffer, (16,), "float32") for buffer in buffers[:2]]
    evaluated: list[int] = []

    def twice(x: Any, y: Any) -> Any:
        out = power_float32(power_float32(x, y), y)
        evaluated.append(sum(weight(bound) for _, bound in Scope._stack[-1].binds))
        return out

    builder.emit([Output(elementwise(twice, "float32", (16,), *inputs), buffers[2])])
    probe, *bodies = evaluated
    assert all(body < 0.8 * probe for body in bodies)
