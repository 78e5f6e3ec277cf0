"""The generic CPU schedule against numpy in float64: shapes that divide by nothing, reductions, epilogues, diamonds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.tvm_api import cpu_pass_context, tirx, tvm
from graphopt.backends.cpu.nest import CpuSchedule
from graphopt.backends.tensors.builder import KernelBuilder, Output, reader
from graphopt.backends.tensors.tensor import Tensor, choose, elementwise
from graphopt.ir.layout import PLAIN, Layout, channel_blocks

CAPS = Caps(vector_bits=256, vector_registers=16, cores=2)
TARGET = {"kind": "llvm", "mcpu": "x86-64-v3"}
F32 = "float32"
Build = Callable[..., Tensor]


def run(build: Build, inputs: Sequence[np.ndarray], shape: tuple[int, ...], layout: Layout = PLAIN) -> np.ndarray:
    """Compile ``build(builder, *tensors)`` and run it; the result comes back in the plain layout."""
    builder = KernelBuilder(CAPS, CpuSchedule(), {})
    buffers = [tirx.decl_buffer(x.shape, str(x.dtype), f"x{i}") for i, x in enumerate(inputs)]
    physical = layout.physical_shape(shape)
    out = tirx.decl_buffer(physical, F32, "out")
    tensor = build(builder, *(reader(b, x.shape, str(x.dtype)) for b, x in zip(buffers, inputs)))
    builder.emit([Output(tensor, out, layout)])
    function = builder.finish([*buffers, out], "kernel")
    with cpu_pass_context():
        kernel = tvm.compile(tvm.IRModule({"kernel": function}), tvm.target.Target(TARGET)).jit()["kernel"]
    result = tvm.runtime.tensor(np.full(physical, np.nan, F32))
    kernel(*(tvm.runtime.tensor(x) for x in inputs), result)
    got: np.ndarray = result.numpy()
    return got[layout.physical_index(np.indices(shape, sparse=True))] if shape else got


def data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(F32)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5, 7), (2, 64, 33), (1, 1000), (40000,), (4, 1, 16), (300, 300)])
def test_elementwise_covers_every_element(shape: tuple[int, ...]) -> None:
    x = data(*shape)

    def build(_: KernelBuilder, a: Tensor) -> Tensor:
        doubled = elementwise(lambda v: v + v, F32, a.shape, a)
        return elementwise(lambda v, w: v * w + v, F32, a.shape, doubled, a)

    wide = x.astype("float64")
    np.testing.assert_allclose(run(build, [x], shape), 2 * wide * wide + 2 * wide, rtol=1e-5, atol=1e-6)


def test_a_chain_of_diamonds_stays_small() -> None:
    def build(_: KernelBuilder, a: Tensor) -> Tensor:
        for _step in range(40):  # 2**40 operations if nodes were not shared
            a = elementwise(lambda v, w: (v + w) * tirx.const(0.5, F32), F32, a.shape, a, a)
        return a

    x = data(33)
    np.testing.assert_allclose(run(build, [x], (33,)), x, rtol=1e-6)


@pytest.mark.parametrize(("m", "k", "n"), [(8, 33, 40), (5, 7, 3), (64, 64, 64), (1, 100, 10), (13, 1, 1), (3, 300, 1)])
def test_products_with_an_epilogue(m: int, k: int, n: int) -> None:
    x, y, bias = data(m, k), data(k, n, seed=1), data(n, seed=2)

    def build(builder: KernelBuilder, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        product = builder.reduce((m, n), F32, (k,), lambda i, r: a(i[0], r[0]) * b(r[0], i[1]), tile_axis=-2)
        return elementwise(lambda v, w: tirx.max(v + w, tirx.const(0.0, F32)), F32, (m, n), product, c)

    want = np.maximum(x.astype("float64") @ y + bias, 0)
    np.testing.assert_allclose(run(build, [x, y, bias], (m, n)), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["sum", "max", "min", "prod"])
@pytest.mark.parametrize("shape", [(3, 5), (6, 100), (2, 3, 17), (1, 4099)])
def test_reductions_along_the_last_axis(kind: str, shape: tuple[int, ...]) -> None:
    x = data(*shape) + 1

    def build(builder: KernelBuilder, a: Tensor) -> Tensor:
        return builder.reduce(shape[:-1], F32, shape[-1:], lambda i, r: a(*i, r[0]), kind)

    want = getattr(np, kind)(x.astype("float64"), axis=-1)
    np.testing.assert_allclose(run(build, [x], shape[:-1]), want, rtol=2e-4, atol=1e-4)


def test_a_reduction_used_at_another_index_is_staged_once() -> None:
    x = data(6, 10)

    def build(builder: KernelBuilder, a: Tensor) -> Tensor:
        total = builder.reduce((6,), F32, (10,), lambda i, r: a(i[0], r[0]))
        result = Tensor((6, 10), F32, lambda i, j: a(i, j) / total(i) + total(5 - i))
        probe_count = len(builder.allocations)
        assert probe_count == 0
        return result

    total = x.sum(1, dtype="float64")
    np.testing.assert_allclose(run(build, [x], (6, 10)), x / total[:, None] + total[::-1, None], rtol=1e-3)


def test_conditional_loads_stay_inside_and_lanes_are_not_mixed() -> None:
    # TVM 0.27 hoists one lane's value when it vectorises a bound if_then_else: this is the test that found it
    x = data(8, 8)

    def build(_: KernelBuilder, a: Tensor) -> Tensor:
        def element(i: Any, j: Any) -> Any:
            p, q = i - 1, j - 1
            inside = tirx.all(p >= 0, p < 8, q >= 0, q < 8)
            return choose(inside, lambda: a(p, q), lambda: tirx.const(0.0, F32))

        return Tensor((10, 10), F32, element)

    np.testing.assert_array_equal(run(build, [x], (10, 10)), np.pad(x, 1))


def test_blocked_results_hold_the_same_elements() -> None:
    x, scale = data(2, 16, 5, 3), data(16, seed=1)

    def build(_: KernelBuilder, a: Tensor, s: Tensor) -> Tensor:
        return Tensor(a.shape, F32, lambda n, c, h, w: a(n, c, h, w) * s(c))

    np.testing.assert_allclose(run(build, [x, scale], x.shape, channel_blocks(8)), x * scale[:, None, None], rtol=1e-6)


def test_empty_tensors_need_no_loops() -> None:
    x = np.zeros((0, 3), F32)
    assert run(lambda _, a: elementwise(lambda v: v + v, F32, a.shape, a), [x], (0, 3)).shape == (0, 3)


@pytest.mark.parametrize(
    ("op", "count", "parallel"),
    [
        ("relu", 8192, False),
        ("relu", 65536, True),
        ("sigmoid", 2048, False),
        ("sigmoid", 16384, True),
        ("erf", 16384, True),
    ],
)
def test_threads_start_where_the_work_pays(op: str, count: int, parallel: bool) -> None:
    from graphopt.backends.tensors import math as m

    function = {"relu": lambda v: tirx.max(v, tirx.const(0.0, F32)), "sigmoid": m.sigmoid, "erf": m.erf}[op]
    builder = KernelBuilder(CAPS, CpuSchedule(), {})
    x, out = (tirx.decl_buffer((count,), F32, name) for name in ("x", "out"))
    builder.emit([Output(elementwise(function, F32, (count,), reader(x, (count,), F32)), out)])
    assert ("T.parallel" in builder.finish([x, out], "f").script()) == parallel
