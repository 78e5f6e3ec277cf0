"""Quantizing as the first step of compiling: what ``--precision int8`` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graphopt.driver.input_shapes import ShapeSpec
from graphopt.errors import UserError

if TYPE_CHECKING:
    from graphopt.driver.calibration_source import Source
    from graphopt.ir.graph import Graph
    from graphopt.ir.onnx_load import ModelSource

INT8 = "int8"
"""The name of the precision."""


def quantized_before(
    src: ModelSource | Graph,
    precision: object,
    calibration: Source | None,
    *,
    level: int,
    shapes: Mapping[str, ShapeSpec] | None,
    values: Mapping[str, Any] | None,
    strict: bool,
    threads: int | None,
) -> Graph | None:
    """The quantized graph to compile in place of ``src``, by ``graphopt.quantize`` as it is by default; None for other precisions.

    Raises:
        UserError: int8 without data, or data for another precision; and what ``graphopt.quantize`` raises.
    """
    if precision != INT8:
        if calibration is not None:
            raise UserError(
                "calibration data is for precision int8, which isn't asked for", code="bad-option",
                hint="say --precision int8, or leave the data out",
            )  # fmt: skip
        return None
    if calibration is None:
        raise UserError(
            "precision int8 needs calibration data, which says in which ranges activations lie", code="no-calibration",
            hint="give --calib, or write the model with `graphopt quantize` first",
        )  # fmt: skip
    from graphopt.driver.quantize.quantizing import quantize

    graph, _ = quantize(
        src, calibration, compare=False, level=level, shapes=shapes, values=values, strict=strict, threads=threads
    )
    return graph
