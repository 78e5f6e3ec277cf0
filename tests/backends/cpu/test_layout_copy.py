"""Copies between NCHW and NCHW{b}c against numpy's transposition, bit by bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from graphopt.backends.base.element_type import ELEMENT_TYPES, FLOAT32, ElementType
from graphopt.backends.base.tvm_api import tirx, tvm
from graphopt.backends.cpu.kernels import layout_copy as kernel
from graphopt.backends.specs.layout_copy import LayoutCopySpec
from graphopt.ir.dtypes import DType
from tests.backends.cpu.test_conv2d_direct import LEVELS, build, caps_of, to_physical

HALF, BRAIN = ELEMENT_TYPES[DType.f16], ELEMENT_TYPES[DType.bf16]
SPECS = [
    LayoutCopySpec(2, 32, 5, 7, 16, True),
    LayoutCopySpec(1, 24, 1, 1, 8, True),
    LayoutCopySpec(1, 1000, 1, 13, 8, True),
    LayoutCopySpec(1, 16, 7, 225, 16, True),
    LayoutCopySpec(1, 12, 3, 3, 4, True),
    LayoutCopySpec(1, 64, 64, 64, 16, True),
    LayoutCopySpec(1, 32, 3, 1, 32, True),
    LayoutCopySpec(2, 32, 5, 7, 16, True, HALF),
    LayoutCopySpec(1, 12, 3, 3, 4, True, HALF),
    LayoutCopySpec(1, 24, 1, 1, 8, True, BRAIN),
    LayoutCopySpec(1, 64, 9, 35, 32, True, BRAIN),
]


def repr_of(spec: LayoutCopySpec) -> str:
    return f"{'x'.join(map(str, spec.plain_shape))} in {spec.block} of {spec.type.dtype}"


def check(module: Any, spec: LayoutCopySpec, shape: tuple[int, ...]) -> None:
    """Every element has the same bits: any number there is, NaN with a payload included."""
    bits = f"uint{8 * spec.type.bytes}"
    x = np.random.default_rng(3).integers(0, 1 << 8 * spec.type.bytes, shape, bits).view(spec.type.storage)
    blocked = to_physical(x, spec.block)
    source, expected = (x, blocked) if spec.to_blocks else (blocked, x)
    output = tvm.runtime.tensor(np.full(expected.shape, 7, spec.type.storage))
    module["conv"](tvm.runtime.tensor(source), output)
    np.testing.assert_array_equal(output.numpy().view(bits), expected.view(bits))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("to_blocks", [True, False])
@pytest.mark.parametrize("spec", SPECS, ids=repr_of)
def test_moves_every_bit(spec: LayoutCopySpec, to_blocks: bool, level: str) -> None:
    spec = replace(spec, to_blocks=to_blocks)
    caps = caps_of(level)
    assert kernel.supports(spec, caps) is None
    module = build(kernel.emit(spec, kernel.default_config(spec, caps), "conv"), level)
    check(module, spec, tuple(int(d) for d in spec.plain_shape))


@pytest.mark.parametrize("row", [FLOAT32, BRAIN], ids=lambda row: str(row.dtype))
@pytest.mark.parametrize("to_blocks", [True, False])
@pytest.mark.parametrize("level", LEVELS)
def test_symbolic_sizes(level: str, to_blocks: bool, row: ElementType) -> None:
    n, h, w = (tirx.Var(name, "int64") for name in "nhw")
    spec = LayoutCopySpec(n, 32, h, w, 16, to_blocks, row)
    module = build(kernel.emit(spec, kernel.default_config(spec, caps_of(level)), "conv"), level)
    for batch, height, width in ((1, 1, 1), (2, 5, 7), (1, 33, 64), (3, 1, 18)):
        check(module, spec, (batch, 32, height, width))


def test_refuses_what_is_no_block() -> None:
    assert kernel.supports(LayoutCopySpec(1, 6, 2, 2, 6, True), caps_of("x86-64-v2")) is not None
    assert kernel.supports(LayoutCopySpec(1, 20, 2, 2, 16, True), caps_of("x86-64-v2")) is not None
