"""A loaded Relax VM with its constants: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.errors import DeviceError


class Executor:
    """Runs ``main`` of a virtual machine on numpy arrays.

    Args:
        vm: a ``relax.VirtualMachine``.
        constants: arrays that follow the inputs, kept on the device.
        device: TVM device; the CPU by default.
    """

    def __init__(self, vm: Any, constants: Sequence[npt.NDArray[Any]], device: Any | None = None) -> None:
        import tvm

        self._device = tvm.cpu() if device is None else device
        self._tensor = tvm.runtime.tensor
        self._vm = vm
        self._main = vm["main"]
        self._constants = [self._tensor(np.asarray(c), device=self._device) for c in constants]

    def __call__(self, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Outputs of one run.

        Raises:
            DeviceError: the virtual machine failed.
        """
        args = [self._tensor(a, device=self._device) for a in inputs]
        try:
            results = self._main(*args, *self._constants)
        except Exception as e:  # TVM raises any class
            lines = [line for line in str(e).splitlines() if line.strip()]
            raise DeviceError(
                "running the compiled model failed", code="run-failed", notes=lines[-1:],
                hint="run `graphopt check` on the model; if it fails there, please report it",
            ) from e  # fmt: skip
        return [r.numpy() for r in results]
