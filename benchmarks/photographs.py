"""Real photographs and scanned text as inputs of the zoo's models: those that come with scikit-image and scikit-learn.

Only their files are read; ``pip install --no-deps scikit-image scikit-learn`` brings them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from graphopt.models import zoo
from graphopt.models.signals import CAFFE_BGR_MEAN, IMAGENET_MEAN, IMAGENET_STD

Feed = dict[str, np.ndarray[Any, Any]]
Box = tuple[int, int, int, int]

PHOTOGRAPHS = (
    ("skimage", "data/astronaut.png"), ("sklearn", "datasets/images/china.jpg"), ("sklearn", "datasets/images/flower.jpg"),
    ("skimage", "data/chelsea.png"), ("skimage", "data/coffee.png"), ("skimage", "data/rocket.jpg"),
    ("skimage", "data/motorcycle_left.png"), ("skimage", "data/retina.jpg"),
)  # fmt: skip
_PAGE, _HAND = ("skimage", "data/page.png"), ("skimage", "data/text.png")
PAGES = (_PAGE, _HAND, PHOTOGRAPHS[1], PHOTOGRAPHS[6])
"""For a detector of text: a printed page, handwriting, and two photographs with little or no text."""
LINES: tuple[tuple[tuple[str, str], Box], ...] = (
    (_PAGE, (0, 10, 384, 34)), (_PAGE, (0, 60, 384, 84)), (_PAGE, (0, 120, 384, 144)),
    (_HAND, (0, 10, 448, 60)), (_HAND, (0, 70, 448, 120)), (_HAND, (0, 120, 448, 170)),
)  # fmt: skip
"""For readers of lines: parts of the two, (left, top, right, bottom)."""
_TEXT = ("ppocr_cls", "ppocr_rec")


def photographs(name: str, count: int) -> list[Feed]:
    """Inputs of a model of the zoo that takes images, prepared as its makers do.

    Raises:
        SystemExit: the packages aren't installed.
    """
    source = zoo.get("squeezenet" if name == "mobilenet_v2_224" else name)
    taken = source.feeds[0]
    key = "image" if name == "mobilenet_v2_224" else taken.name
    nhwc = name == "opennsfw"
    height, width = taken.shape[1:3] if nhwc else taken.shape[2:]
    if name in _TEXT:
        images = [_line(_opened(file).crop(box), height, width) for file, box in LINES[:count]]
    else:
        files = PAGES if name == "ppocr_det" else PHOTOGRAPHS
        images = [_filled(_opened(file), height, width) for file in files[:count]]
    arrays = [_normalised(name, image) for image in images]
    return [{key: np.ascontiguousarray(a if nhwc else a.transpose(0, 3, 1, 2), np.float32)} for a in arrays]


def _opened(file: tuple[str, str]) -> Image.Image:
    package, path = file
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise SystemExit(f"no {package}: pip install --no-deps scikit-image scikit-learn")
    return Image.open(Path(found.origin).parent / path).convert("RGB")


def _filled(image: Image.Image, height: int, width: int) -> np.ndarray[Any, Any]:
    """The middle of an image at a size, in [0, 1], HxWx3."""
    scale = max(height / image.height, width / image.width)
    image = image.resize((max(width, round(image.width * scale)), max(height, round(image.height * scale))))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return np.asarray(image.crop((left, top, left + width, top + height)), np.float64) / 255


def _line(image: Image.Image, height: int, width: int) -> np.ndarray[Any, Any]:
    """A line of text at a height, filled up with grey on the right."""
    used = min(width, round(image.width * height / image.height))
    filled = np.full((height, width, 3), 0.5)
    filled[:, :used] = np.asarray(image.resize((used, height)), np.float64) / 255
    return filled


def _normalised(name: str, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """As the model wants it, 1xHxWx3."""
    if name.startswith("ppocr"):
        return (2 * image - 1)[None]
    if name == "opennsfw":
        return (255 * image[..., ::-1] - np.array(CAFFE_BGR_MEAN))[None]
    if name == "nudenet":
        return image[None]
    return ((image - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD))[None]
