"""Manifests with missing or odd fields are refused by field, whoever signed them."""

from __future__ import annotations

import copy
import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import graphopt
from graphopt.backends.targets.grammar import parse_target
from graphopt.errors import ArtifactError
from graphopt.runtime.artifact import MAGIC, read_artifact
from graphopt.runtime.manifest import FILE_FORM, MODEL_FORM, require
from graphopt.runtime.store import describe
from tests.cli.conftest import small_model

_HEAD = struct.Struct("<8sIIQ")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("manifest") / "m.gopt"
    graphopt.compile(small_model(), level=0, threads=1).save(path)
    return path


def rewritten(path: Path, manifest: object, to: Path) -> Path:
    """The artefact with another manifest and hashes that fit it."""
    blob = path.read_bytes()
    _, version, _, size = _HEAD.unpack_from(blob)
    start = -(-(_HEAD.size + 32 + size) // 64) * 64
    text = json.dumps(manifest).encode()
    head = _HEAD.pack(MAGIC, version, 0, len(text))
    front = head + hashlib.sha256(head + text).digest() + text
    to.write_bytes(front + bytes(-len(front) % 64) + blob[start:])
    return to


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every field of a document."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def changed(data: Any, place: tuple[Any, ...], value: Any, *, remove: bool = False) -> Any:
    """A copy with one field changed or gone."""
    copied = copy.deepcopy(data)
    holder = copied
    for key in place[:-1]:
        holder = holder[key]
    if remove:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    return copied


ODD = (None, True, -1, 1 << 70, 0.5, "", "odd", [], {}, [[]], [[1, [{"fn": "floordiv", "args": [1, 0]}]]])


def test_every_field_may_be_odd_or_missing(artifact: Path, tmp_path: Path) -> None:
    manifest = read_artifact(artifact).manifest
    hints = []
    for place in places(manifest):
        for wrong in [changed(manifest, place, None, remove=True), *(changed(manifest, place, value) for value in ODD)]:
            path = rewritten(artifact, wrong, tmp_path / "odd.gopt")
            try:
                describe(read_artifact(path))
            except ArtifactError as error:
                hints.append(error.hint)
    assert all(hints)
    assert len(hints) > 500


@pytest.mark.parametrize("document", [None, 3, [], "x"])
def test_what_is_no_object(artifact: Path, tmp_path: Path, document: object) -> None:
    with pytest.raises(ArtifactError):
        read_artifact(rewritten(artifact, document, tmp_path / "odd.gopt"))


def test_nesting_is_bounded(artifact: Path, tmp_path: Path) -> None:
    manifest = read_artifact(artifact).manifest
    dim: Any = 3
    for _ in range(100):
        dim = [[1, [{"fn": "max", "args": [dim, 1]}]]]
    wrong = changed(manifest, ("signature", "inputs", 0, "shape", 0), dim)
    with pytest.raises(ArtifactError, match="too deep"):
        describe(read_artifact(rewritten(artifact, wrong, tmp_path / "deep.gopt")))


def test_a_right_manifest_is_taken_and_a_field_is_named(artifact: Path) -> None:
    manifest = read_artifact(artifact).manifest
    require(manifest, FILE_FORM)
    require(manifest, MODEL_FORM)
    wrong = changed(manifest, ("signature", "inputs", 0, "dtype"), "f33")
    with pytest.raises(ValueError, match=r"signature\.inputs\[0\]\.dtype is 'f33'"):
        require(wrong, MODEL_FORM)


def test_rates_of_a_core_are_numbers() -> None:
    """Half a load a cycle is one; no number, a negative one and NaN are none."""
    form = MODEL_FORM["target"]
    target = parse_target("arm:cortex-a53").to_dict()
    assert target["caps"]["loads_per_cycle"] == 0.5
    require(target, form)
    for wrong in (-0.5, float("nan"), float("inf"), True, "0.5"):
        with pytest.raises(ValueError, match=r"caps\.loads_per_cycle"):
            require({**target, "caps": {**target["caps"], "loads_per_cycle": wrong}}, form)
