"""Copies between NCHW and NCHW{b}c against numpy's transposition, bit by bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from graphopt.backends.base.tvm_api import tirx, tvm
from graphopt.backends.cpu.kernels import layout_copy as kernel
from graphopt.backends.specs.layout_copy import LayoutCopySpec
from tests.backends.cpu.test_conv2d_direct import LEVELS, build, caps_of, to_physical

SPECS = [
    LayoutCopySpec(2, 32, 5, 7, 16, True),
    LayoutCopySpec(1, 24, 1, 1, 8, True),
    LayoutCopySpec(1, 1000, 1, 13, 8, True),
    LayoutCopySpec(1, 16, 7, 225, 16, True),
    LayoutCopySpec(1, 12, 3, 3, 4, True),
    LayoutCopySpec(1, 64, 64, 64, 16, True),
    LayoutCopySpec(1, 32, 3, 1, 32, True),
]


def random_bits(shape: Any) -> np.ndarray:
    """Any float32 there is, NaNs with a payload included."""
    return np.random.default_rng(3).integers(0, 1 << 32, shape, np.uint32).view(np.float32)


def check(module: Any, spec: LayoutCopySpec, shape: tuple[int, ...]) -> None:
    x = random_bits(shape)
    blocked = to_physical(x, spec.block)
    source, expected = (x, blocked) if spec.to_blocks else (blocked, x)
    output = tvm.runtime.tensor(np.full(expected.shape, 7, np.float32))
    module["conv"](tvm.runtime.tensor(source), output)
    np.testing.assert_array_equal(output.numpy().view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("to_blocks", [True, False])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_moves_every_bit(spec: LayoutCopySpec, to_blocks: bool, level: str) -> None:
    spec = replace(spec, to_blocks=to_blocks)
    caps = caps_of(level)
    assert kernel.supports(spec, caps) is None
    module = build(kernel.emit(spec, kernel.default_config(spec, caps), "conv"), level)
    check(module, spec, tuple(int(d) for d in spec.plain_shape))


@pytest.mark.parametrize("to_blocks", [True, False])
@pytest.mark.parametrize("level", LEVELS)
def test_symbolic_sizes(level: str, to_blocks: bool) -> None:
    n, h, w = (tirx.Var(name, "int64") for name in "nhw")
    spec = LayoutCopySpec(n, 32, h, w, 16, to_blocks)
    module = build(kernel.emit(spec, kernel.default_config(spec, caps_of(level)), "conv"), level)
    for batch, height, width in ((1, 1, 1), (2, 5, 7), (1, 33, 64), (3, 1, 18)):
        check(module, spec, (batch, 32, height, width))


def test_refuses_what_is_no_block() -> None:
    assert kernel.supports(LayoutCopySpec(1, 6, 2, 2, 6, True), caps_of("x86-64-v2")) is not None
    assert kernel.supports(LayoutCopySpec(1, 20, 2, 2, 16, True), caps_of("x86-64-v2")) is not None
