"""Steps that move elements: views, joins, slices, indices, and arithmetic on shapes."""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper

from tests.random_graphs.draft import Draft, Rejected


def _factors(d: Draft, size: int) -> list[int]:
    shape = []
    while size > 1 and len(shape) < 3 and d.chance(0.7):
        factor = d.pick(*(f for f in range(1, min(size, 64) + 1) if size % f == 0))
        shape.append(factor)
        size //= factor
    shape.append(size)
    d.rng.shuffle(shape)
    return shape


def reshape(d: Draft) -> None:
    """Into other factors, with -1, with 0 for an axis that stays."""
    x = d.any_of("fiub")
    shape = _factors(d, int(d.values[x].size))
    if 0 not in shape and d.chance(0.4):
        shape[d.pick(*range(len(shape)))] = -1
    d.one("Reshape", x, d.ints(*shape))


def reshape_by_shape(d: Draft) -> None:
    """Into a shape put together from parts of another one, as exporters do."""
    x = d.any_of("fiub", 2)
    dims = d.one("Shape", x)
    first = d.one("Gather", dims, d.constant(0, "int64") if d.chance(0.5) else d.ints(0), axis=0)
    if d.values[first].ndim == 0:
        first = d.one("Unsqueeze", first, d.ints(0))
    rest = d.one("Slice", dims, d.ints(1), d.ints(d.pick(2, 2**31)))
    parts = [first, rest] if d.chance(0.3) else [first, d.ints(-1)]
    d.one("Reshape", x, d.one("Concat", *parts, axis=0))


def transpose(d: Draft) -> None:
    """Into any order."""
    x = d.any_of("fiub", 1)
    d.one("Transpose", x, perm=[int(i) for i in d.rng.permutation(len(d.dims(x)))])


def squeeze(d: Draft) -> None:
    """Axes of 1 added or dropped, or everything flattened."""
    x = d.any_of("fiub")
    rank = len(d.dims(x))
    ones = [i for i, e in enumerate(d.dims(x)) if e == 1]
    if ones and d.chance(0.5):
        d.one("Squeeze", x, d.ints(*({d.pick(*ones), d.pick(*ones)})) if d.chance(0.8) else None)
    elif rank < 5 and d.chance(0.6):
        d.one("Unsqueeze", x, d.ints(d.pick(-1, *range(rank + 1))))
    else:
        d.one("Flatten", x, axis=d.pick(0, *range(-rank, rank + 1)))


def expand(d: Draft) -> None:
    """Axes stretched or repeated."""
    x = d.any_of("fiub")
    shape = d.dims(x)
    if d.chance(0.5):
        target = [e if e != 1 or d.chance(0.4) else d.pick(2, 3, 7) for e in shape]
        d.one("Expand", x, d.ints(*([d.pick(1, 2)] if d.chance(0.3) else []), *target))
    else:
        d.one("Tile", x, d.ints(*(d.pick(1, 1, 2, 3) for _ in shape)))


def concat(d: Draft) -> None:
    """Two or three, the same one twice at times."""
    x = d.any_of("fiub", 1)
    shape, dtype = d.dims(x), d.dtype(x)
    axis = d.pick(*range(len(shape)))
    others = []
    for _ in range(d.pick(1, 1, 2)):
        try:
            others.append(
                d.find(lambda a: str(a.dtype) == dtype and a.ndim == len(shape) and _equal_but(a.shape, shape, axis))
            )
        except Rejected:
            others.append(
                d.constant(d.data([d.pick(1, 3, 16) if i == axis else e for i, e in enumerate(shape)], dtype))
            )
    d.one("Concat", x, *others, axis=axis - (len(shape) if d.chance(0.3) else 0))


def _equal_but(a: tuple[int, ...], b: list[int], axis: int) -> bool:
    return all(m == n for i, (m, n) in enumerate(zip(a, b)) if i != axis)


