"""Constants of programs: what is packed and stored once, however many kernels, layers and branches share it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt.backends.cpu.kernels import conv2d_tile, matmul_tile
from graphopt.backends.cpu.kernels.column_packing import ColumnPacking
from graphopt.backends.cpu.kernels.conv2d_tile import Conv2dConfig
from graphopt.backends.cpu.kernels.matmul_tile import MatmulConfig
from graphopt.backends.program.constants import Constants
from graphopt.backends.program.program import BranchStep, Buffer, Program
from graphopt.backends.specs.convolution import Conv2dSpec
from graphopt.backends.specs.matmul import MatmulSpec
from graphopt.driver.compiling import compile, to_program
from graphopt.ir.dtypes import DType
from graphopt.ir.types import TensorType
from tests.support.tolerance import assert_close
from tests.support.writing import Writing

TARGET = "x86-64-v3"


def arrays(program: Program) -> list[np.ndarray[Any, Any]]:
    """What a program stores; constants of branches are among their callers'."""
    return [b.data for b in program.constants if b.data is not None]


def assert_no_two_equal(program: Program) -> None:
    """Fail if the program stores something twice."""
    seen = Counter((a.dtype, a.shape, a.tobytes()) for a in arrays(program))
    twice = [shape for (_, shape, _), count in seen.items() if count > 1]
    assert not twice


def transformer(layers: int, hidden: int, rows: int) -> onnx.ModelProto:
    """Layers that share all weights (ALBERT), each with a factor of its own for what it adds (so that kernels differ)."""
    w = Writing()
    projections = [w.weight(hidden, hidden) for _ in range(4)]
    biases = [w.weight(hidden) for _ in range(5)]
    up, bias, down = w.weight(hidden, 4 * hidden), w.weight(4 * hidden), w.weight(4 * hidden, hidden)
    scales = [w.weight(hidden) for _ in range(4)]
    x = "x"
    for layer in range(layers):
        q, k, v = (w("Add", w("MatMul", x, p), b) for p, b in zip(projections[:3], biases))
        weights = w("Softmax", w("MatMul", q, w("Transpose", k, perm=[0, 2, 1])), axis=-1)
        mixed = w("Add", w("MatMul", w("MatMul", weights, v), projections[3]), biases[3])
        factor = w.constant(1 / (2 + layer))
        x = w("LayerNormalization", w("Add", x, w("Mul", mixed, factor)), *scales[:2])
        inner = w("Gelu", w("Add", w("MatMul", x, up), bias))
        added = w("Mul", w("Add", w("MatMul", inner, down), biases[4]), factor)
        x = w("LayerNormalization", w("Add", x, added), *scales[2:])
    w.result(x)
    return w.model({"x": (1, rows, hidden)})


def test_layers_that_share_weights_store_them_once() -> None:
    layers, hidden = 12, 64
    model = transformer(layers, hidden, 16)
    program = to_program(model, TARGET)[2]
    assert_no_two_equal(program)
    given = sum(len(t.raw_data) for t in model.graph.initializer)
    # panels of columns have no gaps at these sizes; the factors are part of the code
    assert sum(a.nbytes for a in arrays(program)) == given - 4 * layers
    feed = {"x": np.random.default_rng(0).standard_normal((1, 16, hidden)).astype(np.float32)}
    (want,) = ReferenceEvaluator(model).run(None, feed)
    (got,) = compile(model, "native", threads=1).run(feed).values()
    assert_close(got, want, reduction=4 * hidden, depth=8 * layers)


def test_a_filter_of_images_of_many_sizes_is_stored_once_for_each_order() -> None:
    w = Writing()
    weight, bias = w.weight(32, 16, 3, 3), w.weight(32)
    sizes = {"a": (1, 16, 40, 40), "b": (1, 16, 24, 24), "c": (1, 16, 12, 12), "d": (1, 16, 5, 5)}
    for image in sizes:
        same = w("Conv", image, weight, bias, pads=[1] * 4)
        w.result(same, w("Relu", w("Conv", image, weight, bias, strides=[2, 2])))
    model = w.model(sizes)
    program = to_program(model, TARGET, exact=True)[2]
    assert_no_two_equal(program)
    packed = [a for a in arrays(program) if a.size > 32]
    assert {a.nbytes for a in packed} == {4 * 32 * 16 * 9}
    assert len(packed) <= 2  # plain and blocked images
    rng = np.random.default_rng(0)
    feed = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in sizes.items()}
    want = ReferenceEvaluator(model).run(None, feed)
    got = compile(model, "native", threads=1, exact=True).run(feed)
    for info, wanted in zip(model.graph.output, want):
        assert_close(got[info.name], wanted, reduction=144, what=info.name)


