"""If at run time, and loops that unroll, against ONNX Runtime without optimisation."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

from graphopt.backends.program.program import BranchStep, Program, format_program
from graphopt.driver.compiling import compile
from graphopt.errors import UnsupportedOpError

HEAD = '<ir_version: 9, opset_import: ["": 18]>\n'


def check(text: str, *feeds: dict[str, np.ndarray]) -> Program:
    """Same results as ONNX Runtime for every feed, also after all other runs."""
    model = onnx.parser.parse_model(HEAD + text)
    compiled = compile(model, threads=1)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    reference = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results = [compiled.run(feed) for feed in feeds]
    for feed, result in zip(feeds, results):
        for want, got in zip(reference.run(None, feed), result.values(), strict=True):
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert compiled.program is not None
    return compiled.program


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


BOTH = [np.array(True), np.array(False)]


def test_only_the_branch_taken_decides_the_shape() -> None:
    text = """g (bool c, float[N,4] x) => (float[M,4] z, float[N,4] w) {
      two = Constant<value = float {2.0}>()
      y, w = If(c) <
        then_branch = t () => (float[P,4] a, float[N,4] b) { a0 = Mul(x, two)  a = Relu(a0)  b = Identity(x) },
        else_branch = e () => (float[Q,4] a2, float[N,4] b2) { a2 = Concat<axis = 0>(x, x)  b2 = Neg(x) }>
      z = Add(y, two)
    }"""
    program = check(text, *({"c": c, "x": normal(n, 4)} for c in BOTH for n in (1, 3)))
    assert [s.defines for s in program.steps if isinstance(s, BranchStep)] == [["u0"]]
    assert "if %c" in format_program(program)


@pytest.mark.parametrize("rows", [0, 1, 5, 600])
def test_results_of_branches_belong_to_the_caller(rows: int) -> None:
    """Small ones lie in the branch's arena while the model runs: as results, as views of them, and read by kernels."""
    text = f"""g (bool c, bool d, float[{rows},4] x)
    => (float[{rows},4] y, float[{rows},4] n, float[4,{rows}] v, float[{rows},4] z) {{
      shape = Constant<value = int64[2] {{4, {rows}}}>()
      y, n = If(c) <
        then_branch = t () => (float[{rows},4] a, float[{rows},4] b) {{
          a, b = If(d) <
            then_branch = tt () => (float[{rows},4] a1, float[{rows},4] b1) {{ a1 = Exp(x)  b1 = Neg(a1) }},
            else_branch = te () => (float[{rows},4] a2, float[{rows},4] b2) {{ a2 = Abs(x)  b2 = Identity(x) }}>
        }},
        else_branch = e () => (float[{rows},4] a3, float[{rows},4] b3) {{ a3 = Neg(x)  b3 = Tanh(x) }}>
      v = Reshape<allowzero = 1>(y, shape)
      z = Add(y, n)
    }}"""
    check(text, *({"c": c, "d": d, "x": normal(rows, 4) + i} for i in range(2) for c in BOTH for d in BOTH))


def test_small_results_of_different_sizes_belong_to_the_caller() -> None:
    text = """g (bool c, float[2,4] x) => (float[M,4] y) {
      y = If(c) <
        then_branch = t () => (float[2,4] a) { a = Exp(x) },
        else_branch = e () => (float[4,4] b) { b = Concat<axis = 0>(x, x) }>
    }"""
    check(text, *({"c": c, "x": normal(2, 4) + i} for i in range(3) for c in BOTH))


def test_constants_of_branches_and_an_outer_value_as_result() -> None:
    text = """g (bool[1] c, float[2,3] x) => (float[2,3] z)
    <float[2,3] w = {1, 2, 3, 4, 5, 6}> {
      s = Relu(x)
      z = If(c) <
        then_branch = t () => (float[2,3] a) { a = Mul(s, w) },
        else_branch = e () => (float[2,3] b) { b = Identity(s) }>
    }"""
    check(text, *({"c": c.reshape(1), "x": normal(2, 3)} for c in BOTH))


def test_nested_branches() -> None:
    text = """g (bool c, bool d, float[3] x) => (float[3] z) {
      y = Neg(x)
      z = If(c) <
        then_branch = t () => (float[3] a) {
          a = If(d) <then_branch = tt () => (float[3] p) { p = Exp(y) }, else_branch = te () => (float[3] q) { q = Add(x, y) }>
        },
        else_branch = e () => (float[3] b) { b = Mul(x, y) }>
    }"""
    check(text, *({"c": c, "d": d, "x": normal(3)} for c in BOTH for d in BOTH))


def test_condition_out_of_a_shape() -> None:
    text = """g (float[N] x) => (float[N] z) {
      n = Shape(x)
      three = Constant<value = int64[1] {3}>()
      c = Less(n, three)
      z = If(c) <then_branch = t () => (float[N] a) { a = Neg(x) }, else_branch = e () => (float[N] b) { b = Relu(x) }>
    }"""
    check(text, {"x": normal(2)}, {"x": normal(5)})


def test_loop_of_known_length_unrolls() -> None:
    text = """g (float[2] x) => (float[2] z, float[3,2] all) {
      n = Constant<value = int64 {3}>()
      go = Constant<value = bool {1}>()
      z, all = Loop(n, go, x) <body = b (int64 i, bool c, float[2] s) => (bool d, float[2] t, float[2] u) {
        d = Identity(c)  f = Cast<to = 1>(i)  t = Add(s, f)  u = Mul(t, x)
      }>
    }"""
    program = check(text, {"x": normal(2)})
    assert not any(isinstance(s, BranchStep) for s in program.steps)


def test_scan_backwards() -> None:
    text = """g (float[2] x, float[3,2] xs) => (float[2] z, float[3,2] all) {
      z, all = Scan(x, xs) <num_scan_inputs = 1, scan_input_directions = [1], scan_output_directions = [1],
        body = b (float[2] s, float[2] v) => (float[2] t, float[2] u) { t0 = Add(s, v)  t = Tanh(t0)  u = Identity(t) }>
    }"""
    check(text, {"x": normal(2), "xs": normal(3, 2)})


def test_loop_of_unknown_length_is_refused_with_a_remedy() -> None:
    text = """g (int64 n, float[2] x) => (float[2] z) {
      go = Constant<value = bool {1}>()
      z = Loop(n, go, x) <body = b (int64 i, bool c, float[2] s) => (bool d, float[2] t) { d = Identity(c)  t = Add(s, x) }>
    }"""
    with pytest.raises(UnsupportedOpError, match="Loop") as caught:
        compile(onnx.parser.parse_model(HEAD + text))
    assert caught.value.hint
