"""Plans held against what they are given for: the digest in all of them, and what plans of kernels say of targets and nodes."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from graphopt.errors import UserError, did_you_mean
from graphopt.ir.graph import Graph
from graphopt.ir.kernel_plan import KernelPlan
from graphopt.ir.plan_file import KERNEL_PLANS, PRECISION_PLANS
from graphopt.ir.precision_choices import PrecisionChoices

if TYPE_CHECKING:
    from graphopt.backends.base.target import Target
    from graphopt.backends.program.program import Program


def graph_digest(graph: Graph) -> str:
    """Of an imported graph's operators, attributes, types and small integer constants, which decide its shapes.

    Weights are not in it: a model that was trained further keeps its plan.
    """
    digest = hashlib.blake2b(digest_size=16)
    for value in (*graph.inputs, *graph.outputs):
        digest.update(f"{value.name} {value.type}\n".encode())
    for node in graph.walk():
        attrs = {k: repr(v) for k, v in sorted(node.attrs.items()) if not isinstance(v, Graph)}
        operands = [v and f"{v.name} {v.type}" for v in (*node.inputs, *node.outputs)]
        digest.update(f"{node.name} {node.qualified_op} {attrs} {operands}\n".encode())
        for v in node.inputs:
            if v is not None and v.data is not None and v.data.dtype.kind in "iub" and v.data.nbytes <= 4096:
                digest.update(v.data.tobytes())
    return f"blake2b:{digest.hexdigest()}"


def plan_for(plan: KernelPlan | str | os.PathLike[str] | None, target: Target, model: str) -> KernelPlan | None:
    """A plan, or the one in a file, made ready for a compilation.

    Args:
        plan: the plan or its file.
        target: what is compiled for.
        model: digest of the graph.

    Raises:
        UserError: it can't be read, or was written for another target, number of threads or model.
    """
    if plan is None:
        return None
    if isinstance(plan, PrecisionChoices):
        raise PRECISION_PLANS.mistaken(KERNEL_PLANS)
    if not isinstance(plan, KernelPlan):
        plan = KernelPlan.load(plan)
    if plan.target and plan.target != target.name:
        raise does_not_fit("target", f"the plan was written for {plan.target}, not for {target.name}")
    if plan.threads and plan.threads != target.caps.cores:
        raise does_not_fit("threads", f"the plan was written for {plan.threads} threads, not for {target.caps.cores}")
    if plan.model and plan.model != model and not plan.fitting_only:
        raise does_not_fit(
            "model", "the plan was written for another model, or for other shapes or values of its inputs"
        )
    return replace(plan, used=set())


def require_used(plan: KernelPlan | None, program: Program) -> None:
    """Refuse a plan that speaks of kernels which the program doesn't have.

    Raises:
        UserError: with the name, and the nearest one that there is.
    """
    if plan is None or plan.fitting_only:
        return
    names = program.choices()
    for name in plan.kernels:
        if name not in plan.used:
            known = ", ".join(list(names)[:8]) + (", ..." if len(names) > 8 else "")
            raise UserError(
                f"the plan has an entry for {name!r}, but no kernel is anchored at such a node", code="plan-does-not-fit",
                node=name, hint=did_you_mean(name, names) or f"leave it out; there are {known}",
            )  # fmt: skip


def does_not_fit(field: str, message: str) -> UserError:
    """The error for a plan whose head says otherwise, which can be lifted by deleting the line."""
    return UserError(
        message, code="plan-does-not-fit",
        hint=f"use it for what it was written for, or delete its line {field!r} to hold only its entries against the model",
    )  # fmt: skip
