"""Compiled models into ``.gopt`` files, and what such a file says of its model."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import ArtifactError, UserError
from graphopt.runtime.artifact import FORMAT_VERSION, Artifact, write_artifact
from graphopt.runtime.kernel_facts import facts_json
from graphopt.runtime.manifest import MODEL_FORM, require
from graphopt.runtime.session import StateSpec, state_from_json, state_to_json
from graphopt.runtime.signature import Signature, signature_from_json, signature_to_json

if TYPE_CHECKING:
    from graphopt.backends.base.target import Target
    from graphopt.runtime.model import CompiledModel

_OWN_KEYS = ("signature", "target", "source", "threads")


def save_model(model: CompiledModel, path: str | os.PathLike[str], *, compressed: bool = True) -> None:
    """Write a compiled model as one self-contained file; the file appears complete or not at all.

    Args:
        model: just compiled, or loaded.
        path: file to write or replace.
        compressed: as in ``graphopt.runtime.artifact.write_artifact``.

    Raises:
        CompileError: no linker is at hand; the hint says what to install.
        ArtifactError: the file can't be written.
        UserError: the file to replace is the model that this one was compiled from.
    """
    if _same_file(path, model.source):
        raise UserError(
            f"{os.fspath(path)} is the model itself; writing there would destroy it",
            code="output-is-input",
            hint="give the artefact another name, for example one that ends in .gopt",
        )
    if model.artifact is not None:
        own = model.artifact.manifest
        manifest = {
            key: own[key] for key in (*_OWN_KEYS, "needs", "kernels", "device", "waits", "states") if key in own
        }
        library = model.artifact.library
        is_sized = own["format"] == FORMAT_VERSION
    else:
        if model.built is None:
            raise ArtifactError("this model holds no code to save", hint="compile it with graphopt.compile")
        target = model.built.target
        if not model.built.generator.has_runtime(target):
            raise UserError(
                f"nothing loads .gopt files on {target.arch}: there is no runtime for it", code="no-runtime",
                hint="write a C library, which needs none: -o NAME.so (save_library in Python)",
            )  # fmt: skip
        library = model.built.library_bytes()
        manifest = {
            "signature": signature_to_json(model.signature),
            "target": target.to_dict(),
            "source": {"name": Path(model.source).name, "sha256": file_sha256(model.source)},
            "threads": target.caps.cores,
            "kernels": facts_json(model),
        }
        if needs := model.built.generator.needed_names(target):
            manifest["needs"] = list(needs)
        if model.states:
            manifest["states"] = [state_to_json(state) for state in model.states]
        if (device := model.built.device_facts()) is not None:
            manifest["device"] = device
            manifest["waits"] = model.waits
        is_sized = model.program is not None and model.program.sizing is not None
    write_artifact(
        path, library=library, constants=model.constants, manifest=manifest, compressed=compressed, is_sized=is_sized
    )


def describe(artifact: Artifact) -> tuple[Signature, Target]:
    """Signature and target of an artefact, which need not run on this machine.

    Raises:
        ArtifactError: the manifest lacks them, so it was written by something else.
    """
    from graphopt.backends.base.target import Target

    try:
        require(artifact.manifest, MODEL_FORM)
        signature = signature_from_json(artifact.manifest["signature"])
        target = Target.from_dict(artifact.manifest["target"])
    except (ValueError, TypeError, ArithmeticError, UserError) as error:
        raise ArtifactError(
            f"{artifact.path} holds no model that this graphopt can read ({error})",
            hint="compile the model again",
        ) from error
    return signature, target


def states_in(artifact: Artifact) -> list[StateSpec]:
    """What the model keeps from run to run.

    Raises:
        ArtifactError: the manifest is malformed.
    """
    try:
        return [state_from_json(state) for state in artifact.manifest.get("states") or ()]
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ArtifactError(
            f"{artifact.path} holds no model that this graphopt can read ({error})", hint="compile the model again"
        ) from error


def file_sha256(path: str | os.PathLike[str]) -> str | None:
    """Hex SHA-256 of a file; None when there is no such file (a model given as bytes)."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()


def _same_file(a: Any, b: Any) -> bool:
    try:
        return os.path.samefile(a, b)
    except OSError:
        return False
