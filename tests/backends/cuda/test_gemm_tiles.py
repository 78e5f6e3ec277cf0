"""Every tile that products of matrices may be computed in, for every type of operand, on the simulator: the same exact sums.

Operands are small whole numbers, so that every type holds them and all sums; results must be equal, not close.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("ziglang")

from graphopt.backends.base.element_type import ElementType, computed_type, element_type
from graphopt.backends.cuda.cost.gemm import configurations
from graphopt.backends.cuda.kernels import batched_gemm, implicit_gemm
from graphopt.backends.cuda.kernels.gemm_config import GemmConfig
from graphopt.backends.cuda.kernels.products import PRODUCTS
from graphopt.backends.cuda.kernels.row_packing import RowPacking, packed_shape
from graphopt.backends.cuda.nvrtc import complete_source
from graphopt.backends.specs.implicit_gemm import ImplicitGemmSpec
from graphopt.backends.specs.matmul import BatchedSpec
from graphopt.backends.specs.types import KernelTypes
from graphopt.backends.specs.window import Window
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.templates.storing import store_accumulator
from graphopt.ir.dtypes import DType
from tests.support.cuda_on_cpu.cuda_source import cuda_source_of
from tests.support.cuda_on_cpu.simulator import Kernels

OPERANDS = {
    "f16": (DType.f16, DType.f16, DType.f16), "bf16": (DType.bf16, DType.bf16, DType.f32),
    "tf32": (DType.f32, DType.f32, DType.f32),
    "fma": (DType.f32, DType.f32, DType.f32), "u8s8": (DType.u8, DType.i8, DType.i32), "s8s8": (DType.i8, DType.i8, DType.i32),
    "u8u8": (DType.u8, DType.u8, DType.i32), "s8u8": (DType.i8, DType.u8, DType.i32),
}  # fmt: skip
"""Data, weights, result."""

EVERY = {"f16": 1, "u8s8": 2, "fma": 2}
"""One of so many tiles is tried: all where accumulators are fragments of float32, fewer for integers and lanes without them."""


def spec_for(product: str) -> ImplicitGemmSpec:
    data, weight, result = (element_type(t) for t in OPERANDS[product])
    sums: ElementType = computed_type(PRODUCTS[product].sums)
    axes = (Window(7, 3, 2, 1, 1), Window(9, 2, 1, 2, 1))
    return ImplicitGemmSpec(2, 64, 72, axes, (2, 0), groups=2, types=KernelTypes(data, weight, sums, result))


def operands(spec: ImplicitGemmSpec) -> tuple[Any, Any, Any]:
    """Data as it lies in memory, weights, and the result in float64, channels last."""
    rng = np.random.default_rng(3)
    low = {t: -2 if t not in (DType.u8,) else 0 for t in (spec.types.input.dtype, spec.types.weight.dtype)}
    x = rng.integers(low[spec.types.input.dtype], 3, spec.data_shape)
    w = rng.integers(low[spec.types.weight.dtype], 3, (spec.out_channels, spec.group_channels, 3, 2))
    padded = np.pad(x, ((0, 0), (1, 2), (1, 0), (0, 0)))
    height, width = spec.outputs
    result = np.zeros(spec.result_shape)
    for group in range(spec.groups):
        ins = slice(group * spec.group_channels, (group + 1) * spec.group_channels)
        outs = slice(group * spec.columns, (group + 1) * spec.columns)
        for i in range(3):
            for j in range(2):
                part = padded[:, i : i + 2 * height - 1 : 2, 2 * j : 2 * j + width, ins]
                result[..., outs] += np.einsum("nyxc,oc->nyxo", part, w[outs, :, i, j])
    return x, w, result


@pytest.mark.parametrize("product", OPERANDS)
@pytest.mark.few(3)
def test_all_tiles(product: str) -> None:
    run_tiles(product, every=EVERY.get(product, 6))  # what differs is the instruction alone


def run_tiles(product: str, *, arch: int = 80, every: int = 1) -> None:
    """Compute the product in each of the tiles, or in one of so many."""
    spec, caps = spec_for(product), parse_target("cuda:sm_80").caps
    found = list(configurations(spec, PRODUCTS[product], caps))
    tiles: dict[Any, GemmConfig] = {}
    for config in found:  # each shape with one number of stages, each number of stages and slices at least once
        key = (config.block_rows, config.block_columns, config.warp_rows)
        tiles.setdefault((*key, "slices") if config.slices > 1 else key, config)
        tiles.setdefault(("stages", config.stages), config)
        tiles.setdefault(("slices", config.slices), config)
    tiles = dict(list(tiles.items())[::every])
    x, w, want = operands(spec)
    x = x.astype(spec.types.input.dtype.numpy)
    functions = {
        f"tile{i}": implicit_gemm.emit(spec, c, store_accumulator, [], f"tile{i}") for i, c in enumerate(tiles.values())
    }
    kernels = Kernels(complete_source(cuda_source_of(functions)), arch=arch)
    for name, config in zip(functions, tiles.values()):
        packing = RowPacking(
            w.shape, packed_shape(spec, config), spec.types.weight, spec.groups, rounds=product == "tf32"
        )
        result = np.full(spec.result_shape, -1, spec.types.output.dtype.numpy)
        count = implicit_gemm.tile_count(spec, config)
        scratch = np.zeros(count * config.slices * config.block_rows * config.block_columns, np.int32)
        arguments = {
            "data_ptr": x,
            "weight_ptr": packing(w.astype(spec.types.weight.dtype.numpy)),
            "output_ptr": result,
            "counters_ptr": np.zeros(count, np.int32),
        }
        kernel = f"{name}_kernel"
        given = [arguments.get(parameter, scratch) for parameter in kernels.parameters(kernel)]
        grid = (count // spec.parts, spec.parts, config.slices)
        kernels.launch(kernel, given, grid=grid, block=config.threads, shared=config.shared_bytes)
        np.testing.assert_array_equal(result.astype(np.float64), want, err_msg=f"{config}")
        assert not arguments["counters_ptr"].any()


@pytest.mark.parametrize("product", ["bf16", "tf32"])
def test_lanes_multiply_where_no_tensor_core_does(product: str) -> None:
    """Turing has tensor cores for neither: each lane fetches the elements that others hold."""
    run_tiles(product, arch=75, every=19)


def test_columns_innermost() -> None:
    """A second operand made at run time, as it usually lies: 16-bit elements are transposed on their way out of shared memory."""
    row = element_type(DType.f16)
    types = KernelTypes(row, row, element_type(DType.f32), row)
    spec = BatchedSpec((2, 3), (2, 3), (1, 3), 37, 72, 88, types=types)
    widths: dict[int, GemmConfig] = {}
    for config in configurations(ImplicitGemmSpec(37, 88, 72), PRODUCTS["f16"], parse_target("cuda:sm_80").caps):
        if config.slices == 1:
            widths.setdefault(config.block_columns, config)
    assert sorted(widths) == [16, 32, 64, 128, 256]
    rng = np.random.default_rng(6)
    a, b = (rng.integers(-2, 3, shape).astype(np.float16) for shape in (spec.a_shape, spec.b_shape))
    functions = {f"wide{w}": batched_gemm.emit(spec, c, store_accumulator, [], f"wide{w}") for w, c in widths.items()}
    kernels = Kernels(complete_source(cuda_source_of(functions)))
    for width, config in widths.items():
        arguments = {"a_ptr": a, "b_ptr": b, "output_ptr": np.full((2, 3, 37, 72), -1, np.float16)}
        kernel = f"wide{width}_kernel"
        given = [arguments[parameter] for parameter in kernels.parameters(kernel)]
        grid = (-(-37 // config.block_rows) * -(-72 // width), 6, 1)
        kernels.launch(kernel, given, grid=grid, block=config.threads, shared=config.shared_bytes)
        want = a.astype(np.float64) @ b.astype(np.float64)
        np.testing.assert_array_equal(arguments["output_ptr"].astype(np.float64), want, err_msg=f"{config}")
