"""A model that is quantized in order to be checked: what ``graphopt check --precision int8 --calib`` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from graphopt.driver.calibration import calibration_feeds
from graphopt.driver.compiling import signature_of
from graphopt.driver.importing import import_onnx
from graphopt.driver.input_shapes import ShapeSpec
from graphopt.driver.optimizing import export_onnx
from graphopt.driver.quantize.before_compiling import INT8, quantized_before
from graphopt.ir.graph import Array

if TYPE_CHECKING:
    from onnx import ModelProto

    from graphopt.driver.calibration_source import Source
    from graphopt.ir.onnx_load import ModelSource


@dataclass(frozen=True)
class QuantizedHere:
    """A quantized model.

    Attributes:
        model: as it would be written.
        feed: the first of the calibration data, to check it on: quantized models aren't made for random numbers.
    """

    model: ModelProto
    feed: Mapping[str, Array]


def quantized_here(
    src: ModelSource,
    precision: object,
    calibration: Source | None,
    *,
    level: int,
    shapes: Mapping[str, ShapeSpec] | None,
    values: Mapping[str, Any] | None,
    strict: bool,
    threads: int | None,
) -> QuantizedHere | None:
    """The model quantized by default settings, None where another precision is asked for.

    Raises:
        UserError: as ``quantized_before``.
    """
    if precision != INT8 or calibration is None:
        quantized_before(
            src, precision, calibration, level=level, shapes=shapes, values=values, strict=strict, threads=threads
        )  # refuses one without the other
        return None
    graph = import_onnx(src, shapes=shapes, values=values, strict=strict)
    feeds = calibration_feeds(calibration, signature_of(graph))
    first = next(feeds)
    quantized = quantized_before(
        graph, precision, chain([first], feeds), level=level, shapes=None, values=None, strict=strict, threads=threads
    )
    assert quantized is not None
    return QuantizedHere(export_onnx(quantized), first)
