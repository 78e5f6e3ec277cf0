"""Models on (simulated) GPUs: tensors where they lie, streams, memory, recorded runs, and what is refused.

The driver is tests/support/cuda_on_cpu: TVM's CUDA runtime, its virtual machine and all of graphopt are the real ones. Nothing of
what is put on a stream runs there before somebody waits for it, which is as late as CUDA allows.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import graphopt
from graphopt.errors import DeviceError, GraphOptError, InputError

pytest.importorskip("ziglang")

from tests.runtime import runtime_only
from tests.support.cuda_on_cpu.gpu import SimulatedGpus
from tests.support.cuda_on_cpu.images import simulated_compiler
from tests.support.cuda_on_cpu.worker import living

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(7)
A, B = (RNG.normal(size=(5, 7)).astype(np.float32) for _ in range(2))
W = RNG.normal(size=(7, 6)).astype(np.float32)


def expected(a: Array, b: Array) -> dict[str, Array]:
    """What the model of `proto` computes, in float64."""
    hidden = np.maximum(a.astype(np.float64) + b, 0)
    shifted = np.exp(hidden - hidden.max(1, keepdims=True))
    return {"y": hidden @ W, "z": shifted / shifted.sum(1, keepdims=True)}


def proto(rows: int | str = 5) -> bytes:
    """Two inputs, a constant, values in between, two outputs."""
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "w"], ["y"]),
        helper.make_node("Softmax", ["hidden"], ["z"], axis=1),
    ]
    ins = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [rows, 7]) for n in "ab"]
    outs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [rows, d]) for n, d in (("y", 6), ("z", 7))]
    graph = helper.make_graph(nodes, "g", ins, outs, [onnx.numpy_helper.from_array(W, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def branching() -> bytes:
    """A model that asks the GPU for a value while it runs."""
    sides = []
    for name, op in (("then", "Relu"), ("else", "Neg")):
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, [3])
        sides.append(helper.make_graph([helper.make_node(op, ["x"], [name])], name, [], [out]))
    node = helper.make_node("If", ["c"], ["y"], then_branch=sides[0], else_branch=sides[1])
    ins = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [3]),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])
    model = helper.make_model(
        helper.make_graph([node], "g", ins, [out]), opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    content: bytes = model.SerializeToString()
    return content


def bfloat16() -> bytes:
    """A model whose inputs and outputs numpy has no type for."""
    node = helper.make_node("Add", ["a", "b"], ["y"])
    a, b, y = (helper.make_tensor_value_info(n, TensorProto.BFLOAT16, [4, 3]) for n in "aby")
    model = helper.make_model(
        helper.make_graph([node], "g", [a, b], [y]), opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    content: bytes = model.SerializeToString()
    return content


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Artefacts by name."""
    folder = tmp_path_factory.mktemp("models")
    contents = {"fixed": proto(), "dynamic": proto("N"), "branching": branching(), "bfloat16": bfloat16()}
    with simulated_compiler():
        for name, content in contents.items():
            graphopt.compile(content, "cuda:sm_80,sm_86", exact=True).save(folder / f"{name}.gopt")
    return {name: str(folder / f"{name}.gopt") for name in contents}


@pytest.fixture(scope="module")
def gpus() -> Iterator[SimulatedGpus]:
    """Two that the artefacts have code for, and one that they don't."""
    found = SimulatedGpus("8.0,8.6,7.5")
    yield found
    found.close()


def check(found: dict[str, Any], a: Array = A, b: Array = B) -> None:
    want = expected(a, b)
    assert list(found) == list(want)
    for name, value in want.items():
        np.testing.assert_allclose(np.asarray(found[name]), value, rtol=2e-5, atol=1e-6)


# -- helpers of functions that run in the process with GPUs ------------------------------------------------------------


def _on_gpu(array: Array, index: int = 0) -> Any:
    import tvm

    return tvm.runtime.tensor(array, device=tvm.cuda(index))


def _memory(address: int, array: Array) -> Array:
    """The memory of a simulated GPU, which is the host's; what is queued hasn't happened there."""
    there = (ctypes.c_char * array.nbytes).from_address(address)
    return np.frombuffer(there, array.dtype).reshape(array.shape)


