"""Functions that compute symbolic sizes: the same statements in any order end up in one, and nothing else is touched."""

from __future__ import annotations

from typing import Any

import pytest

from graphopt.backends.base.tvm_api import tirx, tvm, tvm_ffi
from graphopt.backends.build import shape_order

ordered: Any = shape_order.OrderShapeFunctions()  # TVM makes a class of passes of it, which mypy doesn't see


def module_of(stores: list[tuple[int, int]], size: int = 8) -> Any:
    """A function with a statement ``H[to] = H[source] * 2`` for each pair."""
    sizes = tirx.decl_buffer((size,), "int64", "H")
    statements = [
        tirx.BufferStore(sizes, tirx.BufferLoad(sizes, [tirx.const(source, "int64")]) * 2, [tirx.const(to, "int64")])
        for to, source in stores
    ]
    body = tirx.SeqStmt(statements)
    return tvm.IRModule({"shape_func": tirx.PrimFunc([sizes], body)})


def written(module: Any) -> list[int]:
    return [int(statement.indices[0]) for statement in module["shape_func"].body]


def test_any_order_gives_one() -> None:
    stores = [(3, 0), (1, 0), (2, 4)]
    results = [ordered(module_of(order)) for order in (stores, stores[::-1], sorted(stores))]
    assert [written(module) for module in results] == [[1, 2, 3]] * 3
    assert all(tvm_ffi.structural_equal(module, results[0], map_free_vars=True) for module in results)


@pytest.mark.parametrize("stores", [[(3, 0), (1, 3)], [(3, 1), (1, 0)], [(3, 0), (3, 1)]])
def test_statements_that_depend_on_each_other_stay(stores: list[tuple[int, int]]) -> None:
    assert written(ordered(module_of(stores))) == [to for to, _ in stores]
