"""Compressed constants: bit for bit what was stored, read by a plain loop too, refused when damaged before memory is taken."""

from __future__ import annotations

import json
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from blake3 import blake3

from graphopt.errors import ArtifactError
from graphopt.runtime import artifact as module
from graphopt.runtime import zero_bitmap
from graphopt.runtime.artifact import ALIGNMENT, FORMAT_VERSION, MAGIC, OLDEST_VERSION, read_artifact, write_artifact
from graphopt.runtime.zero_bitmap import Placed, bitmap_span, compress, expand

DTYPES = [
    "float32",
    "float64",
    "float16",
    "int8",
    "bool",
    "int64",
    "complex64",
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e5m2,
]


def sparse(count: int, zeros: float, dtype: Any = "float32", seed: int = 0) -> np.ndarray[Any, Any]:
    """Random elements, the given part of them zero."""
    rng = np.random.default_rng(seed)
    array = rng.integers(1, 100, count).astype(dtype)
    array[rng.random(count) < zeros] = 0
    return array


def by_loop(stored: bytes, count: int, width: int) -> bytes:
    """The documented loop."""
    out, values = bytearray(count * width), bitmap_span((count + 7) // 8)
    for i in range(count):
        if stored[i // 8] >> (i % 8) & 1:
            out[i * width : (i + 1) * width] = stored[values : values + width]
            values += width
    assert values == len(stored)
    return bytes(out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [8192, 8193, 9999])
def test_round_trip(dtype: Any, count: int) -> None:
    array = sparse(count, 0.9, dtype)
    small = compress(array)
    if array.nbytes < 10000:  # a page isn't saved
        assert small is None or array.nbytes - small.nbytes >= zero_bitmap.LEAST_SAVING
    if small is None:
        return
    stored = b"".join(small.chunks())
    assert len(stored) == small.nbytes
    assert by_loop(stored, count, array.itemsize) == array.tobytes()
    (back,) = expand(bytes(64) + stored, [Placed(64, count, small.values.size, array.itemsize)])
    assert back.tobytes() == array.tobytes()


def test_every_bit_pattern_survives() -> None:
    bits = np.zeros(10000, np.uint32)
    bits[::10] = np.resize([0x80000000, 1, 0x7FC00001, 0xFFC12345, 0x7F800000, 0x00800000], 1000)
    array = bits.view(np.float32)
    small = compress(array)
    assert small is not None
    assert small.values.size == 1000  # -0.0 is stored
    assert by_loop(b"".join(small.chunks()), 10000, 4) == array.tobytes()


def test_only_where_a_quarter_is_saved() -> None:
    edge = 1 - 3 / 4 + 1 / 32  # bitmap and values take three quarters at this part of zeros
    assert compress(sparse(1 << 16, edge + 0.01)) is not None
    assert compress(sparse(1 << 16, edge - 0.01)) is None
    assert compress(np.zeros(100, np.float32)) is None
    assert compress(np.zeros(1 << 12, np.complex128)) is None


def test_large_constants_on_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero_bitmap, "default_threads", lambda: 3)
    arrays = [sparse(n, z, seed=n) for n, z in (((1 << 23) + 12345, 0.8), (5000, 0.5), (1 << 22, 1.0), (77777, 0.6))]
    stored, placed, at = b"", [], 0
    for array in arrays:
        small = compress(array)
        assert small is not None
        placed.append(Placed(at, array.size, small.values.size, 4))
        stored += b"".join(small.chunks())
        stored += bytes(-len(stored) % 64)
        at = len(stored)
    for back, array in zip(expand(stored, placed), arrays):
        assert back.ctypes.data % ALIGNMENT == 0
        assert not back.flags.writeable
        np.testing.assert_array_equal(back.view(np.float32), array)


# -- in a file ----------------------------------------------------------------------------------------------------------

CONSTANTS = [
    sparse(10000, 0.8).reshape(100, 100),
    np.arange(5000, dtype=np.float32),
    np.zeros((3, 0), np.float32),
    sparse(20001, 0.9, np.int8),
    np.array(3),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.gopt"
    write_artifact(path, library=b"code", constants=CONSTANTS, manifest={})
    return path


def test_files_hold_both_kinds(file: Path, tmp_path: Path) -> None:
    got = read_artifact(file)
    assert OLDEST_VERSION < got.manifest["format"] < FORMAT_VERSION
    assert [c.get("encoding") for c in got.manifest["constants"]] == ["bitmap", None, None, "bitmap", None]
    for array, expected in zip(got.constants, CONSTANTS, strict=True):
        assert array.dtype == expected.dtype
        assert array.shape == expected.shape
        assert array.tobytes() == expected.tobytes()
        assert not array.flags.writeable
        assert array.nbytes == 0 or array.ctypes.data % ALIGNMENT == 0
    plain, again = tmp_path / "plain.gopt", tmp_path / "again.gopt"
    write_artifact(plain, library=b"code", constants=CONSTANTS, manifest={}, compressed=False)
    assert read_artifact(plain).manifest["format"] == OLDEST_VERSION
    assert plain.stat().st_size > 1.5 * file.stat().st_size
    write_artifact(again, library=b"code", constants=got.constants, manifest={})
    assert again.read_bytes() == file.read_bytes()


def test_every_flipped_bit_of_the_constants_is_found(file: Path) -> None:
    good = file.read_bytes()
    for at in range(len(good) - 5000, len(good), 7):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        file.write_bytes(bad)
        with pytest.raises(ArtifactError):
            read_artifact(file)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.9, 0.999])
