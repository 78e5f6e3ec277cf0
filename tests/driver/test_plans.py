"""A plan of kernels: replayed it gives the same kernels, edited it changes just those it names, and what doesn't fit is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import graphopt
from graphopt.backends.base.tvm_api import tvm_ffi
from graphopt.backends.program.planned import plan_of
from graphopt.backends.program.program import Program
from graphopt.driver.checking import Options, check_model
from graphopt.driver.compiling import to_program
from graphopt.errors import UserError
from graphopt.ir.kernel_plan import KernelChoice, KernelPlan
from tests.support.ort import run_ort

TARGET = {"target": "x86-64-v3", "threads": 2}


def network(channels: int = 16, seed: int = 0) -> ModelProto:
    """Two equal convolutions, a pooling, and a product."""
    rng = np.random.default_rng(seed)
    weights = {
        "w": rng.standard_normal((channels, channels, 3, 3)).astype(np.float32) / 12,
        "fc": rng.standard_normal((channels, 10)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "w"], ["c"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"], name="relu2"),
        helper.make_node("Conv", ["d", "w"], ["e"], name="third", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["e"], ["f"], name="relu3"),
        helper.make_node("GlobalAveragePool", ["f"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["h"], name="flat"),
        helper.make_node("MatMul", ["h", "fc"], ["y"], name="fc"),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, 9, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def lowered(plan: KernelPlan | str | Path | None = None, model: ModelProto | None = None, **options: Any) -> Program:
    return to_program(model or network(), plan=plan, **{**TARGET, **options})[2]


def edited(change: Callable[[dict[str, Any]], object]) -> KernelPlan:
    """The default plan with something changed in its JSON."""
    data = json.loads(plan_of(lowered()).to_json())
    change(data)
    return KernelPlan.from_json(json.dumps(data))


def kernel(data: dict[str, Any], name: str = "second", **fields: Any) -> None:
    data["kernels"][name].update(fields)


def same(a: Program, b: Program) -> bool:
    return a.functions.keys() == b.functions.keys() and all(
        tvm_ffi.structural_equal(f, b.functions[name]) for name, f in a.functions.items()
    )


def test_a_plan_says_what_was_chosen_and_replays(tmp_path: Path) -> None:
    program = lowered()
    plan = plan_of(program)
    assert {"first", "second", "third", "pool", "fc"} <= set(plan.kernels)
    plan.save(tmp_path / "plan.json")
    again = lowered(tmp_path / "plan.json")
    assert same(program, again)
    assert plan_of(again).to_json() == plan.to_json() == (tmp_path / "plan.json").read_text(encoding="utf-8")


def test_an_edit_changes_just_the_kernel_that_it_names() -> None:
    """The second and the third convolution are one kernel by themselves: they have equal signatures."""
    before = lowered()
    steps = {s.anchor: s for s in before.kernels}
    assert steps["second"].function == steps["third"].function
    config = dict(plan_of(before).kernels["second"].config or {})
    after = lowered(edited(lambda d: kernel(d, config={**config, "parallel": not config["parallel"]})))
    changed = {s.anchor: s for s in after.kernels}
    assert changed["second"].function != changed["third"].function
    assert {n for n in steps if steps[n].config != changed[n].config} == {"second"}
    assert tvm_ffi.structural_equal(
        before.functions[steps["third"].function].without_attr("global_symbol"),
        after.functions[changed["third"].function].without_attr("global_symbol"),
    )


def test_another_template_and_what_is_left_out(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        kernel(data, "second", template="conv2d-winograd")
        del data["kernels"]["second"]["config"]
        kernel(data, "third", template="generic")
        for name in list(data["kernels"]):
            if name not in ("second", "third"):
                del data["kernels"][name]

    plan = edited(change)
    how = {s.anchor: s.template for s in lowered(plan).kernels}
    rest = {s.anchor: s.template for s in lowered().kernels}
    assert how == {**rest, "second": "conv2d-winograd", "third": "generic"}
    x = np.random.default_rng(1).standard_normal((1, 16, 9, 7)).astype(np.float32)
    free = KernelPlan(plan.kernels)  # of any target and model
    compiled = graphopt.compile(network(), "native", plan=KernelPlan({"third": free.kernels["third"]}), threads=1)
    np.testing.assert_allclose(compiled.run({"x": x})["y"], run_ort(network(), {"x": x})[0], rtol=1e-4, atol=1e-4)
    assert compiled.plan is not None
    assert compiled.plan.kernels["third"].template == "generic"


def test_weights_may_change_but_not_the_model() -> None:
    plan = plan_of(lowered())
    assert lowered(plan, network(seed=5)).choices() == plan.kernels
    with pytest.raises(UserError, match="another model") as caught:
        lowered(plan, network(channels=32))
    assert "delete its line 'model'" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: kernel(d, template="conv2d-direkt"), r"'conv2d-direkt'(?s:.*)second(?s:.*)did you mean 'conv2d-direct'"),
        (lambda d: kernel(d, template="matmul-packed"), r"no template 'matmul-packed'(?s:.*)second"),
        (lambda d: kernel(d, template="conv2d-depthwise", config=None), r"one filter a channel(?s:.*)second"),
        (lambda d: d["kernels"]["second"]["config"].update(ow_tile=99), r"has no configuration(?s:.*)second(?s:.*)nearest"),
        (lambda d: d["kernels"]["second"]["config"].update(ow_tiles=4), r"no field 'ow_tiles'(?s:.*)second(?s:.*)'ow_tile'"),
        (lambda d: d["kernels"]["second"]["config"].update(ow_tile="4"), r"'4' is no int(?s:.*)second"),
        (lambda d: kernel(d, signature="(f32[1]) -> (f32[1]): Conv($0)"), r"another kernel under this name(?s:.*)second"),
        (lambda d: d["kernels"].update(secund=d["kernels"]["second"]), r"entry for 'secund'(?s:.*)did you mean 'second'"),
        (lambda d: d.update(target="x86-64-v4"), r"written for x86-64-v4, not for x86-64-v3"),
        (lambda d: d.update(threads=3), r"written for 3 threads, not for 2"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(change: Callable[[dict[str, Any]], object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        lowered(edited(change))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "no JSON"),
        ("[]", "no plan"),
        ('{"format": "graphopt-plan-0"}', "no plan of the format"),
        ('{"format": "graphopt-plan-1", "kernel": {}}', "no 'kernel'"),
        ('{"format": "graphopt-plan-1", "threads": "2"}', "'threads' is no int"),
        ('{"format": "graphopt-plan-1", "kernels": {"a": 1}}', "kernel 'a'"),
        ('{"format": "graphopt-plan-1", "kernels": {"a": {"signature": "", "template": 1}}}', "kernel 'a'"),
        ('{"format": "graphopt-plan-1", "kernels": {"a": {}, "a": {}}}', "'a' stands there twice"),
    ],
)
def test_what_is_no_plan(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(UserError, match=said):
        KernelPlan.load(tmp_path / "plan.json")
    with pytest.raises(UserError, match="can't be read"):
        KernelPlan.load(tmp_path / "absent.json")


def test_exact_compilation_refuses_winograd_in_a_plan() -> None:
    plan = edited(lambda d: kernel(d, template="conv2d-winograd", config=None))
    with pytest.raises(UserError, match=r"exact(?s:.*)second"):
        lowered(plan, exact=True)


def test_check_follows_the_plan() -> None:
    choice = plan_of(lowered(threads=1, target="native")).kernels["second"]
    report = check_model(
        network(), Options("native", 1, plan=KernelPlan({"second": KernelChoice(choice.signature, "generic")}))
    )
    assert report.ok
    with pytest.raises(UserError, match="'zecond'"):
        check_model(network(), Options("native", 1, plan=KernelPlan({"zecond": choice})))
