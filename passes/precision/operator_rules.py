"""Operators that stay in float32 whatever their operands are, with the reason, and those that never round."""

from __future__ import annotations

from graphopt.ir.graph import Node
from graphopt.ops.registry import MOVEMENT, RANDOM, REDUCE, SELECTS, VIEW, has_trait

_KEPT: dict[str, tuple[str, ...]] = {
    "a normalisation sums squares": (
        "BatchNormalization", "GroupNormalization", "InstanceNormalization", "LRN", "LayerNormalization",
        "LpNormalization", "MeanVarianceNormalization", "RMSNormalization",
    ),
    "a softmax divides by a sum of exponentials": (
        "Hardmax", "LogSoftmax", "NegativeLogLikelihoodLoss", "Softmax", "SoftmaxCrossEntropyLoss",
    ),
    "a long sum collects rounding": ("CumProd", "CumSum", "DFT", "Det", "GlobalLpPool", "LpPool", "STFT"),
    "its results overflow or lose their precision": (
        "Acosh", "Cosh", "Exp", "Log", "Pow", "Reciprocal", "Sinh", "Softplus", "Sqrt", "Tan",
    ),
    "an angle has to be exact": ("Cos", "Sin"),
    "its result jumps where its operand is rounded": ("Ceil", "Floor", "Mod", "Round", "TopK", "Unique"),
    "coordinates have to be exact": (
        "AffineGrid", "DeformConv", "GridSample", "MaxRoiPool", "NonMaxSuppression", "RoiAlign",
    ),
    "positions and tables have to be exact": (
        "BlackmanWindow", "EyeLike", "HammingWindow", "HannWindow", "MelWeightMatrix", "Range",
    ),
    "quantized parts stay as they are": ("DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"),
    "its result has the type of another value": ("CastLike", "Optional", "OptionalGetElement", "OptionalHasElement"),
    "its bits are looked at": ("BitCast",),
    "state is carried from one step to the next, and its rounding adds up": ("LinearAttention", "Loop", "Scan"),
}  # fmt: skip
_REASONS = {op: reason for reason, ops in _KEPT.items() for op in ops}

_EXACT = frozenset((
    "CenterCropPad", "Compress", "GatherElements", "GatherND", "GlobalMaxPool", "If", "MaxPool", "MaxUnpool", "OneHot", "Pad",
    "ReduceMax", "ReduceMin", "ReverseSequence", "Trilu",
))  # fmt: skip
_SCATTERING = ("ScatterElements", "ScatterND")


def kept_operator(node: Node) -> str | None:
    """Why the operator stays in float32, None where it needn't."""
    if node.domain:
        return f"nothing is known of operators of domain {node.domain}"
    if has_trait(node, RANDOM):
        return "it makes random numbers of a type of its own"
    if has_trait(node, REDUCE) and node.op not in _EXACT:
        return "a reduction sums many elements"
    if node.op == "Div" and node.inputs[0] is not None and node.inputs[0].is_const:
        return "a division of a constant overflows where the divisor is small"
    if node.op in _SCATTERING and not _only_places(node):
        return "it adds up elements one after the other"
    if _feeds_quantization(node) or _reads_quantized(node):
        return "quantized parts stay as they are"
    return _REASONS.get(node.op)


def never_rounds(node: Node) -> bool:
    """Whether results are elements of operands, so that the type changes nothing but their storage."""
    if node.domain:
        return False
    if node.op in _SCATTERING:
        return _only_places(node)
    if node.op == "Cast":
        return all(v is not None and v.dtype is node.out.dtype for v in node.inputs)
    return node.op in _EXACT or any(has_trait(node, trait) for trait in (MOVEMENT, SELECTS, VIEW))


def _only_places(node: Node) -> bool:
    """Whether a scatter puts elements into place, and doesn't add them to what is there."""
    return str(node.attrs.get("reduction", "none")) == "none"


def _reads_quantized(node: Node) -> bool:
    return any(v is not None and v.producer is not None and v.producer.op == "DequantizeLinear" for v in node.inputs)


def _feeds_quantization(node: Node) -> bool:
    return any(
        use.node.op in ("QuantizeLinear", "DynamicQuantizeLinear") and use.index == 0
        for v in node.outputs
        if v is not None
        for use in v.uses
    )
