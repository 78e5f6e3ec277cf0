"""Mutated artefacts: fields of the manifest under hashes that fit, and bytes anywhere. They are refused, or run."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

import graphopt
from graphopt.driver.random_inputs import random_inputs
from graphopt.errors import GraphOptError, InternalError
from graphopt.runtime.artifact import MAGIC, read_artifact
from tests.cli.conftest import small_model

Draw = Callable[[st.SearchStrategy[Any]], Any]
_HEAD = struct.Struct("<8sIIQ")
MAX_INPUT = 1 << 20

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 9), st.sampled_from([1 << 31, 1 << 61, 1 << 70, -(1 << 63), 0.5, 1e300]),
    st.text(max_size=4), st.sampled_from(["f32", "i64", "x", "y", "rows", "cuda", "arm", "float64", "bitmap", "floordiv"]),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["fn", "args", "name", "dtype", "shape", "size"]), inner, max_size=3),
    ),
    max_leaves=6,
)


@functools.cache
def original() -> tuple[bytes, dict[str, Any]]:
    """An artefact and its manifest."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.gopt"
        graphopt.compile(small_model(), level=0, threads=1, jobs=1).save(path)
        return path.read_bytes(), read_artifact(path).manifest


@st.composite
def artifacts(draw: Draw) -> bytes:
    """The bytes of a file."""
    blob, manifest = original()
    if draw(st.integers(0, 5)) == 0:
        data = bytearray(blob)
        for _ in range(draw(st.integers(1, 3))):
            at = draw(st.one_of(st.integers(0, 200), st.integers(0, len(data) - 1)))
            if draw(st.booleans()):
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            else:
                del data[at : at + draw(st.integers(1, 64))]
        return bytes(data)
    changed = copy.deepcopy(manifest)
    for _ in range(draw(st.integers(1, 2))):
        _change(draw, changed)
    return _signed(blob, changed)


def _change(draw: Draw, manifest: Any) -> None:
    holder, key = draw(st.sampled_from(list(_places(manifest)) or [({"": 0}, "")]))
    kind = draw(st.integers(0, 4))
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    elif kind == 2 and isinstance(holder[key], int) and not isinstance(holder[key], bool):
        holder[key] += draw(st.sampled_from([-1, 1, 64]))
    else:
        holder[key] = draw(VALUES)


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    items = list(data.items()) if isinstance(data, dict) else list(enumerate(data)) if isinstance(data, list) else []
    for key, value in items:
        yield data, key
        yield from _places(value)


def _signed(blob: bytes, manifest: object) -> bytes:
    """The file with another manifest and the hashes that belong to it."""
    _, version, _, size = _HEAD.unpack_from(blob)
    start = -(-(_HEAD.size + 32 + size) // 64) * 64
    text = json.dumps(manifest).encode()
    head = _HEAD.pack(MAGIC, version, 0, len(text))
    front = head + hashlib.sha256(head + text).digest() + text
    return front + bytes(-len(front) % 64) + blob[start:]


def check_artifact(blob: bytes, phase: Callable[[str], None] = lambda _: None) -> str:
    """ "refused" or "ran".

    Raises:
        Exception: anything but a GraphOptError is a bug.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.gopt"
        path.write_bytes(blob)
        try:
            phase("load")
            model = graphopt.load(path)
            phase("run")
            feed = random_inputs(model.signature, 0)
            if sum(a.nbytes for a in feed.values()) > MAX_INPUT:
                return "loaded"
            model.run(feed)
        except InternalError:
            raise
        except GraphOptError:
            return "refused"
    return "ran"
