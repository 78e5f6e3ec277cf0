"""What computes the kernels of a compiled model."""

from __future__ import annotations

from typing import Any

from graphopt.driver.compiling import to_program


def templates(model: Any, target: str = "x86", **options: Any) -> list[str]:
    """Templates of the kernels in order, on two threads; those that only check sizes or compute dimensions are left out."""
    kernels = to_program(model, target, threads=2, **options)[2].kernels
    return [step.template for step in kernels if step.template != "dims"]
