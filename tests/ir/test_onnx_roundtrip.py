"""Import followed by export changes no bit of what ONNX Runtime (optimisation disabled) computes."""

from __future__ import annotations

import collections
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphopt.driver.importing import import_onnx
from graphopt.errors import UserError
from graphopt.ir.onnx_io import graph_to_onnx
from tests.support.onnx_cases import OnnxCase, onnx_cases


def session(model: ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def outcome(case: OnnxCase) -> str:
    """``same``, ``refused``, ``no peer`` when ONNX Runtime can't run the original, else what differs."""
    try:
        reference = session(case.model)
        feeds = {i.name: a for i, a in zip(reference.get_inputs(), case.inputs)}
        wanted = reference.run(None, feeds)
    except Exception:
        return "no peer"
    try:
        exported = graph_to_onnx(import_onnx(case.model))
    except UserError:
        return "refused"
    try:
        onnx.checker.check_model(exported)
        got = session(exported).run(None, feeds)
    except Exception as e:
        too_new = exported.opset_import[0].version > case.model.opset_import[0].version
        return "no peer" if too_new and "opset" in str(e) else f"export fails: {e}"
    for a, b in zip(got, wanted):
        if isinstance(a, np.ndarray) and (a.dtype != b.dtype or a.shape != b.shape or a.tobytes() != b.tobytes()):
            if a.dtype == object and a.tolist() == b.tolist():
                continue
            return f"differs: {a.dtype}{a.shape} and {b.dtype}{b.shape}"
    return "same"


RANDOM = ("bernoulli", "dropout", "random", "multinomial")


@pytest.mark.parametrize("form", [pytest.param("inputs", marks=pytest.mark.slow), "constants"])
def test_node_tests_are_bit_identical(form: str) -> None:
    counts: collections.Counter[str] = collections.Counter()
    bad = {}
    for case in onnx_cases("node"):
        if any(word in case.name for word in RANDOM) or not case.all_tensors:
            continue
        result = outcome(case.with_constant_operands() if form == "constants" else case)
        counts[result.split(":")[0]] += 1
        if result not in ("same", "refused", "no peer"):
            bad[case.name] = result
    assert not bad, "\n".join(f"{k}: {v}" for k, v in bad.items())
    assert counts["same"] > 1000


def test_squeezenet_with_random_weights() -> None:
    import os

    from graphopt.ir.onnx_load import graphs_of

    path = os.path.join(os.path.dirname(onnx.__file__), "backend/test/data/light/light_squeezenet.onnx")
    model = onnx.load(path)
    rng = np.random.default_rng(0)
    shapes = {n.output[0]: n for g in graphs_of(model.graph) for n in g.node if n.op_type == "ConstantOfShape"}
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    weights = []
    for name, node in shapes.items():
        dims = constants[node.input[0]]
        fan_in = max(int(np.prod(dims[1:])), 1)
        weights.append(numpy_helper.from_array((rng.standard_normal(dims) / np.sqrt(fan_in)).astype(np.float32), name))
    kept = [n for n in model.graph.node if n.op_type != "ConstantOfShape"]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(weights)
    model.ir_version = 8  # older files list initializers among the inputs
    x = rng.standard_normal((1, 3, 224, 224)).astype(np.float32)
    assert outcome(OnnxCase("squeezenet", model, [x], [])) == "same"


# -- constants of every element type ----------------------------------------------------------------------------
TYPES = [name for name, code in TensorProto.DataType.items() if code and name != "STRING"]


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 2)], ids=str)
def test_constants_of_every_type_survive(name: str, shape: tuple[int, ...]) -> None:
    code = TensorProto.DataType.Value(name)
    count = int(np.prod(shape))
    array = np.arange(count).reshape(shape).astype(np.float32)
    if name == "FLOAT8E8M0":
        array = 2.0**array
    values = (array % 2 if "2" in name and "INT2" in name else array).astype(helper.tensor_dtype_to_np_dtype(code))
    tensor = numpy_helper.from_array(values, "w")
    assert tensor.data_type == code
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", code, shape)],
        [tensor],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)])
    exported = graph_to_onnx(import_onnx(model))
    (kept,) = exported.graph.initializer
    assert kept.data_type == code
    assert tuple(kept.dims) == shape
    found = numpy_helper.to_array(kept)
    assert found.dtype == values.dtype
    assert found.tobytes() == values.tobytes()
    assert exported.graph.output[0].type.tensor_type.elem_type == code


def test_string_constants_survive() -> None:
    words = np.array([["a", "bü"], ["", "d e"]], object)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.STRING, (2, 2))],
        [numpy_helper.from_array(words, "w")],
    )
    exported = graph_to_onnx(import_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])))
    found = numpy_helper.to_array(exported.graph.initializer[0])
    assert [x.decode() if isinstance(x, bytes) else x for x in found.reshape(-1)] == words.reshape(-1).tolist()
    assert exported.graph.output[0].type.tensor_type.elem_type == TensorProto.STRING


def test_metadata_names_and_symbols_survive() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="act")], "net", [x], [y], doc_string="doc")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    helper.set_model_props(model, {"author": "me"})
    exported = graph_to_onnx(import_onnx(model))
    assert exported.graph.name == "net"
    assert exported.graph.node[0].name == "act"
    assert [d.dim_param or d.dim_value for d in exported.graph.input[0].type.tensor_type.shape.dim] == ["batch", 3]
    assert {p.key: p.value for p in exported.metadata_props} == {"author": "me"}


def main() -> None:
    for case in onnx_cases("node"):
        if case.all_tensors and (result := outcome(case.with_constant_operands())) not in ("same", "no peer"):
            sys.stdout.write(f"{case.name}: {result[:300]}\n")


if __name__ == "__main__":
    main()
