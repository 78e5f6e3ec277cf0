"""Checking a GPU schedule without a GPU: the same loops, indices and tiles run serially on the CPU.

Thread bindings become serial loops and shared or local buffers ordinary ones. That checks index arithmetic, tiling,
padding and reductions. It doesn't check barriers, races or code generation, and not blocks that use tensor-core
intrinsics, which have no meaning on a CPU.
"""

from __future__ import annotations

from typing import Any

from graphopt.backends.base.tvm_api import s_tir, tirx, tvm, tvm_ffi

_KEPT_ANNOTATIONS = ("pragma_auto_unroll_max_step", "pragma_unroll_explicit")


def without_threads(func: Any) -> Any:
    """``func`` (a ``PrimFunc``, with or without sblocks) with serial loops in place of threads, for an LLVM target."""

    def loop(node: Any) -> Any:
        kind = tirx.ForKind.SERIAL if node.kind == tirx.ForKind.THREAD_BINDING else node.kind
        # Annotations such as software pipelining would ask for passes that only GPUs have.
        kept = {key: node.annotations[key] for key in _KEPT_ANNOTATIONS if key in node.annotations}
        return tirx.For(node.loop_var, node.min, node.extent, kind, node.body, None, kept, node.step)

    return tvm_ffi.structural_map(func, [(tirx.For, loop)])


def serialised(func: Any) -> Any:
    """`without_threads` of a scheduled ``PrimFunc`` of sblocks, its shared and local buffers made ordinary ones."""
    schedule = s_tir.Schedule(without_threads(func))
    for block in _leaf_blocks(schedule, schedule.get_sblock("root")):
        for index, region in enumerate(schedule.get(block).writes):
            if str(region.source.scope()) != "global":
                schedule.set_scope(block, index, "global")
    return schedule.mod["main"]


def run_serialised(func: Any, arguments: list[Any], config: dict[str, Any] | None = None) -> None:
    """Build the serialised ``func`` for this machine's CPU and run it.

    Args:
        func: scheduled ``PrimFunc``.
        arguments: numpy arrays in the order of its parameters; outputs are written in place.
        config: TVM target; by default LLVM's generic code for this machine.
    """
    module = tvm.IRModule({"main": serialised(func).with_attr("global_symbol", "main")})
    compiled = tvm.compile(module, target=tvm.target.Target(config or {"kind": "llvm"}))
    tensors = [tvm.runtime.tensor(array) for array in arguments]
    compiled["main"](*tensors)
    for array, tensor in zip(arguments, tensors):
        array[...] = tensor.numpy()


def _leaf_blocks(schedule: Any, block: Any) -> list[Any]:
    children = list(schedule.get_child_blocks(block))
    return [leaf for child in children for leaf in _leaf_blocks(schedule, child)] if children else [block]
