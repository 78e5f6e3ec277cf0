"""Elementary functions in the form for 64-bit ARM keep the bounds of the others; what their loops are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphopt.backends.base.dialect import written_in
from graphopt.backends.base.target import Target
from graphopt.backends.base.tvm_api import cpu_pass_context, tirx, tvm
from graphopt.backends.build.whole_module import BuiltWhole
from graphopt.backends.cpu.nest import CpuSchedule
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.platforms import platform_of
from graphopt.backends.tensors import math as m
from graphopt.backends.tensors.builder import KernelBuilder, Output, reader
from graphopt.backends.tensors.tensor import elementwise
from tests.backends.tensors.test_math import CASES, Array, require_error, require_gelu, require_mish, sample
from tests.support import qemu
from tests.support.assembly import loops

TARGETS = {"arm": "cortex-a53", "arm:cortex-a76": "cortex-a76"}
"""The processors that code is built for, and those that are emulated."""

EXTREMES: dict[str, tuple[Callable[[Any], Any], Callable[[Array], Array]]] = {
    "maximum": (lambda v: m.maximum(v, m.like(0.0, v)), lambda v: np.maximum(v, np.float32(0))),
    "minimum": (lambda v: m.minimum(m.like(0.5, v), v), lambda v: np.minimum(v, np.float32(0.5))),
    "at_least": (lambda v: m.at_least(v, m.like(-1e-38, v)), lambda v: np.maximum(v, np.float32(-1e-38))),
    "at_most": (lambda v: m.at_most(v, m.like(-1e-45, v)), lambda v: np.minimum(v, np.float32(-1e-45))),
}


def _function(fns: list[Callable[[Any], Any]], shape: tuple[int, ...], target: Target, dtype: str) -> Any:
    """A PrimFunc of ``x`` and each function of it, by the generic CPU schedule."""
    builder = KernelBuilder(target.caps, CpuSchedule(), {})
    x, *outputs = (tirx.decl_buffer(shape, dtype, f"b{i}") for i in range(len(fns) + 1))
    with written_in(CpuSchedule().dialect(target.caps)):
        for fn, out in zip(fns, outputs):
            builder.emit([Output(elementwise(fn, dtype, shape, reader(x, shape, dtype)), out)])
    return builder.finish([x, *outputs], "f")


def _compiled(fns: list[Callable[[Any], Any]], shape: tuple[int, ...], target: Target, dtype: str = "float32") -> Any:
    with cpu_pass_context():
        return tvm.compile(tvm.IRModule({"f": _function(fns, shape, target, dtype)}), target=target.tvm_target())


@pytest.fixture(scope="module", params=TARGETS)
def results(request: pytest.FixtureRequest) -> dict[str, Array]:
    """Every function of the sample, computed by one library."""
    if (why := qemu.why_unavailable()) is not None:
        pytest.skip(why)
    target, x = parse_target(request.param, 1), sample()
    fns = {name: fn for name, (fn, *_) in {**CASES, **EXTREMES}.items()}
    fns |= {"mish": m.mish, "gelu": m.gelu, "exp_up_to_60": m.exp_up_to_60, "expm1_below_0": m.expm1_below_0}
    library = BuiltWhole(target, platform_of(target), executable=_compiled([*fns.values()], x.shape, target))
    got = qemu.run_under_qemu(
        library.library_bytes(), [x], [(x.shape, "float32")] * len(fns), TARGETS[request.param], "f", mode="prim"
    )
    return dict(zip(fns, got))


@pytest.mark.qemu
@pytest.mark.parametrize("name", CASES)
def test_error_in_ulp(name: str, results: dict[str, Array]) -> None:
    require_error(name, sample(), results[name])


@pytest.mark.qemu
def test_mish(results: dict[str, Array]) -> None:
    require_mish(sample(), results["mish"])


@pytest.mark.qemu
def test_gelu(results: dict[str, Array]) -> None:
    require_gelu(sample(), results["gelu"])


@pytest.mark.qemu
@pytest.mark.parametrize(("name", "like", "most"), [("exp_up_to_60", "exp", 60), ("expm1_below_0", "expm1", 0)])
def test_error_where_the_argument_is_bounded(name: str, like: str, most: float, results: dict[str, Array]) -> None:
    x = sample()
    asked = ~(x > most)
    require_error(like, x[asked], results[name][asked])


@pytest.mark.qemu
@pytest.mark.parametrize("name", EXTREMES)
def test_extremes_keep_nan(name: str, results: dict[str, Array]) -> None:
    np.testing.assert_array_equal(results[name], EXTREMES[name][1](sample()))


@pytest.mark.qemu
def test_sigmoid_of_float16() -> None:
    if (why := qemu.why_unavailable()) is not None:
        pytest.skip(why)
    x = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    target = parse_target("arm:cortex-a76", 1)
    library = BuiltWhole(target, platform_of(target), executable=_compiled([m.sigmoid], x.shape, target, "float16"))
    (got,) = qemu.run_under_qemu(library.library_bytes(), [x], [(x.shape, "float16")], "cortex-a76", "f", mode="prim")
    np.testing.assert_array_equal(np.isnan(got), np.isnan(x))
    known = ~np.isnan(x)
    with np.errstate(over="ignore"):
        want = 1 / (1 + np.exp(-x[known].astype(np.float64)))
    rounded = want.astype(np.float16)
    error = np.abs(got[known] - want) / np.maximum(np.spacing(rounded), np.float16(2**-24)).astype(np.float64)
    far = x[known] < -9  # subnormal results
    assert error[~far].max() <= 2
    assert np.abs(got[known] - want)[far].max() <= 1e-5


@pytest.mark.parametrize(("name", "most"), [("swish", 24), ("exp", 27), ("elu", 25), ("relu", 4), ("gelu", 43)])
def test_shape_of_the_loop(name: str, most: int) -> None:
    """No choices by comparisons where an instruction keeps NaN, constants stay in registers: so many instructions a vector."""
    fns: dict[str, Callable[[Any], Any]] = {
        "swish": lambda x: x * m.sigmoid(x),
        "exp": m.exp,
        "elu": lambda x: m.maximum(x, m.expm1_below_0(x)),
        "gelu": m.gelu,
        "relu": lambda x: m.at_least(x, m.like(0.0, x)),
    }
    target = parse_target("arm:neoverse-n1", 1)
    assembly = _compiled([fns[name]], (4096,), target).mod.inspect_source("asm")
    (loop,) = [found for found in loops(assembly) if found.count(r"st[pr]\s+q")]
    stores = loop.count(r"str\s+q") + 2 * loop.count(r"stp\s+q")
    assert len(loop.instructions) <= most * stores, f"{len(loop.instructions)} for {stores} vectors"
    assert not loop.count(r"fcm|bsl|bi[tf]\s"), loop.instructions
    assert not loop.count(r"dup\s|adrp"), "a constant is made anew"
    assert not loop.spills