def split(d: Draft) -> None:
    """Into equal parts or given ones, one empty at times."""
    x = d.any_of("fiub", 1)
    axis = d.pick(*range(len(d.dims(x))))
    extent = d.dims(x)[axis]
    if extent < 2 or d.chance(0.3):
        d.many("Split", [x], min(2, max(extent, 1)), axis=axis, num_outputs=min(2, max(extent, 1)))
        return
    cut = d.pick(0, 1, extent // 2, extent - 1)
    d.many("Split", [x, d.ints(cut, extent - cut)], 2, axis=axis)


def cut(d: Draft) -> None:
    """A slice, with steps of both signs and bounds beyond the ends."""
    x = d.any_of("fiub", 1)
    shape = d.dims(x)
    axes = [i for i in range(len(shape)) if d.chance(0.5)] or [d.pick(*range(len(shape)))]
    starts, ends, steps = [], [], []
    for axis in axes:
        step = d.pick(1, 1, 2, 3, -1, -1, -2)
        a, b = sorted((d.pick(*range(shape[axis] + 1)), d.pick(*range(shape[axis] + 1))))
        if d.chance(0.3):
            a, b = 0, 2**31
        starts.append(b if step < 0 else a - (shape[axis] if a and d.chance(0.3) else 0))
        ends.append((a - 1 if a else -(2**31)) if step < 0 else b)
        steps.append(step)
    d.one("Slice", x, d.ints(*starts), d.ints(*ends), d.ints(*axes), d.ints(*steps))


def pad(d: Draft) -> None:
    """In every mode, with negative widths too."""
    x = d.any_of("fiub", 1)
    rank = len(d.dims(x))
    mode = d.pick("constant", "constant", "reflect", "edge", "wrap")
    widths = [d.pick(0, 0, 1, 2, -1) for _ in range(2 * rank)]
    value = d.constant(d.pick(0, 1, 3), d.dtype(x)) if mode == "constant" and d.chance(0.6) else None
    d.one("Pad", x, d.ints(*widths), value, mode=mode)


def _index(d: Draft, shape: list[int], extent: int) -> str:
    if not extent:
        raise Rejected("nothing to index")
    array = np.asarray(d.rng.integers(-extent, extent, shape)).astype(d.pick("int64", "int64", "int32"))
    return d.constant(array) if d.chance(0.7) else d._define(f"x{len(d.inputs)}", array, d.inputs)


def gather(d: Draft) -> None:
    """By places along an axis, by element, or by tuples."""
    x = d.any_of("fiub", 1)
    shape = d.dims(x)
    axis = d.pick(*range(len(shape)))
    kind = d.pick("Gather", "Gather", "GatherElements", "GatherND")
    if kind == "Gather":
        d.one(kind, x, _index(d, d.pick([], [3], [2, 2], [1]), shape[axis]), axis=axis - d.pick(0, len(shape)))
    elif kind == "GatherElements":
        index = [d.pick(1, 2, 5) if i == axis else d.pick(e, max(e - 1, 0)) for i, e in enumerate(shape)]
        d.one(kind, x, _index(d, index, shape[axis]), axis=axis)
    else:
        depth = d.pick(*range(1, len(shape) + 1))
        if not all(shape[:depth]):
            raise Rejected("nothing to index")
        places = np.stack([d.rng.integers(-e, e, (4,)) for e in shape[:depth]], -1).astype("int64")
        d.one(kind, x, d.constant(places))


def scatter(d: Draft) -> None:
    """Into distinct places, or with a reduction into the same ones."""
    x = d.any_of("fiu", 1)
    shape, dtype = d.dims(x), d.dtype(x)
    reduction = d.pick("none", "none", "add", "mul", "min", "max")
    if d.chance(0.5):
        axis = d.pick(*range(len(shape)))
        if not all(shape):
            raise Rejected("nothing to index")
        count = d.pick(*range(1, shape[axis] + 1))
        size = [count if i == axis else e for i, e in enumerate(shape)]
        rows = np.argsort(d.rng.random(shape), axis)  # distinct along the axis
        index = np.take(rows, range(count), axis).astype("int64")
        d.one("ScatterElements", x, d.constant(index), d.weight(size, dtype), axis=axis, reduction=reduction)
        return
    if not all(shape):
        raise Rejected("nothing to index")
    chosen = d.rng.permutation(shape[0])[: d.pick(1, 2, shape[0])]
    places = chosen.reshape(-1, 1).astype("int64")
    d.one("ScatterND", x, d.constant(places), d.weight([len(chosen), *shape[1:]], dtype), reduction=reduction)


def order(d: Draft) -> None:
    """What is greatest, the first few of it, or running sums."""
    x = d.any_of("fiu", 1)
    shape = d.dims(x)
    axis = d.pick(-1, *range(len(shape)))
    kind = d.pick("ArgMax", "ArgMin", "TopK", "CumSum", "CumSum")
    if kind == "CumSum":
        where = d.constant(axis, d.pick("int64", "int32"))
        d.one(kind, x, where, exclusive=d.pick(0, 1), reverse=d.pick(0, 1))
    elif kind == "TopK":
        if not shape[axis]:
            raise Rejected("nothing to order")
        d.many(kind, [x, d.ints(d.pick(1, shape[axis], max(1, shape[axis] // 2)))], 2, axis=axis, largest=d.pick(0, 1))
    else:
        d.one(kind, x, axis=axis, keepdims=d.pick(0, 1), select_last_index=d.pick(0, 0, 1))


def one_hot(d: Draft) -> None:
    """Of small integers."""
    x = d.any_of("iu", 0, 3)
    values = d.constant([d.pick(0.0, -1.0), 1.0], d.pick("float32", "float32", "int64"))
    d.one("OneHot", x, d.constant(d.pick(3, 7, 16), "int64"), values, axis=d.pick(-1, 0))


def triangle(d: Draft) -> None:
    """One half of matrices."""
    x = d.any_of("fiub", 2)
    k = d.constant(d.pick(-1, 0, 1, 2), "int64") if d.chance(0.6) else None
    d.one("Trilu", x, k, upper=d.pick(0, 1))


def resize(d: Draft) -> None:
    """By scales or sizes, in all modes that go together."""
    x = d.find(lambda a: str(a.dtype) in ("float32", "uint8", "int8", "int32") and 3 <= a.ndim <= 4 and a.size > 0)
    shape = d.dims(x)
    mode = d.pick("nearest", "nearest", "linear", "cubic")
    if mode == "cubic" and len(shape) != 4:
        raise Rejected("cubic is for images")
    where = d.pick("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric")
    attrs = {"mode": mode, "coordinate_transformation_mode": where}
    if mode == "nearest":
        attrs["nearest_mode"] = d.pick("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    if d.chance(0.5):
        scales = [1.0, 1.0] + [d.pick(2.0, 0.5, 1.5, 1.0, 3.0) for _ in shape[2:]]
        d.one("Resize", x, None, d.constant(scales, "float32"), **attrs)
    else:
        d.one("Resize", x, None, None, d.ints(*shape[:2], *(d.pick(1, 2, 5, 8) for _ in shape[2:])), **attrs)


def blocks(d: Draft) -> None:
    """Channels into space and back."""
    x = d.any_of("f", 4, 4)
    shape = d.dims(x)
    if shape[1] % 4 == 0 and shape[1] and d.chance(0.6):
        d.one("DepthToSpace", x, blocksize=2, mode=d.pick("DCR", "CRD"))
    elif shape[2] % 2 == 0 and shape[3] % 2 == 0:
        d.one("SpaceToDepth", x, blocksize=2)
    else:
        raise Rejected("no blocks")


def from_shape(d: Draft) -> None:
    """New values as large as another one, or counting along it."""
    x = d.any_of("fiub", 1)
    dims = d.one("Shape", x)
    if d.chance(0.5):
        fill = numpy_helper.from_array(np.asarray([d.pick(0, 1, -1)], d.pick("float32", "int64", "int32")), "fill")
        d.one("ConstantOfShape", dims, value=fill)
        return
    last = d.one("Gather", dims, d.constant(-1, "int64"), axis=0)
    counted = d.one("Range", d.constant(d.pick(0, 1), "int64"), last, d.constant(d.pick(1, 1, 2), "int64"))
    if d.chance(0.5):
        d.one("Cast", counted, to=1)


def dependent(d: Draft) -> None:
    """Results whose extents depend on data."""
    kind = d.pick("NonZero", "Unique", "Compress")
    if kind == "NonZero":
        d.one(kind, d.any_of("fiub", 1))
    elif kind == "Unique":
        x = d.find(lambda a: str(a.dtype) in ("float32", "float64", "int64", "int8"))
        d.many(kind, [x], d.pick(1, 4), sorted=1)
    else:
        x = d.any_of("fiub", 1)
        axis = d.pick(*range(len(d.dims(x))))
        mask = d.rng.random(d.dims(x)[axis]) < 0.6
        name = d.constant(mask) if d.chance(0.5) else d._define(f"x{len(d.inputs)}", np.asarray(mask), d.inputs)
        d.one(kind, x, name, axis=axis)


STEPS = (reshape, reshape, reshape_by_shape, transpose, transpose, squeeze, squeeze, expand, concat, concat, split, cut, cut, pad,
         gather, gather, scatter, order, order, one_hot, triangle, resize, resize, blocks, from_shape, dependent)  # fmt: skip
