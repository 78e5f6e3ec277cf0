"""TVM's own importer and default pipeline, as a peer to measure against. Nothing else uses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.backends.base.target import Target
from graphopt.backends.base.tvm_api import relax, tvm
from graphopt.backends.build.tvm_threads import set_threads
from graphopt.errors import CompileError

Array = npt.NDArray[Any]


def compile_with_tvm(
    proto: Any, feed: Mapping[str, Array], target: Target
) -> Callable[[Mapping[str, Array]], list[Array]]:
    """Compile an ONNX model the way TVM's documentation does, for this machine's processor.

    Args:
        proto: the ``ModelProto``.
        feed: inputs whose shapes to compile for.
        target: this machine.

    Returns:
        A function from inputs by name to outputs in order.

    Raises:
        CompileError: TVM's importer or pipeline fails on the model.
    """
    from tvm.relax.frontend.onnx import from_onnx

    try:
        module = from_onnx(proto, shape_dict={name: list(array.shape) for name, array in feed.items()})
        module = relax.get_pipeline("zero")(module)
        executable = tvm.compile(module, target.tvm_target())
        vm = relax.VirtualMachine(executable, tvm.cpu())
    except Exception as error:  # TVM raises any class
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise CompileError(
            f"TVM's default pipeline fails on the model: {type(error).__name__}: {lines[-1] if lines else ''}",
            code="tvm-default-failed",
            hint="leave out --compare tvm",
        ) from error
    names = [str(parameter.name) for parameter in module["main"].params]
    set_threads(target.caps.cores)

    def run(inputs: Mapping[str, Array]) -> list[Array]:
        by_name = {_tvm_name(name): array for name, array in inputs.items()}
        args = [tvm.runtime.tensor(np.ascontiguousarray(by_name[_tvm_name(name)])) for name in names]
        result = vm["main"](*args)
        return [result.numpy()] if hasattr(result, "numpy") else [item.numpy() for item in result]

    return run


def _tvm_name(name: str) -> str:
    """TVM's importer makes identifiers of input names."""
    return "".join(ch if ch.isalnum() or ch == "_" else "_" for ch in name)
