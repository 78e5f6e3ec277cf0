"""Conditions and their relatives inside one vectorised kernel: comparisons and connectives that end in numbers."""

from __future__ import annotations

import numpy as np

from graphopt.driver.compiling import compile
from tests.support.onnx_graphs import model_of, rand
from tests.support.run_node import reference, same

INPUTS = {
    "x": "float[2,16]", "p": "bool[2,16]", "q": "bool[2,16]", "i": "int64[8,16]", "column": "int64[8,1]", "ids": "int64[1,8,1]",
    "a": "float[2,3,7,1]", "b": "float[7,6]", "slope": "float[6]", "one": "float[1]",
}  # fmt: skip
CASES = {
    "greater": "{c} = Greater(x, half)\n{y} = Cast<to=1>({c})",
    "nan": "{c} = IsNaN(x)\n{y} = Cast<to=1>({c})",
    "infinite": "{c} = IsInf(x)\n{y} = Cast<to=7>({c})",
    "both": "{c} = And(p, q)\n{y} = Cast<to=1>({c})",
    "through_bool": "{c} = Cast<to=9>(x)\n{y} = Cast<to=1>({c})",
    "through_bool_to_integer": "{c} = Cast<to=9>(x)\n{y} = Cast<to=7>({c})",
    "by_column": "{c} = Equal(i, column)\n{y} = Cast<to=1>({c})",
    "one_hot": "{c} = Equal(ids, positions)\n{y} = Cast<to=1>({c})",
    "larger": "{c} = Max(a, b)\n{y} = PRelu({c}, slope)",
    "scaled": "{c} = Relu(x)\n{d} = Mul({c}, one)\n{y} = Mul({d}, {c})",
    "equal_conditions": "{c} = Equal(p, q)\n{d} = Xor({c}, p)\n{y} = Cast<to=6>({d})",
}
TYPES = {"infinite": ":int64", "through_bool_to_integer": ":int64", "equal_conditions": ":int32"}


def test_conditions_become_numbers_in_the_kernel_that_makes_them() -> None:
    rng = np.random.default_rng(0)
    feed = {
        "x": rand(2, 16), "p": rng.random((2, 16)) < 0.5, "q": rng.random((2, 16)) < 0.5, "i": rng.integers(0, 4, (8, 16)),
        "column": rng.integers(0, 4, (8, 1)), "ids": rng.integers(0, 257, (1, 8, 1)), "a": rand(2, 3, 7, 1), "b": rand(7, 6),
        "slope": rand(6), "one": np.array([-1.5], np.float32),
    }  # fmt: skip
    feed["x"][0, :4] = [np.nan, np.inf, 0.0, -np.inf]
    outputs = " ".join(name + TYPES.get(name, "") for name in CASES)
    body = "\n".join(text.format(y=name, c=f"{name}_c", d=f"{name}_d") for name, text in CASES.items())
    model = model_of(INPUTS, body, outputs, half=np.float32(0.5), positions=np.arange(257))
    want = reference(model, feed)
    for level in (1, 3):
        compiled = compile(model, "x86", level=level)
        for name, value in compiled.run(dict(feed)).items():
            same(f"{name} at -O{level}", np.asarray(value), want[name])


def test_conditions_used_twice_at_every_step_take_no_exponential_time() -> None:
    lines = ["c0 = Less(x, y)"]
    for i in range(7):
        lines += [f"n{i} = Not(c{i})", f"e{i} = Equal(c{i}, p)", f"c{i + 1} = Or(n{i}, e{i})"]
    model = model_of({"x": "float[33]", "y": "float[33]", "p": "bool[33]"}, "\n".join(lines), "c7:bool")
    rng = np.random.default_rng(1)
    feed = {"x": rand(33), "y": rand(33, seed=1), "p": rng.random(33) < 0.5}
    got = compile(model, "x86", level=2).run(dict(feed))["c7"]
    same("c7", np.asarray(got), reference(model, feed)["c7"])
