"""The models of the comparison on ARM, as files with static shapes that every runtime gets, with inputs."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from arm_emulation import cache_folder
from onnxruntime.quantization import QuantFormat, quantize_static
from quantization import PER_CHANNEL, Reader

import graphopt
from graphopt.models import zoo
from graphopt.models.cache import atomic_file
from graphopt.models.generated.bert_tiny import VOCABULARY, bert_tiny
from graphopt.models.generated.mobilenet_v2 import mobilenet_v2

Feed = dict[str, np.ndarray[Any, Any]]

MOBILENET = "mobilenet_v2_224"
BERT = "bert_4x384"
FLOAT = ("squeezenet", "nudenet", "resnet50", "ppocr_det", MOBILENET, BERT)
QUANTIZED = ("squeezenet", "nudenet", "resnet50")
ABOUT = {
    MOBILENET: "MobileNetV2 1.0 at 224x224, random weights",
    BERT: "BERT of 4 layers of 384 channels with 12 heads, 128 tokens, random weights",
}
"""What the models are that the zoo hasn't."""
_CALIBRATION = 3
_TOKENS = 128


@dataclass(frozen=True)
class Subject:
    """A model in one form.

    Attributes:
        name: for people.
        path: the ONNX file, all shapes static.
        feed: inputs.
        wide: the float32 file that a quantized one was made of.
        calibration: inputs that it was calibrated on.
    """

    name: str
    path: Path
    feed: Feed
    wide: Path | None = None
    calibration: tuple[Feed, ...] = ()

    @property
    def key(self) -> str:
        """Changes with the file and the inputs."""
        arrays = b"".join(name.encode() + array.tobytes() for name, array in sorted(self.feed.items()))
        return hashlib.sha256(self.path.read_bytes() + arrays).hexdigest()[:16]


@cache
def subject(name: str, quantized: bool = False) -> Subject:
    """One of `FLOAT`, or any model of the zoo, in float32 or as ONNX Runtime's quantizer makes it.

    Quantized models are optimised by graphopt first, as in ``quantized_speed.py``: one scale an output channel, data u8,
    weights s8, calibrated on three inputs.
    """
    feed = _feed(name, seed=0)
    source = _static(name, feed)
    if not quantized:
        return Subject(name, source, feed)
    path = _place(f"{name}-int8", source.read_bytes())
    feeds = tuple(_feed(name, seed) for seed in range(1, 1 + _CALIBRATION))
    if not path.exists():
        logging.disable(logging.WARNING)
        optimised = path.with_suffix(".float.onnx")
        onnx.save(graphopt.export_onnx(graphopt.optimize(graphopt.import_onnx(source))), optimised)
        with atomic_file(path) as part:
            quantize_static(optimised, part, Reader(feeds), quant_format=QuantFormat.QDQ, **PER_CHANNEL)
        optimised.unlink()
    return Subject(name, path, feed, source, feeds)


def _feed(name: str, seed: int) -> Feed:
    if name == MOBILENET:
        return {"image": _photo(seed)}
    if name == BERT:
        rng = np.random.default_rng(seed)
        mask = np.ones((1, _TOKENS), np.int64)
        return {"input_ids": rng.integers(0, VOCABULARY, (1, _TOKENS)), "attention_mask": mask}
    return zoo.get(name).inputs(seed)


def _photo(seed: int) -> np.ndarray[Any, Any]:
    (array,) = zoo.get("squeezenet").inputs(seed).values()  # 1x3x224x224, normalised as all nets for ImageNet take it
    return array


def _static(name: str, feed: Feed) -> Path:
    """The model with its open dimensions set to those of the feed."""
    if name == MOBILENET:
        model = mobilenet_v2(0, size=224)
    elif name == BERT:
        model = bert_tiny(0, width=384, heads=12)
    else:
        model = zoo.get(name).proto()
    for item in model.graph.input:
        if item.name in feed:
            for dim, extent in zip(item.type.tensor_type.shape.dim, feed[item.name].shape, strict=True):
                dim.dim_value = extent
    del model.graph.value_info[:]  # shapes of inner values may name dimensions that are gone now
    content = model.SerializeToString()
    path = _place(name, content)
    if not path.exists():
        with atomic_file(path) as part:
            part.write_bytes(content)
    return path


def _place(name: str, source: bytes) -> Path:
    """A file of the cache, by what it is made of."""
    folder = cache_folder() / "models"
    folder.mkdir(exist_ok=True)
    return folder / f"{name}-{hashlib.sha256(source).hexdigest()[:12]}.onnx"
