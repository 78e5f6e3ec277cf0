"""Rules of the runtimes that quantized models are written for: what each has to find in a file to compute in integers."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Runtime:
    """What differs from standard ONNX as graphopt writes it.

    Attributes:
        name: as users write it.
        activations: how data has to be stored; "" for any 8 bits.
        symmetric: whether zero has to be the middle; None for either.
        integer_biases: whether biases may be int32.
        stores_results: whether what a convolution gives has to be stored, also where nobody reads integers: it runs in float
            otherwise.
        saturates: whether a Relu is left out where its zero is the least integer: a Relu behind a sum would keep that in float.
        adds_in_registers: whether one convolution of a sum is one kernel with it, so that its result isn't stored before.
    """

    name: str
    activations: str = ""
    symmetric: bool | None = None
    integer_biases: bool = True
    stores_results: bool = False
    saturates: bool = False
    adds_in_registers: bool = False


ANY = Runtime("any")
"""No rules but those of ONNX."""
_RUNTIMES = {
    runtime.name: runtime
    for runtime in (
        # Explicit quantization: zero points are 0, DequantizeLinear takes no int32, a convolution and a sum are one kernel whose
        # other operand is in integers (NVIDIA TensorRT documentation, "Working with Quantized Types").
        Runtime("tensorrt", "s8", symmetric=True, integer_biases=False, adds_in_registers=True),
        # QLinearConv gives integers: a node unit is DequantizeLinear, operator, QuantizeLinear (ONNX Runtime documentation,
        # "Quantize ONNX models").
        Runtime("onnxruntime", stores_results=True, saturates=True),
        # Low precision transformations move scales behind operators and leave biases to float (OpenVINO documentation).
        Runtime("openvino", integer_biases=False),
    )
}
RUNTIMES = tuple(_RUNTIMES)
"""Names of the runtimes."""


def runtime_of(name: str | None) -> Runtime:
    """The runtime of a name; ``ANY`` for None.

    Raises:
        UserError: there is no such runtime.
    """
    if name is None:
        return ANY
    if name not in _RUNTIMES:
        raise UserError(
            f"there are no rules of a runtime {name!r}", code="bad-option",
            hint=did_you_mean(name, _RUNTIMES) or f"there are {', '.join(_RUNTIMES)}",
        )  # fmt: skip
    return _RUNTIMES[name]
