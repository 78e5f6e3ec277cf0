"""An ONNX file is untrusted input: every kind of damage raises the right error, naming file or node and a remedy."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphopt.driver.importing import import_onnx
from graphopt.errors import ModelError, UnsupportedOpError, UserError

F = TensorProto.FLOAT


def model(
    nodes: Sequence[Any],
    constants: Sequence[Any] = (),
    *,
    shape: Sequence[Any] = (2, 3),
    opset: int = 18,
    domains: Sequence[str] = (),
    outputs: Sequence[str] = ("y",),
) -> ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", F, list(shape))],
        [helper.make_tensor_value_info(o, F, None) for o in outputs],
        list(constants),
    )
    for info in graph.output:
        info.type.tensor_type.shape.SetInParent()
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def relu() -> Any:
    return helper.make_node("Relu", ["x"], ["y"], name="the_relu")


def weight(data: Any = ((1, 2, 3),), name: str = "w") -> Any:
    return numpy_helper.from_array(np.asarray(data, np.float32), name)


def add() -> Any:
    return helper.make_node("Add", ["x", "w"], ["y"], name="the_add")


def fails(kind: type[UserError], src: Any, *words: str, code: str | None = None, node: str | None = None) -> UserError:
    with pytest.raises(UserError) as caught:
        import_onnx(src)
    error = caught.value
    assert type(error) is kind, f"{type(error).__name__}: {error}"
    for word in words:
        assert word in str(error), f"{word!r} is not in: {error}"
    assert error.hint, f"no remedy in: {error}"
    assert code is None or error.code == code
    assert node is None or error.node == node
    return error


# -- files ------------------------------------------------------------------------------------------------------
def test_missing_file(tmp_path: Path) -> None:
    fails(ModelError, tmp_path / "none.onnx", "none.onnx", code="no-such-file")


def test_directory(tmp_path: Path) -> None:
    fails(ModelError, tmp_path, str(tmp_path), code="no-such-file")


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_truncated(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "cut.onnx"
    blob = model([add()], [weight(np.zeros((2, 3)))]).SerializeToString()
    path.write_bytes(blob[: int(len(blob) * keep)])
    fails(ModelError, path, "cut.onnx")


@pytest.mark.parametrize("blob", [b"", b"\x00" * 64, b"PK\x03\x04 this is a zip", b"<html>not found</html>"])
def test_not_onnx(tmp_path: Path, blob: bytes) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(blob)
    fails(ModelError, path, "other.onnx")
    fails(ModelError, blob, "<bytes>")


# -- structure --------------------------------------------------------------------------------------------------
def test_failing_checker() -> None:
    fails(ModelError, model([helper.make_node("Concat", ["x"], ["y"], name="c")]), "axis", code="checker-failed")


def test_undefined_value() -> None:
    fails(ModelError, model([helper.make_node("Add", ["x", "ghost"], ["y"])]), "ghost")


def test_duplicate_names() -> None:
    fails(ModelError, model([relu(), helper.make_node("Abs", ["x"], ["y"])]), "y")


def test_output_never_computed() -> None:
    fails(ModelError, model([relu()], outputs=["y", "z"]), "z")


def test_cycle() -> None:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"], name="one"), helper.make_node("Relu", ["a"], ["b"], name="two")]
    error = fails(ModelError, model([*nodes, helper.make_node("Abs", ["b"], ["y"])]), "cycle", code="cyclic-graph")
    assert "one (Add)" in error.message
    assert "two (Relu)" in error.message


def test_unsorted_nodes_are_sorted() -> None:
    nodes = [helper.make_node("Abs", ["a"], ["y"]), helper.make_node("Relu", ["x"], ["a"])]
    assert [n.op for n in import_onnx(model(nodes)).nodes] == ["Relu", "Abs"]


def test_unknown_op() -> None:
    src = model([helper.make_node("Rellu", ["x"], ["y"], name="r")])
    fails(ModelError, src, "Rellu", code="checker-failed")


def test_unknown_domain() -> None:
    src = model([helper.make_node("Gelu", ["x"], ["y"], name="g", domain="com.acme")], domains=["com.acme"])
    fails(UnsupportedOpError, src, "com.acme", code="unknown-op", node="g (com.acme::Gelu)")


@pytest.mark.parametrize("opset", [5, 99])
def test_opset_outside_the_range(opset: int) -> None:
    fails(UnsupportedOpError, model([relu()], opset=opset), str(opset), code="unsupported-opset")


def test_sparse_attribute() -> None:
    values = helper.make_tensor("v", F, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [2])
    node = helper.make_node("Constant", [], ["w"], sparse_value=helper.make_sparse_tensor(values, indices, [3]))
    fails(UnsupportedOpError, model([node, add()]), "sparse")


def test_ill_typed_node() -> None:
    src = model([helper.make_node("MatMul", ["x", "w"], ["y"], name="mm")], [weight(np.zeros((4, 5)))])
    fails(ModelError, src, "3 and 4 differ", code="invalid-node", node="mm (MatMul)")


def test_axis_out_of_range() -> None:
    src = model([helper.make_node("Softmax", ["x"], ["y"], name="s", axis=5)])
    fails(ModelError, src, "axis 5", node="s (Softmax)")


def test_unknown_rank_asks_for_a_shape() -> None:
    src = model([helper.make_node("Softmax", ["x"], ["y"], name="s")])
    src.graph.input[0].type.tensor_type.ClearField("shape")
    src.ir_version = 8
    with pytest.raises(UserError) as caught:
        import_onnx(src)
    assert caught.value.hint
    if caught.value.code == "unknown-rank":
        assert "--shape" in caught.value.hint
        assert str(import_onnx(src, {"x": "Nx4"}).outputs[0].type) == "f32[N, 4]"


# -- tensors ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dims", [[-1, 3], [1 << 40, 1 << 40]])
def test_absurd_shape(dims: list[int]) -> None:
    tensor = weight()
    tensor.dims[:] = dims
    fails(ModelError, model([add()], [tensor]), "'w'")


def test_data_does_not_fit_the_shape() -> None:
    tensor = weight(np.zeros(4096))
    tensor.dims[:] = [5000]
    fails(ModelError, model([add()], [tensor]), "'w'")


def external(folder: Path, location: str, data: bytes | None = None, **info: Any) -> Path:
    """A model file whose weight [1024, 3] is kept at ``location``; ``data`` is written into the folder as w.bin."""
    if data is not None:
        (folder / "w.bin").write_bytes(data)
    tensor = TensorProto(name="w", data_type=F, dims=[1024, 3], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **info}.items():
        tensor.external_data.add(key=key, value=str(value))
    path = folder / "model.onnx"
    path.write_bytes(model([add()], [tensor], shape=(1024, 3)).SerializeToString())
    return path


def test_external_data(tmp_path: Path) -> None:
    data = np.arange(3 * 1024 + 4, dtype=np.float32)
    path = external(tmp_path, "w.bin", data.tobytes(), offset=16, length=3 * 1024 * 4)
    graph = import_onnx(path)
    np.testing.assert_array_equal(graph.nodes[0].inputs[1].data, data[4:].reshape(1024, 3))  # type: ignore[union-attr]


def test_external_data_missing(tmp_path: Path) -> None:
    fails(ModelError, external(tmp_path, "w.bin"), "w.bin", "'w'", "model.onnx", code="external-data")


def test_external_data_truncated(tmp_path: Path) -> None:
    fails(ModelError, external(tmp_path, "w.bin", b"\0" * 100), "100 bytes", "12288", code="external-data")


def test_external_data_of_a_model_in_memory(tmp_path: Path) -> None:
    blob = external(tmp_path, "w.bin", bytes(12288)).read_bytes()
    fails(ModelError, blob, "path of the model file", code="external-data")


@pytest.mark.parametrize("offset", ["-8", "many", str(1 << 62)])
def test_external_data_at_a_bad_offset(tmp_path: Path, offset: str) -> None:
    fails(ModelError, external(tmp_path, "w.bin", bytes(12288), offset=offset), "w.bin", code="external-data")


def outside(folder: Path) -> Path:
    secret = folder / "secret.bin"
    secret.write_bytes(bytes(12288))
    (folder / "inside").mkdir()
    return secret


def symlinked(folder: Path) -> str:
    os.symlink(folder / "secret.bin", folder / "inside" / "link.bin")
    return "link.bin"


ESCAPES: dict[str, Callable[[Path], str]] = {
    "parent": lambda folder: "../secret.bin",
    "detour": lambda folder: "a/../../secret.bin",
    "absolute": lambda folder: str(folder / "secret.bin"),
    "symlink": symlinked,
    "empty": lambda folder: "",
}


@pytest.mark.parametrize("how", ESCAPES)
def test_external_data_outside_the_folder(tmp_path: Path, how: str) -> None:
    outside(tmp_path)
    path = external(tmp_path / "inside", ESCAPES[how](tmp_path))
    fails(ModelError, path, "outside", code="external-data")


def test_symlinked_data_inside_the_folder(tmp_path: Path) -> None:
    path = external(tmp_path, "link.bin", bytes(12288))
    os.symlink(tmp_path / "w.bin", tmp_path / "link.bin")
    assert import_onnx(path).nodes


def test_three_gigabytes_are_mapped_not_read(tmp_path: Path) -> None:
    """A sparse file stands for the weights; reading them all would take 3 GB of memory."""
    rows = 1 << 28
    tensor = TensorProto(name="w", data_type=F, dims=[rows, 3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="w.bin")
    with open(tmp_path / "w.bin", "wb") as f:
        f.truncate(rows * 12)
    path = tmp_path / "big.onnx"
    path.write_bytes(model([add()], [tensor], shape=("N", 3)).SerializeToString())
    before = resident()
    graph = import_onnx(path, {"x": (rows, 3)})
    data = graph.nodes[0].inputs[1].data  # type: ignore[union-attr]
    assert data is not None
    assert data.shape == (rows, 3)
    assert data[rows - 1, 2] == 0
    assert resident() - before < 200 << 20


def resident() -> int:
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# -- shapes given by the user -----------------------------------------------------------------------------------
def dynamic() -> ModelProto:
    src = model([helper.make_node("Add", ["x", "z"], ["y"], name="a")], shape=("batch", 3, "len"))
    src.graph.input.append(helper.make_tensor_value_info("z", F, ["batch", 3, "len"]))
    return src


@pytest.mark.parametrize(
    ("shapes", "wanted"),
    [
        ({"x": (2, 3, 7)}, "f32[2, 3, 7]"),
        ({"x": "2x3x7"}, "f32[2, 3, 7]"),
        ({"x": "Nx3xlen"}, "f32[N, 3, len]"),
        ({"x": ("N", 3, 9)}, "f32[N, 3, 9]"),
        ({"x": "?, 3, 9", "z": (4, -1, "?")}, "f32[4, 3, 9]"),
        ({}, "f32[batch, 3, len]"),
    ],
)
def test_shapes_fix_and_rename_in_all_inputs(shapes: Any, wanted: str) -> None:
    graph = import_onnx(dynamic(), shapes)
    assert [str(v.type) for v in (*graph.inputs, *graph.outputs)] == [wanted] * 3


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"X": (2, 3, 7)}, ["no input called 'X'", "did you mean 'x'?"]),
        ({"image": (2, 3, 7)}, ["'image'", "'x', 'z'"]),
        ({"x": (2, 3)}, ["rank 3", "rank 2"]),
        ({"x": (2, 4, 7)}, ["dimension 1", "3 in the model, not 4"]),
        ({"x": (2, "C", 7)}, ["dimension 1"]),
        ({"x": (2, 3, 7), "z": (5, 3, 7)}, ["'batch'", "both 2 and 5"]),
        ({"x": ("a b", 3, 7)}, ["'a b'"]),
        ({"x": (-4, 3, 7)}, ["-4"]),
    ],
)
def test_shapes_that_can_not_be(shapes: Any, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        import_onnx(dynamic(), shapes)
    for word in words:
        assert word in str(caught.value)


def test_the_model_is_not_changed() -> None:
    src = dynamic()
    before = src.SerializeToString()
    import_onnx(src, {"x": (2, 3, 7)})
    assert src.SerializeToString() == before


def test_importing_the_package_stays_light() -> None:
    import subprocess
    import sys

    code = "import sys, graphopt; print(any(m in sys.modules for m in ('onnx', 'tvm', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
