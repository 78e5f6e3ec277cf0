"""The one seam between graphopt and TVM: names that move between TVM releases are imported here and nowhere else.

Importing this module imports TVM (over a second), so only code about to build or run TVM code may import it at its
top; everything that ``import graphopt`` reaches imports it inside functions. A test holds that line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, s_tir, te, tirx, topi
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as tirx_builder
from tvm.tirx.script.builder.frame import ForFrame

__all__ = [
    "IDLE_PASSES",
    "ForFrame",
    "IRBuilder",
    "TensorLoad",
    "cpu_pass_context",
    "cuda_pass_context",
    "get_global_func",
    "llvm_cpu_names",
    "llvm_features",
    "llvm_host",
    "relax",
    "s_tir",
    "te",
    "tirx",
    "tirx_builder",
    "topi",
    "tvm",
    "tvm_ffi",
]

TensorLoad = tvm.ir.TensorLoad
"""What ``tirx.BufferLoad``, a function, makes."""

TVM_VERSION: str = tvm.__version__
TVM_FFI_VERSION: str = tvm_ffi.__version__


IDLE_PASSES = ("s_tir.InjectPermutedLayout", "s_tir.InjectVirtualThread", "tirx.RemoveNoOp")
"""They change nothing in a kernel and took 5 to 10% of its compilation: the first two are for what our kernels don't use, and
what the last removes, kernels hardly hold and LLVM removes too. Machine code of 200 kernels drawn from the zoo is the same without
it, byte for byte.
"""

GPU_PASSES = (
    "s_tir.LowerCrossThreadReduction", "s_tir.LiftThreadBinding", "s_tir.ManifestSharedMemoryLocalStage", "s_tir.LowerAutoCopy",
    "s_tir.UnifyThreadBinding", "s_tir.TransformMmaBufferLayout", "s_tir.InjectDoubleBuffer", "s_tir.LowerVtcmAlloc",
    "s_tir.ThreadSync", "s_tir.InferFragment", "s_tir.LowerThreadAllreduce", "s_tir.MergeSharedMemoryAllocations",
)  # fmt: skip
"""They rewrite what kernels of CPUs don't hold: threads of a GPU, memory that these share, loads that run ahead. Each walks through
the whole kernel to find that out. Machine code of CPUs is the same without them, byte for byte. ``s_tir.InjectSoftwarePipeline`` is
none of them: it gives every variable one binding, without which kernels of bfloat16 that bind one twice can't be vectorised.
"""


def cpu_pass_context() -> Any:
    """The ``PassContext`` that x86 and ARM code must be compiled in.

    TVM's StorageRewrite forgets the annotations of the buffers it touches. The one that keeps accumulators on the stack is
    lost, they become a heap workspace, and every tile pays an allocation and a round trip through memory.

    CompactBufferAllocation shrinks scratch to the region it believes to be used. It takes a position that is read from
    memory for a constant, so it would shrink scratch that loops over symbolic sizes fill, and it drops what is never read.

    CommonSubexprElim binds what several places share; code generation then finds such a variable where its definition does not
    reach ("Instruction does not dominate all uses"). LLVM eliminates common subexpressions itself, and better.

    Assertions are TVM's checks of a kernel's arguments: their types, shapes, strides. Kernels are called by the VM's code of the
    same model alone, on inputs that were checked by then, so no check can fail; of a small kernel they are most of the machine
    code, and half of the time that it takes to compile.
    """
    return tvm.transform.PassContext(
        config={
            "tirx.disable_storage_rewrite": True,
            "tirx.disable_cse_tir": True,
            "tirx.disable_assert": True,
        },
        disabled_pass=["s_tir.CompactBufferAllocation", *IDLE_PASSES, *GPU_PASSES],
    )


def cuda_pass_context() -> Any:
    """The ``PassContext`` that CUDA code must be compiled in.

    CompactBufferAllocation shrinks a buffer to what is read and written element by element, and doesn't see what a device function
    reads through an address. ThreadSync places barriers by the same incomplete knowledge: kernels place their own.
    StorageRewrite lets buffers share memory by that knowledge too. Loops are unrolled by the compiler of CUDA C, whose source stays
    short then; that compiler also finds common subexpressions and hoists conditions, where TVM takes a third of its time to.
    """
    return tvm.transform.PassContext(
        config={
            "tirx.UnrollLoop": {"explicit_unroll": False},
            "tirx.disable_storage_rewrite": True,
            "tirx.disable_cse_tir": True,
        },
        disabled_pass=["s_tir.CompactBufferAllocation", "s_tir.ThreadSync", "s_tir.HoistIfThenElse", *IDLE_PASSES],
    )


def get_global_func(name: str) -> Any:
    """The registered TVM function ``name``; raises ValueError when this TVM has none of that name."""
    return tvm.get_global_func(name)


def llvm_features(config: dict[str, Any]) -> frozenset[str]:
    """LLVM subtarget features in force for an ``llvm`` target: those of its CPU plus and minus its ``mattr``."""
    return _llvm_features(json.dumps(config, sort_keys=True))


@cache
def _llvm_features(config: str) -> frozenset[str]:
    found = get_global_func("target.llvm_get_cpu_features")(tvm.target.Target(json.loads(config)))
    return frozenset(str(name) for name in found)


@cache
def llvm_cpu_names(triple: str) -> frozenset[str]:
    """CPU names that the bundled LLVM knows for ``triple``."""
    target = tvm.target.Target({"kind": "llvm", "mtriple": triple})
    return frozenset(str(name) for name in get_global_func("target.llvm_get_cpu_archlist")(target))


@cache
def llvm_host() -> tuple[str, str, Mapping[str, bool]]:
    """This machine as LLVM sees it: ``(triple, cpu name, feature -> present)``.

    The feature table comes from the processor itself, so it tells what a hypervisor masks; the CPU name alone doesn't.
    """
    triple = str(get_global_func("tvm.codegen.llvm.GetDefaultTargetTriple")())
    cpu = str(get_global_func("tvm.codegen.llvm.GetHostCPUName")())
    table = get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    return triple, cpu, {str(name): bool(int(present)) for name, present in table.items()}
