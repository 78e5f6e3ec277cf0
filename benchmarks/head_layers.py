"""Layers that detectors, video, speech and language models have and image classifiers don't: a model and inputs of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Feed = dict[str, NDArray[Any]]
Make = Callable[[np.random.Generator], tuple[onnx.ModelProto, Feed]]


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        name: of the case.
        make: the model and its inputs, of seeded random numbers.
    """

    name: str
    make: Make


def one_node(
    op: str,
    feed: Mapping[str, NDArray[Any]],
    weights: Mapping[str, NDArray[Any]] | None = None,
    *,
    order: Sequence[str] | None = None,
    results: int = 1,
    result_type: int = TensorProto.FLOAT,
    **attributes: object,
) -> tuple[onnx.ModelProto, Feed]:
    """A model of a single node whose operands are the feed's, then the weights', unless ``order`` names them."""
    constants = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    outputs = [f"y{i}" for i in range(results)]
    node = helper.make_node(op, list(order or [*feed, *(weights or {})]), outputs, name="tested", **attributes)
    types = [result_type, TensorProto.INT64]
    graph = helper.make_graph(
        [node],
        "layer",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feed.items()
        ],
        [helper.make_tensor_value_info(name, types[i], None) for i, name in enumerate(outputs)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model), dict(feed)


def normal(rng: np.random.Generator, *shape: int) -> NDArray[Any]:
    """Standard normal float32 numbers."""
    return rng.standard_normal(shape, np.float32)


def roi_align(
    rois: int,
    channels: int,
    size: tuple[int, int],
    pooled: int,
    batch: int = 1,
    scale: float = 0.25,
    **attributes: object,
) -> Make:
    """Regions of 16 to 300 pixels of an image that is ``size / scale`` large."""

    def make(rng: np.random.Generator) -> tuple[onnx.ModelProto, Feed]:
        high = np.array([size[1], size[0]]) / scale
        corner = rng.uniform(0, 0.9, (rois, 2)) * high
        extent = np.exp(rng.uniform(np.log(16), np.log(300), (rois, 2)))
        boxes = np.concatenate([corner, np.minimum(corner + extent, high)], 1).astype(np.float32)
        feed = {"x": normal(rng, batch, channels, *size), "rois": boxes, "batches": rng.integers(0, batch, rois)}
        return one_node("RoiAlign", feed, output_height=pooled, output_width=pooled, spatial_scale=scale, **attributes)

    return make


def grid_sample(channels: int, source: Sequence[int], target: Sequence[int], **attributes: object) -> Make:
    """A smooth warp with some noise; a few positions lie outside."""

    def make(rng: np.random.Generator) -> tuple[onnx.ModelProto, Feed]:
        axes = np.meshgrid(*(np.linspace(-1.02, 1.02, n) for n in target), indexing="ij")
        grid = np.stack(axes[::-1], -1) + rng.normal(0, 0.01, (*target, len(target)))
        feed = {"x": normal(rng, 1, channels, *source), "grid": grid[None].astype(np.float32)}
        return one_node("GridSample", feed, **attributes)

    return make


