"""Loops of functions made of tensor expressions, bound to threads of a GPU: for modules that tests write by hand."""

from __future__ import annotations

from typing import Any

from graphopt.backends.base.tvm_api import s_tir, tirx
from graphopt.backends.cuda.launch import is_bound

_THREADS = 256


def bound_module(mod: Any) -> Any:
    """``mod`` with every PrimFunc bound that isn't."""
    out = mod.clone()
    for variable, function in mod.functions.items():
        if isinstance(function, tirx.PrimFunc) and not is_bound(function):
            bound = bind_everything(function).with_attr("global_symbol", variable.name_hint)
            out.update_func(variable, bound.with_attr("tirx.is_scheduled", True))
    return out


def bind_everything(func: Any) -> Any:
    """Inside each sblock, spatial loops go to blocks of threads and the others stay serial."""
    schedule = s_tir.Schedule(func)
    for block in schedule.get_child_blocks(schedule.get_sblock("root")):
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
