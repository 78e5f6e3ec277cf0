"""The steps of compiling, each for a target by what its platform brings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.backends.base.target import Target
from graphopt.backends.build.code_generation import Built
from graphopt.backends.targets.platforms import platform_of
from graphopt.errors import CompileError, UserError
from graphopt.ir.dtypes import DType
from graphopt.ir.options import DEFAULT_OPTIONS, CompileOptions

if TYPE_CHECKING:
    from graphopt.backends.build.loaded_module import LoadedModule
    from graphopt.backends.build.object_cache import ObjectCache
    from graphopt.backends.program.program import Program
    from graphopt.ir.fused import FusedGraph
    from graphopt.ir.graph import Graph


def fuse_for(graph: Graph, target: Target, options: CompileOptions = DEFAULT_OPTIONS) -> FusedGraph:
    """The second level of a graph: kernel groups (one node each at level 0) with layouts."""
    from graphopt.backends.program.fusing import fuse
    from graphopt.passes.precision.early_products import early_products
    from graphopt.passes.precision.halves import suits_halves
    from graphopt.passes.precision.unrounded import leave_unrounded

    platform = platform_of(target)
    if options.rounds_otherwise and platform.adds_in_float32:
        options = replace(options, adds_halves=target.caps.adds_halves)
        wide = early_products(graph) if options.adds_halves else frozenset()
        leave_unrounded(
            graph,
            platform.adds_in_float32,
            lambda node, dtype: platform.factors(node, dtype, target.caps),
            lambda node, dtype: dtype is DType.f16 and options.adds_halves and node not in wide and suits_halves(node),
        )
    return fuse(graph, target, platform, options)


def require_states(target: Target) -> None:
    """Refuse a target on which nothing stays in a model's memory.

    Raises:
        UserError: it is one.
    """
    platform = platform_of(target)
    if not (platform.plans_memory and platform.shares_memory):
        raise UserError(
            f"models for {target.name} keep no state", code="no-state",
            hint="compile for a CPU, or leave state out and pass it to each run",
        )  # fmt: skip


def lower_fused(fused: FusedGraph, target: Target) -> Program:
    """The program of a fused graph; level 0 keeps to the generic schedule, for bisecting.

    Raises:
        UnsupportedOpError: an operator, element type or shape form has no kernel.
    """
    from graphopt.backends.program.lowering import lower

    platform = platform_of(target)
    return lower(fused, target, platform, platform.templates() if fused.options.optimizes_kernels else ())


def build_program(program: Program, cache: ObjectCache | None = None, jobs: int | None = None) -> Built:
    """Compiled code of a program; ``cache``, ``jobs`` and errors as in `CodeGenerator.build`."""
    from graphopt.backends.program.relax_emit import to_module

    return build_module(to_module(program), program.target, cache, jobs)


def build_module(mod: Any, target: Target, cache: ObjectCache | None = None, jobs: int | None = None) -> Built:
    """Compiled code of a TVM module; see `CodeGenerator.build`."""
    return platform_of(target).build(mod, target, cache, jobs)


def export_c_library(program: Program, built: Built, name: str, path: Path) -> int:
    """Write a program as a library that C programs call, with no runtime behind it.

    Args:
        built: its compiled code.
        name: a C identifier, for the library's data.

    Returns:
        The bytes of memory that a run works in.

    Raises:
        UserError: the target is none of Linux's CPUs, or see `c_model`.
        CompileError: no linker is at hand, or it failed.
    """
    from graphopt.backends.build.c_library import link_c_library, writes_for
    from graphopt.backends.build.link import find_linker
    from graphopt.backends.build.object_build import BuiltOfObjects
    from graphopt.backends.program.c_model import c_model

    target = program.target
    if not writes_for(target.triple) or target.arches:
        raise UserError(
            f"there are C libraries for CPUs under Linux, not for {target.name}", code="bad-target",
            hint="compile for x86, arm or armv7, or write a .gopt file",
        )  # fmt: skip
    model = c_model(program, name)
    linker = find_linker(target)
    objects = built.objects if isinstance(built, BuiltOfObjects) else ()
    if len(objects) < len({name for name, _ in model.calls}):
        raise CompileError(
            "the kernels of this model can't be compiled apart, which a C library takes", code="not-apart"
        )
    link_c_library(model, objects, built.added_objects(), target.triple, path, linker)
    return model.memory


def open_library(path: Path, target: Target, threads: int | None = None, device: int = 0) -> LoadedModule:
    """Load an exported library; see `CodeGenerator.open_library`."""
    return platform_of(target).open_library(path, target, threads, device)
