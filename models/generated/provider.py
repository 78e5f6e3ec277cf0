"""Where a generated model's file comes from: its recipe, run once."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx

from graphopt.models.cache import atomic_file, cache_dir
from graphopt.models.generated import writer

Recipe = Callable[[int], onnx.ModelProto]
"""Makes the model from a seed."""


@dataclass(frozen=True)
class GeneratedModel:
    """A model that a recipe makes.

    Attributes:
        name: of the file.
        recipe: a function of a module of this package; its source is part of the file's key.
        seed: of the weights.
    """

    name: str
    recipe: Recipe
    seed: int = 0

    def path(self) -> Path:
        """The generated model in the cache, made on first use."""
        sources = "".join(inspect.getsource(module) for module in (inspect.getmodule(self.recipe), writer) if module)
        key = hashlib.sha256(f"{self.seed} {sources}".encode()).hexdigest()[:16]
        target = cache_dir() / "generated" / f"{self.name}-{key}.onnx"
        if not target.exists():
            content = self.recipe(self.seed).SerializeToString()
            with atomic_file(target) as temporary:
                temporary.write_bytes(content)
        return target
