"""A small residual CNN trained on scikit-learn's handwritten digits, and the test split that measures its accuracy.

``digits_cnn.onnx`` and ``digits_test.npz`` are written by ``train.py`` and committed, so that accuracy can be checked
offline and without PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MODEL_PATH = Path(__file__).resolve().parent / "digits_cnn.onnx"
TEST_PATH = Path(__file__).resolve().parent / "digits_test.npz"


def digits_test() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The held-out test split, never seen in training.

    Returns:
        ``images`` of shape (450, 1, 8, 8) in [0, 1], float32, and ``labels`` of shape (450,), int64.
    """
    with np.load(TEST_PATH, allow_pickle=False) as archive:
        return archive["images"].astype(np.float32), archive["labels"].astype(np.int64)


def digits_feeds() -> Iterator[dict[str, NDArray[np.float32]]]:
    """The first 64 test images as inputs of the network, eight at a time; calibration data for examples."""
    images, _ = digits_test()
    for start in range(0, 64, 8):
        yield {"image": images[start : start + 8]}