def test_initializers_that_hold_the_same_are_stored_once_without_any_pass() -> None:
    w = Writing()
    array = np.random.default_rng(0).standard_normal((24, 48)).astype(np.float32)
    one, two = w.constant(array), w.constant(array.copy())
    w.result(w("MatMul", "x", one), w("Sigmoid", w("MatMul", "x", two)), w("Add", "y", one), w("Mul", "y", two))
    program = to_program(w.model({"x": (5, 24), "y": (24, 48)}), TARGET, level=0)[2]
    assert [a.nbytes for a in arrays(program)] == [array.nbytes]


def test_branches_share_what_their_caller_and_each_other_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(0).standard_normal((16, 32)).astype(np.float32)
    made = helper.make_tensor_value_info("r", TensorProto.FLOAT, [5, 32])

    def branch(name: str, op: str, own: str) -> onnx.GraphProto:
        nodes = [helper.make_node("MatMul", ["x", own], ["p"]), helper.make_node(op, ["p"], ["r"])]
        constants = [] if own == "w" else [numpy_helper.from_array(weight, own)]
        return helper.make_graph(nodes, name, [], [made], constants)

    nodes = [
        helper.make_node("MatMul", ["u", "w"], ["y"]),
        helper.make_node(
            "If", ["c"], ["z"], then_branch=branch("then", "Relu", "w"), else_branch=branch("else", "Neg", "v")
        ),
    ]
    inputs = [
        *(helper.make_tensor_value_info(n, TensorProto.FLOAT, [5, 16]) for n in ("u", "x")),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [5, 32]) for n in ("y", "z")]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    packings: list[Any] = []
    pack = ColumnPacking.packed
    monkeypatch.setattr(ColumnPacking, "packed", lambda self, array: packings.append(array) or pack(self, array))
    program = to_program(model, TARGET)[2]
    (stored,) = program.constants
    (step,) = (s for s in program.steps if isinstance(s, BranchStep))
    assert stored in step.then.arguments
    assert stored in step.otherwise.arguments
    assert len(packings) == 1
    compiled = compile(model, "native", threads=1)
    u, x = np.random.default_rng(1).standard_normal((2, 5, 16)).astype(np.float32)
    for c in (True, False):
        feed = {"u": u, "x": x, "c": np.array(c)}
        for name, want in zip(("y", "z"), ReferenceEvaluator(model).run(None, feed)):
            assert_close(compiled.run(feed)[name], want, reduction=16, what=name)


def test_tables_made_for_kernels_are_stored_once() -> None:
    w = Writing()
    sizes = w.constant(np.array([1, 4, 17, 23]))
    for image, op in (("x", "Relu"), ("y", "Sigmoid")):
        w.result(w(op, w("Resize", image, "", "", sizes, mode="cubic")))
    program = to_program(w.model({"x": (1, 4, 9, 9), "y": (1, 4, 9, 9)}), TARGET)[2]
    assert_no_two_equal(program)


def test_packings_are_values_that_hold_what_the_order_depends_on() -> None:
    small = Conv2dSpec(1, 16, 5, 5, 32, (3, 3), in_block=8)
    large = Conv2dSpec(4, 16, 50, 60, 32, (3, 3), strides=(2, 2), in_block=8)
    tiles = [Conv2dConfig(8, vectors, 4) for vectors in (1, 2)]
    same = [conv2d_tile.packing(spec, tiles[0]) for spec in (small, large)]
    assert same[0] == same[1]
    assert hash(same[0]) == hash(same[1])
    assert same[0] != conv2d_tile.packing(small, tiles[1])
    product, tile = MatmulSpec(4, 32, 32), MatmulConfig(4, 2, 8)
    assert matmul_tile.packing(product, tile) == matmul_tile.packing(MatmulSpec(900, 32, 32), tile)
    assert matmul_tile.packing(product, tile) != matmul_tile.packing(product, tile, turned=True)


@pytest.mark.parametrize(
    ("one", "two", "shared"),
    [
        pytest.param(np.array([0.0, 1.0]), np.array([-0.0, 1.0]), False, id="zeros of both signs"),
        pytest.param(np.array([np.nan, 1.0]), np.array([np.nan, 1.0]), True, id="NaN"),
        pytest.param(np.zeros((2, 3)), np.zeros((3, 2)), False, id="other shape"),
        pytest.param(np.zeros(4, np.int32), np.zeros(4, np.float32), False, id="other type"),
        pytest.param(np.zeros((0, 3)), np.zeros((0, 3)), True, id="no elements"),
        pytest.param(np.ones((3, 4)), np.ones((4, 3)).T, True, id="other strides"),
        pytest.param(
            np.arange(9999.0), np.where(np.arange(9999) == 5001, 0, np.arange(9999.0)), False, id="one of many"
        ),
    ],
)
def test_arrays_are_shared_if_they_agree_bit_for_bit(one: Any, two: Any, shared: bool) -> None:
    constants, made = Constants(), []

    def buffer(array: Any) -> Buffer:
        type_ = TensorType(DType.from_numpy(array.dtype), array.shape)
        made.append(constants.buffer(array, lambda: Buffer("c", type_, array.shape, data=array)))
        return made[-1]

    assert (buffer(one) is buffer(two)) == shared
    assert buffer(one) is made[0]
