"""What must hold for a mutated file: a GraphOptError, or a model that compiles, runs, and agrees with an oracle.

The oracle is ONNX Runtime, and where that says otherwise ONNX's own reference: ONNX Runtime fails a few of ONNX's tests, among
them those of Resize that shrink by a scale with ``align_corners``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt.driver.accuracy import compare_all, longest_sum, summing_depth
from graphopt.driver.compiling import signature_of
from graphopt.driver.importing import import_onnx
from graphopt.driver.random_inputs import random_inputs
from graphopt.errors import GraphOptError, InternalError
from graphopt.ir.graph import Graph

MAX_WORK = 1 << 22
"""Elements of any value, beyond which a model that is right is not run: it would only take time."""
RANDOM = ("Random", "Bernoulli", "Multinomial", "Dropout")
CANCELLING = ("BlackmanWindow", "HannWindow")
"""Operators whose result may be nothing but rounding: the ends of a window, 0.42 - 0.5 + 0.08."""
Phase = Callable[[str], None]
"""Told what is about to be done, so that a death of the process can be laid at the right door."""


def check_model(blob: bytes, level: int | None, phase: Phase = lambda _: None) -> str:
    """How far the file came: "refused", "imported", "compiled", "ran" or "agreed".

    Args:
        blob: the file.
        level: to compile with; None only imports.
        phase: see ``Phase``.

    Raises:
        AssertionError: the outputs differ from those of ONNX Runtime, and from those of ONNX's reference.
        Exception: anything but a GraphOptError, and graphopt's InternalError, is a bug.
    """
    try:
        phase("import")
        graph = import_onnx(blob)
        if level is None or _large(graph):
            return "imported"
        signature_of(graph)
        phase("compile")
        compiled = graphopt.compile(graph, level=level, threads=1, jobs=1)
        phase("run")
        feed = random_inputs(compiled.signature, 0)
        if sum(a.nbytes for a in feed.values()) > MAX_WORK:
            return "compiled"
        got = compiled.run(feed)
    except InternalError:
        raise
    except GraphOptError:
        return "refused"
    phase("onnxruntime")
    want = _onnxruntime(blob, {**feed, **graph.fixed})
    if want is None or not _arrays(want):
        return "ran"
    if any(node.op.startswith(RANDOM) or node.op in CANCELLING for node in graph.walk()):
        return "ran"
    phase("compare")
    problem = _difference(graph, got, want)
    if problem is None:
        return "agreed"
    phase("reference")
    specified = _reference(blob, {**feed, **graph.fixed})
    message = f"outputs differ: {problem}"
    assert specified is not None, message
    assert _arrays(specified), message
    assert _difference(graph, got, specified) is None, message
    return "agreed with the reference alone"


def _large(graph: Graph) -> bool:
    """Whether a value is larger than it is worth to compute."""
    values = [*graph.inputs, *(v for node in graph.walk() for v in node.outputs if v is not None)]
    counts = [getattr(v.type, "num_elements", None) for v in values]
    return any(isinstance(n, int) and n > MAX_WORK for n in counts)


def _onnxruntime(blob: bytes, feed: Mapping[str, Any]) -> dict[str, Any] | None:
    """Outputs of the unoptimised model, None if it can't load or run it."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(blob, options, providers=["CPUExecutionProvider"])
        wanted = {item.name for item in session.get_inputs()}
        names = [item.name for item in session.get_outputs()]
        return dict(zip(names, session.run(names, {k: v for k, v in feed.items() if k in wanted})))
    except Exception:  # it raises any class
        return None


def _arrays(values: Mapping[str, Any]) -> bool:
    """Whether all can be compared: a sequence can't."""
    return all(isinstance(a, np.ndarray) for a in values.values())


def _reference(blob: bytes, feed: Mapping[str, Any]) -> dict[str, Any] | None:
    """Outputs according to ONNX's reference, None if it can't run the model."""
    try:
        evaluator = ReferenceEvaluator(onnx.load_model_from_string(blob))
        names = list(evaluator.output_names)
        with np.errstate(all="ignore"):
            return dict(zip(names, evaluator.run(names, {k: v for k, v in feed.items() if k in evaluator.input_names})))
    except Exception:  # it raises any class
        return None


def _difference(graph: Graph, got: Mapping[str, Any], want: Mapping[str, Any]) -> str | None:
    """What is wrong with the first output that isn't as it should be."""
    found = compare_all(dict(zip(want, got.values())), want, reduction=longest_sum(graph), depth=summing_depth(graph))
    return next((f"{c.name}: {c.problem}" for c in found if not c.ok), None)
