"""A run of a model that was recorded once and starts as a whole: no launch of a kernel costs the host anything any more."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt.errors import InputError
from graphopt.runtime.bits import bits_of
from graphopt.runtime.device.arena import allocate
from graphopt.runtime.device.dlpack import Borrowed
from graphopt.runtime.device.executor import DeviceExecutor
from graphopt.runtime.device.feed import Given, given_inputs
from graphopt.runtime.device.result import DeviceTensor
from graphopt.runtime.device.stream import stream_handle


class ModelGraph:
    """What ``CompiledModel.graph()`` returns; it keeps the model alive.

    Attributes:
        inputs: the tensors that it reads, by name. Write into them on the device, or pass a feed.
        outputs: the tensors that it writes, by name; the next run writes over them.
    """

    def __init__(self, executor: DeviceExecutor, feed: Mapping[str, Any] | None = None) -> None:
        """Record a run.

        Args:
            executor: of the model.
            feed: inputs for the run before the one that is recorded; zeros by default. They have to be such that the model can
                compute them.

        Raises:
            InputError: some dimension is known at run time only, the model reads values while it runs, or the feed doesn't fit.
            DeviceError: no memory.
        """
        signature, device = executor.signature, executor.accelerator
        if not signature.is_fixed:
            symbolic = [str(spec) for spec in (*signature.inputs, *signature.outputs) if not _is_fixed(spec.shape)]
            raise InputError(
                f"a run can be recorded for fixed shapes only, and the model has {', '.join(symbolic)}",
                hint="compile it for one shape: --shape, or shapes= in Python",
            )
        if executor.waits:
            raise InputError(
                "the host reads values of the GPU while this model runs (control flow, or sizes that it computes): "
                "that can't be recorded",
                hint="use run()",
            )
        self._executor = executor
        tvm_device = device.tvm_device
        specs = [(s.name, tuple(d for d in s.shape if isinstance(d, int)), s.dtype.numpy) for s in signature.inputs]
        sizes = [math.prod(shape) * dtype.itemsize for _, shape, dtype in specs]
        self._memory = [allocate(size, tvm_device, device, "inputs") for size in sizes]
        places = [int(memory.data_ptr()) for memory in self._memory]
        self._arguments = [
            Borrowed(place, shape, bits_of(dtype), device.dlpack) for place, (_, shape, dtype) in zip(places, specs)
        ]
        zeros = {name: np.zeros(shape, dtype) for name, shape, dtype in specs}
        stream = device.new_stream()
        results: list[Any] = []

        def record() -> None:
            results[:] = executor.arena.run([argument.tensor for argument in self._arguments])

        try:
            given = given_inputs(signature, zeros if feed is None else feed, device, stream)
            with executor.lock, executor.in_order(stream):
                self._write(given, stream)
                # Loads the code, and leaves memory for results where the run that is recorded finds it, as nothing can be
                # allocated then. Twice, as the virtual machine holds the last run's.
                record()
                record()
                device.synchronise(stream)
                results.clear()
                self._captured = device.capture(stream, record)
        finally:
            with device.current():
                device.delete_stream(stream)
        weakref.finalize(self, self._captured.close).atexit = False
        self.outputs: dict[str, DeviceTensor] = executor.named(results, self)
        views = (Borrowed(p, s, d, device.dlpack) for p, (_, s, d) in zip(places, specs))
        self.inputs = {
            name: DeviceTensor(view.tensor, dtype, device, executor.done, (view, self._memory))
            for view, (name, _, dtype) in zip(views, specs)
        }

    def __call__(self, feed: Mapping[str, Any] | None = None, stream: object = None) -> dict[str, Any]:
        """Run it.

        Args:
            feed: inputs, copied to where it reads them; None if they are there.
            stream: as for ``CompiledModel.run``.

        Returns:
            Outputs by name: arrays on the host if all inputs of the feed are, else `outputs`, which are computed once the stream
            comes to them.

        Raises:
            InputError, DeviceError: as of ``CompiledModel.run``.
        """
        executor = self._executor
        handle = stream_handle(stream, executor.accelerator, () if feed is None else feed.values())
        given = [] if feed is None else given_inputs(executor.signature, feed, executor.accelerator, handle)
        with executor.lock, executor.in_order(handle):
            self._write(given, handle)
            self._captured.launch(handle)
        if feed is None or any(g.on_device for g in given):
            return dict(self.outputs)
        return {name: tensor.numpy() for name, tensor in self.outputs.items()}

    def _write(self, given: list[Given], stream: int) -> None:
        device = self._executor.accelerator
        for memory, g in zip(self._memory, given):
            place = int(memory.data_ptr())
            if g.array is not None:
                device.copy_in(place, g.array, stream)
            elif g.seen is not None:
                device.copy(place, g.seen.address, g.seen.nbytes, stream)


def _is_fixed(shape: tuple[object, ...]) -> bool:
    return all(isinstance(d, int) for d in shape)
