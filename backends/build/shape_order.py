"""The functions that compute symbolic sizes, with their statements in the same order in every process.

TVM's VMShapeLower goes through the sizes in the order of their addresses in memory. So the same model gave other machine code
each time: artefacts that differ, and kernels that the cache doesn't know.
"""

from __future__ import annotations

from typing import Any

from graphopt.backends.base.tvm_api import tirx, tvm, tvm_ffi


@tvm.transform.module_pass(opt_level=0, name="graphopt.OrderShapeFunctions")
class OrderShapeFunctions:
    """Sorts stores of functions like ``shape_func(H)``: ``H[3] = 2 * H[0]; H[2] = 4 * H[0]``.

    Each store has a place of its own and reads only places that are filled before the function is called. A function that
    isn't like that is left as it is.
    """

    def transform_module(self, module: Any, _context: Any) -> Any:
        """The module with its shape functions sorted."""
        changed = {}
        for name, function in module.functions.items():
            if isinstance(function, tirx.PrimFunc) and (stores := _independent_stores(function.body)):
                changed[name] = function.with_body(tirx.SeqStmt([stores[place] for place in sorted(stores)]))
        if changed:
            module = module.clone()
            for name, function in changed.items():
                module.update_func(name, function)
        return module


def _independent_stores(body: Any) -> dict[int, Any]:
    """Stores at constant places of one buffer by place; none when the body is anything else."""
    if not isinstance(body, tirx.SeqStmt):
        return {}
    stores: dict[int, Any] = {}
    read: set[int | None] = set()
    for statement in body:
        if not isinstance(statement, tirx.BufferStore) or not statement.buffer.same_as(body[0].buffer):
            return {}
        place = _place(statement)
        if place is None or place in stores:
            return {}
        stores[place] = statement
        # whatever buffer it reads: that each is the same one needs no proof
        tvm_ffi.structural_walk(statement.value, [(tvm.ir.TensorLoad, lambda load: read.add(_place(load)))])
    return {} if None in read or read & stores.keys() else stores


def _place(access: Any) -> int | None:
    index = access.indices[0] if len(access.indices) == 1 else None  # none of a scalar's
    return int(index) if isinstance(index, tirx.IntImm) else None
