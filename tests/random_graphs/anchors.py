"""Steps that add nodes with sums: products of matrices, convolutions, pools, reductions, normalisations."""

from __future__ import annotations

from typing import Any

from tests.random_graphs.draft import Draft, Rejected

REDUCTIONS = (
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum",
    "ReduceLogSumExp",
)  # fmt: skip


def matmul(d: Draft) -> None:
    """On the right or left, with a constant or another value, of any rank."""
    x = d.any_of("f" if d.chance(0.9) else "iu", 1)
    shape, dtype = d.dims(x), d.dtype(x)
    n = d.pick(1, 2, 5, 8, 16, 17, 33)
    if len(shape) >= 2 and d.chance(0.25):
        d.one("MatMul", d.weight([n, shape[-2]], dtype), x)
        return
    if len(shape) >= 2 and d.chance(0.25):
        axes = list(range(len(shape)))
        axes[-2:] = axes[:-3:-1]
        d.one("MatMul", x, d.one("Transpose", x, perm=axes))
        return
    batch = [1 if d.chance(0.2) else e for e in shape[:-2]] if len(shape) > 2 and d.chance(0.3) else []
    d.one("MatMul", x, d.weight([*batch, shape[-1], n] if d.chance(0.9) else [shape[-1]], dtype))


def gemm(d: Draft) -> None:
    """With every attribute and form of the bias."""
    x = d.any_of("f", 2, 2)
    shape, dtype, n = d.dims(x), d.dtype(x), d.pick(1, 3, 8, 16, 17)
    a_turned, b_turned = d.pick(0, 0, 1), d.pick(0, 1)
    m, k = (shape[1], shape[0]) if a_turned else (shape[0], shape[1])
    bias = d.weight(d.pick([n], [1, n], [m, 1], [1], [], [m, n]), dtype) if d.chance(0.7) else None
    attrs = {"alpha": d.pick(0.5, -2.0), "beta": d.pick(0.0, 2.0)} if d.chance(0.3) else {}
    d.one("Gemm", x, d.weight([n, k] if b_turned else [k, n], dtype), bias, transA=a_turned, transB=b_turned, **attrs)


def _window(d: Draft, spatial: list[int], transposed: bool = False) -> dict[str, Any]:
    kernel = [d.pick(1, 1, 2, 3, 3, 5) for _ in spatial]
    attrs: dict[str, Any] = {"kernel_shape": kernel}
    if d.chance(0.4):
        attrs["strides"] = [d.pick(1, 2, 3) for _ in spatial]
    if d.chance(0.25):
        attrs["dilations"] = [d.pick(1, 2) for _ in spatial]
    if d.chance(0.2) and not transposed and "dilations" not in attrs:  # ONNX Runtime takes them for 1 there
        attrs["auto_pad"] = d.pick("SAME_UPPER", "SAME_LOWER", "VALID")
    elif d.chance(0.7):
        attrs["pads"] = [d.pick(*range(k)) for k in kernel * 2]
    pads = attrs.get("pads", [0] * 2 * len(kernel))
    for axis, (extent, k) in enumerate(zip(spatial, kernel)):
        reach = (k - 1) * attrs.get("dilations", [1] * len(kernel))[axis] + 1
        if "auto_pad" not in attrs and reach > extent + pads[axis] + pads[axis + len(kernel)] and not transposed:
            raise Rejected("a window larger than the image")
        if attrs.get("auto_pad") == "VALID" and reach > extent:
            raise Rejected("a window larger than the image")
    return attrs


def image(d: Draft) -> str:
    """A value with a batch, channels and one to three axes of space, else a new input."""
    if d.chance(0.75):
        try:
            return d.find(
                lambda a: str(a.dtype) in ("float32", "float64", "float16") and 3 <= a.ndim <= 5 and a.size > 0
            )
        except Rejected:
            pass
    space = d.pick(1, 2, 2, 2, 2, 3)
    sides = [d.pick(*((4, 5, 7, 8, 9, 16, 17) if space < 3 else (3, 4, 5))) for _ in range(space)]
    return d.input([d.pick(1, 1, 2), d.pick(1, 2, 3, 4, 8, 16, 17), *sides], "float32")


