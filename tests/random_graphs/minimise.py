"""The smallest part of a failing graph that still fails in the same way."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from tests.random_graphs.case import Case, draw
from tests.random_graphs.check import WAYS, Outcome
from tests.random_graphs.evaluate import reads
from tests.random_graphs.judge import upstream


def write_smallest(outcome: Outcome, way: str, folder: Path) -> Path:
    """Write the smallest graph as ``<seed>-O<level>.onnx``, with its inputs beside it; a crash is written as it is.

    Returns:
        The model's path.
    """
    case = draw(outcome.seed)
    if outcome.kind != "crash":
        case = smallest(case, lambda c: _signature(WAYS[way]([c], outcome.level)[0]) == _signature(outcome))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{outcome.seed}-O{outcome.level}.onnx"
    onnx.save_model(case.model(), path)
    for which, feed in enumerate(case.feeds):
        np.savez(path.with_suffix(f".{which}.npz"), **feed)  # type: ignore[arg-type]
    return path


def smallest(case: Case, fails: Callable[[Case], bool]) -> Case:
    """Drop outputs, then turn values into inputs, as long as the graph still fails."""
    for name in case.outputs:
        alone = restricted(case, (name,))
        if fails(alone):
            case = alone
            break
    changed = True
    while changed:
        changed = False
        for node in case.nodes[:-1]:
            smaller = _cut_before(case, [o for o in node.output if o])
            if smaller is not None and len(smaller.nodes) < len(case.nodes) and fails(smaller):
                case, changed = smaller, True
                break
    return case


def restricted(case: Case, outputs: tuple[str, ...]) -> Case:
    """Only what the given outputs need."""
    nodes = tuple(upstream(case.nodes, outputs))
    used = {name for node in nodes for name in reads(node)}
    shapes = {name: shape for name, shape in case.shapes.items() if name in used}
    feeds = tuple({name: feed[name] for name in shapes} for feed in case.feeds)
    constants = {name: array for name, array in case.constants.items() if name in used}
    return replace(case, nodes=nodes, outputs=outputs, shapes=shapes, feeds=feeds, constants=constants)


def _cut_before(case: Case, names: list[str]) -> Case | None:
    """With some inner values as inputs of fixed shapes; only for graphs with one feed."""
    if set(names) & set(case.outputs):
        return None
    feeds, shapes = [], dict(case.shapes)
    for name in names:
        symbols: tuple[int | str, ...] = case.expected[0][name].shape
        if any(values[name].shape != case.expected[0][name].shape for values in case.expected):
            symbols = tuple(f"cut_{name}_{axis}" for axis in range(len(symbols)))
        shapes[name] = symbols
    feeds = [{**feed, **{n: values[n] for n in names}} for feed, values in zip(case.feeds, case.expected)]
    nodes = tuple(node for node in case.nodes if not set(node.output) & set(names))
    return restricted(replace(case, nodes=nodes, shapes=shapes, feeds=tuple(feeds)), case.outputs)


def _signature(outcome: Outcome) -> tuple[str, str]:
    """The kind of a failure, and the error's text without numbers and names."""
    if outcome.kind in ("wrong", "crash"):
        return outcome.kind, ""
    return outcome.kind, re.sub(r"[\d.]+|%\S+|'.*?'|\(.*?\)", "", outcome.detail.split("\n")[0])[:80]
