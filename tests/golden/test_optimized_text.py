"""Golden text of a small graph before and after. To renew: ``python -m tests.golden.test_optimized_text``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from graphopt.driver.optimizing import optimize
from graphopt.ir.printer import format_graph
from tests.support.onnx_graphs import graph_of, run_pass

FILE = Path(__file__).with_name("optimized.txt")
BODY = """
p = Pad(x, amounts)
c = Conv<strides=[2,2]>(p, w)
n = BatchNormalization<epsilon=0.001>(c, gamma, beta, mean, var)
t = Add(n, three)
l = Clip(t, zero, six)
h = Mul(n, l)
a = Div(h, six)
g = GlobalAveragePool(a)
s = Shape(g)
d = Gather(s, first)
u = Unsqueeze(d, first_axis)
r = Concat<axis=0>(u, rest)
f = Reshape(g, r)
m = MatMul(f, fc)
o = Dropout(m)
y = Add(o, fc_bias)
"""


def _graph():
    def ramp(*shape, start=0.25):
        return (np.arange(np.prod(shape), dtype=np.float32) % 7 / 4 + start).reshape(shape)

    return graph_of(
        {"x": "float[N,2,8,8]"}, BODY, amounts=np.array([0, 0, 1, 1, 0, 0, 1, 1]), w=ramp(3, 2, 3, 3), gamma=ramp(3),
        beta=ramp(3, start=-0.5), mean=ramp(3), var=ramp(3), three=np.float32(3), zero=np.float32(0), six=np.float32(6),
        first=np.array(0), first_axis=np.array([0]), rest=np.array([-1]), fc=ramp(3, 2), fc_bias=ramp(2),
    )  # fmt: skip


def _text():
    g = _graph()
    return f"# imported\n{format_graph(g)}\n\n# O2\n{format_graph(optimize(g, 2))}\n"


def test_text():
    assert _text() == FILE.read_text()


def test_numeric_twin():
    run_pass(_graph(), ["fold-pad", "fold-batch-norm", "make-gemm"])


if __name__ == "__main__":
    FILE.write_text(_text())
