"""Resize: every mode, transform and rounding against ONNX's reference, with fixed and with symbolic shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.errors import InputError, ModelError, UnsupportedOpError
from tests.support.ort import run_ort
from tests.support.run_node import check, model_with, node, reference, run, same

TRANSFORMS = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]
ROUNDING = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
RNG = np.random.default_rng(3)


def _image(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def _scales(*values: float) -> Any:
    return np.array(values, np.float32)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_nearest(transform: str) -> None:
    nodes = [
        node("Resize", f"x _ s{k}", f"y{k}{n}", mode="nearest", coordinate_transformation_mode=transform, nearest_mode=r)
        for n, r in enumerate(ROUNDING) for k in range(2)
    ]  # fmt: skip
    # the shift of half_pixel_symmetric is rounded where the scaled extents are not whole, so that ties are decided by chance
    image = _image(1, 2, 4, 8) if transform == "half_pixel_symmetric" else _image(1, 2, 5, 7)
    check(nodes, {"x": image}, {"s0": _scales(1, 1, 2, 3), "s1": _scales(1, 1, 0.75, 1.5)})


@pytest.mark.parametrize(
    ("symbolic", "every"),
    [
        pytest.param(False, 1, id="fixed"),
        pytest.param(True, 5, id="symbolic"),  # each scale, way and rounding, not all together
        pytest.param(True, 1, id="all symbolic", marks=pytest.mark.slow),
    ],
)
def test_the_nearest_element_is_chosen_in_single_precision(symbolic: bool, every: int) -> None:
    """The float32 next to 1/3 is above it: ONNX's reference, in double precision, takes the element before every third one."""
    consts = {f"s{k}": _scales(1, 1, *s) for k, s in enumerate([(1 / 3, 0.6), (1.7, 0.3), (2.2, 0.9), (0.5, 1.1)])}
    feed = {"x": np.arange(9 * 10, dtype=np.float32).reshape(1, 1, 9, 10)}
    ways = [(s, t, r) for s in consts for t in ("half_pixel", "pytorch_half_pixel", "asymmetric") for r in ROUNDING]
    nodes = [
        node("Resize", f"x _ {s}", f"y{s}{t}{r}", mode="nearest", coordinate_transformation_mode=t, nearest_mode=r)
        for s, t, r in ways[::every]
    ]
    symmetric = {"coordinate_transformation_mode": "half_pixel_symmetric", "nearest_mode": "ceil"}
    nodes.append(node("Resize", "x _ s3", "symmetric", mode="nearest", **symmetric))
    model = model_with(nodes, feed, consts, symbolic=symbolic)
    for array, (name, got) in zip(run_ort(model, feed), run(model, feed, level=0).items()):
        same(name, got, array)


@pytest.mark.parametrize("symbolic", [False, True], ids=["fixed", "symbolic"])
def test_corners_are_aligned_in_single_precision(symbolic: bool) -> None:
    """0.6 of 5 and 1.7 times 10 are whole, where ONNX Runtime, which cuts the length, and ONNX agree on it."""
    nodes = [
        node("Resize", "x _ s", f"y{r}", mode="nearest", coordinate_transformation_mode="align_corners", nearest_mode=r)
        for r in ROUNDING
    ]
    feed = {"x": np.arange(50, dtype=np.float32).reshape(1, 1, 5, 10)}
    model = model_with(nodes, feed, {"s": _scales(1, 1, 0.6, 1.7)}, symbolic=symbolic)
    for array, (name, got) in zip(run_ort(model, feed), run(model, feed, level=0).items()):
        same(name, got, array)


