"""The process that compiles kernels for another one: ``python -m graphopt.backends.build.compile_worker``.

It is started as a command, never forked or spawned by `multiprocessing`: TVM's threads don't survive a fork, and a spawned
child would run the user's script again. Requests come on stdin, replies go to stdout, each a frame: length u32
little-endian, bytes. The first request is the target as JSON and the first reply empty: ready. Then each request is a kernel
(JSON array of name and text) and each reply one status byte and the object, or the error's text. It ends with its input.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from typing import BinaryIO

_LENGTH = struct.Struct("<I")
MAX_FRAME = 1 << 30
DONE, FAILED = b"\0", b"\1"


def write_frame(stream: BinaryIO, data: bytes) -> None:
    """Send one frame."""
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next frame; None at the end of the stream, also inside a frame."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack(head)
    if size > MAX_FRAME:
        return None
    data = stream.read(size)
    return data if len(data) == size else None


def main() -> None:
    """Serve until the input ends."""
    # What TVM or LLVM print must not get between the frames.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    first = read_frame(requests)
    if first is None:
        return
    from graphopt.backends.base.target import Target
    from graphopt.backends.build.kernel_object import KernelSource, compile_kernel

    target = Target.from_dict(json.loads(first))
    target.tvm_target()
    write_frame(replies, b"")
    while (request := read_frame(requests)) is not None:
        try:
            reply = DONE + compile_kernel(KernelSource(*json.loads(request)), target)
        except Exception as error:  # TVM raises any class
            reply = FAILED + str(error).encode(errors="replace")
        write_frame(replies, reply)


if __name__ == "__main__":
    main()
