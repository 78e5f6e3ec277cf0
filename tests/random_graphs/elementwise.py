"""Steps that add element-wise nodes."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from tests.random_graphs.draft import DTYPES, Draft, Rejected

UNARY_FLOAT = (
    "Abs", "Neg", "Relu", "Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Reciprocal", "Floor", "Ceil", "Round", "Erf", "Sin", "Cos",
    "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "Softplus", "Softsign", "Sign", "Elu", "Selu",
    "Celu", "LeakyRelu", "HardSigmoid", "HardSwish", "Mish", "Gelu", "ThresholdedRelu", "Shrink", "IsNaN", "IsInf", "Identity",
)  # fmt: skip
UNARY_INT = ("Abs", "Neg", "Sign", "BitwiseNot", "Relu", "Identity")
ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Pow", "Mod", "Min", "Max")
COMPARISONS = ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
ALPHA = {"Elu": (1.0, 0.5), "Celu": (1.0, 2.0), "LeakyRelu": (0.01, 0.3, -0.5), "ThresholdedRelu": (1.0, 0.5)}


def unary(d: Draft) -> None:
    """An activation, a rounding, a sign."""
    x = d.any_of("fiub")
    kind = d.values[x].dtype.kind
    if kind == "b":
        d.one(d.pick("Not", "Not", "Identity"), x)
        return
    op = d.pick(*(UNARY_FLOAT if kind == "f" else UNARY_INT))
    attrs = {}
    if op in ALPHA and d.chance(0.6):
        attrs = {"alpha": d.pick(*ALPHA[op])}
    if op == "Gelu":
        attrs = {"approximate": d.pick("none", "tanh")}
    if op == "Shrink":
        attrs = {"lambd": d.pick(0.5, 1.0), "bias": d.pick(0.0, 0.25)}
    if op == "HardSigmoid":
        attrs = {"alpha": d.pick(0.2, 0.5), "beta": d.pick(0.5, 0.0)}
    if op == "IsInf":
        attrs = {"detect_positive": d.pick(0, 1), "detect_negative": 1}
    d.one(op, x, **attrs)


def partner(d: Draft, x: str, dtype: str | None = None) -> str:
    """Something that broadcasts against ``x``: another value, a constant, a special number, or a new input."""
    dtype, shape = dtype or d.dtype(x), d.dims(x)
    if d.chance(0.35):
        try:
            return d.find(lambda a: str(a.dtype) == dtype and _broadcasts(a.shape, shape))
        except Rejected:
            pass
    if d.chance(0.3):
        return d.constant(special(d, dtype), dtype)
    shape = shape[d.pick(0, 0, 0, *range(len(shape) + 1)) :]
    shape = [1 if d.chance(0.25) else extent for extent in shape]
    return d.constant(d.data(shape, dtype)) if d.chance(0.6) else d.input(shape, dtype)


def special(d: Draft, dtype: str) -> object:
    """A number that simplifications look for."""
    kind = np.dtype(dtype).kind
    if kind == "b":
        return d.pick(True, False)
    if kind == "f":
        hostile = (np.inf, -np.inf, np.nan, float(np.finfo(dtype).max)) if d.hostile else ()
        return d.pick(0.0, 1.0, -1.0, 0.5, 2.0, -0.0, 3.0, *hostile)
    limits = np.iinfo(dtype)
    return d.pick(0, 1, 2, limits.max, limits.min, *(() if kind == "u" else (-1, -2)))


def binary(d: Draft) -> None:
    """Arithmetic of two."""
    x = d.any_of("fiu")
    op = d.pick(*ARITHMETIC)
    attrs = {"fmod": 1} if op == "Mod" and (d.values[x].dtype.kind == "f" or d.chance(0.3)) else {}
    operands = [x, partner(d, x)]
    if d.chance(0.4):
        operands.reverse()
    d.one(op, *operands, **attrs)


def variadic(d: Draft) -> None:
    """Sum, mean, least or greatest of one to four."""
    x = d.any_of("f")
    others = [partner(d, x) for _ in range(d.pick(0, 1, 2, 3))]
    d.one(d.pick("Sum", "Mean", "Min", "Max"), x, *others)


def compare(d: Draft) -> None:
    """A comparison, often cast to a number at once."""
    x = d.any_of("fiub")
    op = "Equal" if d.values[x].dtype.kind == "b" else d.pick(*COMPARISONS)
    mask = d.one(op, x, partner(d, x))
    if d.chance(0.4):
        d.one("Cast", mask, to=_code(d.pick(*DTYPES)))


def logical(d: Draft) -> None:
    """And, or, xor of masks."""
    x = d.any_of("b")
    d.one(d.pick("And", "Or", "Xor"), x, partner(d, x))


def bitwise(d: Draft) -> None:
    """Of integers."""
    x = d.any_of("iu")
    if d.values[x].dtype.kind == "u" and d.chance(0.4):
        by = d.constant(d.pick(0, 1, 3, 7), d.dtype(x))
        d.one("BitShift", x, by, direction=d.pick("LEFT", "RIGHT"))
        return
    d.one(d.pick("BitwiseAnd", "BitwiseOr", "BitwiseXor"), x, partner(d, x))


def cast(d: Draft) -> None:
    """To any other type."""
    d.one("Cast", d.any_of("fiub"), to=_code(d.pick(*DTYPES)))


def where(d: Draft) -> None:
    """A choice by a mask."""
    mask = d.any_of("b")
    dtype = d.pick(*DTYPES)
    try:
        x = d.find(lambda a: _broadcasts(a.shape, d.dims(mask)))
    except Rejected:
        x = d.input(d.dims(mask), dtype)
    operands = [x, partner(d, x)]
    if d.chance(0.5):
        operands.reverse()
    d.one("Where", mask, *operands)


def clip(d: Draft) -> None:
    """With both bounds, one or none."""
    x = d.any_of("fiu")
    dtype = d.dtype(x)
    low = d.constant(d.pick(0, 1) if np.dtype(dtype).kind == "u" else d.pick(-1, 0), dtype) if d.chance(0.7) else None
    high = d.constant(d.pick(1, 2, 6), dtype) if d.chance(0.7) else None
    d.one("Clip", x, low, high)


def prelu(d: Draft) -> None:
    """With a slope that broadcasts."""
    x = d.any_of("f")
    shape = [1 if d.chance(0.4) else e for e in d.dims(x)][d.pick(0, *range(len(d.dims(x)) + 1)) :]
    d.one("PRelu", x, d.weight(shape, d.dtype(x)))


def dropout(d: Draft) -> None:
    """Which does nothing when a model is run."""
    d.one("Dropout", d.any_of("f"))


def branch(d: Draft) -> None:
    """An If whose branches read values from outside."""
    x = d.any_of("fi")
    condition = d.input([], "bool") if d.chance(0.6) else d.constant(d.chance(0.5), "bool")
    other = partner(d, x)
    if len(d.dims(other)) > len(d.dims(x)):
        raise Rejected("branches of different rank")
    graphs = []
    for name, op in (("yes", d.pick("Add", "Mul", "Max")), ("no", d.pick("Sub", "Identity", "Neg"))):
        operands = [x, other] if op in ("Add", "Mul", "Max", "Sub") else [x]
        inner = f"{name}{len(d.nodes)}"
        node = helper.make_node(op, operands, [inner])
        result = helper.make_tensor_value_info(inner, _code(d.dtype(x)), None)
        graphs.append(helper.make_graph([node], inner, [], [result]))
    d.one("If", condition, then_branch=graphs[0], else_branch=graphs[1])


def _broadcasts(a: tuple[int, ...] | list[int], b: list[int]) -> bool:
    return all(m in (n, 1) or n == 1 for m, n in zip(list(a)[::-1], b[::-1]))


def _code(dtype: str) -> int:
    code: int = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    assert code != TensorProto.UNDEFINED
    return code


STEPS = (unary, unary, unary, unary, binary, binary, binary, binary, compare, compare, logical, bitwise, cast, where, clip,
         variadic, prelu, dropout, branch)  # fmt: skip
