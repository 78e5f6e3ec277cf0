"""Every template's list of configurations: the default is in it, JSON brings each back, and kernels of a sample are right."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest

from graphopt.backends.base.config_codec import from_json, to_json
from graphopt.backends.base.template import Computed, KernelTemplate, Packed, Yes, asked, packed_array
from graphopt.backends.base.tvm_api import cpu_pass_context, tvm
from graphopt.backends.cpu.kernels import pinned
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.platforms import platform_of
from graphopt.ir.graph import Value
from tests.support.template_calls import CASES, Case

TARGET = parse_target("x86-64-v3", 2)
CAPS = TARGET.caps
TEMPLATES: dict[str, KernelTemplate[Any]] = {t.name: t for t in platform_of(TARGET).templates()}
MOST = 1500
"""Configurations that one call may have: a tuner has to get through them."""
FIXED = {"lrn-blocked", "layout-copy", "global-pooling"}
"""Templates that have nothing to choose but threads."""


@pytest.fixture(autouse=True)
def registers_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps vectors in ARM's registers keeps them in those of x86."""
    monkeypatch.setattr(pinned, "REGISTERS", "x")


def ids(case: Case) -> str:
    return f"{case.template}-{case.op}-{case.layouts[0].name(len(case.inputs[0]))}"


def test_every_template_has_a_case() -> None:
    assert {c.template for c in CASES} == set(TEMPLATES)


@pytest.mark.parametrize("case", CASES, ids=ids)
@pytest.mark.parametrize(("target", "threads"), [("x86-64-v3", 2), ("x86-64-v4", 1), ("arm:cortex-a76", 4)])
def test_the_list_is_bounded_distinct_and_holds_the_default(case: Case, target: str, threads: int) -> None:
    caps, template, call = case.caps(parse_target(target, threads).caps), TEMPLATES[case.template], case.call()
    assert isinstance(template.supports(call, caps), Yes)
    found = list(template.space(call, caps))
    assert template.default(call, caps) in found
    assert len(set(found)) == len(found) <= MOST
    assert len(found) >= (1 if threads == 1 and case.template in FIXED | {"softmax-columns"} else 2)
    for config in found:
        assert type(config) is template.config_type
        assert template.cost(call, config, caps) > 0
        assert from_json(template.config_type, json.loads(json.dumps(to_json(config))), template.name) == config


def sample(found: list[Any], default: Any, count: int) -> list[Any]:
    """Some that are not the default; from two on the first and the last among them."""
    rest = [c for c in found if c != default]
    ends = [rest[0], rest[-1]] if count > 1 else []
    return list(dict.fromkeys([*ends, *random.Random(len(found)).sample(rest, min(count, len(rest)))]))


def check(cases: list[Case], count: int) -> None:
    functions: dict[str, Any] = {}
    runs: list[tuple[str, Case, Any, list[np.ndarray]]] = []
    for case in cases:
        template, call, caps = TEMPLATES[case.template], case.call(), case.caps(CAPS)
        assert isinstance(asked(template, call, caps), Yes)
        feed = dict(zip(call.fused.graph.inputs, case.arrays()[0]))
        for config in sample(list(template.space(call, caps)), template.default(call, caps), count):
            name = f"kernel{len(functions)}"
            emitted = template.emit(call, config, caps, name)
            assert not emitted.symbols
            operands = [_operand(call, feed, operand) for operand in emitted.inputs]
            functions[name] = emitted.function.with_attr("global_symbol", name)
            runs.append((name, case, config, operands))
    with cpu_pass_context():
        module = tvm.compile(tvm.IRModule(functions), tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v3"})).jit()
    wanted = {id(case): case.want() for case in cases}
    for name, case, config, operands in runs:
        want, layout = wanted[id(case)], case.layouts[1]
        out = tvm.runtime.tensor(np.full(layout.physical_shape(want.shape), np.nan, np.float32))
        module[name](*map(tvm.runtime.tensor, operands), out)
        got = out.numpy()[layout.physical_index(np.indices(want.shape))]
        error = f"{ids(case)} {config}"
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4, err_msg=error)


def _operand(call: Any, feed: dict[Value, np.ndarray], operand: Any) -> np.ndarray:
    if isinstance(operand, Packed | Computed):
        return packed_array(operand)
    if not isinstance(operand, Value):
        return np.asarray(operand)
    if operand.data is not None:
        return np.ascontiguousarray(operand.data)
    x, layout = feed[operand], call.layout(operand)
    return np.ascontiguousarray(x[layout.logical_index(np.indices(layout.physical_shape(x.shape)))])


def test_kernels_of_a_sample_are_right() -> None:
    check(list({case.template: case for case in CASES}.values()), 1)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_kernels_of_many_configurations_are_right(case: Case) -> None:
    check([case], 8)