def test_truncations_are_found(file: Path, part: float) -> None:
    good = file.read_bytes()
    file.write_bytes(good[: int(len(good) * part)])
    with pytest.raises(ArtifactError):
        read_artifact(file, verify=False)


def forge(path: Path, change: Callable[[list[dict[str, Any]], bytearray], None]) -> None:
    """Change entries and bytes of the constants, with right hashes: what a hostile writer could make."""
    data = path.read_bytes()
    size = struct.unpack_from("<Q", data, 16)[0]
    manifest = json.loads(data[56 : 56 + size])
    body = data[-(-(56 + size) // 64) * 64 :]
    at = manifest["sections"]["constants"]["offset"]
    constants = bytearray(body[at:])
    change(manifest["constants"], constants)
    manifest["sections"]["constants"] |= {"size": len(constants), "blake3": blake3(constants).hexdigest()}
    text = json.dumps(manifest).encode()
    head = struct.pack("<8sIIQ", MAGIC, FORMAT_VERSION, 0, len(text))
    content = head + module.hashlib.sha256(head + text).digest() + text
    path.write_bytes(content + bytes(-len(content) % 64) + body[:at] + constants)


def refused(path: Path, match: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ArtifactError, match=match) as caught:
        read_artifact(path)
    assert caught.value.code in ("damaged-artifact", "out-of-memory")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + (64 << 10)  # kilobytes


@pytest.mark.parametrize(
    "changes",
    [
        {"kept": 5},
        {"kept": 1 << 40},
        {"kept": -1},
        {"kept": None},
        {"kept": 10001},
        {"encoding": "zip"},
        {"encoding": "bitmap", "dtype": "complex128"},
        {"shape": [1 << 30, 100], "nbytes": 400 << 30},
        {"shape": [1 << 40, 1 << 30], "nbytes": 4 << 70},
        {"shape": [], "nbytes": 4},
        {"offset": 64},
    ],
)
def test_lying_entries_are_refused(file: Path, changes: dict[str, Any]) -> None:
    forge(file, lambda entries, _: entries[0].update(changes))
    refused(file, "damaged")


def test_bitmaps_that_lie_about_their_counts_are_refused(file: Path) -> None:
    def one_more(entries: list[dict[str, Any]], data: bytearray) -> None:
        at = next(i for i, byte in enumerate(data[:1000]) if byte != 0xFF)
        data[at] = 0xFF

    forge(file, one_more)
    refused(file, "bits where")


def test_bits_past_the_end_are_refused(file: Path) -> None:
    def move_bit(entries: list[dict[str, Any]], data: bytearray) -> None:
        first, end = entries[3]["offset"], entries[3]["offset"] + 20001 // 8
        at = next(i for i in range(first, end) if data[i])
        data[at] &= data[at] - 1
        data[end] |= 0x80

    forge(file, move_bit)
    refused(file, "past its constant's end")


def test_constants_that_share_bytes_are_refused(file: Path) -> None:
    """A small file must not unfold into a large one by naming the same bitmap over and over."""
    forge(file, lambda entries, _: entries.__setitem__(slice(None), [entries[0]] * 1000))
    refused(file, "doesn't fit")


def test_no_room(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_fd: int, _size: int, **_: Any) -> Any:
        raise OSError(12, "Cannot allocate memory")

    data = file.read_bytes()
    monkeypatch.setattr(module, "_mapped", lambda _path: data)
    monkeypatch.setattr(zero_bitmap.mmap, "mmap", none)
    refused(file, "no room")


def test_zeros_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "zeros.gopt"
    write_artifact(path, library=b"", constants=[np.zeros(1 << 26, np.float32)], manifest={})
    assert path.stat().st_size < (9 << 20)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before = resident()
    (array,) = read_artifact(path).constants
    assert resident() < before + (32 << 20)
    assert array.shape == (1 << 26,)
    assert not array[:: 1 << 20].any()
