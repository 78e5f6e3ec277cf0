"""Whole artefacts on simulated GPUs: TVM's CUDA runtime and virtual machine with our kernels, and no GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphopt

pytest.importorskip("ziglang")

from tests.support.cuda_on_cpu.gpu import run_on_simulated_gpu

DIGITS = Path("models", "digits", "digits_cnn.onnx")


def test_digits() -> None:
    """A model with a symbolic batch, compiled for a GPU, in three orders of threads."""
    feed = {"image": np.random.default_rng(0).random((3, 1, 8, 8), np.float32)}
    expected = graphopt.compile(DIGITS).run(feed)
    found = run_on_simulated_gpu(DIGITS, feed)
    np.testing.assert_allclose(found["logits"], expected["logits"], rtol=1e-5, atol=1e-5)
