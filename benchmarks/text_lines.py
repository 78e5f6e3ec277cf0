"""Rendered lines of English words and numbers with their texts, and how far what a recogniser reads is from them.

The fonts are those that matplotlib (extra ``plot``) ships, drawn with Pillow, which it depends on. The same seed gives the same
lines wherever these two have the same version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from graphopt.models.signals import seeded

HEIGHT, WIDTH = 48, 320
MARGIN = 10
"""Least space before and after a line, in pixels."""
SIZES = (26, 34)
"""Smallest and largest size of the letters, in pixels."""
FONTS = (
    "DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-Oblique.ttf", "DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf",
    "DejaVuSansMono.ttf", "STIXGeneral.ttf", "STIXGeneralBol.ttf", "STIXGeneralItalic.ttf",
)  # fmt: skip
_VOCABULARY = (
    "about after again almost animal answer around because before between bottle bridge bright brother build candle capital "
    "carry change circle city climb coffee common copper corner cotton country cover cross danger daughter decide desert "
    "dinner doctor dollar during early earth eight engine enough evening every family farmer father field figure finger "
    "flower follow forest forward friend garden gentle glass golden government ground happy harbour heavy history house "
    "hundred island journey kitchen language leather letter library little market measure meeting metal middle minute modern "
    "money morning mother mountain music nature never north number object ocean office orange paper people picture pocket "
    "point power pretty problem public question quick quiet railway reason record report river round school season second "
    "shadow silver simple sister south square station story street summer system table teacher thunder ticket travel twenty "
    "under valley village visit voice water weather west whisper window winter wonder yellow young zebra"
)
WORDS = _VOCABULARY.split()

Images = NDArray[np.float32]


def text_lines(seed: int, count: int) -> tuple[Images, list[str]]:
    """Lines of two or three words or numbers.

    Returns:
        ``images`` [count, 3, 48, 320] in [-1, 1], as the PP-OCR recogniser takes them, and their texts.
    """
    drawn = [_line(seed, index) for index in range(count)]
    return np.stack([image for image, _ in drawn]), [text for _, text in drawn]


def alphabet_of(model: onnx.ModelProto) -> list[str]:
    """Characters by class number: the first class is CTC's blank, the last a space."""
    entries = [entry.value for entry in model.metadata_props if entry.key == "character"]
    return ["", *entries[0].split("\n"), " "]


def read(scores: NDArray[Any], alphabet: Sequence[str]) -> list[str]:
    """Greedy CTC: best class of every step, repeats once, blanks never; spaces at the ends don't count.

    Args:
        scores: [batch, steps, classes].
        alphabet: by class number.
    """
    lines = []
    for best in scores.argmax(axis=2).tolist():
        kept = [alphabet[now] for now, before in zip(best, [0, *best[:-1]]) if now != before]
        lines.append("".join(kept).strip())
    return lines


def character_error_rate(found: Sequence[str], wanted: Sequence[str]) -> float:
    """Edits from what was read to what was written (insert, delete, replace), over the characters written."""
    edits = sum(edit_distance(a, b) for a, b in zip(found, wanted, strict=True))
    return edits / sum(map(len, wanted))


def error_rate(
    run: Callable[[Images], NDArray[Any]], images: Images, texts: Sequence[str], alphabet: Sequence[str], at_once: int
) -> float:
    """Character error rate of a recogniser in per cent.

    Args:
        run: scores of ``at_once`` images.
        images, texts: as `text_lines` gives them.
        alphabet: by class number.
    """
    found: list[str] = []
    for start in range(0, len(images), at_once):
        found += read(run(images[start : start + at_once]), alphabet)
    return 100 * character_error_rate(found, texts)


def edit_distance(a: str, b: str) -> int:
    """Levenshtein's distance, by Wagner and Fischer's table, one row at a time."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def _line(seed: int, index: int) -> tuple[Images, str]:
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    rng = seeded("text line", seed, index)
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    file = folder / FONTS[int(rng.integers(len(FONTS)))]
    font = ImageFont.truetype(str(file), int(rng.integers(SIZES[0], SIZES[1] + 1)))
    text = _word(rng)
    while font.getlength(longer := f"{text} {_word(rng)}") < WIDTH - 2 * MARGIN and text.count(" ") < 2:
        text = longer
    free = WIDTH - font.getlength(text)
    canvas = Image.new("L", (WIDTH, HEIGHT), 0)
    left = rng.uniform(MARGIN, max(free - MARGIN, MARGIN + 1e-3))
    ImageDraw.Draw(canvas).text((left, HEIGHT / 2), text, fill=255, font=font, anchor="lm")
    ink = np.asarray(canvas, np.float64) / 255
    ground, contrast = rng.uniform(0.75, 1.0), rng.uniform(0.5, 0.75)
    grey = np.clip(ground - contrast * ink + rng.uniform(0.005, 0.03) * rng.standard_normal(ink.shape), 0, 1)
    return np.ascontiguousarray(np.broadcast_to(grey * 2 - 1, (3, HEIGHT, WIDTH)), np.float32), text


def _word(rng: np.random.Generator) -> str:
    if rng.random() < 0.25:
        return str(rng.integers(10, 100_000))
    word = WORDS[int(rng.integers(len(WORDS)))]
    return word.capitalize() if rng.random() < 0.3 else word
