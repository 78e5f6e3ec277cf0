"""Seeded inputs that look like what the models were made for: photographs, lines of text, speech.

White noise drives trained networks into corners that no user sees (all scores zero, all activations tiny) and hides
errors there; these signals have edges, smooth areas, strokes and harmonics.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from graphopt.models.digits import digits_test

Array = NDArray[Any]
Shape = tuple[int, ...]
Signal = Callable[[Generator, Shape], Array]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Caffe's convention: blue, green, red means of 8-bit values.
CAFFE_BGR_MEAN = (104.0, 117.0, 123.0)

# 5x7 dot-matrix digits, one row a number, most significant bit on the left.
_FONT = {
    "0": (14, 17, 19, 21, 25, 17, 14),
    "1": (4, 12, 4, 4, 4, 4, 14),
    "2": (14, 17, 1, 2, 4, 8, 31),
    "3": (31, 2, 4, 2, 1, 17, 14),
    "4": (2, 6, 10, 18, 31, 2, 2),
    "5": (31, 16, 30, 1, 1, 17, 14),
    "6": (6, 8, 16, 30, 17, 17, 14),
    "7": (31, 1, 2, 4, 8, 8, 8),
    "8": (14, 17, 17, 14, 17, 17, 14),
    "9": (14, 17, 17, 15, 1, 2, 12),
}


def seeded(*parts: object) -> Generator:
    """A generator that depends on ``parts`` alone: not on the process, the platform or the order of calls."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def constant(value: Any, dtype: Any) -> Signal:
    """The same value whatever the seed, e.g. a sampling rate."""
    return lambda _rng, shape: np.full(shape, value, dtype=dtype)


def normal(std: float) -> Signal:
    """Gaussian noise, for the recurrent state of a network in the middle of a stream."""
    return lambda rng, shape: (std * rng.standard_normal(shape)).astype(np.float32)


def token_ids(vocabulary: int) -> Signal:
    """Token numbers below ``vocabulary``, int64; small ones come often, as words do."""

    def make(rng: Generator, shape: Shape) -> Array:
        return np.floor(vocabulary ** rng.random(shape)).astype(np.int64) - 1

    return make


