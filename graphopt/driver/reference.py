"""Reference implementations: ONNX Runtime without graph optimisation, and the onnx package's own evaluator."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from graphopt.errors import GraphOptError, UserError, did_you_mean
from graphopt.ir.graph import Array

KINDS = ("onnxruntime", "onnx")
_RunFn = Callable[[Mapping[str, Array]], list[Any]]


@dataclass(frozen=True)
class Reference:
    """A model ready to run by somebody else's code.

    Attributes:
        kind: ``onnxruntime`` or ``onnx``.
        outputs: names in order.
    """

    kind: str
    outputs: tuple[str, ...]
    _run: _RunFn

    def __call__(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name.

        Raises:
            UserError: the reference can't run the model on these inputs.
        """
        try:
            found = self._run(feed)
        except GraphOptError:
            raise
        except Exception as error:  # both implementations raise any class
            raise UserError(
                f"the reference ({self.kind}) fails on the model: {_first_line(error)}",
                code="reference-failed",
                hint="try the other one with --reference, or other shapes with --shape",
            ) from error
        return {name: np.asarray(array) for name, array in zip(self.outputs, found)}


def make_reference(model: str | os.PathLike[str] | bytes | ModelProto, kind: str | None = None) -> Reference:
    """A reference for a model.

    Args:
        model: the model as it came, not what graphopt made of it.
        kind: one of ``KINDS``; by default ONNX Runtime where it is installed and loads the model, else onnx.

    Raises:
        UserError: unknown kind, not installed, or it can't load the model.
    """
    if kind not in (None, *KINDS):
        raise UserError(
            f"unknown reference {kind!r}",
            code="unknown-reference",
            hint=did_you_mean(str(kind), KINDS) or f"one of {', '.join(KINDS)}",
        )
    if kind == "onnxruntime" and not has_onnxruntime():
        raise UserError(
            "onnxruntime is not installed",
            code="no-reference",
            hint='pip install "graphopt[bench]", or use --reference onnx',
        )
    makers: dict[str, Callable[[Any], Reference]] = {"onnxruntime": _onnxruntime, "onnx": _onnx}
    if kind is None and has_onnxruntime():
        try:
            return _onnxruntime(model)
        except Exception:  # an operator or opset that ONNX Runtime lacks; the other reference has them all
            return _load("onnx", makers, model)
    return _load(kind or "onnx", makers, model)


def has_onnxruntime() -> bool:
    """Whether ONNX Runtime can be imported."""
    return importlib.util.find_spec("onnxruntime") is not None


def _load(kind: str, makers: Mapping[str, Callable[[Any], Reference]], model: Any) -> Reference:
    try:
        return makers[kind](model)
    except Exception as error:  # any class
        raise UserError(
            f"the reference ({kind}) can't load the model: {_first_line(error)}",
            code="reference-failed",
            hint=_other(kind),
        ) from error


def _other(kind: str) -> str:
    """What to do where a reference can't load a model."""
    if kind == "onnx" and not has_onnxruntime():
        return 'pip install "graphopt[bench]" brings ONNX Runtime, which is the reference then'
    return "try the other one with --reference"


def _onnxruntime(model: Any) -> Reference:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(_for_ort(model), options, providers=["CPUExecutionProvider"])
    wanted = {item.name for item in session.get_inputs()}
    names = tuple(item.name for item in session.get_outputs())
    return Reference(
        "onnxruntime", names, lambda feed: list(session.run(names, {k: v for k, v in feed.items() if k in wanted}))
    )


def _for_ort(model: Any) -> Any:
    return (
        model.SerializeToString()
        if isinstance(model, ModelProto)
        else model
        if isinstance(model, bytes)
        else str(model)
    )


def _onnx(model: Any) -> Reference:
    from onnx.reference import ReferenceEvaluator

    if isinstance(model, bytes):
        model = onnx.load_model_from_string(model)
    elif not isinstance(model, ModelProto):
        model = onnx.load_model(model)
    evaluator = ReferenceEvaluator(model)
    return Reference("onnx", tuple(evaluator.output_names), lambda feed: list(evaluator.run(None, dict(feed))))


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
