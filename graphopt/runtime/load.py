"""Compiled models out of ``.gopt`` files. Loading needs neither onnx nor a compiler nor a linker."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.errors import ArtifactError, DeviceError
from graphopt.runtime.artifact import read_artifact
from graphopt.runtime.model import CompiledModel, executor_of
from graphopt.runtime.store import describe, states_in

if TYPE_CHECKING:
    from graphopt.backends.base.target import Target


def load(path: str | os.PathLike[str], *, threads: int | None = None, device: str | int | None = None) -> CompiledModel:
    """Load a compiled model, ready to run.

    An artefact is code and runs with the rights of this process: load only what you trust as you would trust a program.

    Constants stay in the file, which is mapped: while the model lives, the file may be replaced or deleted, but must not be cut
    short or written to in place. The library and all memory are released with the model, but for the library that was the first
    in this process, whose code the threads run. Forked children may use models that were loaded before the fork.

    Args:
        path: what ``CompiledModel.save`` or ``graphopt compile`` wrote.
        threads: CPU threads of a run, the caller's included; by default those that the model was compiled for. No more than
            this process may use CPUs. Results don't depend on it. Models compiled for one thread stay with one.
        device: which GPU to run on, as in ``"cuda:1"``, of a model compiled for GPUs; by default the first.

    Raises:
        TargetError: ``threads`` is no whole number of at least 1.
        ArtifactError: missing, damaged, of another version, or no model.
        DeviceError: compiled for another machine, which is named, or the device is absent.
    """
    from graphopt.backends.base.target import checked_threads

    threads = checked_threads(threads)
    artifact = read_artifact(path)
    signature, target = describe(artifact)
    states = states_in(artifact)
    index = _index(device, target)
    _require_runnable(target, artifact.path, index, artifact.manifest.get("needs") or ())
    from graphopt.backends.targets.compilation import open_library

    with artifact.library_path() as library:
        loaded = open_library(library, target, threads or artifact.manifest["threads"], index)
    return CompiledModel(
        signature,
        artifact.constants,
        executor=executor_of(loaded, artifact.constants, signature, artifact.manifest.get("waits", True) is not False),
        source=str(artifact.path),
        artifact=artifact,
        target=target,
        states=states,
    )


def _index(device: str | int | None, target: Target) -> int:
    """Number of the device that a caller names.

    Raises:
        DeviceError: the model isn't for such a device.
    """
    if device is None:
        return 0
    kind, _, number = (f"{target.kind}:{device}" if isinstance(device, int) else str(device)).partition(":")
    if kind in (target.kind, "cpu" if not target.arches else target.kind) and (not number or number.isdecimal()):
        return int(number or 0)
    example = f"{target.kind}:0, {target.kind}:1 and so on" if target.arches else "cpu"
    raise DeviceError(
        f"the model is compiled for {target.name!r}, which is nothing for device {device!r}",
        code="wrong-device", hint=f"devices are {example}; leave device out for the first",
    )  # fmt: skip


def _require_runnable(target: Target, path: Path, index: int, needs: Collection[str]) -> None:
    from graphopt.backends.base.runnable import Runnable
    from graphopt.backends.base.tvm_runtime import has_compiler
    from graphopt.backends.targets.platforms import platform_of

    platform_of(target).require_device(index)
    try:
        verdict = platform_of(target).can_run(target, index)
        if verdict and not has_compiler() and (missing := platform_of(target).missing_names(needs)):
            verdict = Runnable(False, f"this processor lacks {', '.join(missing)}")
    except (ValueError, TypeError, RuntimeError) as error:  # what TVM raises for a target that it can't make sense of
        raise ArtifactError(
            f"{path} holds no model that this graphopt can read ({str(error).splitlines()[0]})",
            hint="compile the model again",
        ) from error
    if not verdict:
        here = platform_of(target).here
        raise DeviceError(
            f"{path} was compiled for target {target.name!r}, which can't run here: {verdict.reason}",
            code="other-machine",
            hint=f"compile the model on or for this machine (--target {here}), or copy the file to one that fits",
        )