def conv(d: Draft) -> None:
    """In one to three dimensions, in groups or depthwise, followed by an activation at times."""
    x = image(d)
    shape, dtype = d.dims(x), d.dtype(x)
    channels = shape[1]
    groups = d.pick(1, 1, 1, channels, *(g for g in range(1, channels + 1) if channels % g == 0))
    out = groups * d.pick(1, 1, 2, 3, *((8, 16) if groups == 1 else ()))
    attrs = _window(d, shape[2:])
    bias = d.weight([out], dtype) if d.chance(0.6) else None
    y = d.one(
        "Conv", x, d.weight([out, channels // groups, *attrs["kernel_shape"]], dtype), bias, group=groups, **attrs
    )
    if d.chance(0.3):
        d.one(d.pick("Relu", "HardSwish", "Sigmoid", "Tanh"), y)
    elif d.chance(0.3):
        moments = [d.constant(abs(d.rng.standard_normal(out)) + 0.3, dtype) for _ in range(4)]
        d.one("BatchNormalization", y, *moments)


def conv_transpose(d: Draft) -> None:
    """In groups, with strides and padding of the output."""
    x = image(d)
    shape, dtype = d.dims(x), d.dtype(x)
    groups = d.pick(1, 1, *(g for g in range(1, shape[1] + 1) if shape[1] % g == 0))
    out = d.pick(1, 2, 3)
    attrs = _window(d, shape[2:], transposed=True)
    if "strides" in attrs and d.chance(0.4):
        attrs["output_padding"] = [d.pick(*range(s)) for s in attrs["strides"]]
    bias = d.weight([out * groups], dtype) if d.chance(0.5) else None
    d.one("ConvTranspose", x, d.weight([shape[1], out, *attrs["kernel_shape"]], dtype), bias, group=groups, **attrs)


def pool(d: Draft) -> None:
    """Over windows or everything."""
    x = image(d)
    if d.chance(0.3):
        d.one(d.pick("GlobalAveragePool", "GlobalMaxPool"), x)
        return
    op = d.pick("MaxPool", "AveragePool", "LpPool")
    attrs = _window(d, d.dims(x)[2:])
    if op == "AveragePool":
        attrs["count_include_pad"] = d.pick(0, 1)
    if op == "LpPool":
        attrs["p"] = d.pick(1, 2, 3)
        attrs.pop("dilations", None)
    elif d.chance(0.3):
        attrs["ceil_mode"] = 1
    if op == "MaxPool" and d.chance(0.2):
        d.many(op, [x], 2, **attrs)
    else:
        d.one(op, x, **attrs)


def reduce(d: Draft) -> None:
    """Over some axes, all of them or none."""
    x = d.any_of("f" if d.chance(0.8) else "iu")
    rank = len(d.dims(x))
    axes = None
    if rank and d.chance(0.8):
        chosen = [i for i in range(rank) if d.chance(0.5)] or [rank - 1]
        axes = d.ints(*(i - rank if d.chance(0.3) else i for i in chosen))
    attrs = {"noop_with_empty_axes": 1} if axes is None and d.chance(0.2) else {}
    d.one(d.pick(*REDUCTIONS), x, axes, keepdims=d.pick(0, 1), **attrs)


def softmax(d: Draft) -> None:
    """Softmax, its logarithm, or the place of the greatest."""
    x = d.any_of("f", 1)
    d.one(d.pick("Softmax", "Softmax", "LogSoftmax", "Hardmax"), x, axis=d.pick(-1, *range(len(d.dims(x)))))


def normalise(d: Draft) -> None:
    """By layer, by root mean square, by channel, by instance or by group of channels."""
    x = d.any_of("f", 2)
    shape, dtype = d.dims(x), d.dtype(x)
    kind = d.pick("LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization", "BatchNormalization",
                  "LRN", "LpNormalization", "MeanVarianceNormalization")  # fmt: skip
    if kind in ("LayerNormalization", "RMSNormalization"):
        axis = d.pick(-1, *range(1, len(shape)))
        scale = [d.weight(shape[axis:], dtype)]
        bias = [d.weight(shape[axis:], dtype)] if kind[0] == "L" and d.chance(0.6) else []
        d.one(kind, x, *scale, *bias, axis=axis)
    elif kind == "LpNormalization":
        d.one(kind, x, axis=d.pick(-1, 0), p=d.pick(1, 2))
    elif kind == "MeanVarianceNormalization":
        d.one(kind, x, axes=[i for i in range(len(shape)) if i != 1])
    elif kind == "LRN":
        d.one(kind, x, size=d.pick(1, 3, 5))
    else:
        channels = shape[1]
        scale_and_bias = [d.weight([channels], dtype) for _ in range(2)]
        if kind == "BatchNormalization":
            d.one(
                kind, x, *scale_and_bias, d.weight([channels], dtype), d.constant(d.rng.random(channels) + 0.1, dtype)
            )
        elif kind == "GroupNormalization":
            groups = d.pick(*(g for g in range(1, channels + 1) if channels % g == 0))
            d.one(kind, x, *scale_and_bias, num_groups=groups)
        else:
            d.one(kind, x, *scale_and_bias)


def einsum(d: Draft) -> None:
    """Products, traces of letters, transposes, with a dimension shared."""
    x = d.any_of("f", 2, 3)
    shape, dtype = d.dims(x), d.dtype(x)
    if len(shape) == 2:
        equation = d.pick("ij->ji", "ij->i", "ij->", "ij,jk->ik", "ij,ij->i", "ij,kj->ki", "ij,ij->ij")
    else:
        equation = d.pick(
            "bij->bji", "bij->b", "bij,bjk->bik", "bij,bij->b", "bij,jk->bik", "bij,bkj->bik", "...ij->...ji"
        )
    sizes = dict(zip("bij" if len(shape) == 3 else "ij", shape)) | {"k": d.pick(1, 3, 8)}
    operands = equation.split("->")[0].split(",")
    others = [d.weight([sizes[c] for c in term], dtype) for term in operands[1:]]
    d.one("Einsum", x, *others, equation=equation)


STEPS = (matmul, matmul, gemm, conv, conv, conv, conv_transpose, pool, pool, reduce, reduce, reduce, softmax, normalise, normalise,
         einsum)  # fmt: skip
