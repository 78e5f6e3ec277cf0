"""What is known of a compiled model's kernel calls besides their code: for measuring, in this process and from an artefact."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from graphopt.errors import ArtifactError

if TYPE_CHECKING:
    from graphopt.backends.program.program import KernelStep, Program
    from graphopt.runtime.model import CompiledModel


@dataclass(frozen=True)
class KernelFacts:
    """One kernel call of a program.

    Attributes:
        function: name of the compiled function.
        label: the node that the call is named after, and how many more it computes.
        template, config: how it was made.
        shapes: physical shapes of the first operand and the results, as in ``1x3x48x48 -> 1x1x24x24x16``.
        flops: operations, None when unknown (symbolic sizes).
        bytes: operands and results once each, None when unknown.
        written: how many of these are results.
    """

    function: str
    label: str
    template: str = ""
    config: str = ""
    shapes: str = ""
    flops: int | None = None
    bytes: int | None = None
    written: int | None = None


def kernel_facts(model: CompiledModel) -> list[KernelFacts]:
    """Kernel calls in program order, those of both branches of an If included; empty for an artefact that lists none.

    Raises:
        ArtifactError: the artefact's list is malformed.
    """
    if model.program is not None:
        return program_facts(model.program)
    entries = model.artifact.manifest.get("kernels", []) if model.artifact is not None else []
    names = {field.name for field in fields(KernelFacts)}
    try:
        return [KernelFacts(**{key: value for key, value in entry.items() if key in names}) for entry in entries]
    except (AttributeError, TypeError) as error:
        path = model.artifact.path if model.artifact is not None else ""
        raise ArtifactError(f"{path} has a malformed list of kernels", hint="compile the model again") from error


def facts_json(model: CompiledModel) -> list[dict[str, Any]]:
    """What an artefact keeps."""
    return [asdict(fact) for fact in kernel_facts(model)]


def program_facts(program: Program) -> list[KernelFacts]:
    """Kernel calls of a program and of its branches."""
    from graphopt.backends.program.program import BranchStep, KernelStep

    found: list[KernelFacts] = []
    for step in program.steps:
        if isinstance(step, KernelStep):
            found.append(_facts(step))
        elif isinstance(step, BranchStep):
            found += program_facts(step.then.program) + program_facts(step.otherwise.program)
    return found


def _facts(step: KernelStep) -> KernelFacts:
    read = [b.static_bytes for b in dict.fromkeys(step.inputs)]
    written = [b.static_bytes for b in dict.fromkeys(step.outputs)]
    sizes = [size for size in (*read, *written) if size is not None]
    known = len(sizes) == len(read) + len(written)
    shapes = " -> ".join(
        ", ".join("x".join(map(str, b.shape)) or "scalar" for b in side) for side in (step.inputs[:1], step.outputs)
    )
    return KernelFacts(
        step.function, step.label, step.template, step.config, shapes, step.flops,
        sum(sizes) if step.bytes is None and known else step.bytes, sum(sizes[len(read) :]) if known else None,
    )  # fmt: skip
