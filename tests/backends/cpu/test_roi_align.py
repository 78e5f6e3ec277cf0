"""RoiAlign as a template against float64 loops over samples, which know nothing of weights that are joined."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import graphopt
from tests.support.tolerance import assert_close

Array = np.ndarray
REGIONS = np.array(
    [[1.5, 2.5, 9, 12], [0, 0, 6, 5], [-4, -4, 1, 1], [3.2, 1.1, 3.9, 1.3], [0, 0, 31, 27], [20, 5, 60, 9], [6, 6, 2, 3],
     [-9, -9, -5, -5]],
    np.float32,
)  # fmt: skip
"""Inside, at the borders, smaller than a pixel, all of the image, beyond it, backwards, outside."""
IMAGES = np.array([1, 0, 1, 1, 0, 0, 1, 0])


def expected(
    x: Array, rois: Array, images: Array, bins: tuple[int, int], samples: int, scale: float, half: bool, mode: str
) -> Array:
    """ONNX's definition; the maximum is over the four weighted pixels of every sample, as its reference has it."""
    out = np.zeros((len(rois), x.shape[1], *bins))
    for r, (roi, image) in enumerate(zip(rois.astype(np.float64), images)):
        corner = roi * scale - (0.5 if half else 0.0)
        sizes = [corner[3] - corner[1], corner[2] - corner[0]]
        steps = [(s if half else max(s, 1.0)) / b for s, b in zip(sizes, bins)]
        counts = [samples or max(math.ceil(s), 0) for s in steps]
        for p in np.ndindex(*bins):
            found = [np.zeros(x.shape[1])] * 0
            for i in np.ndindex(*counts):
                at = [corner[1 - a] + (p[a] + (i[a] + 0.5) / counts[a]) * steps[a] for a in (0, 1)]
                found += sample(x[image], at)
            if found:
                joined = np.max(found, 0) if mode == "max" else np.sum(found, 0) / max(math.prod(counts), 1)
                out[(r, slice(None), *p)] = joined
    return out


def sample(image: Array, at: list[float]) -> list[Array]:
    """The four weighted pixels of one sample."""
    extents = image.shape[1:]
    if any(a < -1 or a > n for a, n in zip(at, extents)):
        return [np.zeros(image.shape[0])]
    near = [min(max(a, 0), n - 1) for a, n in zip(at, extents)]
    low = [math.floor(a) for a in near]
    out = []
    for dy in (0, 1):
        for dx in (0, 1):
            y, q = min(low[0] + dy, extents[0] - 1), min(low[1] + dx, extents[1] - 1)
            weight = abs(1 - dy - (near[0] - low[0])) * abs(1 - dx - (near[1] - low[1]))
            out.append(image[:, y, q].astype(np.float64) * weight)
    return out


def roi_model(shape: tuple[Any, ...], rois: Any, attrs: dict[str, Any], conv: Array | None = None) -> ModelProto:
    """RoiAlign of an input, or of a convolution of it."""
    nodes = [
        helper.make_node("RoiAlign", ["f" if conv is not None else "x", "rois", "images"], ["y"], name="heads", **attrs)
    ]
    if conv is not None:
        nodes.insert(0, helper.make_node("Conv", ["x", "w"], ["f"], kernel_shape=[3, 3], pads=[1] * 4))
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("rois", TensorProto.FLOAT, (rois, 4)),
            helper.make_tensor_value_info("images", TensorProto.INT64, (rois,)),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [] if conv is None else [numpy_helper.from_array(conv, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def data(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def compiled(model: ModelProto, target: str = "native") -> graphopt.CompiledModel:
    return graphopt.compile(model.SerializeToString(), target, threads=2)


def templates(model: graphopt.CompiledModel) -> list[str]:
    assert model.program is not None
    return [kernel.template for kernel in model.program.kernels if kernel.template != "dims"]


CASES = [
    # mode, samples, half pixel, bins, channels
    ("avg", 2, True, (7, 7), 24),
    ("avg", 0, True, (3, 4), 64),
    ("avg", 1, False, (2, 5), 12),
    ("avg", 0, False, (1, 1), 16),
    ("max", 2, True, (4, 3), 20),
    ("max", 0, False, (2, 2), 128),
]


@pytest.mark.parametrize(("mode", "samples", "half", "bins", "channels"), CASES)
def test_bins_are_those_of_single_samples(
    mode: str, samples: int, half: bool, bins: tuple[int, int], channels: int
) -> None:
    x = data((2, channels, 13, 17))
    attrs = {
        "mode": mode, "sampling_ratio": samples, "output_height": bins[0], "output_width": bins[1], "spatial_scale": 0.7,
        "coordinate_transformation_mode": "half_pixel" if half else "output_half_pixel",
    }  # fmt: skip
    # the last of these sizes are unknown, so that a kernel reads them off its operands
    unknown = ("n", channels, "h", "w"), "r"
    shape, rois = unknown if samples == 0 else (x.shape, len(REGIONS))
    model = compiled(roi_model(shape, rois, attrs))
    assert "roi-align" in templates(model)
    got = model.run({"x": x, "rois": REGIONS, "images": IMAGES})["y"]
    want = expected(x, REGIONS, IMAGES, bins, samples, 0.7, half, mode).astype(np.float32)
    # positions are float32: 1e-6 of a pixel off, between pixels that differ by up to 6
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-5)


def test_it_reads_the_blocks_of_a_convolution() -> None:
    x, w = data((2, 8, 11, 13)), data((32, 8, 3, 3))
    attrs = {"sampling_ratio": 2, "output_height": 3, "output_width": 3}
    model = compiled(roi_model(x.shape, len(REGIONS), attrs, w))
    assert templates(model) == ["conv2d-direct", "roi-align"]
    got = model.run({"x": x, "rois": REGIONS, "images": IMAGES})["y"]
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    features = np.einsum("nchwyx,ocyx->nohw", windows, w.astype(np.float64))
    want = expected(features, REGIONS, IMAGES, (3, 3), 2, 1.0, True, "avg").astype(np.float32)
    assert_close(got, want, reduction=8 * 9, depth=3)


def test_a_region_of_an_image_that_is_not_there() -> None:
    attrs = {"sampling_ratio": 2, "output_height": 2, "output_width": 2}
    model = compiled(roi_model((2, 8, 5, 5), 2, attrs))
    feed = {"x": data((2, 8, 5, 5)), "rois": REGIONS[:2], "images": np.array([0, 2])}
    with pytest.raises(graphopt.InputError, match=r"batch index out of range: images = 2[^$]*heads"):
        model.run(feed)


def test_regions_that_are_no_numbers_touch_nothing_outside() -> None:
    attrs = {"sampling_ratio": 0, "output_height": 2, "output_width": 2}
    model = compiled(roi_model((1, 8, 5, 5), 3, attrs))
    rois = np.array([[np.nan] * 4, [0, 0, np.nan, 4], [-np.inf, 0, 3, 3]], np.float32)
    got = model.run({"x": np.ones((1, 8, 5, 5), np.float32), "rois": rois, "images": np.zeros(3, np.int64)})["y"]
    assert got.shape == (3, 8, 2, 2)
    assert (np.isnan(got) | (np.abs(got) <= 1)).all()
