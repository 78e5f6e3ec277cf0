"""What a caller passes to a model on a device: tensors that lie there, or arrays of the host, which are copied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from graphopt.backends.base.accelerator import Accelerator
from graphopt.errors import DeviceError, InputError
from graphopt.runtime.bits import bits_of
from graphopt.runtime.device.dlpack import Seen, seen
from graphopt.runtime.feed import as_array, require_names

if TYPE_CHECKING:
    from graphopt.runtime.signature import Signature, TensorSpec

_HOSTS = (1, 3)
"""DLPack's types of host memory: ordinary, and CUDA's page-locked."""
_MANAGED = 13
"""Memory that CUDA moves between host and GPUs as it is used."""


@dataclass(frozen=True)
class Given:
    """An input.

    Attributes:
        array: contiguous, of the host, as kernels know its type; None for a tensor on the device.
        seen: that tensor.
        held: what keeps its memory.
        dtype, shape, ndim: as the caller has them.
        storage: element type as kernels know it.
    """

    array: npt.NDArray[Any] | None
    seen: Seen | None
    held: object
    dtype: np.dtype[Any] | None
    shape: tuple[int, ...]
    storage: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def on_device(self) -> bool:
        """Whether it lies on the device already."""
        return self.seen is not None


def given_inputs(signature: Signature, feed: Mapping[str, Any], accelerator: Accelerator, stream: int) -> list[Given]:
    """The inputs in order, after checking names, devices, dtypes, shapes and shape constraints.

    Args:
        signature: what the model takes.
        feed: by name.
        accelerator: where the model runs.
        stream: on which; tensors are ready on it when they are used.

    Raises:
        InputError: the first mismatch, naming the input and what is expected.
        DeviceError: a tensor of another device.
    """
    require_names(feed, [spec.name for spec in signature.inputs])
    given = {
        spec.name: _given(spec, feed[spec.name], accelerator, stream) for spec in signature.inputs if spec.name in feed
    }
    signature.require_fit(given)
    return list(given.values())


def _given(spec: TensorSpec, tensor: Any, accelerator: Accelerator, stream: int) -> Given:
    storage = bits_of(spec.dtype.numpy)
    if isinstance(tensor, (np.generic, np.ndarray)) or not hasattr(tensor, "__dlpack_device__"):
        array = as_array(spec.name, tensor)
        content = np.ascontiguousarray(array).reshape(array.shape)
        if array.dtype == spec.dtype.numpy:  # else it is refused
            content = content.view(storage)
        return Given(content, None, None, array.dtype, array.shape, storage)
    _require_device(spec, tensor, accelerator)
    capsule = _capsule(spec, tensor, stream)
    found = seen(capsule)
    if found.dtype is None:
        raise InputError(
            f"input {spec.name!r} has an element type that numpy doesn't know, the model expects {spec.dtype.numpy}",
            hint=f"convert it to {spec.dtype.numpy}",
        )
    if not found.contiguous:
        raise InputError(
            f"input {spec.name!r} is not contiguous in memory, as kernels want it",
            hint="pass x.contiguous() (torch) or cupy.ascontiguousarray(x)",
        )
    return Given(None, found, (tensor, capsule), found.dtype, found.shape, storage)


def _require_device(spec: TensorSpec, tensor: Any, accelerator: Accelerator) -> None:
    kind, index = (int(number) for number in tensor.__dlpack_device__())
    if kind in _HOSTS:
        raise DeviceError(
            f"input {spec.name!r} is a {type(tensor).__module__.partition('.')[0]} tensor in the host's memory, "
            f"and the model runs on {accelerator.name}",
            code="wrong-device",
            hint=f"move it there with x.to({accelerator.name!r}) (torch), or pass a numpy array, which is copied",
        )
    if kind == _MANAGED or (kind, index) == accelerator.dlpack:
        return
    where = (
        f"{accelerator.name.partition(':')[0]}:{index}" if kind == accelerator.dlpack[0] else f"a device of kind {kind}"
    )
    raise DeviceError(
        f"input {spec.name!r} lies on {where}, and the model runs on {accelerator.name}",
        code="wrong-device",
        hint=f"move it with x.to({accelerator.name!r}) (torch), or load the model where it lies with device=",
    )


def _capsule(spec: TensorSpec, tensor: Any, stream: int) -> object:
    """The tensor's capsule; its library lets our stream wait for what computes it. DLPack calls the default stream 1."""
    try:
        try:
            return tensor.__dlpack__(stream=stream or 1)
        except (TypeError, ValueError, NotImplementedError):  # a library that knows no streams, or not this one
            return tensor.__dlpack__()
    except Exception as error:  # of any library
        raise InputError(
            f"input {spec.name!r} can't be used where it lies: {error}",
            hint="detach it from what computes gradients (x.detach()), or pass a numpy array, which is copied",
        ) from error
