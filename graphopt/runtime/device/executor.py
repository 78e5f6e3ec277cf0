"""A model loaded on a device: named tensors in, tensors out, asynchronously on a stream of the caller's."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from graphopt.backends.base.accelerator import FAILED, Accelerator
from graphopt.errors import DeviceError, GraphOptError
from graphopt.runtime import refusals
from graphopt.runtime.bits import as_bits, travels_as_bits
from graphopt.runtime.device.arena import DeviceArena, is_out_of_memory, out_of_memory
from graphopt.runtime.device.dlpack import Borrowed
from graphopt.runtime.device.feed import Given, given_inputs
from graphopt.runtime.device.result import DeviceTensor
from graphopt.runtime.device.stream import stream_handle

if TYPE_CHECKING:
    from graphopt.backends.build.loaded_module import LoadedModule
    from graphopt.runtime.signature import Signature

_DEFAULT = 0
"""The default stream."""
_MOST_BORROWED = 64
"""Tensors on callers' memory that are kept for the next run."""


class DeviceExecutor:
    """Runs a module of ``graphopt.backends.program.relax_emit`` on a device.

    Several threads may run it; their runs follow each other on the device, on whichever streams they are.

    Args:
        loaded: the model's code.
        constants: arrays that follow the inputs; they are uploaded here, once.
        signature: inputs and outputs.
        waits: the host reads values of the device while the model runs. TVM does so on the default stream and waits for no other,
            so everything then runs there.

    Attributes:
        waits: as given.

    Raises:
        DeviceError: no room for the constants or the planned buffers.
    """

    def __init__(
        self, loaded: LoadedModule, constants: Sequence[npt.NDArray[Any]], signature: Signature, waits: bool = True
    ) -> None:
        assert loaded.accelerator is not None
        refusals.install()
        self.accelerator: Accelerator = loaded.accelerator
        self.signature = signature
        self.waits = waits
        self.lock = threading.Lock()
        self.done = self.accelerator.new_marker()
        self._used = False
        self._borrowed: dict[tuple[int, int, tuple[int, ...]], Borrowed] = {}
        with self.translated("preparing the compiled model", "the model's constants"), self.accelerator.ready(0):
            uploaded = [_uploaded(np.asarray(c), loaded.device) for c in constants]
            self.arena = DeviceArena(loaded, uploaded, self.accelerator)
            self.accelerator.synchronise(0)
        weakref.finalize(self, _release).atexit = False

    def run(self, feed: Mapping[str, Any], stream: object = None) -> dict[str, Any]:
        """Outputs by name.

        They are arrays on the host, complete, if all inputs are. If any input is a tensor on the device, they are tensors there
        (`DeviceTensor`), and the call returns before they are computed.

        Raises:
            InputError: wrong names, dtypes or shapes, or a tensor that kernels can't read where it lies.
            DeviceError: a tensor or stream of another device, no memory, or the device failed.
        """
        handle = stream_handle(stream, self.accelerator, feed.values() if isinstance(feed, Mapping) else ())
        given = given_inputs(self.signature, feed, self.accelerator, handle)
        with self.lock, self.in_order(handle) as used:
            arguments = [self._argument(i, g, used) for i, g in enumerate(given)]
            results = self.arena.run(arguments)
        if any(g.on_device for g in given):
            return self.named(results)
        return self._on_host(results, handle)

    @contextmanager
    def in_order(self, stream: int) -> Iterator[int]:
        """A run on the stream, which begins when the last one, perhaps on another stream, is done. The lock is held.

        It gives the stream to put work on: the default one for a model that waits, which the caller's then follows.
        """
        used = _DEFAULT if self.waits else stream
        with self.translated("running the compiled model", "this run"), self.accelerator.ready(used):
            if used != stream:
                before = self.accelerator.new_marker()
                before.record(stream)
                before.wait(used)
            if self._used:
                self.done.wait(used)
            try:
                yield used
            finally:
                self.done.record(used)
                self._used = True
                if used != stream:
                    self.done.wait(stream)

    def named(self, results: Sequence[Any], held: object = None) -> dict[str, Any]:
        """Results that stay on the device, by name."""
        return {
            spec.name: DeviceTensor(
                _typed(tensor, spec.dtype.numpy), spec.dtype.numpy, self.accelerator, self.done, held
            )
            for spec, tensor in zip(self.signature.outputs, results, strict=True)
        }

    def observe(self, observer: Any) -> None:
        """Have every call of the virtual machine announced to ``observer`` (None: to nobody)."""
        with self.lock:
            self.arena.observe(observer)

    @contextmanager
    def translated(self, doing: str, what: str) -> Iterator[None]:
        """Turn failures into errors of graphopt that hold on to none of the memory concerned.

        Raises:
            DeviceError: for any failure of TVM or the device.
        """
        found: GraphOptError | None = None
        try:
            yield
        except GraphOptError as error:
            if error.code != FAILED or not is_out_of_memory(error):
                raise
            found = out_of_memory(self.accelerator, what)
        except Exception as error:  # TVM raises any class
            found = refusals.taken() or self._failure(error, doing, what)
        if found is not None:
            raise found  # here, as within the handlers it would keep the failure, and what that holds, alive

    def _failure(self, error: Exception, doing: str, what: str) -> DeviceError:
        if is_out_of_memory(error):
            return out_of_memory(self.accelerator, what)
        lines = [line for line in str(error).splitlines() if line.strip()]
        return DeviceError(
            f"{doing} on {self.accelerator.description} failed", code="run-failed", notes=lines[-1:],
            hint="run `graphopt check` on the model for this machine's processor; please report it with the model",
        )  # fmt: skip

    def _argument(self, position: int, given: Given, stream: int) -> Any:
        """The tensor that kernels get for an input."""
        if given.array is not None:
            place = self.arena.upload(position, given.array, stream)
        else:
            assert given.seen is not None
            place = self.arena.aligned(position, given.seen, stream)
        # it owns nothing, so one that was made for the same place will do
        key = position, place, given.shape
        known = self._borrowed.get(key)
        if known is None:
            if len(self._borrowed) >= _MOST_BORROWED:
                self._borrowed.clear()
            known = Borrowed(place, given.shape, given.storage, self.accelerator.dlpack)
            self._borrowed[key] = known
        return known.tensor

    def _on_host(self, results: Sequence[Any], stream: int) -> dict[str, npt.NDArray[Any]]:
        outputs = {}
        with self.translated("running the compiled model", "this run"), self.accelerator.current():
            for spec, tensor in zip(self.signature.outputs, results, strict=True):
                array = np.empty(tuple(map(int, tensor.shape)), spec.dtype.numpy)
                self.accelerator.copy_out(array, int(tensor.data_ptr()), stream)
                outputs[spec.name] = array
            self.accelerator.synchronise(stream)
        return outputs


def _uploaded(array: npt.NDArray[Any], device: Any) -> Any:
    from graphopt.backends.base.tvm_runtime import tvm

    return tvm.runtime.tensor(as_bits(array), device=device)


def _typed(tensor: Any, dtype: np.dtype[Any]) -> Any:
    """A result under the type that callers know."""
    if not travels_as_bits(dtype):
        return tensor
    from graphopt.backends.base.tvm_runtime import get_global_func, tvm_ffi

    view: Callable[..., Any] = get_global_func("runtime.TVMTensorCreateView")
    return view(tensor, tvm_ffi.Shape(tensor.shape), tvm_ffi.dtype(dtype.name), 0)


def _release() -> None:
    """After a model: what its runs have allocated goes back to the device."""
    from graphopt.backends.base.tvm_runtime import get_global_func

    clear = get_global_func("vm.builtin.memory_manager.clear")
    if clear is not None:
        clear()
