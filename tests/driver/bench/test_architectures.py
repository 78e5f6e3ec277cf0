"""benchmarks/architectures.py: files are exported by another Python, measured, and a run that was interrupted goes on."""

from __future__ import annotations

import importlib
import json
import stat
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphopt.driver.bench.measure import Latency
from tests.support.onnx_graphs import model_of, rand

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Modules of the benchmark."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("architecture_cells")


def write(folder: Path, name: str, more: list[dict[str, int]]) -> None:
    """A model in both forms, as the exporter leaves it."""
    for dynamic in (False, True):
        rows = "N" if dynamic else "3"
        path = folder / f"{name}-{'dynamic' if dynamic else 'static'}.onnx"
        inputs = {"x": f"float[{rows},8]", "ids": "int64[2]", "mask": f"int64[{rows}]"}
        body = """
            p = MatMul(x, w)
            s = Softmax(p)
            g = Gather<axis = 1>(s, ids)
            m = Cast<to = 1>(mask)
            c = ReduceSum(m)
            y = Mul(g, c)
        """
        onnx.save_model(model_of(inputs, body, "y", w=rand(8, 5)), path)
        axes = {"0": "rows"} if dynamic else {}
        said = {
            "name": name, "what": "a net", "dynamic": dynamic, "more": more if dynamic else [], "forms": 2,
            "inputs": {
                "x": {"shape": [3, 8], "axes": axes, "below": None}, "ids": {"shape": [2], "axes": {}, "below": 5},
                "mask": {"shape": [3], "axes": axes, "below": 1},
            },
        }  # fmt: skip
        path.with_suffix(".json").write_text(json.dumps(said))


def test_cells_and_their_inputs(cells: Any, tmp_path: Path) -> None:
    write(tmp_path, "net", [{"rows": 7}])
    (tmp_path / "half-static.onnx").write_bytes(b"")  # interrupted before it was described
    found = list(cells.cells_of(tmp_path, ["net", "half", "absent"]))
    assert [(c.file.name, c.dynamic, c.sizes) for c in found] == [
        ("net-static.onnx", False, ""), ("net-dynamic.onnx", True, ""),
        ("net-dynamic.onnx", False, "rows 7"), ("net-dynamic.onnx", True, "rows 7"),
    ]  # fmt: skip
    assert len({c.key(1) for c in found} | {c.key(2) for c in found}) == 8
    feed = found[2].feed()
    assert (feed["x"].shape, feed["x"].dtype) == ((7, 8), np.float32)
    assert feed["ids"].max() < 5
    assert np.array_equal(feed["mask"], np.ones(7, np.int64))
    assert all(np.array_equal(a, b) for a, b in zip(feed.values(), found[3].feed().values()))


def test_results_outlive_an_interruption(cells: Any, tmp_path: Path) -> None:
    contest = importlib.import_module("contest")
    path = tmp_path / "results.jsonl"
    ours = Latency("graphopt", 1.0, 0.9, 1.2, 7, 3.0, 1.0, running_bytes=5)
    outcome = contest.Outcome(
        ours,
        {"peer": Latency("peer", 2.0, 1.0, 3.0, 5, 1.0, 2.0, 1e-7)},
        {"other": "why"},
        1e-6,
        [contest.Slow("n", "t", 0.5)],
    )
    first = cells.Results(path, "here")
    first.put("a", outcome)
    first.put("b", "refused")
    with path.open("a") as file:
        file.write('{"setting": "here", "key": "c", "err')
    again = cells.Results(path, "here")
    assert (again.get("a"), again.get("b"), again.get("c")) == (outcome, "refused", None)
    assert cells.Results(path, "another commit").get("a") is None


def fake_python(folder: Path, program: str) -> Path:
    """Something that is run in place of the Python with the exporting libraries."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\nimport json, sys\nfrom pathlib import Path\n{textwrap.dedent(program)}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_exports_are_made_once(cells: Any, tmp_path: Path) -> None:
    python = fake_python(
        tmp_path,
        """
        folder, name = Path(sys.argv[2]), sys.argv[3]
        log = folder / "log"
        log.write_text((log.read_text() if log.exists() else "") + name + " ")
        if name == "dies":
            print("no luck", file=sys.stderr)
            sys.exit(3)
        (folder / f"{name}-static.onnx").write_bytes(b"")
        (folder / f"{name}-static.json").write_text(json.dumps({"forms": 1 if name == "one" else 2}))
        print("chatter")
        print("EXPORTED " + json.dumps({"file": f"{name}-static.onnx"}))
        if name == "two":
            print("EXPORTED " + json.dumps({"file": "two-dynamic.onnx", "error": "a guard"}))
        """,
    )
    failed = {"dies-static.onnx": "no luck", "two-dynamic.onnx": "a guard"}
    assert cells.export(python, tmp_path, ["one", "dies", "two"], False) == failed
    assert cells.export(python, tmp_path, ["one", "dies", "two"], False) == failed
    assert (tmp_path / "log").read_text().split() == ["one", "dies", "two", "dies"]
    assert cells.export(python, tmp_path, ["one"], True) == {}
    with pytest.raises(RuntimeError, match=r"can't export: no torch .*requirements-architectures"):
        cells.known(fake_python(tmp_path, "sys.exit('no torch')"))


def test_a_report(cells: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    write(tmp_path, "net", [])
    (tmp_path / "bad-static.onnx").write_bytes(b"rubbish")
    (tmp_path / "bad-static.json").write_text(json.dumps({"what": "bad", "more": [], "inputs": {}, "forms": 1}))
    script = importlib.import_module("architectures")
    monkeypatch.setattr(importlib.import_module("contest"), "LAYERS_S", 0.1)
    options = ["--folder", str(tmp_path), "--threads", "1", "--seconds", "0.1", "--peers", "onnxruntime"]
    monkeypatch.setattr(sys, "argv", ["architectures.py", *options, "--write", str(tmp_path / "r.md"), "net", "bad"])
    script.main()
    text = (tmp_path / "r.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    head, *rows = rows
    by = {(row[0], row[1], row[2]): dict(zip(head, row)) for row in rows}
    assert list(by) == [
        ("net", "static", ""), ("net", "dynamic", ""), ("bad", "static", ""),
    ]  # fmt: skip
    for key, row in by.items():
        if key[0] == "net":
            ours, theirs = float(row["graphopt ms"]), float(row["onnxruntime ms"])
            assert ours >= 0
            assert theirs >= 0
            assert row["best peer"] == "onnxruntime"
            assert (row["of static"] != "") == (key[1] == "dynamic")
            assert "%" in row["slowest layers of graphopt"]
    assert by["bad", "static", ""]["graphopt ms"].startswith("fails: ")
    kept = (tmp_path / "results.jsonl").read_text()
    assert len(kept.splitlines()) == 3
    monkeypatch.setattr(script, "contest", None)  # nothing is measured again
    script.main()
    assert (tmp_path / "results.jsonl").read_text() == kept
