"""graphopt: a graph-level model compiler for ONNX.

Names are loaded on first use, so ``import graphopt`` costs nothing and pulls in neither onnx nor TVM.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphopt import backend
    from graphopt.driver.compiling import find_state
    from graphopt.driver.compiling_with_data import compile
    from graphopt.driver.extent_range import Range
    from graphopt.driver.importing import import_onnx
    from graphopt.driver.optimizing import export_onnx, optimize
    from graphopt.driver.precision.converting import convert
    from graphopt.driver.pruning import prune
    from graphopt.driver.quantize.quantizing import quantize
    from graphopt.driver.quantize.range_table import RangeTable
    from graphopt.driver.sparsity import sparsify
    from graphopt.errors import (
        AccuracyError,
        ArtifactError,
        CompileError,
        DeviceError,
        GraphOptError,
        InputError,
        InternalError,
        ModelError,
        TargetError,
        UnsupportedOpError,
        UserError,
    )
    from graphopt.ir.kernel_plan import KernelPlan
    from graphopt.ir.precision_choices import PrecisionChoices
    from graphopt.runtime.load import load
    from graphopt.runtime.model import CompiledModel

_HOME = {
    "CompiledModel": "graphopt.runtime.model",
    "KernelPlan": "graphopt.ir.kernel_plan",
    "PrecisionChoices": "graphopt.ir.precision_choices",
    "Range": "graphopt.driver.extent_range",
    "RangeTable": "graphopt.driver.quantize.range_table",
    "compile": "graphopt.driver.compiling_with_data",
    "convert": "graphopt.driver.precision.converting",
    "export_onnx": "graphopt.driver.optimizing",
    "find_state": "graphopt.driver.compiling",
    "import_onnx": "graphopt.driver.importing",
    "load": "graphopt.runtime.load",
    "optimize": "graphopt.driver.optimizing",
    "prune": "graphopt.driver.pruning",
    "quantize": "graphopt.driver.quantize.quantizing",
    "sparsify": "graphopt.driver.sparsity",
    "AccuracyError": "graphopt.errors",
    "ArtifactError": "graphopt.errors",
    "CompileError": "graphopt.errors",
    "DeviceError": "graphopt.errors",
    "GraphOptError": "graphopt.errors",
    "InputError": "graphopt.errors",
    "InternalError": "graphopt.errors",
    "ModelError": "graphopt.errors",
    "TargetError": "graphopt.errors",
    "UnsupportedOpError": "graphopt.errors",
    "UserError": "graphopt.errors",
}


def __getattr__(name: str) -> object:
    if name == "backend":  # a module
        return importlib.import_module("graphopt.backend")
    if name not in _HOME:
        raise AttributeError(f"module 'graphopt' has no attribute {name!r}")
    found = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOME) | {"backend"})


__all__ = [
    "AccuracyError",
    "ArtifactError",
    "CompileError",
    "CompiledModel",
    "DeviceError",
    "GraphOptError",
    "InputError",
    "InternalError",
    "KernelPlan",
    "ModelError",
    "PrecisionChoices",
    "Range",
    "RangeTable",
    "TargetError",
    "UnsupportedOpError",
    "UserError",
    "backend",
    "compile",
    "convert",
    "export_onnx",
    "find_state",
    "import_onnx",
    "load",
    "optimize",
    "prune",
    "quantize",
    "sparsify",
]
