"""What runs of a model on a device share: a virtual machine, planned buffers, places for inputs that come from the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from graphopt.backends.base.accelerator import Accelerator
from graphopt.errors import DeviceError
from graphopt.runtime.device.dlpack import Borrowed, Seen, seen

if TYPE_CHECKING:
    from graphopt.backends.build.loaded_module import LoadedModule

_BOUND = "main in its arena"
"""Name of the bound function; none of the module can have one with spaces."""
_BYTE = np.dtype(np.uint8)


class DeviceArena:
    """Runs a model on a device, one run at a time.

    Args:
        loaded: the model's code, see ``graphopt.backends.program.relax_emit``.
        constants: tensors on the device that follow the inputs.
        accelerator: the device.

    Attributes:
        nbytes: size of the planned buffers.

    Raises:
        DeviceError: no room for the buffers.
        Exception: of any class, as TVM raises it.
    """

    def __init__(self, loaded: LoadedModule, constants: Sequence[Any], accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._device = loaded.device
        vm = loaded.vm()
        sizes, places = vm["layout"]()
        assert not any(map(int, places)), "a result lies among the planned buffers"
        self.nbytes = sum(map(int, sizes))
        self._memory = [allocate(int(size), self._device, accelerator, "intermediate values") for size in sizes]
        tensors = vm["prepare"](*self._memory) if self._memory else ()
        prepared = [borrowed(seen(t.__dlpack__()), accelerator) for t in tensors]
        vm.save_function("main", _BOUND, *constants, *(p.tensor for p in prepared), include_return=True)
        self._kept = (constants, prepared)
        self._vm = vm
        self._run = vm[_BOUND]
        self._run.release_gil = True
        self._staging: dict[int, Any] = {}

    def run(self, arguments: Sequence[Any]) -> list[Any]:
        """Tensors of the results, in memory of their own. The device may still be at work when it returns.

        Raises:
            Exception: of any class, as TVM raises it.
        """
        result = self._run(*arguments)
        if result is None:
            return []
        return [result] if hasattr(result, "shape") else list(result)

    def upload(self, position: int, array: npt.NDArray[Any], stream: int) -> int:
        """Address of the input of that number, copied from the host into a place that later runs use again.

        Raises:
            DeviceError: no room.
        """
        place = self.staging(position, array.nbytes)
        self._accelerator.copy_in(place, array, stream)
        return place

    def aligned(self, position: int, given: Seen, stream: int) -> int:
        """Where the input of that number lies so that kernels can read it: at its own place, or copied to an aligned one."""
        if given.address % self._accelerator.alignment == 0:
            return given.address
        place = self.staging(position, given.nbytes)
        self._accelerator.copy(place, given.address, given.nbytes, stream)
        return place

    def staging(self, position: int, nbytes: int) -> int:
        """Address of a place for that input."""
        memory = self._staging.get(position)
        if memory is None or memory.shape[0] < nbytes:
            self._staging[position] = memory = allocate(nbytes, self._device, self._accelerator, "inputs")
        return int(memory.data_ptr())

    def observe(self, observer: Any) -> None:
        """Have every call of the virtual machine announced to ``observer`` (None: to nobody)."""
        self._vm.set_instrument(observer)


def borrowed(given: Seen, accelerator: Accelerator) -> Borrowed:
    """A tensor on the same memory, without an offset."""
    assert given.dtype is not None
    return Borrowed(given.address, given.shape, given.dtype, accelerator.dlpack)


def allocate(nbytes: int, device: Any, accelerator: Accelerator, what: str) -> Any:
    """A tensor of bytes on the device.

    Args:
        what: is to lie in it, for the message.

    Raises:
        DeviceError: no room, with what was asked for and what is free.
    """
    from graphopt.backends.base.tvm_runtime import tvm

    failed = False
    try:
        return tvm.runtime.empty((max(nbytes, 1),), str(_BYTE), device)
    except Exception as error:  # TVM raises any class
        if not is_out_of_memory(error):
            raise
        failed = True
    assert failed  # raised here, so that the error doesn't keep what TVM's holds
    raise out_of_memory(accelerator, what, nbytes)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a failure, of CUDA or TVM, is want of memory on the device."""
    text = str(error)
    return "out of memory" in text or "OUT_OF_MEMORY" in text or "cudaErrorMemoryAllocation" in text


def out_of_memory(accelerator: Accelerator, what: str, nbytes: int | None = None) -> DeviceError:
    """What to raise then."""
    free, total = accelerator.free_memory()
    asked = "" if nbytes is None else f" of {nbytes} bytes"
    return DeviceError(
        f"{accelerator.description} has no room for {what}{asked}: {free} of its {total} bytes are free",
        code="out-of-memory",
        hint="run it on smaller inputs, end other processes that use the GPU, or load the model on another one with device=",
    )