class Foreign:
    """A tensor of some library: memory of a GPU, and a stream that computed it."""

    def __init__(self, tensor: Any, device: tuple[int, int] | None = None) -> None:
        self.tensor = tensor
        self.device = device or tensor.__dlpack_device__()
        self.streams: list[int | None] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        self.streams.append(stream)
        return self.tensor.__dlpack__()


def _cut(array: Array, first: int) -> Foreign:
    """A tensor that starts ``first`` elements into its memory."""
    from graphopt.runtime.device.dlpack import Borrowed

    whole = _on_gpu(np.concatenate([np.zeros(first, array.dtype), array.reshape(-1)]))
    part = Borrowed(whole.data_ptr() + first * array.itemsize, array.shape, array.dtype, whole.__dlpack_device__())
    foreign = Foreign(part.tensor)
    foreign.kept = whole, part  # type: ignore[attr-defined]
    return foreign


def _error(call: Any, *arguments: Any, **named: Any) -> tuple[str, str, str, str]:
    """Class, code, message and hint of what it raises."""
    try:
        call(*arguments, **named)
    except GraphOptError as error:
        return type(error).__name__, error.code, error.message, error.hint or ""
    return "", "", "nothing was raised", ""


# -- tests -------------------------------------------------------------------------------------------------------------


def test_arrays_are_copied_there_and_back(files: dict[str, str], gpus: SimulatedGpus) -> None:
    check(gpus.call(_run_arrays, files["fixed"], A, B))
    check(gpus.call(_run_arrays, files["dynamic"], A[:3], B[:3]), A[:3], B[:3])


def _run_arrays(path: str, a: Array, b: Array) -> dict[str, Array]:
    found = graphopt.load(path).run({"a": a, "b": b[::-1][::-1]})
    assert all(type(value) is np.ndarray for value in found.values())
    return found


def test_tensors_are_read_where_they_lie_and_when_the_stream_comes_to_it(
    files: dict[str, str], gpus: SimulatedGpus
) -> None:
    for value in gpus.call(_run_late, files["fixed"], A, B):
        check(value, A + 1, B + 1)


def _run_late(path: str, a: Array, b: Array) -> list[dict[str, Array]]:
    model = graphopt.load(path)
    found = []
    for stream in (None, 0, model._executor.accelerator.new_stream()):  # type: ignore[union-attr]
        on_gpu, host = _on_gpu(a), (b + 1).copy()
        results = model.run({"a": on_gpu, "b": host}, stream=stream)
        _memory(on_gpu.data_ptr(), a)[...] = a + 1  # after the call, before it runs
        host[...] = np.nan  # was copied by the call
        assert results["y"].shape == (5, 6)
        assert results["y"].__dlpack_device__() == (2, 0)
        found.append({name: tensor.numpy() for name, tensor in results.items()})
    return found


def test_consumers_wait_for_results_and_runs_for_producers(files: dict[str, str], gpus: SimulatedGpus) -> None:
    check({"y": gpus.call(_consumed, files["fixed"], A, B), "z": expected(A, B)["z"]})


def _consumed(path: str, a: Array, b: Array) -> Array:
    import tvm_ffi

    model = graphopt.load(path)
    device = model._executor.accelerator  # type: ignore[union-attr]
    runs, consumes = device.new_stream(), device.new_stream()
    x = Foreign(_on_gpu(a))
    y = model.run({"a": x, "b": b}, stream=runs)["y"]
    assert x.streams == [runs]
    model.run({"a": x, "b": b})
    assert x.streams == [runs, 1]  # DLPack's number of the default stream
    # what a library does that takes the result on a stream of its own
    taken = tvm_ffi.from_dlpack(y.__dlpack__(stream=consumes))
    array = np.empty((5, 6), np.float32)
    device.copy_out(array, taken.data_ptr(), consumes)
    device.synchronise(consumes)
    return array


def test_runs_on_several_streams_follow_each_other(files: dict[str, str], gpus: SimulatedGpus) -> None:
    """They share the memory of values in between: when the last one is done, so are all before."""
    for i, found in enumerate(gpus.call(_several_streams, files["fixed"], A, B)):
        check(found, A + i, B)


