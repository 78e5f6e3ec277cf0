"""Ranks that operands may have: checked once, before any rule or kernel takes dimensions by position.

The ONNX schemas say ranks in prose only. An operand that isn't listed may have any rank; one of unknown rank is left to the
rule that needs it. Lists of axes, sizes and the like may be scalars, as every runtime takes a scalar for one element.
"""

from __future__ import annotations

from graphopt.ir.graph import Node
from graphopt.ir.types import TensorType
from graphopt.ops.context import InferContext

_Ranks = tuple[int, int]
_ANY = (0, 64)
_SCALAR = (0, 1)
"""Or one element in a list, which exporters write for scalars."""
_LIST = (0, 1)
_VECTOR = (1, 1)
_CONV = (3, 64)
_WEIGHTS = ((3, 3), (3, 3), (3, 3), (2, 2), (1, 1), (3, 3))

_OPERANDS: dict[str, tuple[_Ranks, ...]] = {
    "AffineGrid": ((3, 3), _VECTOR),
    "BatchNormalization": ((1, 64), _VECTOR, _VECTOR, _VECTOR, _VECTOR),
    "CenterCropPad": (_ANY, _LIST),
    "Col2Im": ((3, 3), _VECTOR, _VECTOR),
    "Compress": (_ANY, _VECTOR),
    "ConstantOfShape": (_LIST,),
    "Conv": (_CONV, _CONV, _VECTOR),
    "ConvInteger": (_CONV, _CONV, _SCALAR, _SCALAR),
    "ConvTranspose": (_CONV, _CONV, _VECTOR),
    "CumSum": (_ANY, _SCALAR),
    "DeformConv": (_CONV, _CONV, _CONV, _VECTOR, _CONV),
    "DepthToSpace": ((4, 4),),
    "Det": ((2, 64),),
    "Expand": (_ANY, _LIST),
    "EyeLike": ((2, 2),),
    "Gemm": ((2, 2), (2, 2), (0, 2)),
    "GatherElements": ((1, 64), (1, 64)),
    "GatherND": ((1, 64), (1, 64)),
    "GlobalAveragePool": ((2, 64),),
    "GlobalLpPool": ((2, 64),),
    "GlobalMaxPool": ((2, 64),),
    "GridSample": ((3, 64), (3, 64)),
    "GroupNormalization": ((2, 64), _VECTOR, _VECTOR),
    "GRU": _WEIGHTS,
    "InstanceNormalization": ((2, 64), _VECTOR, _VECTOR),
    "LRN": ((2, 64),),
    "LSTM": (*_WEIGHTS, (3, 3), (2, 2)),
    "MatMul": ((1, 64), (1, 64)),
    "MatMulInteger": ((1, 64), (1, 64)),
    "MaxRoiPool": ((4, 4), (2, 2)),
    "MaxUnpool": (_CONV, _CONV, _VECTOR),
    "NonMaxSuppression": ((3, 3), (3, 3), _SCALAR, _SCALAR, _SCALAR),
    "OneHot": (_ANY, _SCALAR, _VECTOR),
    "Pad": (_ANY, (0, 2), _SCALAR, _LIST),
    "QLinearConv": (_CONV, _SCALAR, _SCALAR, _CONV, _SCALAR, _SCALAR, _SCALAR, _SCALAR, _VECTOR),
    "Range": (_SCALAR, _SCALAR, _SCALAR),
    "Reshape": (_ANY, _LIST),
    "Resize": (_ANY, _LIST, _LIST, _LIST),
    "ReverseSequence": ((2, 64), _VECTOR),
    "RNN": _WEIGHTS,
    "RoiAlign": ((4, 4), (2, 2), _VECTOR),
    "ScatterElements": ((1, 64), (1, 64), (1, 64)),
    "ScatterND": ((1, 64), (1, 64), _ANY),
    "Slice": ((1, 64), _LIST, _LIST, _LIST, _LIST),
    "SpaceToDepth": ((4, 4),),
    "Split": ((1, 64), _LIST),
    "Squeeze": (_ANY, _LIST),
    "Tile": (_ANY, _LIST),
    "TopK": ((1, 64), _SCALAR),
    "Trilu": ((2, 64), _SCALAR),
    "Unsqueeze": (_ANY, _LIST),
}
"""Smallest and largest rank of each operand, of the newest form of each operator."""

_SAME_RANK = {
    "Conv": (0, 1), "ConvInteger": (0, 1), "ConvTranspose": (0, 1), "QLinearConv": (0, 3), "DeformConv": (0, 1, 2),
    "GatherElements": (0, 1), "ScatterElements": (0, 1, 2), "GridSample": (0, 1), "MaxUnpool": (0, 1),
}  # fmt: skip
"""Operands whose ranks are equal."""


def check_operands(c: InferContext) -> None:
    """Refuse a node whose operands have ranks that its operator doesn't take.

    Raises:
        ModelError: it names the operand and its type.
    """
    node = c.node
    if node.domain:
        return
    for index, (least, most) in enumerate(_OPERANDS.get(node.op, ())):
        rank = _rank(node, index)
        if rank is not None and not least <= rank <= most:
            allowed = (
                f"rank {least}" if least == most else f"rank {least} or more" if most > 8 else f"rank {least} to {most}"
            )
            raise c.invalid(
                f"input {index} (%{c.value(index).name}) is {c.value(index).type}; {node.op} takes {allowed} there"
            )
    alike = _SAME_RANK.get(node.op, ())
    ranks = {index: rank for index in alike if (rank := _rank(node, index)) is not None}
    if len(set(ranks.values())) > 1:
        shown = " and ".join(f"%{c.value(index).name} of rank {rank}" for index, rank in ranks.items())
        raise c.invalid(f"{node.op} takes operands of one rank, not {shown}")


def _rank(node: Node, index: int) -> int | None:
    value = node.input(index)
    type_ = value.type if value is not None else None
    return len(type_.shape) if isinstance(type_, TensorType) and type_.shape is not None else None
