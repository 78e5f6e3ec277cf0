"""Kernels shared among groups of equal signature: the same programs as without sharing, made in a fraction of the work."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.backends.base.tvm_api import tvm_ffi
from graphopt.backends.program import emission
from graphopt.backends.program.program import BranchStep, KernelStep, Program
from graphopt.driver.compiling import to_program
from graphopt.errors import InputError
from tests.random_graphs.case import draw, side_by_side

TARGET = "x86-64-v3"


def program_of(model: onnx.ModelProto, level: int = 2) -> Program:
    return to_program(model, TARGET, threads=2, level=level)[2]


def steps_of(program: Program) -> list[Any]:
    """What the steps do; constants by what they hold, as those packed in one order may be one."""
    found: list[Any] = []
    for step in program.steps:
        if isinstance(step, KernelStep):
            operands = [b.name if b.data is None else b.data.tobytes() for b in step.inputs]
            results = [(b.name, b.shape, b.offset) for b in step.outputs]
            found.append(dataclasses.replace(step, inputs=[], outputs=[]).__dict__ | {"with": (operands, results)})
        elif isinstance(step, BranchStep):
            found += [steps_of(sub.program) for sub in (step.then, step.otherwise)]
    return found


def chain(nodes: Sequence[onnx.NodeProto], shape: Sequence[int], **constants: Any) -> onnx.ModelProto:
    """A model of nodes over ``x``; every node's result is an output."""
    outputs = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for n in nodes for o in n.output]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        outputs,
        [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often kernels were made, by anchor."""
    counts: Counter[str] = Counter()
    make = emission.Emission._made

    def counting(self: emission.Emission, call: Any, asked_for: Any) -> Any:
        counts[call.group.anchor.op] += 1
        return make(self, call, asked_for)

    monkeypatch.setattr(emission.Emission, "_made", counting)
    return counts


@pytest.mark.parametrize(("first", "level"), [(0, 2), (200, 3), (400, 0)])
def test_programs_are_those_made_without_sharing(first: int, level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [draw(seed) for seed in range(first, first + 6)]
    model = side_by_side([*cases, *cases])  # twice, so that everything can be shared
    shared = program_of(model, level)
    monkeypatch.setattr(emission, "_is_shareable", lambda *_: False)
    apart = program_of(model, level)
    assert steps_of(shared) == steps_of(apart)
    assert shared.functions.keys() == apart.functions.keys()
    for name, function in shared.functions.items():
        assert tvm_ffi.structural_equal(function, apart.functions[name]), name


def test_equal_groups_are_made_once(made: Counter[str]) -> None:
    rng = np.random.default_rng(0)
    weights = {f"w{i}": rng.standard_normal((16, 16, 3, 3)).astype(np.float32) for i in range(6)}
    biases = {f"b{i}": rng.standard_normal(16).astype(np.float32) for i in range(6)}
    nodes = []
    for i in range(6):
        before = f"r{i - 1}" if i else "x"
        nodes.append(helper.make_node("Conv", [before, f"w{i}", f"b{i}"], [f"c{i}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
    model = chain(nodes, (1, 16, 8, 8), **weights, **biases)
    del model.graph.output[:-1]
    program = program_of(model)
    assert made["Conv"] <= 3  # the first reads a plain image, the last writes one
    assert len({id(b.data) for b in program.constants}) == 12  # every convolution keeps its own weights


def test_a_weight_read_twice_in_one_order_is_packed_once() -> None:
    weight = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["b"])]
    program = program_of(chain(nodes, (4, 16), w=weight))
    assert [len(program.constants), len(program.functions)] == [1, 2]  # one takes the caller's array, one is aligned


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param([np.float32(0.0)], [np.float32(-0.0)], id="sign of zero"),
        pytest.param([np.full((32, 32), 2, np.float32)], [np.full((32, 32), 3, np.float32)], id="uniform"),
        pytest.param([np.full((32, 32), 2, np.float32)], [np.eye(32, dtype=np.float32)], id="uniform or not"),
        pytest.param([np.float32(2.0)], [np.float32(3.0)], id="scalar"),
    ],
)
def test_constants_that_a_kernel_is_made_of_tell_kernels_apart(one: Any, other: Any, made: Counter[str]) -> None:
    nodes = [helper.make_node("Mul", ["x", "p"], ["a"]), helper.make_node("Mul", ["x", "q"], ["b"])]
    model = chain(nodes, (32, 32), p=one[0], q=other[0])
    x = np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)
    a, b = graphopt.compile(model, TARGET, level=0, cache=False).run({"x": x}).values()
    assert made["Mul"] == 2
    for result, factor in ((a, one[0]), (b, other[0])):
        np.testing.assert_array_equal(result, x * factor)
        np.testing.assert_array_equal(np.signbit(result), np.signbit(x * factor))


def test_a_constant_whose_elements_are_read_is_not_another_one() -> None:
    """Depthwise convolutions without a template of their own pack their weights while the kernel is made."""
    rng = np.random.default_rng(0)
    p, q = (rng.standard_normal((16, 1, 3, 3, 3)).astype(np.float32) for _ in range(2))
    nodes = [helper.make_node("Conv", ["x", w], [out], group=16) for w, out in (("p", "a"), ("q", "b"))]
    model = chain(nodes, (1, 16, 4, 4, 4), p=p, q=q)
    x = rng.standard_normal((1, 16, 4, 4, 4)).astype(np.float32)
    found = graphopt.compile(model, TARGET, cache=False).run({"x": x}).values()
    expected = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_every_kernel_names_its_own_node_when_it_refuses_a_value() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("Gather", ["small", "i"], ["a"], name="first"),
        helper.make_node("Add", ["a", "shift"], ["moved"]),
        helper.make_node("Cast", ["moved"], ["j"], to=TensorProto.INT64),
        helper.make_node("Gather", ["small", "j"], ["b"], name="second"),
    ]
    model = chain(nodes, (2,), small=np.arange(4, dtype=np.float32), shift=np.float32(2))
    del model.graph.output[:-1]
    compiled = graphopt.compile(model, TARGET, cache=False)
    with pytest.raises(InputError, match="first"):
        compiled.run({"x": np.array([0, 9], np.float32)})
    with pytest.raises(InputError, match="second"):
        compiled.run({"x": np.array([0, 3], np.float32)})