def test_a_quotient_of_extents_that_is_rounded_is_one_element_all_the_same() -> None:
    # 1/49 * 49 is below 1 in double precision
    nodes = [
        node("Resize", "x _ _ z", f"y{t}", mode="linear", coordinate_transformation_mode=t)
        for t in ("align_corners", "pytorch_half_pixel")
    ]
    feed = {"x": np.arange(49, dtype=np.float32).reshape(1, 1, 1, 49)}
    model = model_with(nodes, feed, {"z": np.array([1, 1, 1, 1], np.int64)})
    assert [float(v.reshape(())) for v in run(model, feed).values()] == [0.0, 0.0]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_weighted(mode: str, transform: str) -> None:
    nodes = [
        node("Resize", f"x _ s{k}", f"y{k}{e}", mode=mode, coordinate_transformation_mode=transform, exclude_outside=e)
        for k in range(2) for e in (0, 1)
    ]  # fmt: skip
    nodes.append(node("Resize", "x _ _ z", "w", mode=mode, coordinate_transformation_mode=transform))
    consts = {"s0": _scales(1, 1, 2, 2.5), "s1": _scales(1, 1, 0.6, 0.3), "z": np.array([1, 2, 9, 4], np.int64)}
    check(nodes, {"x": _image(1, 2, 6, 7)}, consts, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_antialias(mode: str) -> None:
    nodes = [
        node("Resize", f"x _ s{k}", f"y{k}{e}", mode=mode, antialias=1, exclude_outside=e)
        for k in range(2)
        for e in (0, 1)
    ]
    check(
        nodes,
        {"x": _image(1, 1, 11, 9)},
        {"s0": _scales(1, 1, 0.37, 0.5), "s1": _scales(1, 1, 1.5, 0.6)},
        rtol=1e-4,
        atol=1e-5,
    )


def test_crop_and_resize() -> None:
    attrs = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0}
    nodes = [
        node("Resize", "x r _ z", "y", mode="linear", **attrs),
        node("Resize", "x q _ w", "v", mode="nearest", axes=[2, 3], **attrs),
    ]  # fmt: skip
    consts = {
        "r": _scales(0, 0, 0.4, -0.2, 1, 1, 0.6, 1.3), "z": np.array([1, 1, 3, 5], np.int64),
        "q": _scales(0.2, 0.1, 0.9, 1.4), "w": np.array([4, 6], np.int64),
    }  # fmt: skip
    check(nodes, {"x": _image(1, 1, 8, 7)}, consts)


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
def test_kept_aspect_ratio(policy: str) -> None:
    nodes = [node("Resize", "x _ _ z", "y", mode="nearest", axes=[2, 3], keep_aspect_ratio_policy=policy)]
    check(nodes, {"x": _image(1, 1, 4, 6)}, {"z": np.array([7, 8], np.int64)})


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.uint8, np.int32])
def test_element_types(dtype: Any) -> None:
    x = (RNG.integers(0, 64, (1, 2, 5, 4)) * 4).astype(dtype)
    nodes = [node("Resize", "x _ s", "y", mode="linear"), node("Resize", "x _ s", "z", mode="nearest")]
    check(nodes, {"x": x}, {"s": _scales(1, 1, 2, 2)})


