"""Large weights taken out of a serialized model before protobuf reads it, with a single copy.

protobuf copies every byte string it parses, and again whenever it is asked for one; for a model of half a gigabyte that is
seconds. The wire format is simple enough to step over: a message is a sequence of fields, each a key (number and wire type,
as varint) and a value, and a nested message or byte string starts with its length
(https://protobuf.dev/programming-guides/encoding/).

Only ``ModelProto.graph.initializer[].raw_data`` of at least a megabyte is taken; whatever looks unusual is left to protobuf.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto

from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Array

LARGE = 1 << 20
"""Bytes; smaller tensors stay in the model."""
ALIGNMENT = 64
"""Bytes; what kernels expect of their operands, so that a weight that isn't packed is used where it is."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_GRAPH = ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA = TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number


class _Unusual(Exception):
    """The bytes are not what this file understands."""


def take_payloads(blob: bytes | mmap.mmap) -> tuple[bytes, dict[str, Array]]:
    """The model without its large initializers' data, and that data by tensor name.

    The model comes back as it is, with no arrays, when there is nothing to take or the bytes are unusual.
    """
    if len(blob) < LARGE:
        return bytes(blob), {}
    view = memoryview(blob)
    arrays: dict[str, Array] = {}
    try:
        model = _rewritten(view, _GRAPH, lambda graph: _rewritten(graph, _INITIALIZER, lambda t: _tensor(t, arrays)))
    except _Unusual:
        return bytes(blob), {}
    return (b"".join(model), arrays) if arrays else (bytes(blob), {})


def _rewritten(message: memoryview, number: int, change: object) -> list[bytes | memoryview]:
    """Pieces of the message with the nested messages of field ``number`` changed."""
    assert callable(change)
    pieces: list[bytes | memoryview] = []
    kept = 0
    seen = 0
    for field, wire, start, value, end in _fields(message):
        if field != number or wire != _BYTES:
            continue
        seen += 1
        if number == _GRAPH and seen > 1:
            raise _Unusual  # protobuf would merge them
        inner = change(message[value:end])
        if inner is not None:
            pieces += [message[kept:start], _key(field), _varint(sum(map(len, inner))), *inner]
            kept = end
    pieces.append(message[kept:])
    return pieces


def _tensor(message: memoryview, arrays: dict[str, Array]) -> list[bytes | memoryview] | None:
    """The tensor without its data if that is large and now in ``arrays``; None to leave it as it is."""
    if len(message) < LARGE:
        return None
    data = [(start, value, end) for field, wire, start, value, end in _fields(message) if field == _RAW_DATA]
    if len(data) != 1 or data[0][2] - data[0][1] < LARGE:
        return None
    ((start, value, end),) = data
    rest: list[bytes | memoryview] = [message[:start], message[end:]]
    tensor = TensorProto()
    try:
        tensor.ParseFromString(b"".join(rest))
        dtype = DType.from_onnx(tensor.data_type)
    except Exception as error:  # protobuf's error, or a type that is refused with a message later
        raise _Unusual from error
    shape = tuple(tensor.dims)
    fits = dtype is not DType.string and dtype.bits >= 8 and min(shape, default=0) > 0
    if not fits or math.prod(shape) * dtype.numpy.itemsize != end - value:
        return None
    if not tensor.name or tensor.name in arrays or tensor.data_location != TensorProto.DEFAULT:
        raise _Unusual
    # in the file elements lie at odd addresses, where numpy is several times slower
    memory = np.empty(end - value + ALIGNMENT, np.uint8)
    aligned = memory[-memory.ctypes.data % ALIGNMENT :][: end - value]
    _copy(aligned, np.frombuffer(message[value:end], np.uint8))
    arrays[tensor.name] = aligned.view(dtype.numpy).reshape(shape)
    return rest


def _copy(target: Array, source: Array) -> None:
    """Copies on two threads: most of the time goes into first touches of pages."""
    half = len(source) // 2
    with ThreadPoolExecutor(2) as pool:
        parts = [pool.submit(np.copyto, target[part], source[part]) for part in (slice(half), slice(half, None))]
        for part in parts:
            part.result()


def _fields(message: memoryview) -> Iterator[tuple[int, int, int, int, int]]:
    """Each field: number, wire type, start of its key, start and end of its value."""
    at = 0
    while at < len(message):
        start = at
        key, at = _read_varint(message, at)
        wire = key & 7
        value = at
        if wire == _VARINT:
            _, at = _read_varint(message, at)
        elif wire == _FIXED64:
            at += 8
        elif wire == _FIXED32:
            at += 4
        elif wire == _BYTES:
            size, value = _read_varint(message, at)
            at = value + size
        else:
            raise _Unusual
        if at > len(message):
            raise _Unusual
        yield key >> 3, wire, start, value, at


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    result = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise _Unusual
        byte = message[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
    raise _Unusual


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _key(field: int) -> bytes:
    return _varint(field << 3 | _BYTES)
