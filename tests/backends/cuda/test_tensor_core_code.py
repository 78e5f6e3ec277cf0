"""Machine code of the kernels on tensor cores: the instructions that a stage needs, nothing in local memory, everywhere."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from graphopt.backends.base.element_type import element_type
from graphopt.backends.cuda.disassembly import Machine, disassembler, kernels_in
from graphopt.backends.cuda.kernels import implicit_gemm
from graphopt.backends.cuda.kernels.gemm_config import GemmConfig
from graphopt.backends.cuda.kernels.products import PRODUCTS
from graphopt.backends.cuda.nvrtc import available_compilers, compile_code
from graphopt.backends.cuda.resources import resources_in
from graphopt.backends.specs.implicit_gemm import ImplicitGemmSpec
from graphopt.backends.specs.types import KernelTypes
from graphopt.backends.specs.window import Window
from graphopt.backends.templates.storing import store_accumulator
from graphopt.ir.dtypes import DType
from tests.support.cuda_on_cpu.cuda_source import cuda_source_of

pytestmark = [
    pytest.mark.skipif(not available_compilers(), reason="neither NVRTC nor nvcc"),
    pytest.mark.skipif(disassembler() is None, reason="no nvdisasm"),
]
TYPES = {
    "f16": (DType.f16, DType.f16, DType.f16), "bf16": (DType.bf16, DType.bf16, DType.bf16),
    "tf32": (DType.f32, DType.f32, DType.f32), "u8s8": (DType.u8, DType.i8, DType.i32),
}  # fmt: skip
TILES = {"large": (128, 128, 2, 2, 3), "small": (64, 64, 2, 2, 4), "sliced": (16, 64, 1, 2, 4, 4)}
INSTRUCTIONS = {
    "f16": "HMMA.16816.F32",
    "bf16": "HMMA.16816.F32.BF16",
    "tf32": "HMMA.1688.F32.TF32",
    "u8s8": "IMMA.16832.U8.S8",
}
"""From sm_80 on."""


def compiled(sm: int, products: tuple[str, ...]) -> tuple[Mapping[str, Machine], dict[str, int]]:
    """The kernels of all tiles and products, and bytes that each spills."""
    axes = (Window(28, 3, 1, 1, 1), Window(28, 3, 1, 1, 1))
    functions = {}
    for product in products:
        data, weight, result = (element_type(t) for t in TYPES[product])
        sums = element_type(DType.i32 if PRODUCTS[product].sums == "int32" else DType.f32)
        spec = ImplicitGemmSpec(4, 128, 256, axes, (1, 1), types=KernelTypes(data, weight, sums, result))
        for tile, shape in TILES.items():
            name = f"{product}_{tile}"
            functions[name] = implicit_gemm.emit(spec, GemmConfig(product, *shape), store_accumulator, [], name)
    code = compile_code(cuda_source_of(functions, f"cuda:sm_{sm}"), f"sm_{sm}")
    return kernels_in(code.content), {name: found.spilled for name, found in resources_in(code.log).items()}


@pytest.mark.parametrize(
    "sm", [80, pytest.param(86, marks=pytest.mark.slow), pytest.param(89, marks=pytest.mark.slow), 90]
)
def test_stages(sm: int) -> None:
    """A stage is 64 bytes a row: two steps of products, their fragments by `ldmatrix`, copies that run beside."""
    kernels, spilled = compiled(sm, tuple(TYPES) if sm == 80 else ("f16", "u8s8"))
    for name, machine in kernels.items():
        product, tile = name.removesuffix("_kernel").split("_")
        config = GemmConfig(product, *TILES[tile])
        rows, columns = config.tile_rows // 16, config.tile_columns // 8
        assert machine.count(INSTRUCTIONS[product]) == 2 * rows * columns, f"{name}: {machine}"
        assert machine.count("LDSM.16.M88.4") == 2 * (rows + columns // 2), name
        chunks = -(-config.stage_bytes // (16 * config.threads))
        assert machine.count("LDGSTS") >= chunks * config.stages, name  # those before the loop, and in it
        assert machine.count("BAR.SYNC") <= (4 if config.slices > 1 else 2), (
            name
        )  # one a stage, one before the epilogue
        assert not machine.uses_local_memory, f"{name}: {machine}"
        assert spilled[name] == 0


def test_turing() -> None:
    """Half as deep a product, and no asynchronous copies."""
    kernels, spilled = compiled(75, ("f16", "u8s8"))
    for name, machine in kernels.items():
        product, tile = name.removesuffix("_kernel").split("_")
        config = GemmConfig(product, *TILES[tile])
        tiles = (config.tile_rows // 16) * (config.tile_columns // 8)
        instruction, of_a_stage = ("HMMA.1688.F32", 4 * tiles) if product == "f16" else ("IMMA.8816.U8.S8", 8 * tiles)
        found = machine.count(instruction)  # the assembler may write a loop of a few stages out
        assert found, name
        assert found % of_a_stage == 0, f"{name}: {machine}"
        assert machine.count("LDGSTS") == 0
        assert not machine.uses_local_memory, f"{name}: {machine}"
        assert spilled[name] == 0
