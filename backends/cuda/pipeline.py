"""CUDA: schedule what isn't, lower, and generate CUDA C.

Scheduling tries dlight's rules in order and ends in `bind_everything`, which is total: any PrimFunc made from tensor
expressions comes out bound to threads.
"""

from __future__ import annotations

from typing import Any

from graphopt.backends.base.target import Target
from graphopt.backends.base.tvm_api import s_tir, tirx, tvm_ffi
from graphopt.errors import CompileError, InternalError

_THREADS = 256
_BOUND = "tirx.is_scheduled"


def schedule_module(mod: Any, target: Target) -> Any:
    """``mod`` with every unscheduled PrimFunc scheduled for the GPU."""
    out = mod.clone()
    for variable, function in mod.functions.items():
        if not isinstance(function, tirx.PrimFunc):
            continue
        if not variable.name_hint.isidentifier():
            raise InternalError(f"PrimFunc name {variable.name_hint!r} is no C identifier, which CUDA source needs")
        if not is_bound(function):
            out.update_func(variable, schedule_for_gpu(function, target))
    return out


def schedule_for_gpu(func: Any, target: Target) -> Any:
    """``func`` (a ``PrimFunc``) with its loops bound to blocks and threads; as it is when they already are.

    Raises:
        CompileError: ``func`` can't be bound at all (a hand-written body without sblocks).
    """
    if is_bound(func):
        return func
    from tvm.s_tir.dlight import gpu

    rules = [gpu.GEMV(), gpu.Reduction(), gpu.GeneralReduction(), gpu.Fallback()]
    if _all_float32(func):  # for other types the rule loads TVM's CUDA intrinsics, which takes over 20 s
        rules.insert(0, gpu.Matmul())
    tvm_target = target.tvm_target()
    with tvm_target:
        for rule in rules:
            try:
                result = rule.apply(func, tvm_target, False)
            except Exception:  # a rule that breaks on this function is a rule that doesn't apply; TVM raises any class
                continue
            schedule = result[0] if isinstance(result, list) and result else result
            if isinstance(schedule, s_tir.Schedule) and is_bound(schedule.mod["main"]):
                return _named_like(schedule.mod["main"], func)
        return _named_like(bind_everything(func), func)


def bind_everything(func: Any) -> Any:
    """The total fallback: inside each sblock, spatial loops go to blocks of threads and the others stay serial.

    Raises:
        CompileError: ``func`` has no sblocks.
    """
    schedule = s_tir.Schedule(func)
    try:
        blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
    except Exception as error:  # TVM's ScheduleError isn't a public class
        raise CompileError("PrimFunc has no sblocks to bind to GPU threads", code="not-schedulable") from error
    for block in blocks:
        loops = schedule.get_loops(block)
        kinds = [variable.iter_type for variable in schedule.get(block).iter_vars]
        if len(kinds) != len(loops):
            kinds = [tirx.IterVar.Opaque] * len(loops)
        spatial = [loop for loop, kind in zip(loops, kinds) if kind == tirx.IterVar.DataPar]
        rest = [loop for loop in loops if loop not in spatial]
        if spatial:
            schedule.reorder(*spatial, *rest)
            outer, inner = schedule.split(schedule.fuse(*spatial), factors=[None, _THREADS])
        else:
            outer = schedule.add_unit_loop(loops[0] if loops else block)
            inner = schedule.add_unit_loop(loops[0] if loops else block)
        schedule.bind(outer, "blockIdx.x")
        schedule.bind(inner, "threadIdx.x")
    return schedule.mod["main"]


def is_bound(func: Any) -> bool:
    """Whether ``func`` launches GPU threads, or belongs on the host."""
    if func.attrs is not None and ("tirx.is_host_func" in func.attrs or "tir.is_host_func" in func.attrs):
        return True
    found = False

    def see_loop(loop: Any) -> None:
        nonlocal found
        found = found or loop.kind == tirx.ForKind.THREAD_BINDING

    def see_attribute(statement: Any) -> None:
        nonlocal found
        found = found or statement.attr_key == "thread_extent"

    tvm_ffi.structural_walk(func.body, [(tirx.For, see_loop), (tirx.AttrStmt, see_attribute)], order="post")
    return found


def _all_float32(func: Any) -> bool:
    return all(not tirx.buffer.is_buffer_var(p) or str(p.ty.dtype) == "float32" for p in func.params)


def _named_like(func: Any, original: Any) -> Any:
    if original.attrs is not None and "global_symbol" in original.attrs:
        func = func.with_attr("global_symbol", original.attrs["global_symbol"])
    return func.with_attr(_BOUND, True)