def suppression(boxes: int, classes: int, score: float, most: int) -> Make:
    """Boxes in clusters, as detectors propose them; ``score`` is the part of the scores above the threshold."""

    def make(rng: np.random.Generator) -> tuple[onnx.ModelProto, Feed]:
        objects = rng.uniform(0, 600, (max(boxes // 20, 1), 2))
        center = objects[rng.integers(0, len(objects), boxes)] + rng.normal(0, 8, (boxes, 2))
        extent = rng.uniform(20, 120, (boxes, 2))
        corners = np.concatenate([center - extent / 2, center + extent / 2], 1)[None].astype(np.float32)
        feed = {"boxes": corners, "scores": rng.uniform(0, 1, (1, classes, boxes)).astype(np.float32)}
        limits = {
            "most": np.array([most], np.int64),
            "overlap": np.array([0.5], np.float32),
            "least": np.array([1 - score], np.float32),
        }
        return one_node("NonMaxSuppression", feed, limits, result_type=TensorProto.INT64)

    return make


def top_k(shape: Sequence[int], k: int, axis: int = -1) -> Make:
    """Largest first."""
    return lambda rng: one_node(
        "TopK", {"x": normal(rng, *shape)}, {"k": np.array([k], np.int64)}, results=2, axis=axis
    )


def gather(rows: int, width: int, count: int) -> Make:
    """Rows of a table by number."""
    return lambda rng: one_node(
        "Gather", {"x": normal(rng, rows, width), "index": rng.integers(0, rows, count)}, axis=0
    )


def gather_nd(shape: Sequence[int], depth: int, count: int) -> Make:
    """What is behind the first axes, by number."""

    def make(rng: np.random.Generator) -> tuple[onnx.ModelProto, Feed]:
        index = np.stack([rng.integers(0, n, count) for n in shape[:depth]], -1)
        return one_node("GatherND", {"x": normal(rng, *shape), "index": index})

    return make


def gather_elements(shape: Sequence[int], count: int, axis: int) -> Make:
    """One element each; whole rows of them where the axis isn't the last."""

    def make(rng: np.random.Generator) -> tuple[onnx.ModelProto, Feed]:
        index = rng.integers(0, shape[axis], [count if a == axis else n for a, n in enumerate(shape)])
        return one_node("GatherElements", {"x": normal(rng, *shape), "index": index}, axis=axis)

    return make


def scatter_nd(rows: int, width: int, count: int) -> Make:
    """Rows of a table written by number."""

    def make(rng: np.random.Generator) -> tuple[onnx.ModelProto, Feed]:
        index = rng.permutation(rows)[:count, None].astype(np.int64)
        return one_node("ScatterND", {"x": normal(rng, rows, width), "index": index, "new": normal(rng, count, width)})

    return make


def conv(
    channels: int,
    filters: int,
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    group: int = 1,
) -> Make:
    """A convolution over as many axes as ``size`` has, padded to keep their extents unless told."""
    around = [k // 2 for k in kernel] if pads is None else list(pads)

    def make(rng: np.random.Generator) -> tuple[onnx.ModelProto, Feed]:
        weights = {"w": normal(rng, filters, channels // group, *kernel) / 16, "b": normal(rng, filters)}
        return one_node(
            "Conv",
            {"x": normal(rng, 1, channels, *size)},
            weights,
            kernel_shape=list(kernel),
            strides=list(strides or [1] * len(size)),
            pads=around * 2,
            group=group,
        )

    return make


def gemm(m: int, k: int, n: int) -> Make:
    """A product with a constant weight."""
    return lambda rng: one_node("Gemm", {"x": normal(rng, m, k)}, {"w": normal(rng, k, n) / 16, "b": normal(rng, n)})


LAYERS = (
    Layer("RoiAlign 1000x256x7x7, 2 samples", roi_align(1000, 256, (100, 136), 7, sampling_ratio=2)),
    Layer("RoiAlign 1000x256x7x7, samples by size", roi_align(1000, 256, (100, 136), 7, sampling_ratio=0)),
    Layer("RoiAlign 100x256x14x14, 2 samples", roi_align(100, 256, (200, 272), 14, sampling_ratio=2)),
    Layer("RoiAlign 100x256x14x14, max, 2 images", roi_align(100, 256, (100, 136), 14, 2, sampling_ratio=2, mode="max")),
    Layer("GridSample 64x128x128 linear", grid_sample(64, (128, 128), (128, 128), mode="linear")),
    Layer("GridSample 64x128x128 linear, border", grid_sample(64, (128, 128), (128, 128), padding_mode="border")),
    Layer("GridSample 64x128x128 cubic", grid_sample(64, (128, 128), (128, 128), mode="cubic")),
    Layer("GridSample 64x128x128 mirror", grid_sample(64, (128, 128), (128, 128), mode="nearest", padding_mode="reflection")),
    Layer("GridSample 3x512x512 linear", grid_sample(3, (512, 512), (512, 512), mode="linear", align_corners=1)),
    Layer("GridSample 16x32x32x32 linear", grid_sample(16, (32, 32, 32), (32, 32, 32), mode="linear")),
    Layer("NonMaxSuppression 5000 boxes", suppression(5000, 1, 1.0, 1000)),
    Layer("NonMaxSuppression 8400 boxes, 80 classes, 1% kept", suppression(8400, 80, 0.01, 300)),
    Layer("NonMaxSuppression 1000 boxes, 90 classes", suppression(1000, 90, 0.5, 100)),
    Layer("TopK 1000 of 160000", top_k((1, 160000), 1000)),
    Layer("TopK 300 of 8400", top_k((1, 8400), 300)),
    Layer("TopK 1 of 1000, 512 rows", top_k((512, 1000), 1)),
    Layer("TopK 50 of 50257, 8 rows", top_k((8, 50257), 50)),
    Layer("TopK 5 of 80, axis 1 of 8x80x400", top_k((8, 80, 400), 5, 1)),
    Layer("TopK 4096 of 8192", top_k((1, 8192), 4096)),
    Layer("Gather 512 rows of 768", gather(30522, 768, 512)),
    Layer("Gather 20000 rows of 4", gather(160000, 4, 20000)),
    Layer("GatherND 1000 rows of 256", gather_nd((100, 136, 256), 2, 1000)),
    Layer("GatherElements 1000 of 8400x80, axis 0", gather_elements((8400, 80), 1000, 0)),
    Layer("GatherElements 300 of 1000, 256 rows", gather_elements((256, 1000), 300, 1)),
    Layer("ScatterND 1000 rows of 256 into 4000", scatter_nd(4000, 256, 1000)),
    Layer("Conv3D 3x7x7, 3 to 64, stride 2, 16x112x112", conv(3, 64, (16, 112, 112), (3, 7, 7), (1, 2, 2))),
    Layer("Conv3D 3x3x3, 64 to 64, 16x56x56", conv(64, 64, (16, 56, 56), (3, 3, 3))),
    Layer("Conv3D 3x3x3, 64 to 128, stride 2, 16x56x56", conv(64, 128, (16, 56, 56), (3, 3, 3), (2, 2, 2))),
    Layer("Conv3D 3x3x3, 256 to 256, 4x14x14", conv(256, 256, (4, 14, 14), (3, 3, 3))),
    Layer("Conv3D 1x3x3, 64 to 144, 16x56x56", conv(64, 144, (16, 56, 56), (1, 3, 3))),
    Layer("Conv3D 3x1x1, 144 to 64, 16x56x56", conv(144, 64, (16, 56, 56), (3, 1, 1))),
    Layer("Conv1D 10, 1 to 512, stride 5, 16000", conv(1, 512, (16000,), (10,), (5,), [0])),
    Layer("Conv1D 3, 512 to 512, stride 2, 3199", conv(512, 512, (3199,), (3,), (2,), [0])),
    Layer("Conv1D 2, 512 to 512, stride 2, 199", conv(512, 512, (199,), (2,), (2,), [0])),
    Layer("Conv1D 128 in 16 groups, 768, 49", conv(768, 768, (49,), (128,), group=16)),
    Layer("Conv1D 3, 80 to 384, 3000", conv(80, 384, (3000,), (3,))),
    Layer("Conv1D 3, 384 to 384, stride 2, 3000", conv(384, 384, (3000,), (3,), (2,))),
    Layer("Conv1D 31, depthwise, 256, 400", conv(256, 256, (400,), (31,), group=256)),
    Layer("Gemm 1x9216x4096", gemm(1, 9216, 4096)),
    Layer("Gemm 1x4096x4096", gemm(1, 4096, 4096)),
    Layer("Gemm 50x384x1536", gemm(50, 384, 1536)),
    Layer("Gemm 197x384x384", gemm(197, 384, 384)),
    Layer("Gemm 197x1536x384", gemm(197, 1536, 384)),
)  # fmt: skip
"""What is measured, with sizes of models that are in use."""
