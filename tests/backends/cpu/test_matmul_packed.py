"""Packed matrix product against numpy in float64, over shapes, epilogues and instruction sets."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.tvm_api import cpu_pass_context, tirx, tvm
from graphopt.backends.cpu.kernels import matmul_packed as kernel
from graphopt.backends.cpu.kernels import matmul_tile as tile
from graphopt.backends.specs.matmul import MatmulSpec
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.runnable import can_run_here
from graphopt.backends.templates.storing import EpilogueFn, ExtraOperand

LEVELS = ("x86-64-v4", "x86-64-v3", "x86-64-v2")
SHAPES = [  # m, n, k
    (1, 1000, 64),
    (1, 1, 1),
    (1, 16, 300),
    (2, 7, 5),
    (13, 33, 17),
    (14, 32, 64),
    (29, 48, 31),
    (49, 256, 40),
    (128, 10, 129),
    (131, 96, 8),
]


def caps_of(level: str) -> Caps:
    target = parse_target(level)
    if not can_run_here(target):
        pytest.skip(f"needs a processor of {level}")
    return target.caps


def inputs_of(m: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.standard_normal((m, k), dtype=np.float32), rng.standard_normal((k, n), dtype=np.float32)


class Compiled:
    """A built kernel, callable on any number of rows that its spec allows."""

    def __init__(
        self,
        spec: MatmulSpec,
        level: str,
        config: tile.MatmulConfig | None = None,
        epilogue: EpilogueFn | None = None,
        extras: tuple[ExtraOperand, ...] = (),
    ) -> None:
        caps = caps_of(level)
        assert tile.supports(spec, caps) is None
        self.spec = spec
        self.config = config or kernel.default_config(spec, caps)
        func = kernel.emit(spec, self.config, epilogue, extras, "mm")
        with cpu_pass_context():
            self.module = tvm.compile(tvm.IRModule({"mm": func}), parse_target(level).tvm_target()).jit()

    def __call__(self, a: np.ndarray, b: np.ndarray, *extras: np.ndarray) -> np.ndarray:
        """The output starts as NaN, so that no element may be left out."""
        output = tvm.runtime.tensor(np.full((a.shape[0], self.spec.n), np.nan, np.float32))
        packed = tile.packing(self.spec, self.config)(b)
        self.module["mm"](*(tvm.runtime.tensor(x) for x in (a, packed, *extras)), output)
        result: np.ndarray = output.numpy()
        return result


def assert_close(actual: np.ndarray, expected: np.ndarray, k: int) -> None:
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-6 * k**0.5 + 1e-6)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_numpy(shape: tuple[int, int, int], level: str) -> None:
    a, b = inputs_of(*shape)
    assert_close(Compiled(MatmulSpec(*shape), level)(a, b), a.astype(np.float64) @ b, shape[2])


@pytest.mark.parametrize(
    "config",
    [
        tile.MatmulConfig(m_tile=6, n_vectors=2, lanes=8, m_block=12),
        tile.MatmulConfig(m_tile=1, n_vectors=5, lanes=8, m_block=3),
        tile.MatmulConfig(m_tile=200, n_vectors=1, lanes=4),
        tile.MatmulConfig(m_tile=3, n_vectors=3, lanes=16),
        tile.MatmulConfig(m_tile=4, n_vectors=1, lanes=8, m_block=8, k_block=4, n_group=2, prefetch=True),
        tile.MatmulConfig(m_tile=5, n_vectors=2, lanes=8, k_block=7, n_group=3, parallel=False),
        tile.MatmulConfig(m_tile=6, n_vectors=2, lanes=4, m_block=6, k_block=8, n_group=50, prefetch=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(29, 48, 31), (13, 33, 17), (1, 160, 9)], ids=str)
def test_every_config_is_correct(shape: tuple[int, int, int], config: tile.MatmulConfig) -> None:
    a, b = inputs_of(*shape)
    assert_close(Compiled(MatmulSpec(*shape), "x86-64-v3", config)(a, b), a.astype(np.float64) @ b, shape[2])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n", [48, 37, 1000])
def test_symbolic_rows(n: int, level: str) -> None:
    k = 20
    compiled = Compiled(MatmulSpec(tirx.Var("m", "int64"), n, k), level)
    for m in (1, 2, 3, 5, 11, 12, 13, 14, 15, 27, 28, 29, 100):
        a, b = inputs_of(m, n, k)
        assert_close(compiled(a, b), a.astype(np.float64) @ b, k)


@pytest.mark.parametrize(("n", "k"), [(512, 2048), (100, 1500), (768, 3072)])
def test_few_rows_of_an_open_number_are_work_for_all_threads(n: int, k: int) -> None:
    """Where K is cut into blocks there may be one block of rows: its panels are not all one group."""
    spec = MatmulSpec(tirx.Var("m", "int64"), n, k)
    caps = replace(caps_of("x86-64-v3"), cores=2)
    config = kernel.default_config(spec, caps)
    assert config.parallel
    assert config.k_block
    assert -(-n // config.columns) > config.n_group
    compiled = Compiled(spec, "x86-64-v3", config)
    for m in (0, 1, 16, 50, 101):
        a, b = inputs_of(m, n, k)
        want = a.astype(np.float64) @ b
        rounding = np.finfo(np.float32).eps * k**0.5 * np.abs(want).max(initial=0)  # of sums as large as these, k times
        np.testing.assert_allclose(compiled(a, b), want, rtol=0, atol=rounding)


@pytest.mark.parametrize("n", [1, 16, 40, 100, 512])
@pytest.mark.parametrize("k", [16, 300, 5000])
@pytest.mark.parametrize("cores", [2, 8])
def test_many_rows_of_an_open_number_are_work_for_all_threads(n: int, k: int, cores: int) -> None:
    """Narrow results have few panels: blocks of rows are low enough for every core to get some."""
    config = kernel.default_config(MatmulSpec(tirx.Var("m", "int64"), n, k), replace(caps_of("x86-64-v3"), cores=cores))
    panels, blocks = math.ceil(n / config.columns), math.ceil(2000 / config.m_block)
    assert blocks * math.ceil(panels / config.n_group) >= 2 * cores


@pytest.mark.parametrize("k_block", [0, 2, 4])
def test_symbolic_rows_in_cache_blocks(k_block: int) -> None:
    spec = MatmulSpec(tirx.Var("m", "int64"), 40, 6)
    config = tile.MatmulConfig(m_tile=5, n_vectors=2, lanes=8, m_block=10, k_block=k_block, n_group=2)
    compiled = Compiled(spec, "x86-64-v3", config)
    for m in (1, 4, 5, 10, 11, 19, 20, 47):
        a, b = inputs_of(m, 40, 6)
        assert_close(compiled(a, b), a.astype(np.float64) @ b, 6)


@pytest.mark.parametrize("shape", [(29, 48, 31), (13, 33, 17)], ids=str)
def test_epilogue_of_bias_residual_relu(shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    a, b = inputs_of(*shape)
    bias, residual = inputs_of(1, n, 1)[1][0], inputs_of(n, 1, m)[0].T.copy()

    def epilogue(value: Any, index: tuple[Any, ...], extras: Any) -> Any:
        row, column = index
        return tirx.max(value + extras[0][column] + extras[1][row, column], tirx.const(0, "float32"))

    extras = (ExtraOperand("bias", (n,)), ExtraOperand("residual", (m, n)))
    actual = Compiled(MatmulSpec(*shape), "x86-64-v3", epilogue=epilogue, extras=extras)(a, b, bias, residual)
    assert_close(actual, np.maximum(a.astype(np.float64) @ b + bias + residual, 0), k)


@pytest.mark.parametrize("m", [28, tirx.Var("m", "int64")], ids=["static", "symbolic"])
def test_accumulators_live_in_registers(m: Any) -> None:
    """No accumulator may become a heap workspace: that is correct, and up to twice as slow."""
    spec = MatmulSpec(m, 64, 16)
    target = parse_target("x86-64-v3")
    func = kernel.emit(spec, kernel.default_config(spec, target.caps), name="mm")
    with cpu_pass_context():
        compiled = tvm.compile(tvm.IRModule({"mm": func}), target.tvm_target())
    assembly = compiled.mod.inspect_source("asm")
    assert "TVMBackendAllocWorkspace" not in assembly
    assert "vfmadd" in assembly


def test_extreme_values_stay_in_their_rows() -> None:
    spec = MatmulSpec(9, 24, 12)
    a, b = inputs_of(9, 24, 12)
    a[2, 3], a[5, 0], b = np.nan, np.inf, np.abs(b)
    actual = Compiled(spec, "x86-64-v3")(a, b)
    assert np.isnan(actual[2]).all()
    assert np.isposinf(actual[5]).all()
    assert np.isfinite(np.delete(actual, [2, 5], axis=0)).all()


@pytest.mark.parametrize(("bits", "registers", "most"), [(512, 32, 28), (256, 16, 12), (128, 16, 12)])
@pytest.mark.parametrize("shape", [*SHAPES, (4096, 4096, 4096)], ids=str)
def test_default_config_fits_the_registers(shape: tuple[int, int, int], bits: int, registers: int, most: int) -> None:
    config = kernel.default_config(MatmulSpec(*shape), Caps(vector_bits=bits, vector_registers=registers))
    assert config.m_tile * config.n_vectors <= most
    assert config.m_block % config.m_tile == 0
    assert config.lanes * 32 <= bits


@pytest.mark.parametrize("columns", [1, 15, 31, 33, 39, 47])
def test_every_width_of_the_last_panel(columns: int) -> None:
    a, b = inputs_of(5, columns, 11)
    assert_close(Compiled(MatmulSpec(5, columns, 11), "x86-64-v3")(a, b), a.astype(np.float64) @ b, 11)


@pytest.mark.parametrize("shape", [(197, 768, 3072), (512, 1000, 4096), (64, 4096, 25088), (2048, 2048, 2048)], ids=str)
@pytest.mark.parametrize("l2", [256, 2048])
def test_default_blocks_stay_in_the_cache(shape: tuple[int, int, int], l2: int) -> None:
    """A's block in half of L2, as long as it has enough rows that reading B again for each costs little."""
    caps = Caps(vector_bits=256, vector_registers=16, l2_bytes=l2 * 1024, cores=2)
    config = kernel.default_config(MatmulSpec(*shape), caps)
    rows, steps = config.m_block or shape[0], config.k_block or shape[2]
    assert rows * steps * 4 <= 0.6 * caps.l2_bytes
    assert rows >= 48
    assert config.parallel


def test_small_products_stay_on_one_thread() -> None:
    assert not kernel.default_config(MatmulSpec(8, 64, 64), Caps(cores=2)).parallel
    assert not kernel.default_config(MatmulSpec(512, 512, 512), Caps(cores=1)).parallel


def test_refuses_empty_products() -> None:
    assert "empty" in (tile.supports(MatmulSpec(4, 0, 4), Caps()) or "")


def test_packing_rejects_another_shape() -> None:
    spec = MatmulSpec(4, 8, 16)
    with pytest.raises(ValueError, match="expected"):
        tile.packing(spec, kernel.default_config(spec, Caps()))(np.zeros((8, 16), np.float32))