def padding_mask(rng: Generator, shape: Shape) -> Array:
    """Ones for tokens and zeros for the padding behind them, int64 batch x sequence; at least half are tokens."""
    batch, length = shape
    used = rng.integers((length + 1) // 2, length + 1, (batch, 1))
    return (np.arange(length) < used).astype(np.int64)


def photo(mean: tuple[float, ...], std: tuple[float, ...], *, scale: float = 1.0, nhwc: bool = False) -> Signal:
    """Images of smooth shading with sharp-edged objects, normalised per channel as ``(pixel * scale - mean) / std``.

    Args:
        mean: per channel, in units of ``pixel * scale`` with pixels in [0, 1].
        std: per channel, in the same units.
        scale: 1 or 255.
        nhwc: the shape asked for is NHWC, else NCHW.
    """

    def make(rng: Generator, shape: Shape) -> Array:
        n, c, h, w = (shape[0], shape[3], shape[1], shape[2]) if nhwc else shape
        pixels = np.stack([_photo(rng, c, h, w) for _ in range(n)])
        values = (pixels * scale - _per_channel(mean)) / _per_channel(std)
        if nhwc:
            values = values.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(values, dtype=np.float32)

    return make


def text(*, page: bool) -> Signal:
    """Images of dark digits on a bright, slightly uneven ground, normalised to [-1, 1], NCHW.

    Args:
        page: several short lines scattered over the image (for a detector), else one line that fills it.
    """

    def make(rng: Generator, shape: Shape) -> Array:
        n, c, h, w = shape
        images = []
        for _ in range(n):
            ink = np.zeros((h, w))
            if page:
                for top in range(8, h - 40, 72):
                    scale = int(rng.integers(3, 6))
                    _write(ink, rng, top=top, left=int(rng.integers(8, w // 2)), scale=scale, count=8)
            else:
                scale = max(h // 8, 1)
                _write(ink, rng, top=(h - 7 * scale) // 2, left=scale, scale=scale, count=w // (6 * scale))
            ground = 0.85 + 0.1 * _smooth(rng, h, w, 3) + 0.01 * rng.standard_normal((h, w))
            images.append(np.clip(ground - (0.7 + 0.1 * rng.random()) * _blur(_blur(ink)), 0, 1))
        grey = np.stack(images)[:, None]
        return np.ascontiguousarray(np.broadcast_to(grey * 2 - 1, (n, c, h, w)), dtype=np.float32)

    return make


def speech(rate: int) -> Signal:
    """Voiced sound: harmonics of a random pitch under random formants, with a little noise, peak 0.1 to 0.5.

    Args:
        rate: samples per second.
    """

    def make(rng: Generator, shape: Shape) -> Array:
        *batch, samples = shape
        time = np.arange(samples) / rate
        rows = []
        for _ in range(int(np.prod(batch))):
            pitch = rng.uniform(90, 220)
            formants = np.array([rng.uniform(300, 800), rng.uniform(900, 2200), rng.uniform(2300, 3000)])
            frequency = pitch * np.arange(1, int(0.45 * rate / pitch) + 1)
            gain = (1 / (1 + ((frequency[:, None] - formants) / 120) ** 2)).sum(1) + 0.02
            phase = rng.uniform(0, 2 * np.pi, (len(frequency), 1))
            wave = (gain[:, None] * np.sin(2 * np.pi * frequency[:, None] * time + phase)).sum(0)
            rows.append(rng.uniform(0.1, 0.5) * wave / np.abs(wave).max() + 0.003 * rng.standard_normal(samples))
        return np.stack(rows).reshape(shape).astype(np.float32)

    return make


def digit_images(rng: Generator, shape: Shape) -> Array:
    """Random images of the digits test split, Nx1x8x8 in [0, 1]."""
    images, _ = digits_test()
    return images[rng.integers(0, len(images), shape[0])]


def _per_channel(values: tuple[float, ...]) -> Array:
    return np.asarray(values, dtype=np.float64)[:, None, None]


def _photo(rng: Generator, c: int, h: int, w: int) -> Array:
    """One CxHxW image in [0, 1]: noise of every scale, half of it grey, under flat-coloured objects."""
    image = np.zeros((c, h, w))
    for octave in range(2, 7):
        strength = 0.5**octave
        image += strength * (_smooth(rng, h, w, 2**octave) + [_smooth(rng, h, w, 2**octave) for _ in range(c)])
    image = 0.5 + rng.uniform(0.5, 0.9) * image
    rows, columns = np.mgrid[0:h, 0:w]
    for _ in range(6):
        cy, cx = rng.uniform(0, h), rng.uniform(0, w)
        ry, rx = rng.uniform(0.05, 0.3, 2) * (h, w)
        dy, dx = np.abs(rows - cy) / ry, np.abs(columns - cx) / rx
        inside = (np.maximum(dy, dx) if rng.random() < 0.5 else np.hypot(dy, dx)) < 1
        image = np.where(inside, 0.3 * image + 0.7 * rng.random((c, 1, 1)), image)
    return np.clip(image + 0.01 * rng.standard_normal(image.shape), 0, 1)


def _smooth(rng: Generator, h: int, w: int, cells: int) -> Array:
    """HxW Gaussian noise on a grid of ``cells`` by ``cells``, interpolated linearly."""

    def weights(size: int) -> Array:
        position = np.linspace(0, cells, size)[:, None]
        nearness: Array = np.clip(1 - np.abs(position - np.arange(cells + 1)), 0, 1)
        return nearness

    grid = rng.standard_normal((cells + 1, cells + 1))
    smooth: Array = weights(h) @ grid @ weights(w).T
    return smooth


def _write(ink: Array, rng: Generator, *, top: int, left: int, scale: int, count: int) -> None:
    """Draws up to ``count`` random digits into ``ink``, as many as fit."""
    for position in range(count):
        rows = _FONT[str(rng.integers(0, 10))]
        glyph = (
            np.array([[row >> bit & 1 for bit in (4, 3, 2, 1, 0)] for row in rows]).repeat(scale, 0).repeat(scale, 1)
        )
        x = left + 6 * scale * position
        target = ink[top : top + 7 * scale, x : x + 5 * scale]
        if target.shape != glyph.shape:
            return
        target += glyph


def _blur(image: Array) -> Array:
    """3x3 mean, for soft edges."""
    padded = np.pad(image, 1, mode="edge")
    h, w = image.shape
    blurred: Array = np.mean([padded[y : y + h, x : x + w] for y in range(3) for x in range(3)], axis=0)
    return blurred
