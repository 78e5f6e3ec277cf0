"""``graphopt check --float``: quantized files of graphopt and ONNX Runtime, layer by layer against the float model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

import graphopt
from graphopt.driver.checking import Options
from graphopt.driver.optimizing import export_onnx
from graphopt.driver.quantized_check.against_float import check_quantized
from graphopt.errors import UserError
from graphopt.ir.editor import clone
from graphopt.ir.graph import Graph
from tests.support.onnx_graphs import model_of, rand
from tests.support.ort import run_ort
from tests.support.precision import sqnr_db

CONV = "Conv<pads=[1,1,1,1]>"
FEED = {"x": rand(1, 4, 8, 8)}
OPTIONS = Options(threads=1)


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """One sample."""

    def __init__(self) -> None:
        self.left = iter([FEED])

    def get_next(self) -> Any:
        return next(self.left, None)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A float model, and what graphopt and ONNX Runtime make of it."""
    folder = tmp_path_factory.mktemp("models")
    body = f"a = {CONV}(x, u)\nr = Relu(a)\nb = {CONV}(r, v)\nc = {CONV}(b, w)\ny = GlobalAveragePool(c)"
    model = model_of({"x": "float[1,4,8,8]"}, body, u=rand(8, 4, 3, 3), v=rand(8, 8, 3, 3), w=rand(4, 8, 3, 3))
    for node in model.graph.node:
        node.name = f"{node.output[0]}_node"
    found = {name: folder / f"{name}.onnx" for name in ("float", "graphopt", "ort", "broken")}
    onnx.save_model(model, found["float"])
    graph, _ = graphopt.quantize(model, FEED, compare=False, threads=1)
    export_onnx(graph, found["graphopt"])
    quantize_static(
        found["float"], found["ort"], Reader(), per_channel=True, activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )  # fmt: skip
    broken = onnx.load_model(found["graphopt"])
    (scale,) = [t for t in broken.graph.initializer if t.name == "b_scale"]
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) / np.float32(50), "b_scale"))
    onnx.save_model(broken, found["broken"])
    return found


def inner(path: Path, *names: str) -> list[Any]:
    model = onnx.load_model(path)
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    return run_ort(model, FEED)[1:]


def test_rows_of_a_file_of_graphopt(files: dict[str, Path]) -> None:
    report = check_quantized(files["graphopt"], files["float"], OPTIONS, feed=FEED)
    assert report.ok
    assert report.error() is None
    assert report.astray is None
    assert [row.value for row in report.rows] == ["a", "r", "b", "c", "y"]
    rows = {row.value: row for row in report.rows}
    for name in ("r", "b"):
        want, got = inner(files["float"], name)[0], inner(files["graphopt"], f"{name}_dequantized")[0]
        assert math.isclose(rows[name].reference_db, sqnr_db(got, want), abs_tol=0.01)
        assert math.isclose(rows[name].compiled_db or 0, rows[name].reference_db, abs_tol=0.1)
        step = rows[name].steps
        assert step is not None
        assert (step.wrong, step.size) == (0, want.size)
    assert (rows["a"].steps, rows["a"].compiled_db) == (None, None), "in registers of the compiled model"
    assert rows["y"].compiled_db is not None
    assert rows["a"].node == "a_node (Conv)"


def test_names_of_onnx_runtime_are_understood(files: dict[str, Path]) -> None:
    report = check_quantized(files["ort"], files["float"], OPTIONS, feed=FEED)
    assert report.ok
    rows = {row.value: row for row in report.rows}
    assert set(rows) == {"r", "b", "c", "y"}, "Relu has gone into the convolution"
    assert all(row.reference_db > 20 and row.steps is not None and row.steps.wrong == 0 for row in report.rows)
    got, want = inner(files["ort"], "r_DequantizeLinear_Output")[0], inner(files["float"], "r")[0]
    assert math.isclose(rows["r"].reference_db, sqnr_db(got, want), abs_tol=0.01)


def test_the_first_layer_that_goes_astray_is_named(files: dict[str, Path]) -> None:
    report = check_quantized(files["broken"], files["float"], OPTIONS, feed=FEED)
    assert report.ok, "it is compiled as it says"
    assert report.astray is not None
    assert report.astray.value == "b"
    assert report.loss is not None
    assert report.loss[0].value == "b"


def test_a_compiler_that_is_wrong_is_an_error(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    true = Options.compile

    def buggy(self: Options, graph: Graph) -> Any:
        wrong = clone(graph)
        (value,) = [value for value in wrong.constants() if value.name == "v_quantized"]
        assert value.data is not None
        value.data = value.data.copy()
        value.data[0] = -value.data[0]
        return true(self, wrong)

    monkeypatch.setattr(Options, "compile", buggy)
    report = check_quantized(files["graphopt"], files["float"], OPTIONS, feed=FEED)
    assert not report.ok
    error = report.error()
    assert error is not None
    assert error.node == "b_node (Conv)"
    assert "%b differs" in error.message
    assert report.astray is None, "the file is right"


def test_models_that_do_not_belong_together(files: dict[str, Path]) -> None:
    other = model_of({"z": "float[1,4,8,8]"}, "y = Relu(z)")
    with pytest.raises(UserError, match="the inputs of"):
        check_quantized(files["graphopt"], other, OPTIONS, feed=FEED)
    stranger = model_of({"x": "float[1,4,8,8]"}, "n = Relu(x)", "n")
    with pytest.raises(UserError, match="no value by the name"):
        check_quantized(files["graphopt"], stranger, OPTIONS, feed=FEED)
    with pytest.raises(UserError, match="can't be cast"):
        check_quantized(files["graphopt"], files["float"], Options(precision="fp16"), feed=FEED)


def test_compiling_in_int8_is_quantizing_before(files: dict[str, Path]) -> None:
    one = graphopt.compile(files["float"], precision="int8", calibration=[FEED], threads=1)
    other = graphopt.compile(files["graphopt"], threads=1)
    np.testing.assert_array_equal(one.run(FEED)["y"], other.run(FEED)["y"])
    with pytest.raises(UserError, match="needs calibration data"):
        graphopt.compile(files["float"], precision="int8")
    with pytest.raises(UserError, match="for precision int8"):
        graphopt.compile(files["float"], calibration=[FEED])
