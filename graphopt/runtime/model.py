"""The compiled model as a Python object."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from graphopt.errors import ArtifactError, InputError
from graphopt.runtime.bits import as_bits, travels_as_bits
from graphopt.runtime.device.executor import DeviceExecutor
from graphopt.runtime.executor import Executor
from graphopt.runtime.session import Session, StateSpec
from graphopt.runtime.signature import Signature, TensorSpec

if TYPE_CHECKING:
    from graphopt.backends.base.target import Target
    from graphopt.backends.build.code_generation import Built
    from graphopt.backends.build.loaded_module import LoadedModule
    from graphopt.backends.program.program import Program
    from graphopt.ir.kernel_plan import KernelPlan
    from graphopt.runtime.artifact import Artifact
    from graphopt.runtime.device.graph import ModelGraph


class CompiledModel:
    """A model compiled for a target; callable on numpy arrays where the target is this machine.

    Attributes:
        program: the third level, when it was compiled in this process.
        built: compiled code, when it was compiled in this process.
        artifact: the file that it was loaded from, otherwise.
        target: what it was compiled for.
        source: name of the model for messages.
        constants: packed weights, in the order in which the code takes them.
        states: inputs that stay in the model's memory; then it is run by `session` only, and they are no part of the signature.
    """

    def __init__(
        self,
        signature: Signature,
        constants: Sequence[npt.NDArray[Any]],
        *,
        built: Built | None = None,
        program: Program | None = None,
        executor: Executor | DeviceExecutor | None = None,
        source: str = "<model>",
        artifact: Artifact | None = None,
        target: Target | None = None,
        states: Sequence[StateSpec] = (),
    ) -> None:
        self.signature = signature
        self.states = tuple(states)
        self.program = program
        self.source = source
        self.constants = list(constants)
        self.built = built
        self.artifact = artifact
        self.target = built.target if built is not None else target
        self._executor = executor
        self._loading = threading.Lock()
        self._names = [spec.name for spec in signature.outputs]
        self._bits_in = [i for i, spec in enumerate(signature.inputs) if travels_as_bits(spec.dtype.numpy)]
        typed = enumerate(spec.dtype.numpy for spec in signature.outputs)
        self._bits_out = [(i, dtype) for i, dtype in typed if travels_as_bits(dtype)]

    @staticmethod
    def from_program(
        signature: Signature,
        program: Program,
        built: Built,
        source: str = "<model>",
        states: Sequence[StateSpec] = (),
    ) -> CompiledModel:
        """A model just compiled; it is loaded at the first run."""
        constants = [b.data for b in program.constants if b.data is not None]
        return CompiledModel(signature, constants, built=built, program=program, source=source, states=states)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What ``run`` takes."""
        return self.signature.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What ``run`` returns."""
        return self.signature.outputs

    def run(self, feed: Mapping[str, Any], *, stream: object = None) -> dict[str, Any]:
        """Run on named arrays. Several threads may run a model at once (see ``graphopt.runtime.executor.Executor``).

        Args:
            feed: numpy arrays. A model for a GPU also takes tensors that lie there, of any library with DLPack, and reads them
                where they are.
            stream: of a GPU: where to run, as a stream of torch or cupy, or a handle. By default torch's or cupy's current one if
                they made the tensors, else the default stream.

        Returns:
            numpy arrays; of a model on a GPU that got a tensor there, tensors that any library with DLPack takes, before they are
            computed (``graphopt.runtime.device.result.DeviceTensor``).

        Raises:
            InputError: wrong names, dtypes or shapes.
            DeviceError: the target's code can't run on this machine, or failed; a tensor or stream of another device.
            ArtifactError: the artefact isn't consistent.
        """
        if self.states:
            raise InputError(
                "this model keeps " + ", ".join(repr(s.past.name) for s in self.states) + " from run to run",
                code="has-state", hint="open a session: model.session(capacity=1024).run(feed)",
            )  # fmt: skip
        run = self._executor or self._loaded()
        if isinstance(run, DeviceExecutor):
            return run.run(feed, stream)
        if stream is not None:
            raise _no_gpu("run on a stream", self.target)
        arrays = self.signature.check(feed)
        for i in self._bits_in:
            arrays[i] = as_bits(arrays[i])
        results = run(arrays)
        for i, dtype in self._bits_out:
            results[i] = results[i].view(dtype)
        if len(results) != len(self._names):
            raise ArtifactError(
                f"the code gives {len(results)} results, the artefact names {len(self._names)}",
                hint="compile the model again",
            )
        outputs = {}
        for i, name in enumerate(self._names):  # takes half as long as a dict of a zip
            outputs[name] = results[i]
        return outputs

    def session(self, capacity: int) -> Session:
        """Runs that go on where the last one ended, of a model that was compiled with ``state=``. Sessions share weights and code.

        Args:
            capacity: most positions that the states hold, past and new ones together; memory is taken as they fill.

        Raises:
            InputError: the model has no state, or the capacity is no whole number of at least 1, or there is not so much memory.
        """
        if not self.states:
            raise InputError(
                "this model keeps nothing from run to run", code="no-state",
                hint='compile it with state={"present.0.key": "past.0.key", ...}, outputs that are inputs of the next run',
            )  # fmt: skip
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
            raise InputError(f"capacity is {capacity!r}, not a whole number of at least 1", hint="write capacity=1024")
        run = self._executor or self._loaded()
        assert isinstance(run, Executor)
        return Session(run, self.signature, self.states, capacity)

    def graph(self, feed: Mapping[str, Any] | None = None) -> ModelGraph:
        """A run on a GPU, recorded as a CUDA graph: called, it starts as a whole, on inputs and outputs that stay in place.

        Args:
            feed: inputs for a first run, which isn't recorded; zeros by default.

        Raises:
            InputError: the model is for a processor, has dimensions that only run time knows, or reads values while it runs, as
                one with control flow does.
            DeviceError: no memory.
        """
        from graphopt.runtime.device.graph import ModelGraph

        run = self._executor or self._loaded()
        if not isinstance(run, DeviceExecutor):
            raise _no_gpu("be recorded", self.target)
        return ModelGraph(run, feed)

    def __call__(self, *args: Any, stream: object = None) -> tuple[Any, ...]:
        """Run on arrays in input order; returns the outputs in order. Otherwise as `run`."""
        if len(args) != len(self.inputs):
            raise InputError(
                f"{len(args)} arrays for {len(self.inputs)} inputs",
                hint="inputs are " + ", ".join(map(str, self.inputs)),
            )
        return tuple(self.run({spec.name: a for spec, a in zip(self.inputs, args)}, stream=stream).values())

    @property
    def waits(self) -> bool:
        """Whether the host reads values that the model computes while it runs; True if that isn't known."""
        if self.program is not None:
            return self.program.waits
        return self.artifact is None or self.artifact.manifest.get("waits", True) is not False

    @property
    def plan(self) -> KernelPlan | None:
        """How its kernels are computed, to be written to a file and replayed; None of a model that was loaded."""
        from graphopt.backends.program.planned import plan_of

        return None if self.program is None else plan_of(self.program)

    def save(self, path: str | os.PathLike[str], *, compressed: bool = True) -> None:
        """Write one self-contained ``.gopt`` file (needs a linker; see ``graphopt.backends.build.link``).

        Args:
            path: file to write or replace.
            compressed: constants with many zeros take less room in the file; False keeps them all as they are in memory, so
                that processes that load the file share them.
        """
        from graphopt.runtime.store import save_model

        save_model(self, path, compressed=compressed)

    def save_library(self, path: str | os.PathLike[str]) -> None:
        """Write a C library and its header, ``name.so`` and ``name.h``: no TVM, no Python; sizes must be known.

        Args:
            path: of the library; see ``graphopt.runtime.c_library`` for what it may hold, and what is raised.
        """
        from graphopt.runtime.c_library import save_c_library

        save_c_library(self, path)

    def _loaded(self) -> Executor | DeviceExecutor:
        if self._executor is None:
            with self._loading:
                if self._executor is None:
                    assert self.built is not None
                    self._executor = executor_of(self.built.load(), self.constants, self.signature, self.waits)
        return self._executor


def executor_of(
    loaded: LoadedModule, constants: Sequence[npt.NDArray[Any]], signature: Signature, waits: bool
) -> Executor | DeviceExecutor:
    """What runs a loaded model: on the host, or on a device with memory of its own.

    Args:
        waits: the host reads values of the device while the model runs.

    Raises:
        DeviceError: no memory, or the code can't be used.
    """
    if loaded.accelerator is not None:
        return DeviceExecutor(loaded, constants, signature, waits)
    return Executor(loaded, constants, all_planned=signature.is_fixed)


def _no_gpu(wanted: str, target: Target | None) -> InputError:
    return InputError(
        f"a model for {target.name if target else 'a processor'} can't {wanted}: that is for models on a GPU",
        hint="compile it with --target cuda",
    )
