"""Names that are no text, element types that don't exist, and external data that can't be followed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphopt.driver.importing import import_onnx
from graphopt.errors import ModelError

F = TensorProto.FLOAT
BROKEN = b"\xff\xfe\xfaQ"
"""As long as the mark that it replaces, so that the message stays well-formed."""
MARK = "QQQQ"


def model(node: Any = None, **names: str) -> ModelProto:
    """A Conv; keyword arguments name its parts."""
    n = {key: names.get(key, key) for key in ("x", "y", "w", "name", "graph", "dim", "doc", "key", "value", "pad")}
    node = node or helper.make_node(
        "Conv", [n["x"], n["w"]], [n["y"]], name=n["name"], auto_pad=names.get("pad", "VALID")
    )
    graph = helper.make_graph(
        [node], n["graph"],
        [helper.make_tensor_value_info(n["x"], F, [n["dim"], 1, 4, 4])],
        [helper.make_tensor_value_info(n["y"], F, [n["dim"], 1, 2, 2])],
        [numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), n["w"])],
        doc_string=n["doc"],
    )  # fmt: skip
    found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found.metadata_props.add(key=n["key"], value=n["value"])
    return found


@pytest.mark.parametrize("part", ["x", "y", "w", "name", "graph", "dim", "doc", "key", "value", "pad"])
def test_names_that_are_no_text(part: str) -> None:
    blob = model(**{part: MARK}).SerializeToString()
    assert MARK.encode() in blob
    with pytest.raises(ModelError, match="UTF-8") as caught:
        import_onnx(blob.replace(MARK.encode(), BROKEN))
    assert caught.value.hint


def test_types_that_do_not_exist() -> None:
    for change in ("initializer", "input", "output", "attribute"):
        src = model()
        if change == "initializer":
            src.graph.initializer[0].data_type = 65536
        elif change == "attribute":
            constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.ones(1, np.float32)))
            constant.attribute[0].t.data_type = 65536
            src.graph.node.append(constant)
        else:
            getattr(src.graph, change)[0].type.tensor_type.elem_type = 65536
        with pytest.raises(ModelError, match="65536"):
            import_onnx(src)


def external(folder: Path, location: str, dims: Sequence[int] = (1, 1, 3, 3)) -> Path:
    src = model()
    tensor = src.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.dims[:] = dims
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path = folder / "model.onnx"
    path.write_bytes(src.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("location", "dims", "words"),
    [
        ("loop", (1, 1, 3, 3), "'loop'"),
        ("a\0b", (1, 1, 3, 3), "no file name"),
        ("n" * 5000, (1, 1, 3, 3), "no file name"),
        ("data", (-1, 1, 3, -3), "absurd shape"),
        ("data", (1 << 62, 1 << 62, 3, 3), "absurd shape"),
        ("data", (0, 1 << 61, 3, 3), "absurd shape"),
    ],
)
def test_external_data_that_can_not_be_followed(tmp_path: Path, location: str, dims: Sequence[int], words: str) -> None:
    os.symlink("pool", tmp_path / "loop")
    os.symlink("loop", tmp_path / "pool")
    (tmp_path / "data").write_bytes(bytes(36))
    with pytest.raises(ModelError, match=words) as caught:
        import_onnx(external(tmp_path, location, dims))
    assert len(str(caught.value)) < 1000


def test_external_data_in_a_subfolder(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "data").write_bytes(np.full(9, 3, np.float32).tobytes())
    graph = import_onnx(external(tmp_path, "weights/data"))
    (weight,) = graph.constants()
    np.testing.assert_array_equal(weight.data, np.full((1, 1, 3, 3), 3))


def test_an_input_larger_than_any_memory() -> None:
    src = model()
    src.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1 << 60
    with pytest.raises(ModelError, match="absurd shape"):
        import_onnx(src)
