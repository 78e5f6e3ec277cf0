"""The kernels behind measured peaks do what their operation and byte counts say, in the code that they should."""

from __future__ import annotations

import re

import numpy as np
import pytest

from graphopt.backends.base.peaks import StreamCase
from graphopt.backends.base.tvm_api import cpu_pass_context, tvm
from graphopt.backends.cpu.kernels.peak import STEP, STREAMS, emit_fma, emit_stream, fma_chains, fma_flops, stream_bytes
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.platforms import platform_of
from graphopt.backends.targets.runnable import can_run_here

SPECS = ("native", "x86-64-v2", "x86-64-v3", "x86-64-v4")


def compiled(function: object, spec: str, threads: int) -> object:
    target = parse_target(spec, threads)
    if not can_run_here(target):
        pytest.skip(can_run_here(target).reason)
    with cpu_pass_context():
        return tvm.compile(tvm.IRModule({"f": function.with_attr("global_symbol", "f")}), target.tvm_target()).jit()[
            "f"
        ]  # type: ignore[attr-defined]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("spec", SPECS)
def test_multiply_adds_are_done_as_often_as_counted(spec: str, threads: int) -> None:
    caps, steps = parse_target(spec, threads).caps, 9
    lanes = caps.lanes(4)
    run = compiled(emit_fma(caps, steps, threads), spec, threads)
    seed = np.stack([np.linspace(0.5, 0.9, lanes), np.linspace(1, 2, lanes)]).astype(np.float32)
    out = tvm.runtime.empty((threads, fma_chains(caps), lanes), "float32")
    run(tvm.runtime.tensor(seed), out)  # type: ignore[operator]
    want = seed[1].astype(np.float64)
    for _ in range(steps):
        want = want * seed[0] + seed[1]
    np.testing.assert_allclose(out.numpy(), np.broadcast_to(want, out.shape), rtol=1e-6)
    assert fma_flops(caps, steps, threads) == 2 * steps * out.numpy().size


@pytest.mark.parametrize(("spec", "register"), [("x86-64-v3", "ymm"), ("x86-64-v4", "zmm")])
def test_the_loop_is_multiply_adds_in_registers(spec: str, register: str) -> None:
    target = parse_target(spec, 1)
    with cpu_pass_context():
        built = tvm.compile(tvm.IRModule({"fma": emit_fma(target.caps, 1000, 1)}), target.tvm_target())
    text = re.sub(r"\.Ltmp\d+:\n", "", built.mod.inspect_source("asm"))
    chains = fma_chains(target.caps)
    loop = rf"(?:\tvfmadd\w+ps\t%{register}\d+, %{register}\d+, %{register}\d+[^\n(]*\n){{{chains}}}"
    assert re.search(loop, text)  # one after the other: nothing is loaded or spilt between


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("spec", ["native", "x86-64-v2"])
def test_streams_touch_what_they_count(kind: str, threads: int, spec: str) -> None:
    caps = parse_target(spec, threads).caps
    lanes = caps.lanes(4)
    count = STEP * lanes * threads * 3
    run = compiled(emit_stream(kind, caps, count, threads), spec, threads)
    before = np.random.default_rng(0).standard_normal(count).astype(np.float32)
    factors = np.full((threads, 4, lanes), 0.25, np.float32)
    data, out = tvm.runtime.tensor(before), tvm.runtime.tensor(factors)
    run(data, out)  # type: ignore[operator]
    chunks, after = before.reshape(threads, -1), data.numpy().reshape(threads, -1)
    half, third = chunks.shape[1] // 2, chunks.shape[1] // 3
    if kind == "read":
        assert np.array_equal(after, chunks)
        want = 0.25 * 4 * lanes + chunks.astype(np.float64).sum(1)
        np.testing.assert_allclose(
            out.numpy().reshape(threads, -1).astype(np.float64).sum(1), want, rtol=1e-4, atol=1e-4
        )
    elif kind == "write":
        assert (after == 0.25).all()
    elif kind == "copy":
        np.testing.assert_array_equal(after[:, half : 2 * half], chunks[:, :half] * np.float32(0.25))
    else:
        want = chunks[:, :third] + chunks[:, third : 2 * third].astype(np.float64) * 0.25
        np.testing.assert_allclose(after[:, 2 * third :], want, rtol=1e-6, atol=1e-7)
    assert stream_bytes(kind, count) == 4 * count


def test_a_stream_of_no_whole_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="no multiple"):
        emit_stream("read", parse_target("x86-64-v3", 1).caps, 100, 1)


def test_work_can_be_run() -> None:
    target = parse_target("native", 1)
    kernels = platform_of(target).peak_kernels()
    assert kernels is not None
    for work in (
        *kernels.fma_work(target, [1]),
        *kernels.stream_work(target, [StreamCase("triad", 1 << 16, 2), StreamCase("read", 1)]),
    ):
        work.run()
        assert work.amount > 0
