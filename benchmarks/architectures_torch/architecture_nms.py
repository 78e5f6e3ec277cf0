"""Torchvision's compiled operators, where they don't load: beside a torch without CUDA, for instance.

Exporters only trace through them, so that plain Python serves. To be imported before torchvision.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def non_maximum_suppression(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices of the boxes that are kept, by falling score; a box goes when it overlaps one that is kept too much."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = scores.argsort(descending=True)
    kept = []
    while left.numel():
        best, left = left[0], left[1:]
        kept.append(best)
        low = torch.maximum(boxes[best, :2], boxes[left, :2])
        high = torch.minimum(boxes[best, 2:], boxes[left, 2:])
        common = (high - low).clamp(min=0).prod(1)
        left = left[common / (area[best] + area[left] - common) <= threshold]
    return torch.stack(kept) if kept else torch.empty(0, dtype=torch.int64)


def _loads() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    for library in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            return False
    return True


if not _loads():
    for _name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{_name}", _SIGNATURE)
    torch.library.impl("torchvision::nms", "cpu", non_maximum_suppression)
    import torchvision.extension

    def _has_ops() -> bool:
        return True

    torchvision.extension._has_ops = (
        _has_ops  # its own functions ask before they call an operator, and are compiled as text
    )