def _several_streams(path: str, a: Array, b: Array) -> list[dict[str, Array]]:
    model = graphopt.load(path)
    device = model._executor.accelerator  # type: ignore[union-attr]
    streams = [device.new_stream() for _ in range(3)]
    held = [_on_gpu(a + i) for i in range(3)]  # what is freed is waited for
    results = [model.run({"a": x, "b": b}, stream=s) for x, s in zip(held, streams)]
    device.synchronise(streams[-1])
    shapes = {"y": np.empty((5, 6), np.float32), "z": a}
    return [{n: _memory(t.data_ptr, shapes[n]).copy() for n, t in found.items()} for found in results]


def test_threads(files: dict[str, str], gpus: SimulatedGpus) -> None:
    for i, found in enumerate(gpus.call(_from_threads, files["dynamic"], A, B)):
        check(found, A + i, B)


def _from_threads(path: str, a: Array, b: Array) -> list[dict[str, Array]]:
    model = graphopt.load(path)
    found: list[Any] = [None] * 4

    def run(i: int) -> None:
        for _ in range(5):
            found[i] = model.run({"a": a + i, "b": b})

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_the_stream_of_the_callers_library(files: dict[str, str], gpus: SimulatedGpus) -> None:
    check(gpus.call(_as_torch, files["fixed"], A, B))


def _as_torch(path: str, a: Array, b: Array) -> dict[str, Array]:
    model = graphopt.load(path)
    device = model._executor.accelerator  # type: ignore[union-attr]
    own, other = device.new_stream(), device.new_stream()

    class Stream:
        cuda_stream, device_index = own, 0

    class Elsewhere:
        cuda_stream, device_index = other, 1

    torch: Any = types.ModuleType("torch")
    torch.cuda = types.SimpleNamespace(current_stream=lambda index: Stream)
    sys.modules["torch"] = torch
    try:
        tensor = type("Tensor", (Foreign,), {"__module__": "torch"})(_on_gpu(a))
        model.run({"a": tensor, "b": b})
        assert tensor.streams == [own]
        found = model.run({"a": tensor, "b": b}, stream=Stream)
        assert _error(model.run, {"a": tensor, "b": b}, stream=Elsewhere)[1] == "wrong-device"
    finally:
        del sys.modules["torch"]
    return {name: np.asarray(tensor) for name, tensor in found.items()}


def test_nothing_is_allocated_again_and_everything_given_back(files: dict[str, str], gpus: SimulatedGpus) -> None:
    """The plan, constants and places for inputs are made once; results reuse what earlier ones left."""
    gpus.call(_counted, files["fixed"], A, B)
    before, first, later, after = gpus.call(_counted, files["fixed"], A, B)
    assert first == later
    assert before["allocations"] < first["allocations"]
    assert after == before


def _counted(path: str, a: Array, b: Array) -> list[dict[str, int]]:
    before = living()
    model = graphopt.load(path)
    graph = model.graph()
    for _ in range(3):
        model.run({"a": a, "b": b})
        graph({"a": a, "b": b})
    first = living()
    for _ in range(20):
        model.run({"a": a, "b": b})
        graph({"a": a, "b": b})
    later = living()
    del model, graph
    gc.collect()
    return [before, first, later, living()]


def test_recorded_runs(files: dict[str, str], gpus: SimulatedGpus) -> None:
    found = gpus.call(_recorded, files["fixed"], A, B)
    for i, value in enumerate(found):
        check(value, A + i, B)


def _recorded(path: str, a: Array, b: Array) -> list[dict[str, Array]]:
    model = graphopt.load(path)
    device = model._executor.accelerator  # type: ignore[union-attr]
    graph = model.graph({"a": a, "b": b})
    places = {name: tensor.data_ptr for name, tensor in (*graph.inputs.items(), *graph.outputs.items())}
    found = [graph({"a": a, "b": b})]
    stream = device.new_stream()
    late = graph({"a": _on_gpu(a + 1), "b": b}, stream=stream)
    found.append({name: tensor.numpy() for name, tensor in late.items()})
    # written in place by the caller
    device.copy_in(graph.inputs["a"].data_ptr, a + 2, stream)
    found.append({name: tensor.numpy() for name, tensor in graph(stream=stream).items()})
    # a run of the model in between, which uses the same memory for values in between
    between = model.run({"a": _on_gpu(a + 3), "b": b}, stream=device.new_stream())
    again = graph({"a": a + 4, "b": b}, stream=stream)
    found.append({name: tensor.numpy() for name, tensor in between.items()})
    found.append({name: np.array(tensor) for name, tensor in again.items()})
    assert places == {name: tensor.data_ptr for name, tensor in (*graph.inputs.items(), *graph.outputs.items())}
    return found


