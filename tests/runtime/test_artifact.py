"""The artefact file: what goes in comes out, and nothing damaged, foreign or newer gets past reading."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphopt.errors import ArtifactError
from graphopt.runtime import artifact as module
from graphopt.runtime.artifact import ALIGNMENT, MAGIC, read_artifact, write_artifact

LIBRARY = b"\x7fELF pretend library" * 5
MANIFEST: dict[str, Any] = {"signature": {"inputs": ["x"]}, "target": "x86", "source": {"name": "café.onnx"}}
CONSTANTS = [
    np.arange(7, dtype="float32"),
    np.array([[True, False, True]]),
    np.arange(6, dtype="float16").reshape(2, 3),
    np.arange(5).astype(ml_dtypes.bfloat16),
    np.array(3, dtype="int64"),
    np.zeros((0, 4), dtype="uint8"),
    np.arange(12, dtype="int8").reshape(3, 4).T,
    np.arange(4, dtype=">i4"),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.gopt"
    write_artifact(path, library=LIBRARY, constants=CONSTANTS, manifest=MANIFEST)
    return path


@pytest.mark.parametrize("verify", [True, False])
def test_round_trip(file: Path, verify: bool) -> None:
    got = read_artifact(file, verify)
    assert got.library == LIBRARY
    assert {key: got.manifest[key] for key in MANIFEST} == MANIFEST
    assert {"graphopt", "tvm", "tvm-ffi"} <= got.manifest["versions"].keys()
    assert len(got.constants) == len(CONSTANTS)
    for array, expected in zip(got.constants, CONSTANTS):
        assert array.dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")
        assert array.shape == expected.shape
        np.testing.assert_array_equal(array.astype("float64"), expected.astype("float64"))
        assert not array.flags.writeable


def test_constants_are_aligned_views_of_the_file(file: Path) -> None:
    got = read_artifact(file)
    for array in got.constants:
        assert array.base is not None
        assert array.nbytes == 0 or array.ctypes.data % ALIGNMENT == 0


def test_no_constants_and_empty_library(tmp_path: Path) -> None:
    write_artifact(tmp_path / "m.gopt", library=b"", constants=[], manifest={})
    got = read_artifact(tmp_path / "m.gopt")
    assert (got.library, got.constants) == (b"", ())


def test_the_same_content_gives_the_same_bytes(file: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.gopt"
    write_artifact(again, library=LIBRARY, constants=CONSTANTS, manifest=dict(reversed(MANIFEST.items())))
    assert again.read_bytes() == file.read_bytes()


def test_library_path_is_private_and_temporary(file: Path) -> None:
    with read_artifact(file).library_path() as path:
        assert path.read_bytes() == LIBRARY
        assert path.parent.stat().st_mode & 0o077 == 0
    assert not path.exists()


def test_every_flipped_byte_is_found(file: Path) -> None:
    good = file.read_bytes()
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 0x10
        file.write_bytes(bad)
        with pytest.raises(ArtifactError, match=r"model\.gopt"):
            read_artifact(file)


def test_every_truncation_is_found(file: Path) -> None:
    good = file.read_bytes()
    for size in range(len(good)):
        file.write_bytes(good[:size])
        with pytest.raises(ArtifactError, match=r"model\.gopt"):
            read_artifact(file, verify=False)


def test_trailing_bytes_are_found(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(ArtifactError, match="trailing"):
        read_artifact(file)


def _reject(path: Path, code: str) -> ArtifactError:
    with pytest.raises(ArtifactError) as caught:
        read_artifact(path)
    assert caught.value.code == code
    assert str(path) in caught.value.message
    assert caught.value.hint
    return caught.value


def test_missing(tmp_path: Path) -> None:
    _reject(tmp_path / "none.gopt", "no-artifact")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\x07onnx", b"\x7fELF" * 100])
def test_not_an_artefact(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.gopt").write_bytes(content)
    _reject(tmp_path / "m.gopt", "bad-artifact")


def test_older_format(file: Path) -> None:
    data = bytearray(file.read_bytes())
    struct.pack_into("<I", data, len(MAGIC), module.OLDEST_VERSION - 1)
    file.write_bytes(data)
    _reject(file, "older-artifact")


def test_newer_format(file: Path) -> None:
    data = bytearray(file.read_bytes())
    struct.pack_into("<I", data, len(MAGIC), module.FORMAT_VERSION + 1)
    file.write_bytes(data)
    assert "upgrade" in (_reject(file, "newer-artifact").hint or "")


def test_huge_manifest_size_is_not_allocated(file: Path) -> None:
    data = bytearray(file.read_bytes())
    struct.pack_into("<Q", data, 16, 1 << 60)
    file.write_bytes(data)
    _reject(file, "damaged-artifact")


def _rewrite_manifest(path: Path, **changes: Any) -> None:
    """Forge a manifest with a correct hash: what a broken or hostile writer could make."""
    data = path.read_bytes()
    size = struct.unpack_from("<Q", data, 16)[0]
    manifest = json.loads(data[56 : 56 + size]) | changes
    text = json.dumps(manifest).encode()
    body = data[-(-(56 + size) // 64) * 64 :]
    head = struct.pack("<8sIIQ", MAGIC, manifest["format"], 0, len(text))
    content = head + module.hashlib.sha256(head + text).digest() + text
    path.write_bytes(content + bytes(-len(content) % 64) + body)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "object", "shape": [1], "offset": 0, "nbytes": 8},
        {"dtype": "float32", "shape": [1 << 61, 1 << 61], "offset": 0, "nbytes": 4},
        {"dtype": "float32", "shape": [-1], "offset": 0, "nbytes": -4},
        {"dtype": "float32", "shape": [1], "offset": 1 << 40, "nbytes": 4},
        {"dtype": "float32", "shape": [1], "offset": -64, "nbytes": 4},
        {"dtype": "float32", "shape": [True], "offset": 0, "nbytes": 4},
        {"dtype": "float32", "offset": 0, "nbytes": 4},
        "float32",
    ],
)
def test_constants_outside_the_file_are_refused(file: Path, entry: Any) -> None:
    _rewrite_manifest(file, constants=[entry])
    _reject(file, "damaged-artifact")


def test_other_tvm(file: Path) -> None:
    _rewrite_manifest(file, versions={"tvm": "0.26.0", "tvm-ffi": "0.1.0"})
    assert "apache-tvm==0.26.0" in (_reject(file, "other-tvm").hint or "")
    read_artifact(file, check_versions=False)


def test_a_failed_write_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def no_space(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(ArtifactError, match="No space left"):
        write_artifact(file, library=b"new", constants=[], manifest={})
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_unwritable_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot write"):
        write_artifact(tmp_path / "no" / "m.gopt", library=b"", constants=[], manifest={})


def test_bad_requests(tmp_path: Path) -> None:
    path = tmp_path / "m.gopt"
    with pytest.raises(ValueError, match="sections"):
        write_artifact(path, library=b"", constants=[], manifest={"sections": 1})
    with pytest.raises(ArtifactError, match="element type"):
        write_artifact(path, library=b"", constants=[np.array(["a"])], manifest={})
    with pytest.raises(ValueError, match="JSON"):
        write_artifact(path, library=b"", constants=[], manifest={"x": float("nan")})
    assert not path.exists()
