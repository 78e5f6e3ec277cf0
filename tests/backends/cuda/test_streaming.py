"""Machine code of kernels that stream through memory: 16 bytes an access, no local memory, and the bandwidth predicted of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16

import graphopt
from graphopt.backends.cuda.cost.chips import CHIPS
from graphopt.backends.cuda.cost.streaming import Stream, predicted_share
from graphopt.backends.cuda.disassembly import Machine, disassembler, kernels_in
from graphopt.backends.cuda.nvrtc import available_compilers, compile_code
from graphopt.backends.cuda.resources import KernelResources, resources_in
from tests.support.many_nodes import Array, ManyNodes

pytestmark = [
    pytest.mark.skipif(not available_compilers(), reason="neither NVRTC nor nvcc"),
    pytest.mark.skipif(disassembler() is None, reason="no nvdisasm"),
]
TYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": bfloat16}
SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "Add": ((256, 512, 1024), (256, 512, 1024)),
    "Mul": ((256, 512, 1024), (1024,)),
    "Sigmoid": ((256, 512, 1024),),
    "Softmax": ((256, 512, 1024),),
    "LogSoftmax": ((32, 1024, 4096),),
    "LayerNormalization": ((256, 512, 1024), (1024,), (1024,)),
    "InstanceNormalization": ((256, 512, 32, 32), (512,), (512,)),
}
"""An activation of 128 million elements, and the operands beside it."""


def _source(model: bytes) -> str:
    """The CUDA C of a model."""
    compiled = graphopt.compile(model, "cuda:sm_80")
    modules: list[Any] = [compiled.built.executable.mod]  # type: ignore[union-attr]
    while modules:
        module = modules.pop()
        if module.kind == "cuda":
            return str(module.inspect_source())
        modules += list(module.imports)
    raise AssertionError("no CUDA C")


def _launches(source: str) -> dict[str, int]:
    """Threads of a block of each kernel."""
    return {name: int(threads) for threads, name in re.findall(r"__launch_bounds__\((\d+)\) (\w+)\([^)]*\) \{", source)}


@cache
def _compiled(dtype: str, sm: int) -> tuple[Mapping[str, Machine], Mapping[str, KernelResources], Mapping[str, int]]:
    nodes = ManyNodes()
    for op, shapes in SHAPES.items():
        operands: list[Array] = [np.broadcast_to(np.zeros(1, TYPES[dtype]), shape) for shape in shapes]
        nodes.declare(op, *operands)
    source = _source(nodes.model)
    code = compile_code(source, f"sm_{sm}")
    return kernels_in(code.content), resources_in(code.log), _launches(source)


def _of(op: str, found: Mapping[str, Any]) -> Any:
    (name,) = [name for name in found if name.startswith(op.lower() + "_")]
    return found[name]


@pytest.mark.parametrize(("dtype", "sm"), [("float32", 80), ("float16", 90), ("bfloat16", 80)])
def test_streams(dtype: str, sm: int) -> None:
    machines, resources, threads = _compiled(dtype, sm)
    size = 4 if dtype == "float32" else 2
    for op, shapes in SHAPES.items():
        machine, used = _of(op, machines), _of(op, resources)
        assert not machine.uses_local_memory, f"{op}: {machine}"
        assert used.spilled == 0
        wide, narrow = machine.count("LDG.E.128"), machine.count("LDG")
        per_channel = 2 if op == "InstanceNormalization" else 0
        assert wide == narrow - per_channel * (narrow > wide), f"{op}: {machine}"
        assert machine.count("STG.E.128") == machine.count("STG") > 0, f"{op}: {machine}"
        # each thread stores so many elements
        elements = int(np.prod(shapes[0]))
        stored = machine.count("STG") * 16 // size
        stream = Stream(
            blocks=elements // (stored * _of(op, threads)), threads=_of(op, threads), registers=used.registers,
            shared=used.shared, instructions=len(machine.instructions), special=machine.special,
            ahead=16 * wide, read=size * sum(int(np.prod(s)) for s in shapes), written=size * elements,
        )  # fmt: skip
        share = predicted_share(stream, CHIPS[sm])
        print(f"{op} {dtype} {CHIPS[sm].name}: {share:.0%} of memory's bandwidth predicted, {stream}")
        assert share >= 0.8, f"{op} in {dtype} on {CHIPS[sm].name}: {share:.0%} predicted, {stream}"


def test_predictions_see_what_slows_a_kernel() -> None:
    """Too few bytes on their way, too many instructions, too few blocks for the last round."""
    chip = CHIPS[80]
    good = Stream(100_000, 256, 32, 0, 60, 0, 32, 100_000 * 256 * 32, 100_000 * 256 * 16)
    assert predicted_share(good, chip) > 0.9
    for worse in (
        {"ahead": 2, "registers": 128}, {"instructions": 3000}, {"special": 200}, {"blocks": 110}, {"shared": 100_000, "ahead": 8},
    ):  # fmt: skip
        assert predicted_share(Stream(**{**vars(good), **worse}), chip) < 0.8, worse
