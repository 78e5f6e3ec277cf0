"""What is measured of exported architectures: files, sizes, inputs; and results that outlive an interrupted run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from contest import Outcome, Slow

from graphopt.driver.bench.measure import Latency

EXPORTER = Path(__file__).parent / "architectures_torch" / "architecture_export.py"
FORMS = ("static", "dynamic")
Feed = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Cell:
    """One row of the report: a model at one size.

    Attributes:
        name: of the architecture.
        what: in words.
        dynamic: its axes stay open.
        sizes: extents of the axes that the export left open, in words; empty for those of the static export.
        file: the model.
        inputs: shape and integer limit (see the exporter's ``Feed.below``) of each input.
    """

    name: str
    what: str
    dynamic: bool
    sizes: str
    file: Path
    inputs: Mapping[str, tuple[tuple[int, ...], int | None]]

    def key(self, threads: int) -> str:
        """Tells cells apart in the file of results."""
        return f"{self.name} {'dynamic' if self.dynamic else 'static'} {self.sizes or '-'} {threads}"

    def feed(self) -> Feed:
        """Seeded inputs."""
        rng = np.random.default_rng(0)
        return {name: _draw(rng, shape, below) for name, (shape, below) in self.inputs.items()}


def _draw(rng: np.random.Generator, shape: tuple[int, ...], below: int | None) -> np.ndarray[Any, Any]:
    if below is None:
        return rng.standard_normal(shape).astype(np.float32)
    return np.ones(shape, np.int64) if below == 1 else rng.integers(0, below, shape)


def cells_of(folder: Path, names: Sequence[str]) -> Iterator[Cell]:
    """What the files in a folder offer: of each model the static sizes, then the dynamic ones."""
    for name in names:
        for form in FORMS:
            path = folder / f"{name}-{form}.onnx"
            if not path.exists() or not path.with_suffix(".json").exists():
                continue
            said = json.loads(path.with_suffix(".json").read_text())
            for changed in ({}, *said["more"]):
                inputs, sizes = _at(said["inputs"], changed)
                words = ", ".join(f"{axis} {extent}" for axis, extent in sizes.items()) if changed else ""
                if changed:  # there is no static export of these sizes: the dynamic one is fixed to them
                    yield Cell(name, said["what"], False, words, path, inputs)
                yield Cell(name, said["what"], form == "dynamic", words, path, inputs)


def _at(
    inputs: Mapping[str, Any], changed: Mapping[str, int]
) -> tuple[dict[str, tuple[tuple[int, ...], int | None]], dict[str, int]]:
    """Shapes with some axes at other extents, and the extents of all open axes."""
    found, sizes = {}, dict[str, int]()
    for name, said in inputs.items():
        shape = list(said["shape"])
        for place, axis in said["axes"].items():
            shape[int(place)] = sizes[axis] = changed.get(axis, shape[int(place)])
        found[name] = (tuple(shape), said["below"])
    return found, sizes


def export(python: Path, folder: Path, names: Sequence[str], again: bool) -> dict[str, str]:
    """Have another Python write the models that are missing; why some can't be written, by file.

    Args:
        python: of an environment with ``requirements-architectures.txt``.
        folder: where to.
        names: of architectures.
        again: those that are there, too.
    """
    failed: dict[str, str] = {}
    notes = folder / "failed.json"
    if notes.exists() and not again:
        failed = json.loads(notes.read_text())
    done = {name for name in names if not again and _is_exported(folder, name, failed)}
    for name in names:
        if name in done:
            continue
        print(f"exporting {name}", flush=True)
        for form in FORMS:
            failed.pop(f"{name}-{form}.onnx", None)
        ended = subprocess.run(
            [str(python), str(EXPORTER), str(folder), name],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        answers = [json.loads(line[9:]) for line in ended.stdout.splitlines() if line.startswith("EXPORTED ")]
        failed.update({answer["file"]: answer["error"] for answer in answers if "error" in answer})
        if not answers:
            last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
            failed[f"{name}-static.onnx"] = last
        notes.write_text(json.dumps(failed, indent=1))
    return failed


def _is_exported(folder: Path, name: str, failed: Mapping[str, str]) -> bool:
    """Whether each form is there, failed, or doesn't exist, as the descriptions of the other ones say."""
    there = [form for form in FORMS if (folder / f"{name}-{form}.json").exists()]
    if len(there) == len(FORMS):
        return True
    if not there:
        return False
    only = json.loads((folder / f"{name}-{there[0]}.json").read_text())
    missing = next(form for form in FORMS if form not in there)
    return f"{name}-{missing}.onnx" in failed or only["forms"] == 1


def known(python: Path) -> list[str]:
    """Names of all architectures.

    Raises:
        RuntimeError: the Python can't import what it needs.
    """
    done = subprocess.run([str(python), str(EXPORTER), "--list"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeError(f"{python} can't export: {last} (pip install -r benchmarks/requirements-architectures.txt)")
    return done.stdout.split()


class Results:
    """Outcomes by cell, a line of JSON each, in a file that later runs go on with.

    Args:
        path: the file; need not exist.
        setting: what must be the same for outcomes to be comparable: commit, versions, machine.
    """

    def __init__(self, path: Path, setting: str) -> None:
        self._path, self._setting = path, setting
        self._found: dict[str, Outcome | str] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                entry = json.loads(line)
            except ValueError:  # cut short when the run was interrupted
                continue
            if entry["setting"] == setting:
                self._found[entry["key"]] = entry["error"] if "error" in entry else _outcome(entry["outcome"])

    def get(self, key: str) -> Outcome | str | None:
        """What is known of a cell: an outcome, why there is none, or nothing."""
        return self._found.get(key)

    def put(self, key: str, found: Outcome | str) -> None:
        """Keep what came out."""
        self._found[key] = found
        what = {"error": found} if isinstance(found, str) else {"outcome": asdict(found)}
        with self._path.open("a") as file:
            file.write(json.dumps({"setting": self._setting, "key": key, **what}) + "\n")


def _outcome(found: Mapping[str, Any]) -> Outcome:
    return Outcome(
        Latency(**found["ours"]), {name: Latency(**peer) for name, peer in found["peers"].items()}, found["absent"],
        found["error"], [Slow(**slow) for slow in found["slowest"]],
    )  # fmt: skip
