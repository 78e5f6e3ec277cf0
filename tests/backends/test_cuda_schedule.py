"""Which kernels TVM can write CUDA C of."""

from __future__ import annotations

import pytest

from graphopt.backends.base.tvm_api import te, tvm
from graphopt.backends.cuda.launch import require_bound
from graphopt.errors import InternalError
from tests.support.demo_module import demo_module
from tests.support.gpu_binding import bind_everything, bound_module


@pytest.mark.parametrize("batch", [8, None])
def test_kernels_that_launch_no_threads_are_refused(batch: int | None) -> None:
    module = demo_module(batch)
    with pytest.raises(InternalError, match="launches no threads"):
        require_bound(module)
    require_bound(bound_module(module))


def test_names_are_identifiers_of_c() -> None:
    a = te.placeholder((64,), "float32", name="a")
    function = bind_everything(te.create_prim_func([a, te.compute((64,), lambda i: a[i] + 1.0)]))
    with pytest.raises(InternalError, match="identifier"):
        require_bound(tvm.IRModule({"a.b": function}))