def test_symbolic_shapes_run_at_several_sizes() -> None:
    nodes = [
        node("Resize", "x _ a", "up", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        node("Resize", "x _ a", "half", mode="nearest"), node("Resize", "x _ a", "lin", mode="linear"),
        node("Resize", "x _ a", "cub", mode="cubic", exclude_outside=1), node("Resize", "x _ b", "odd", mode="linear"),
        node("Resize", "x _ a", "align", mode="linear", coordinate_transformation_mode="align_corners"),
    ]  # fmt: skip
    consts = {"a": _scales(1, 1, 2, 3), "b": _scales(1, 1, 1.7, 0.6)}
    from graphopt.driver.compiling import compile

    model = model_with(nodes, {"x": _image(2, 3, 7, 5)}, consts, symbolic=True)
    compiled = compile(model, "x86", threads=2)
    for shape in ((2, 3, 7, 5), (1, 3, 1, 33), (1, 3, 16, 9)):
        x = {"x": _image(*shape)}
        got, want = compiled.run(x), reference(model, x)
        for name, array in want.items():
            same(f"{name} {shape}", got[name], array, 1e-4, 1e-5)


def test_scales_sizes_and_regions_given_at_run_time() -> None:
    nodes = [
        node("Resize", "x _ s", "y", mode="linear"), node("Resize", "x _ _ z", "w", mode="cubic"),
        node("Resize", "x r s", "v", mode="linear", coordinate_transformation_mode="tf_crop_and_resize"),
        node("Resize", "x _ _ z", "k", mode="nearest", keep_aspect_ratio_policy="not_larger"),
    ]  # fmt: skip
    feed = {
        "x": _image(1, 2, 5, 7), "s": _scales(1, 1, 1.5, 0.7), "z": np.array([1, 2, 9, 3], np.int64),
        "r": _scales(0, 0, 0.1, 0.2, 1, 1, 0.8, 1.2),
    }  # fmt: skip
    for n in nodes:
        used = {k: v for k, v in feed.items() if k in n.input}
        model = model_with([n], used, like={o: np.zeros((1, 1, 1, 1), np.float32) for o in n.output})
        del model.graph.output[0].type.tensor_type.shape.dim[:]
        for axis in range(4):
            model.graph.output[0].type.tensor_type.shape.dim.add().dim_param = f"o{axis}"
        got, want = run(model, used), reference(model, used)
        same(n.output[0], got[n.output[0]], want[n.output[0]], 1e-4, 1e-5)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_axes_that_shrink_to_one_or_grow_from_one(transform: str) -> None:
    # what is read along an axis of length 1 afterwards looks like a copy with repeats, but the axis is longer
    nodes, consts = [], {}
    for k, (data, *scales) in enumerate(
        (("x", 0.25, 0.25), ("x", 0.25, 1), ("x", 1, 0.25), ("x", 0.25, 2), ("e", 3, 2))
    ):
        consts[f"s{k}"] = _scales(1, 1, *scales)
        consts[f"z{k}"] = np.array([2, 3, *(int((4 if data == "x" else 1) * s) for s in scales)], np.int64)
        for bounds in (f"_ s{k}", f"_ _ z{k}"):
            for mode, rounding in [("nearest", r) for r in ROUNDING] + [("linear", "floor"), ("cubic", "floor")]:
                attrs = {"mode": mode, "coordinate_transformation_mode": transform, "nearest_mode": rounding}
                nodes.append(node("Resize", f"{data} {bounds}", f"y{len(nodes)}", **attrs))
    check(nodes, {"x": _image(2, 3, 4, 4), "e": _image(2, 3, 1, 1)}, consts, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "dtype", "attrs"), [
    ("scales", TensorProto.FLOAT, {}), ("sizes", TensorProto.INT64, {}),
    ("roi", TensorProto.FLOAT, {"coordinate_transformation_mode": "tf_crop_and_resize"}),
])  # fmt: skip
@pytest.mark.parametrize("length", [1, "K"])
def test_lists_of_another_length_than_the_axes(name: str, dtype: int, attrs: dict[str, str], length: int | str) -> None:
    """Else elements beyond the list would be read."""
    operands = {"roi": "roi" if name == "roi" else "", "scales": "" if name == "sizes" else "scales"}
    operands |= {"sizes": "sizes"} if name == "sizes" else {}
    infos = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3]),
        helper.make_tensor_value_info(name, dtype, [length]),
    ]
    constants = [numpy_helper.from_array(_scales(1, 2), "scales")] if name == "roi" else []
    nodes = [helper.make_node("Resize", ["x", *operands.values()], ["y"], name="resize_3", **attrs)]
    graph = helper.make_graph(nodes, "g", infos, [helper.make_empty_tensor_value_info("y")], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    if length == 1:
        with pytest.raises(ModelError, match=r"for each axis of Resize[\s\S]*resize_3"):
            graphopt.import_onnx(model)
        return
    if name == "sizes":  # they are extents of the result, so their number has to be known
        with pytest.raises(UnsupportedOpError, match=r"unknown length[\s\S]*resize_3"):
            graphopt.import_onnx(model)
        return
    compiled = graphopt.compile(model, level=0, threads=1, jobs=1)
    short = np.ones(1, helper.tensor_dtype_to_np_dtype(dtype))
    with pytest.raises(InputError, match=r"K = 1[\s\S]*for each axis of Resize"):
        compiled.run({"x": _image(2, 3), name: short})
