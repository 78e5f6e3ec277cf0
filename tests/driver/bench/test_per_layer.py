"""Time per kernel: of every kernel that runs, with what is known of it, from artefacts too; and the plot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt.driver.bench.machine_peak import Bandwidth, MachinePeaks
from graphopt.driver.bench.per_layer import LayerTime, PerLayer, _named, measure_layers
from graphopt.driver.bench.roofline import write_roofline
from graphopt.driver.compiling import compile
from graphopt.driver.figures import require_matplotlib
from graphopt.driver.random_inputs import random_inputs
from graphopt.errors import ArtifactError, UserError
from graphopt.models import zoo
from graphopt.runtime.artifact import read_artifact, write_artifact
from graphopt.runtime.kernel_facts import KernelFacts, kernel_facts
from graphopt.runtime.load import load
from graphopt.runtime.model import CompiledModel
from tests.support.onnx_graphs import model_of

PEAKS = MachinePeaks(2, 50.0, 100.0, (Bandwidth("memory", 20, 10, 16, 18), Bandwidth("L2", 200, 100, 160, 180)))


@pytest.fixture(scope="module")
def digits() -> CompiledModel:
    model = zoo.get("digits")
    return compile(model.path(), "native", threads=1, shapes=model.shapes)


@pytest.fixture(scope="module")
def measured(digits: CompiledModel) -> PerLayer:
    return measure_layers(digits, random_inputs(digits.signature), repeat=3)


def test_every_kernel_is_timed_in_order(digits: CompiledModel, measured: PerLayer) -> None:
    assert digits.program is not None
    assert [layer.function for layer in measured.layers] == [step.function for step in digits.program.kernels]
    assert [layer.label for layer in measured.layers] == [step.label for step in digits.program.kernels]
    assert [layer.flops for layer in measured.layers] == [step.flops for step in digits.program.kernels]
    assert all(layer.ms > 0 for layer in measured.layers)
    assert measured.runs == 3
    assert measured.kernels_ms == pytest.approx(sum(layer.ms for layer in measured.layers))
    assert measured.total_ms > 0


def test_the_nth_call_of_a_function_is_its_nth_in_the_program() -> None:
    facts = [KernelFacts("f", "first"), KernelFacts("g", "other", flops=5), KernelFacts("f", "second")]
    found = _named(facts, [("f", 1.0), ("g", 2.0), ("f", 3.0), ("unknown", 4.0)])
    assert [(layer.label, layer.ms) for layer in found] == [
        ("first", 1.0),
        ("other", 2.0),
        ("second", 3.0),
        ("unknown", 4.0),
    ]
    assert found[1].flops == 5


def test_a_model_runs_as_before_once_it_was_measured(digits: CompiledModel, measured: PerLayer) -> None:
    feed = random_inputs(digits.signature, 1)
    before = digits.run(feed)
    measure_layers(digits, random_inputs(digits.signature), repeat=2)
    for name, array in digits.run(feed).items():
        np.testing.assert_array_equal(array, before[name])


def test_facts_of_a_kernel(measured: PerLayer) -> None:
    first = measured.layers[0]
    assert first.shapes.startswith("1x1x8x8 -> 1x")
    assert first.flops == 2 * 16 * 64 * 9 + 16 * 64 + 16 * 64  # taps, bias, Relu
    assert first.written == 4 * 16 * 64
    assert first.bytes is not None
    assert first.bytes >= 4 * (64 + 16 * 9 + 16 + 16 * 64)


def test_only_the_branch_taken_is_timed() -> None:
    then = "t () => (float[4] a) { a = Exp(x) }"
    otherwise = "e () => (float[4] b) { b0 = Add(x, x)  b = CumSum(b0, zero) }"
    body = f"y = If(c) <then_branch = {then}, else_branch = {otherwise}>"
    compiled = compile(model_of({"c": "bool[]", "x": "float[4]"}, body, zero=np.array(0)), "native", threads=1)
    for taken, absent, flag in (("exp", "cumsum", True), ("cumsum", "exp", False)):
        found = measure_layers(compiled, {"c": np.array(flag), "x": np.ones(4, np.float32)}, repeat=2)
        names = " ".join(layer.function for layer in found.layers)
        assert taken in names
        assert absent not in names
        assert all(layer.template for layer in found.layers)


def test_symbolic_sizes_are_timed_without_rates() -> None:
    compiled = compile(model_of({"x": "float[N,4]"}, "y = Relu(x)"), "native", threads=1)
    (found,) = measure_layers(
        compiled, {"x": np.ones((3, 4), np.float32)}, repeat=2
    ).layers  # checks of sizes ran before
    assert found.ms > 0
    assert (found.flops, found.bytes, found.gflops, found.gbytes) == (None, None, None, None)
    assert found.limit(PEAKS) is None


def test_an_artefact_knows_its_kernels(tmp_path: Path) -> None:
    model = zoo.get("digits")
    compiled = compile(model.path(), "native", threads=1, shapes=model.shapes)
    compiled.save(tmp_path / "a.gopt")
    loaded = load(tmp_path / "a.gopt")
    assert kernel_facts(loaded) == kernel_facts(compiled)
    found = measure_layers(loaded, random_inputs(loaded.signature), repeat=2)
    assert [layer.label for layer in found.layers] == [fact.label for fact in kernel_facts(compiled)]
    loaded.save(tmp_path / "b.gopt")
    assert kernel_facts(load(tmp_path / "b.gopt")) == kernel_facts(compiled)
    # one without the list, as earlier releases wrote: names and times
    old = read_artifact(tmp_path / "a.gopt")
    kept = {key: old.manifest[key] for key in ("signature", "target", "source", "threads")}
    write_artifact(tmp_path / "old.gopt", library=old.library, constants=old.constants, manifest=kept)
    bare = measure_layers(load(tmp_path / "old.gopt"), random_inputs(loaded.signature), repeat=2)
    assert [layer.function for layer in bare.layers] == [layer.function for layer in found.layers]
    assert {layer.template for layer in bare.layers} == {""}
    write_artifact(
        tmp_path / "bad.gopt", library=old.library, constants=old.constants, manifest={**kept, "kernels": [3]}
    )
    with pytest.raises(ArtifactError, match=r"kernels\[0\] is 3"):
        kernel_facts(load(tmp_path / "bad.gopt"))


LAYERS = [
    LayerTime("conv", "c1", "direct", flops=10**7, bytes=10**5, written=10**4, ms=0.2),
    LayerTime("conv", "c2", "direct", flops=10**7, bytes=10**5, written=10**4, ms=0.2),
    LayerTime("copy", "t", "generic", flops=0, bytes=10**5, ms=0.1),
    LayerTime("dims", "d", "generic", ms=0.001),
]


@pytest.mark.parametrize("layers", [LAYERS, LAYERS[2:], []])
def test_the_plot(tmp_path: Path, layers: list[LayerTime]) -> None:
    pytest.importorskip("matplotlib")
    write_roofline(tmp_path / "r.png", "title", layers, PEAKS)
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_of_an_unknown_kind(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(UserError, match="can't write"):
        write_roofline(tmp_path / "r.unknown", "title", LAYERS, PEAKS)


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="not installed") as caught:
        require_matplotlib()
    assert "pip install" in (caught.value.hint or "")
