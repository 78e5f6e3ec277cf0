"""Normalisations together with the sums before them: SkipLayerNormalization, EmbedLayerNormalization."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Value
from graphopt.ops.contrib.builder import Builder
from graphopt.ops.contrib.table import becomes_plain

_EPSILON = 1e-12


@becomes_plain("LayerNormalization", operands="X Scale B?", attributes="axis epsilon stash_type", outputs=3)
def layer_norm(b: Builder) -> Sequence[Value | None]:
    """The operator of ai.onnx, in files of ONNX Runtime's optimiser for opsets that haven't got it."""
    attributes = b.kept("axis", "epsilon", "stash_type")
    results: list[Value | None] = list(b.emit_all("LayerNormalization", b.node.inputs, attributes, len(b.node.outputs)))
    return results


@becomes_plain("SimplifiedLayerNormalization", operands="X scale", attributes="axis epsilon stash_type", outputs=2)
def rms_norm(b: Builder) -> Sequence[Value | None]:
    """RMSNormalization under its first name.

    Raises:
        UnsupportedOpError: the statistics of training are asked for.
    """
    _refuse_statistics(b, 1)
    return [b.emit("RMSNormalization", [b.x("X"), b.x("scale")], b.kept("axis", "epsilon", "stash_type"))]


def _refuse_statistics(b: Builder, *results: int) -> None:
    if any(b.is_wanted(i) for i in results):
        raise b.refuse(f"the statistics of {b.node.op}, which training asks for", "export the model for inference")


def _sum(b: Builder) -> Value:
    total = b.emit("Add", [b.x("input"), b.x("skip")])
    bias = b.option("bias")
    return total if bias is None else b.emit("Add", [total, bias])


@becomes_plain("SkipLayerNormalization", operands="input skip gamma beta? bias?", attributes="epsilon", outputs=4)
def skip_layer_norm(b: Builder) -> Sequence[Value | None]:
    """LayerNormalization over the last axis of ``input + skip + bias``, a sum that is a result, too."""
    total = _sum(b)
    attributes = {"axis": -1, "epsilon": b.number("epsilon", _EPSILON)}
    count = 3 if b.is_wanted(1) or b.is_wanted(2) else 1
    made = b.emit_all("LayerNormalization", [total, b.x("gamma"), b.option("beta")], attributes, count)
    return [*made, *[None] * (3 - count), total][: len(b.node.outputs)]


@becomes_plain("SkipSimplifiedLayerNormalization", operands="input skip gamma bias?", attributes="epsilon", outputs=4)
def skip_rms_norm(b: Builder) -> Sequence[Value | None]:
    """RMSNormalization over the last axis of ``input + skip + bias``, a sum that is a result, too.

    Raises:
        UnsupportedOpError: the statistics of training are asked for.
    """
    _refuse_statistics(b, 1, 2)
    total = _sum(b)
    attributes = {"axis": -1, "epsilon": b.number("epsilon", _EPSILON)}
    made = b.emit("RMSNormalization", [total, b.x("gamma")], attributes)
    return [made, None, None, total][: len(b.node.outputs)]


@becomes_plain(
    "EmbedLayerNormalization",
    operands="input_ids segment_ids? word_embedding position_embedding segment_embedding? gamma beta mask? position_ids?",
    attributes="epsilon mask_index_type",
    outputs=3,
)
def embed_layer_norm(b: Builder) -> Sequence[Value | None]:
    """LayerNormalization of the sum of a word's, a position's and maybe a segment's embedding.

    The second result is how many elements of the mask are not 0 in each sequence, or 0 without a mask.
    """
    ids, segments = b.x("input_ids"), b.option("segment_ids")
    total = b.emit("Add", [b.emit("Gather", [b.x("word_embedding"), ids]), _positions(b, ids)])
    table = b.option("segment_embedding")
    if segments is not None and table is not None:
        total = b.emit("Add", [total, b.emit("Gather", [table, segments])])
    attributes = {"axis": -1, "epsilon": b.number("epsilon", _EPSILON)}
    norm = b.emit("LayerNormalization", [total, b.x("gamma"), b.x("beta")], attributes)
    kind = b.integer("mask_index_type", 1)
    counts = _mask_counts(b, ids, kind) if b.is_wanted(1) else None
    return [norm, counts, total][: len(b.node.outputs)]


def _positions(b: Builder, ids: Value) -> Value:
    """Embeddings of the positions given, or of the first ones."""
    table, given = b.x("position_embedding"), b.option("position_ids")
    if given is not None:
        return b.emit("Gather", [table, given])
    length = b.emit("Shape", [ids], {"start": 1, "end": 2})
    return b.emit("Slice", [table, b.integer_list([0], "start"), length, b.integer_list([0], "axis")])


def _mask_counts(b: Builder, ids: Value, kind: int) -> Value:
    mask = b.option("mask")
    if mask is None:
        mask = b.emit("Mul", [ids, b.constant(0, "zero", b.dtype(ids).numpy)])
    elif kind == 0:
        raise b.refuse("the mask index of EmbedLayerNormalization with mask_index_type 0", "leave that result out")
    differs = b.emit("Not", [b.emit("Equal", [mask, b.constant(0, "zero", b.dtype(mask).numpy)])])
    ones = b.emit("Cast", [differs], {"to": DType.i32.onnx})
    return b.emit("ReduceSum", [ones, b.constant([1], "axes", np.int64)], {"keepdims": 0})