def test_what_cannot_be_recorded(files: dict[str, str], gpus: SimulatedGpus) -> None:
    (symbolic, waits), values = gpus.call(_unrecordable, files["dynamic"], files["branching"])
    assert symbolic[0] == "InputError"
    assert "N" in symbolic[2]
    assert "--shape" in symbolic[3]
    assert waits[:2] == ("InputError", "bad-input")
    assert "control flow" in waits[2]
    np.testing.assert_array_equal(values, [[1, 0, 3], [-1, 2, -3]])


def _unrecordable(dynamic: str, branching: str) -> tuple[list[Any], list[Array]]:
    model = graphopt.load(branching)
    errors = [_error(graphopt.load(dynamic).graph), _error(model.graph)]
    x = np.array([1, -2, 3], np.float32)
    return errors, [model.run({"x": x, "c": np.array(c)})["y"] for c in (True, False)]


def test_bfloat16(files: dict[str, str], gpus: SimulatedGpus) -> None:
    a, b = (RNG.normal(size=(4, 3)).astype(ml_dtypes.bfloat16) for _ in range(2))
    want = (a.astype(np.float32) + b.astype(np.float32)).astype(ml_dtypes.bfloat16)
    for found in gpus.call(_bfloat16, files["bfloat16"], a.view(np.uint16), b.view(np.uint16)):
        np.testing.assert_array_equal(found, want.view(np.uint16))


def _bfloat16(path: str, a: Array, b: Array) -> list[Array]:
    import tvm
    import tvm_ffi

    model = graphopt.load(path)
    typed = [x.view(ml_dtypes.bfloat16) for x in (a, b)]
    tensors = []
    for x in (a, b):
        tensor = tvm.runtime.empty(x.shape, "bfloat16", tvm.cuda())
        _memory(tensor.data_ptr(), x)[...] = x
        tensors.append(tensor)
    result = model.run({"a": tensors[0], "b": tensors[1]})["y"]
    assert str(tvm_ffi.from_dlpack(result.__dlpack__()).dtype) == "bfloat16"
    found = [result.numpy(), model.run({"a": typed[0], "b": typed[1]})["y"], model.graph()(dict(zip("ab", typed)))["y"]]
    assert all(array.dtype == ml_dtypes.bfloat16 for array in found)
    return [array.view(np.uint16) for array in found]


def test_tensors_that_start_anywhere(files: dict[str, str], gpus: SimulatedGpus) -> None:
    for first in (0, 1, 3, 4):
        check(gpus.call(_cut_tensors, files["fixed"], A, B, first))


def _cut_tensors(path: str, a: Array, b: Array, first: int) -> dict[str, Array]:
    found = graphopt.load(path).run({"a": _cut(a, first), "b": _cut(b, 1)})
    return {name: tensor.numpy() for name, tensor in found.items()}


REFUSED = {
    "on the host": ("DeviceError", "wrong-device", "host's memory", "x.to('cuda:0')"),
    "on another GPU": ("DeviceError", "wrong-device", "lies on cuda:1", "device="),
    "of another kind of device": ("DeviceError", "wrong-device", "kind 10", "x.to"),
    "another type": ("InputError", "bad-input", "has dtype float64", "astype"),
    "an unknown type": ("InputError", "bad-input", "numpy doesn't know", "float32"),
    "another shape": ("InputError", "bad-input", "dimension 0 must be 5", "--shape"),
    "another rank": ("InputError", "bad-input", "1 dimensions", ""),
    "not contiguous": ("InputError", "bad-input", "not contiguous", "contiguous()"),
    "not exported": ("InputError", "bad-input", "requires grad", "detach"),
    "missing": ("InputError", "bad-input", "is missing", "'b'"),
    "unknown": ("InputError", "bad-input", "no input 'c'", ""),
    "no mapping": ("InputError", "bad-input", "by input name", "dict"),
    "no stream": ("InputError", "bad-input", "no stream", "torch.cuda"),
    "no handle": ("InputError", "bad-input", "-1", "0 is"),
}


