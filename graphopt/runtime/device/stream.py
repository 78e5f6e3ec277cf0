"""Streams as callers have them: of torch, of cupy, of whatever follows the ``__cuda_stream__`` protocol, or a handle."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable
from typing import Any

from graphopt.backends.base.accelerator import Accelerator
from graphopt.errors import DeviceError, InputError


def stream_handle(stream: object, accelerator: Accelerator, tensors: Iterable[object] = ()) -> int:
    """The handle of a caller's stream.

    Args:
        stream: a stream, a handle, or None for the one that the library which the tensors are of works on.
        accelerator: the device that it has to belong to.
        tensors: what is passed to the model.

    Raises:
        InputError: that is no stream.
        DeviceError: it is of another device.
    """
    if stream is None:
        return _current_stream(accelerator, tensors)
    for attribute in ("cuda_stream", "ptr"):  # torch, cupy
        if isinstance(handle := getattr(stream, attribute, None), int):
            _require_device(stream, accelerator)
            return handle
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    try:
        if isinstance(stream, bool):
            raise TypeError("a truth value is no handle")
        handle = operator.index(stream)  # type: ignore[arg-type]  # what is no number raises
    except TypeError as error:
        raise InputError(
            f"stream is a {type(stream).__name__}, which is no stream",
            hint="pass torch.cuda.current_stream(), a cupy stream, or the handle of a stream as a number",
        ) from error
    if handle < 0:
        raise InputError(f"stream {handle} is no handle of a stream", hint="0 is the default stream")
    _require(accelerator.device_of_stream(handle), accelerator)
    return handle


def _current_stream(accelerator: Accelerator, tensors: Iterable[object]) -> int:
    """Work of these libraries goes to a stream of their own choice, so a model in their midst does too."""
    for tensor in tensors:
        library = type(tensor).__module__.partition(".")[0]
        module: Any = sys.modules.get(library)
        if library == "torch" and module is not None:
            return int(module.cuda.current_stream(accelerator.index).cuda_stream)
        if library == "cupy" and module is not None:
            return int(module.cuda.get_current_stream().ptr)
    return 0


def _require_device(stream: Any, accelerator: Accelerator) -> None:
    device = getattr(stream, "device_id", getattr(stream, "device_index", None))
    _require(device if isinstance(device, int) and device >= 0 else None, accelerator)


def _require(device: int | None, accelerator: Accelerator) -> None:
    if device is not None and device != accelerator.index:
        kind = accelerator.name.partition(":")[0]
        raise DeviceError(
            f"the stream is of {kind}:{device}, and the model runs on {accelerator.name}",
            code="wrong-device",
            hint=f"pass a stream of {accelerator.name}, or load the model with device='{kind}:{device}'",
        )
