"""SHA-256 over blocks: hundreds of megabytes of constants are checked on all CPUs at once.

The hash of some bytes is the SHA-256 of the concatenated SHA-256 digests of their blocks of 4 MiB, the last one shorter.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

BLOCK = 4 << 20


def hash_chunks(chunks: Iterable[bytes | memoryview]) -> str:
    """Hex hash of the concatenation of ``chunks``."""
    total, block, room = hashlib.sha256(), hashlib.sha256(), BLOCK
    for chunk in chunks:
        rest = memoryview(chunk).cast("B")
        while len(rest):
            part, rest = rest[:room], rest[room:]
            block.update(part)
            room -= len(part)
            if not room:
                total.update(block.digest())
                block, room = hashlib.sha256(), BLOCK
    if room < BLOCK:
        total.update(block.digest())
    return total.hexdigest()


def hash_view(view: memoryview) -> str:
    """Hex hash of ``view``, its blocks hashed in parallel (hashlib lets other threads run meanwhile)."""

    def digest(start: int) -> bytes:
        return hashlib.sha256(view[start : start + BLOCK]).digest()

    starts = range(0, len(view), BLOCK)
    if len(starts) < 2:
        return hashlib.sha256(b"".join(map(digest, starts))).hexdigest()
    with ThreadPoolExecutor(min(len(starts), os.cpu_count() or 1, 8)) as pool:
        return hashlib.sha256(b"".join(pool.map(digest, starts))).hexdigest()