def test_what_is_refused(files: dict[str, str], gpus: SimulatedGpus) -> None:
    found, after = gpus.call(_refused, files["fixed"], A, B)
    assert list(found) == list(REFUSED)
    for case, (kind, code, message, hint) in REFUSED.items():
        assert found[case][:2] == (kind, code), f"{case}: {found[case]}"
        assert message in found[case][2], case
        assert hint in found[case][3], f"{case}: {found[case]}"
    check(after)


def _refused(path: str, a: Array, b: Array) -> tuple[dict[str, Any], Any]:
    import tvm

    class Stubborn(Foreign):
        def __dlpack__(self, *, stream: int | None = None) -> Any:
            raise BufferError("can't export a tensor that requires grad")

    model, x = graphopt.load(path), _on_gpu(a)
    strided = Foreign(_on_gpu(a))
    capsule = strided.tensor.__dlpack__()
    strides = _strides_of(capsule)
    strides[0], strides[1] = 1, 5
    strided.tensor = types.SimpleNamespace(__dlpack__=lambda: capsule)
    feeds: dict[str, Any] = {
        "on the host": {"a": Foreign(tvm.runtime.tensor(a)), "b": b},
        "on another GPU": {"a": _on_gpu(a, 1), "b": b},
        "of another kind of device": {"a": Foreign(x, (10, 0)), "b": b},
        "another type": {"a": _on_gpu(a.astype(np.float64)), "b": b},
        "an unknown type": {"a": tvm.runtime.empty(a.shape, "float4_e2m1fn", tvm.cuda()), "b": b},
        "another shape": {"a": _on_gpu(a[:4].copy()), "b": b},
        "another rank": {"a": _on_gpu(a.reshape(-1)), "b": b},
        "not contiguous": {"a": strided, "b": b},
        "not exported": {"a": Stubborn(x), "b": b},
        "missing": {"a": x},
        "unknown": {"a": x, "b": b, "c": b},
        "no mapping": [x, b],
    }
    found = {case: _error(model.run, feed) for case, feed in feeds.items()}
    found["no stream"] = _error(model.run, {"a": x, "b": b}, stream="default")
    found["no handle"] = _error(model.run, {"a": x, "b": b}, stream=-1)
    return found, {name: tensor.numpy() for name, tensor in model.run({"a": x, "b": b}).items()}


def _strides_of(capsule: Any) -> Any:
    from graphopt.runtime.device import dlpack

    return dlpack._Managed.from_address(dlpack._pointer_of(capsule, b"dltensor")).tensor.strides


def test_devices_by_index(files: dict[str, str], gpus: SimulatedGpus) -> None:
    results, errors = gpus.call(_by_index, files["fixed"], A, B)
    for found in results:
        check(found)
    beyond, without_code, no_such_thing, negative = errors
    assert beyond[:2] == ("DeviceError", "no-gpu")
    assert "cuda:7" in beyond[2]
    assert "cuda:1 (Simulated GPU" in beyond[3]
    assert without_code[:2] == ("DeviceError", "other-machine")
    assert all(name in without_code[2] for name in ("sm_80", "sm_86", "sm_75"))
    assert no_such_thing[:2] == ("DeviceError", "wrong-device")
    assert negative[:2] == ("DeviceError", "wrong-device")


def _by_index(path: str, a: Array, b: Array) -> tuple[list[Any], list[Any]]:
    found: list[Any] = []
    for device in (None, "cuda", "cuda:0", "cuda:1", 1):
        model = graphopt.load(path, device=device)
        index = model._executor.accelerator.index  # type: ignore[union-attr]
        assert index == int("1" in str(device))
        found.append({n: t.numpy() for n, t in model.run({"a": _on_gpu(a, index), "b": b}).items()})
        found.append(model.graph()({"a": a, "b": b}))
    errors = [_error(graphopt.load, path, device=device) for device in (7, "cuda:2", "cpu", "cuda:-1")]
    return found, errors


def test_models_of_processors_know_no_streams(tmp_path: Path) -> None:
    model = graphopt.compile(proto())
    for call in (lambda: model.run({"a": A, "b": B}, stream=0), model.graph):
        with pytest.raises(InputError, match="GPU"):
            call()
    model.save(tmp_path / "model.gopt")
    check(graphopt.load(tmp_path / "model.gopt", device="cpu").run({"a": A, "b": B}))
    with pytest.raises(DeviceError, match="cuda:1"):
        graphopt.load(tmp_path / "model.gopt", device="cuda:1")


