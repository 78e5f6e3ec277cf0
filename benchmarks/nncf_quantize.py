"""Quantizes an ONNX model by NNCF, for `quantization.py`, which runs this file with the Python of an environment that has NNCF.

    python nncf_quantize.py MODEL FEEDS RESULT SETTINGS

FEEDS is a `.npz` file with arrays called ``<number of the feed> <name of the input>``. NNCF may want other versions of packages
than graphopt, so nothing of graphopt is imported here.
"""

from __future__ import annotations

import sys
from typing import Any

import nncf  # type: ignore[import-not-found]
import numpy as np
import onnx
from nncf.quantization.advanced_parameters import (  # type: ignore[import-not-found]
    AdvancedQuantizationParameters,
)
from nncf.quantization.range_estimator import RangeEstimatorParametersSet  # type: ignore[import-not-found]


def options_of(settings: str) -> dict[str, Any]:
    """What a name of settings means for ``nncf.quantize``; those that end in "transformer" tell it the type of the model."""
    name, _, model_type = settings.partition(", for a ")
    found: dict[str, Any] = {"model_type": nncf.ModelType.TRANSFORMER} if model_type else {}
    if name == "mixed, accurate bias":
        found |= {"preset": nncf.QuantizationPreset.MIXED, "fast_bias_correction": False}
    elif name == "mixed, percentile":
        found |= {
            "preset": nncf.QuantizationPreset.MIXED,
            "advanced_parameters": AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.MEAN_QUANTILE
            ),
        }
    elif name != "default":
        raise SystemExit(f"there are no settings {settings!r}")
    return found


def feeds_of(path: str) -> list[dict[str, Any]]:
    """The feeds of a file, in order."""
    found: dict[int, dict[str, Any]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            index, _, name = key.partition(" ")
            found.setdefault(int(index), {})[name] = arrays[key]
    return [found[index] for index in sorted(found)]


def with_unique_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with another name for every node whose name another one has: NNCF takes no such model."""
    taken: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if node.name in taken:
            node.name = f"{node.name}_{index}"
        taken.add(node.name)
    return model


def main() -> None:
    """Quantize one model."""
    model, feeds, result, settings = sys.argv[1:]
    data = nncf.Dataset(feeds_of(feeds))
    onnx.save_model(nncf.quantize(with_unique_names(onnx.load_model(model)), data, **options_of(settings)), result)


if __name__ == "__main__":
    main()
