"""Calibration data from files and arrays, and inner values of graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.driver.calibration import CompiledRunner, load_calibration
from graphopt.driver.compiling import signature_of
from graphopt.errors import UserError
from graphopt.ir.dims import Dim, symbol
from graphopt.ir.dtypes import DType
from graphopt.ir.editor import Editor
from graphopt.ir.graph import Graph
from graphopt.ir.outputs import with_outputs
from graphopt.ir.types import TensorType
from graphopt.ops.infer import infer_node
from graphopt.runtime.signature import Signature, TensorSpec


def signature(**shapes: tuple[Dim, ...]) -> Signature:
    return Signature(tuple(TensorSpec(name, DType.f32, shape) for name, shape in shapes.items()), ())


def ramp(*shape: int) -> Any:
    return np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)


ONE = signature(image=(1, 2, 3))
ANY = signature(image=(symbol("N"), 2, 3))


def test_one_feed_as_it_is() -> None:
    (feed,) = load_calibration({"image": ramp(1, 2, 3)}, ONE)
    np.testing.assert_array_equal(feed["image"], ramp(1, 2, 3))


def test_samples_along_the_first_axis() -> None:
    feeds = load_calibration({"image": ramp(5, 2, 3)}, ONE)
    assert [f["image"].shape for f in feeds] == [(1, 2, 3)] * 5
    np.testing.assert_array_equal(np.concatenate([f["image"] for f in feeds]), ramp(5, 2, 3))


def test_an_axis_of_samples_in_front() -> None:
    feeds = load_calibration({"image": ramp(5, 1, 2, 3)}, ONE)
    assert [f["image"].shape for f in feeds] == [(1, 2, 3)] * 5
    np.testing.assert_array_equal(feeds[3]["image"], ramp(5, 1, 2, 3)[3])


def test_batches_of_a_dynamic_model() -> None:
    feeds = load_calibration({"image": ramp(10, 2, 3)}, ANY, batch=4)
    assert [len(f["image"]) for f in feeds] == [4, 4, 2]


def test_several_inputs_go_together() -> None:
    wanted = signature(a=(symbol("N"), 2), b=(symbol("N"),))
    feeds = load_calibration({"a": ramp(6, 2), "b": ramp(6)}, wanted, batch=4)
    assert [(len(f["a"]), len(f["b"])) for f in feeds] == [(4, 4), (2, 2)]
    with pytest.raises(UserError, match="shape"):
        load_calibration({"a": ramp(6, 2), "b": ramp(5)}, wanted)


def test_a_state_without_a_batch_axis_makes_one_feed() -> None:
    feeds = load_calibration({"a": ramp(6, 2), "b": ramp(3)}, signature(a=(symbol("N"), 2), b=(3,)))
    assert len(feeds) == 1


def test_scalars() -> None:
    feeds = load_calibration({"a": np.float32(3)}, signature(a=()))
    assert feeds[0]["a"].shape == ()


def test_file_and_folder_in_numeric_order(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        np.savez(tmp_path / f"s{number}.npz", image=np.full((1, 2, 3), number, np.float32))
    (tmp_path / "readme.txt").write_text("not data")
    assert [f["image"][0, 0, 0] for f in load_calibration(tmp_path, ONE)] == [1, 2, 10]
    assert len(load_calibration(str(tmp_path / "s2.npz"), ONE)) == 1
    assert [f["image"][0, 0, 0] for f in load_calibration(tmp_path, ONE, limit=2)] == [1, 2]


def test_iterables_of_feeds() -> None:
    feeds = load_calibration(({"image": ramp(1, 2, 3) + i} for i in range(3)), ONE)
    assert [f["image"][0, 0, 0] for f in feeds] == [0, 1, 2]


def test_floats_of_another_width_are_converted() -> None:
    (feed,) = load_calibration({"image": ramp(1, 2, 3).astype(np.float64)}, ONE)
    assert feed["image"].dtype == np.float32
    with pytest.raises(UserError, match="dtype"):
        load_calibration({"image": ramp(1, 2, 3).astype(np.int64)}, ONE)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"imag": ramp(1, 2, 3)}, "did you mean 'image'"),
        ({}, "missing"),
        ({"image": ramp(1, 2, 4)}, "shape"),
        ({"image": ramp(2, 3)}, "dimensions"),
        ({"image": np.full((1, 2, 3), np.nan, np.float32)}, "NaN"),
        ({"image": ramp(0, 2, 3)}, "no calibration samples|shape"),
    ],
)
def test_bad_arrays(arrays: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_calibration(arrays, ONE)


def test_nothing() -> None:
    with pytest.raises(UserError, match="no calibration samples"):
        load_calibration([], ONE)
    with pytest.raises(UserError, match="no calibration samples"):
        load_calibration({"image": ramp(0, 2, 3)}, ANY)
    with pytest.raises(UserError, match="at least 1"):
        load_calibration({"image": ramp(1, 2, 3)}, ONE, limit=0)


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_calibration(tmp_path / "none.npz", ONE)
    with pytest.raises(UserError, match=r"no \.npz file"):
        load_calibration(tmp_path, ONE)
    text, single, pickled, cut = (tmp_path / n for n in ("text.npz", "single.npz", "pickled.npz", "cut.npz"))
    text.write_text("hello")
    with single.open("wb") as file:
        np.save(file, ramp(1, 2, 3))
    np.savez(pickled, image=np.asarray([{"a": 1}], object))
    np.savez(cut, image=ramp(1, 2, 3))
    cut.write_bytes(cut.read_bytes()[:-40])
    for path in (text, single, pickled, cut):
        with pytest.raises(UserError, match=r"no \.npz file of plain arrays") as caught:
            load_calibration(path, ONE)
        assert path.name in str(caught.value)


def test_an_error_names_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", imag=ramp(1, 2, 3))
    with pytest.raises(UserError, match=r"a\.npz.*imag"):
        load_calibration(tmp_path, ONE)


def test_samples_that_are_no_mappings() -> None:
    with pytest.raises(UserError, match="sample 0 is a ndarray"):
        load_calibration([ramp(1, 2, 3)], ONE)  # type: ignore[list-item]


def net(batch: Dim) -> Graph:
    graph = Graph("net", opset=18)
    editor = Editor(graph, infer_node)
    x = editor.add_input("x", TensorType(DType.f32, (batch, 3, 5, 6)))
    rng = np.random.default_rng(0)
    w = editor.constant(rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "w")
    scale = [editor.constant(rng.random(4).astype(np.float32) + 0.5, n) for n in ("g", "b", "m", "v")]
    conv = editor.node("Conv", [x, w], {"pads": [1, 1, 1, 1]}, name="conv").out
    norm = editor.node("BatchNormalization", [conv, *scale], name="norm").out
    same = editor.node("Identity", [norm], name="same").out
    out = editor.node("Relu", [same], name="relu").out
    editor.set_output(graph, 0, out)
    return graph


@pytest.mark.parametrize("batch", [2, symbol("N")])
def test_inner_values(batch: Dim) -> None:
    from onnx.reference import ReferenceEvaluator

    graph = net(batch)
    inner = [node.out.name for node in graph.nodes]
    before, outputs = graph.version, list(graph.outputs)
    runner = CompiledRunner()
    for size in (2,) if batch == 2 else (2, 3):
        feed = {"x": np.random.default_rng(size).standard_normal((size, 3, 5, 6)).astype(np.float32)}
        got = runner(graph, [*inner, "x", "w"], feed)
        model = graphopt.export_onnx(with_outputs(graph, inner))
        for name, want in zip(inner, ReferenceEvaluator(model).run(None, feed)):
            np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(got["x"], feed["x"])
        assert got["w"].shape == (4, 3, 3, 3)
    assert (graph.version, graph.outputs) == (before, outputs)
    assert len(runner._models) == 1


def test_a_changed_graph_is_compiled_anew() -> None:
    graph = net(2)
    runner = CompiledRunner()
    feed = {"x": np.ones((2, 3, 5, 6), np.float32)}
    name = graph.nodes[0].out.name
    before = runner(graph, [name], feed)[name]
    weight = graph.nodes[0].inputs[1]
    assert weight is not None
    assert weight.data is not None
    Editor(graph).set_constant(weight, weight.data * 2)
    np.testing.assert_allclose(runner(graph, [name], feed)[name], before * 2, rtol=1e-5, atol=1e-6)


def test_few_models_are_kept() -> None:
    graph = net(2)
    runner = CompiledRunner()
    names = [node.out.name for node in graph.nodes]
    for wanted in ([names[0]], [names[1]], [names[2]], [names[3]], names[:2]):
        runner(graph, wanted, {"x": np.ones((2, 3, 5, 6), np.float32)})
    assert len(runner._models) == 4


def test_unknown_value() -> None:
    with pytest.raises(UserError, match="no value 'nothing'"):
        CompiledRunner()(net(2), ["nothing"], {})


def test_signature_of_a_graph_fits() -> None:
    feeds = load_calibration({"x": ramp(4, 3, 5, 6)}, signature_of(net(2)))
    assert [f["x"].shape for f in feeds] == [(2, 3, 5, 6)] * 2
