"""Graph-level optimisation and export: what ``graphopt optimize`` does."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import onnx
from onnx import ModelProto

from graphopt.errors import ModelError, UserError, did_you_mean
from graphopt.ir.export_opset import EXPORT_OPSET_FLOOR
from graphopt.ir.graph import Graph
from graphopt.ir.levels import DEFAULT_LEVEL
from graphopt.ir.onnx_io import graph_to_onnx
from graphopt.passes.catalogue import known_passes, parse_pass
from graphopt.passes.pipelines import level_pipeline
from graphopt.rewrite.instruments import VerifyEach
from graphopt.rewrite.passes import Pass, PassContext
from graphopt.rewrite.pipeline import Phase, Pipeline
from graphopt.rewrite.remarks import Remarks
from graphopt.whole_files import whole_files

EXPORT_MAX_OPSET = 22
"""An exported graph gets no operator newer than this, unless the model itself is newer: deployed runtimes load it."""

_LEVEL = re.compile(r"\s*O(\d+)\s*$")
"""A level among passes."""

_EXTERNAL_LIMIT = (1 << 31) - (1 << 20)
"""protobuf refuses messages of 2 GiB; some room is left for the rest of the model."""


def optimize(
    graph: Graph,
    level: int = DEFAULT_LEVEL,
    passes: Sequence[str | Pass] | None = None,
    *,
    skip: Sequence[str] = (),
    verify_each: bool = False,
    remarks: Remarks | None = None,
    for_export: bool = True,
    ctx: PassContext | None = None,
    more: Sequence[Phase] = (),
) -> Graph:
    """A new, optimised graph that computes the same; ``graph`` is not touched.

    Args:
        graph: what ``import_onnx`` returns.
        level: 0 to 3, as in ``graphopt.compile``; ``graphopt.passes.pipelines`` says by which passes.
        passes: run these instead of the level's: ``Pass`` objects, or text like ``"fold-constants{max-elements=9}"``;
            ``"O2"`` stands for all that level 2 runs.
        skip: names of passes to leave out.
        verify_each: check the graph's invariants after every pass.
        remarks: receives what was done and what was refused, with reasons.
        for_export: keep to operators that deployed runtimes know (opset 22, or the model's own); False allows all,
            for compilation.
        ctx: limits; made from ``remarks`` when None.
        more: phases that run after the level or the passes; ``skip`` holds for them too.

    Raises:
        UserError: unknown level or pass.
        GraphOptError: a pass failed; it is named, and the input is as it was.
    """
    pipeline = level_pipeline(level) if passes is None else _pipeline_of(passes)
    for name in skip:
        if name not in known_passes():
            raise UserError(
                f"can't skip {name!r}: there is no such pass",
                code="unknown-pass",
                hint=did_you_mean(name, known_passes()) or "`graphopt passes` lists all",
            )
    ctx = ctx or PassContext()
    if remarks is not None:
        ctx.remarks = remarks
    if for_export and ctx.max_opset is None:
        ctx.max_opset = max(graph.opset, EXPORT_MAX_OPSET, EXPORT_OPSET_FLOOR)
    return pipeline.then(more).without(skip).run(graph, ctx, [VerifyEach()] if verify_each else [])


def level_of(item: str | Pass) -> int | None:
    """The optimisation level that an item of ``passes`` stands for, None for a pass."""
    form = _LEVEL.match(item) if isinstance(item, str) else None
    return None if form is None else int(form[1])


def highest_level(level: int, passes: Sequence[str | Pass] | None) -> int:
    """The highest level among the passes to run, 0 if there is none; ``level`` if there are no passes."""
    return level if passes is None else max((level_of(item) or 0 for item in passes), default=0)


def _pipeline_of(passes: Sequence[str | Pass]) -> Pipeline:
    """The passes in order; those between two levels are one phase, which runs once."""
    phases: list[Phase] = []
    for is_level, items in groupby(passes, lambda item: level_of(item) is not None):
        if is_level:
            phases += [phase for item in items for phase in level_pipeline(level_of(item) or 0).phases]
        else:
            phases += Pipeline.of([parse_pass(item) if isinstance(item, str) else item for item in items]).phases
    return Pipeline(tuple(phases))


def export_onnx(graph: Graph, path: str | os.PathLike[str] | None = None) -> ModelProto:
    """The graph as an ONNX model, also written to ``path`` if given.

    The file appears complete or not at all. Weights of 2 GB and more go to ``<name>.data`` beside it.

    Raises:
        ModelError: the file can't be written.
    """
    model = graph_to_onnx(graph)
    if path is not None:
        _write(model, Path(path), _weight_bytes(graph) >= _EXTERNAL_LIMIT)
    return model


def _weight_bytes(graph: Graph) -> int:
    return sum(v.data.nbytes for v in graph.constants() if v.data is not None)


def _write(model: ModelProto, path: Path, external: bool) -> None:
    try:
        data = f"{path.name}.data"
        with whole_files(path.parent, [data, path.name] if external else [path.name]) as part:
            if external:
                copy = ModelProto()
                copy.CopyFrom(model)  # saving moves the tensors' data out of the message
                onnx.save_model(copy, part / path.name, save_as_external_data=True, location=data, size_threshold=1024)
            else:
                (part / path.name).write_bytes(model.SerializeToString())
    except OSError as e:
        raise ModelError(
            f"can't write {path}: {e.strerror or e}",
            code="cannot-write",
            hint="check that the folder exists, is writable and has room",
        ) from e