def test_out_of_memory(files: dict[str, str]) -> None:
    gpus = SimulatedGpus("8.0", memory=200_000)
    try:
        before, errors, results, after = gpus.call(_little_room, files["dynamic"], A, B)
    finally:
        gpus.close()
    for error in errors:
        assert error[:2] == ("DeviceError", "out-of-memory")
        assert "are free" in error[2]
        assert "200000 bytes" in error[2]
    assert "inputs of 280000 bytes" in errors[0][2]
    check(results)
    assert after == before


def _little_room(path: str, a: Array, b: Array) -> tuple[Any, ...]:
    model = graphopt.load(path)
    model.run({"a": a, "b": b})
    many = np.zeros((10_000, 7), np.float32)
    before = living()
    errors = [_error(model.run, {"a": many, "b": many})]  # no room for inputs
    middle = np.zeros((2200, 7), np.float32)
    errors.append(_error(model.run, {"a": middle, "b": middle}))  # for inputs there is, for values of that size not
    results = model.run({"a": a, "b": b})
    model._executor.arena._staging.clear()  # type: ignore[union-attr]
    del model
    gc.collect()
    return before["streams"], errors, results, living()["streams"]


def test_no_room_to_load(files: dict[str, str]) -> None:
    gpus = SimulatedGpus("8.0", memory=400)
    try:
        before, error, after = gpus.call(_load_and_fail, files["fixed"])
    finally:
        gpus.close()
    assert error[:2] == ("DeviceError", "out-of-memory")
    assert "sm_80" in error[2]
    assert "of its 400 bytes are free" in error[2]
    assert after == before


def _load_and_fail(path: str) -> tuple[Any, ...]:
    before = living()
    error = _error(graphopt.load, path)
    gc.collect()
    return before, error, living()


@pytest.mark.parametrize(
    ("devices", "driver", "code", "words"),
    [
        ("8.0", 12040, "driver-too-old", ("12.4", "13.0")),
        ("", 13000, "other-machine", ("no CUDA driver or GPU", "sm_80")),
        ("9.0", 13000, "ok", ()),  # PTX of sm_86 is for it; the simulated driver compiles none
    ],
)
def test_other_machines(files: dict[str, str], devices: str, driver: int, code: str, words: tuple[str, ...]) -> None:
    gpus = SimulatedGpus(devices, driver)
    try:
        found = gpus.call(_load_error, files["fixed"])
    finally:
        gpus.close()
    if code == "ok":
        assert found[1] not in ("other-machine", "driver-too-old")
        return
    assert found[:2] == ("DeviceError", code)
    assert all(word in found[2] for word in words), found


def _load_error(path: str) -> tuple[str, str, str, str]:
    return _error(graphopt.load, path)


def test_values_that_the_host_reads_are_computed_first(files: dict[str, str], gpus: SimulatedGpus) -> None:
    """Which branch is taken depends on a condition that is on its way on a stream which waits for no other."""
    for c, value in zip((True, False, True), gpus.call(_conditions, files["branching"])):
        np.testing.assert_array_equal(value, [1, 0, 3] if c else [-1, 2, -3])


def _conditions(path: str) -> list[Array]:
    model = graphopt.load(path)
    device = model._executor.accelerator  # type: ignore[union-attr]
    x, found = _on_gpu(np.array([1, -2, 3], np.float32)), []
    for value in (True, False, True):
        stream, condition = device.new_stream(), _on_gpu(np.array(not value))
        device.copy_in(condition.data_ptr(), np.array(value), stream)
        y = model.run({"x": x, "c": condition}, stream=stream)["y"]
        found.append(np.empty(3, np.float32))
        device.copy_out(found[-1], y.data_ptr, stream)
        device.synchronise(stream)  # which follows the default one
    return found


def test_a_runtime_only_install(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVM_USE_RUNTIME_LIB", "1")
    gpus = SimulatedGpus("8.0")
    try:
        for found in gpus.call(runtime_only.run, files["fixed"], A, B):
            check(found)
    finally:
        gpus.close()
