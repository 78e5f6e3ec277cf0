"""The hash over blocks: the same for one view and any chunks of it, and different when a byte or the length differs."""

from __future__ import annotations

import hashlib

import pytest

from graphopt.runtime import block_hash
from graphopt.runtime.block_hash import hash_chunks, hash_view


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 128, 1000])
def test_chunks_and_view_agree(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_hash, "BLOCK", 64)
    data = bytes(i * 7 % 251 for i in range(size))
    blocks = [hashlib.sha256(data[i : i + 64]).digest() for i in range(0, size, 64)]
    expected = hashlib.sha256(b"".join(blocks)).hexdigest()
    assert hash_view(memoryview(data)) == expected
    for step in (1, 5, 64, 100, 1001):
        assert hash_chunks(data[i : i + step] for i in range(0, size, step)) == expected


def test_every_byte_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_hash, "BLOCK", 16)
    data = bytes(50)
    hashes = {hash_view(memoryview(data)), hash_view(memoryview(data + b"\0"))}
    for i in range(50):
        hashes.add(hash_view(memoryview(data[:i] + b"\1" + data[i + 1 :])))
    assert len(hashes) == 52
