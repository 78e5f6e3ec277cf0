"""Models on a real GPU with torch's tensors, streams and graphs; the same is proved on simulated GPUs in test_on_a_gpu.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt
from graphopt.backends.targets.cuda.caps import detect_sm
from graphopt.errors import DeviceError
from tests.runtime.test_on_a_gpu import A, B, expected, proto

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(detect_sm() is None, reason="no GPU")]


@pytest.fixture(scope="module")
def torch() -> Any:
    """torch built for CUDA."""
    module = pytest.importorskip("torch")
    if not module.cuda.is_available():
        pytest.skip("torch has no CUDA")
    return module


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> graphopt.CompiledModel:
    """An artefact for this GPU and others, loaded."""
    path = Path(tmp_path_factory.mktemp("model"), "model.gopt")
    graphopt.compile(proto(), f"cuda:sm_75,sm_{detect_sm()}", exact=True).save(path)
    return graphopt.load(path)


def _check(found: dict[str, Any], torch: Any, a: Any = A, b: Any = B) -> None:
    for name, value in expected(a, b).items():
        np.testing.assert_allclose(torch.from_dlpack(found[name]).cpu().numpy(), value, rtol=2e-5, atol=1e-6)


def test_tensors_on_the_current_stream(torch: Any, model: graphopt.CompiledModel) -> None:
    a, b = (torch.from_numpy(x).cuda() for x in (A, B))
    _check(model.run({"a": a, "b": b}), torch)
    for i in range(10):
        with torch.cuda.stream(torch.cuda.Stream()):
            big = torch.randn(4096, 4096, device="cuda")
            slow = (big @ big)[:5, :7] * 0  # what the input waits for
            _check(model.run({"a": a + i + slow, "b": b}), torch, A + i)


def test_a_given_stream_and_a_recorded_run(torch: Any, model: graphopt.CompiledModel) -> None:
    a, b = (torch.from_numpy(x).cuda() for x in (A, B))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    found = model.run({"a": a, "b": b}, stream=stream)
    _check(found, torch)
    graph = model.graph({"a": a, "b": b})
    for i in range(5):
        _check(graph({"a": a + i, "b": b}), torch, A + i)
    torch.from_dlpack(graph.inputs["a"]).copy_(a + 7)
    _check(graph(), torch, A + 7)


def test_what_torch_has_elsewhere(torch: Any, model: graphopt.CompiledModel) -> None:
    with pytest.raises(DeviceError, match="host's memory"):
        model.run({"a": torch.from_numpy(A), "b": B})
    if torch.cuda.device_count() > 1:
        with pytest.raises(DeviceError, match="lies on cuda:1"):
            model.run({"a": torch.from_numpy(A).to("cuda:1"), "b": B})
