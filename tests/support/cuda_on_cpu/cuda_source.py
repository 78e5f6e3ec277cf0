"""The CUDA C of functions that a test has made itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphopt.backends.base.tvm_api import cuda_pass_context, tvm
from graphopt.backends.cuda.code import source_only
from graphopt.backends.targets.grammar import parse_target


def cuda_source_of(functions: Mapping[str, Any], target: str = "cuda:sm_80") -> str:
    """What TVM makes of PrimFuncs; a kernel is called as its function, with ``_kernel`` behind."""
    goal = parse_target(target).tvm_target()
    with source_only(), goal, cuda_pass_context():
        built = tvm.compile(tvm.IRModule(dict(functions)), goal)
    (source,) = (m.inspect_source() for m in _modules(getattr(built, "mod", built)) if m.kind == "cuda")
    return str(source)


def _modules(module: Any) -> list[Any]:
    return [module, *(m for imported in module.imports for m in _modules(imported))]
