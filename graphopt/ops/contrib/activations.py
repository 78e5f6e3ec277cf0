"""Activations that ONNX Runtime has operators of its own for, or names in an attribute of what comes before them."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.graph import Value
from graphopt.ops.contrib.builder import Builder
from graphopt.ops.contrib.table import becomes_plain

_PARAMETERS = {"Relu": 0, "Sigmoid": 0, "Tanh": 0, "LeakyRelu": 1, "HardSigmoid": 2, "Clip": 2}
"""How many numbers each activation that can be named takes."""
_NAMES = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta")}


def activated(b: Builder, x: Value, name: str, parameters: Sequence[float]) -> Value:
    """What an activation given by name makes of a value; nothing named leaves it as it is.

    Raises:
        UnsupportedOpError: nothing is known of the activation.
        ModelError: it takes another number of parameters.
    """
    if not name:
        return x
    count = _PARAMETERS.get(name)
    if count is None:
        raise b.refuse(
            f"{b.node.op} with the activation {name!r}; known are {', '.join(sorted(_PARAMETERS))}",
            "save the model without ONNX Runtime's optimisation, or at its level 'basic'",
        )
    if len(parameters) != count:
        raise b.invalid(f"the activation {name} takes {count} parameters, {len(parameters)} are given")
    if name == "Clip":
        bounds = [b.constant(p, what, b.dtype(x).numpy) for p, what in zip(parameters, ("min", "max"))]
        return b.emit("Clip", [x, *bounds])
    return b.emit(name, [x], dict(zip(_NAMES.get(name, ()), parameters)))


@becomes_plain("Gelu", operands="X")
def gelu(b: Builder) -> Sequence[Value]:
    """``x * (1 + erf(x / sqrt(2))) / 2``."""
    return [b.emit("Gelu", [b.x("X")])]


@becomes_plain("BiasGelu", operands="A B")
def bias_gelu(b: Builder) -> Sequence[Value]:
    """Gelu of the sum; B has one axis."""
    return [b.emit("Gelu", [b.emit("Add", [b.x("A"), b.x("B")])])]


@becomes_plain("FastGelu", operands="X bias?")
def fast_gelu(b: Builder) -> Sequence[Value]:
    """Gelu by the hyperbolic tangent, of the sum if there is a bias."""
    x, bias = b.x("X"), b.option("bias")
    return [b.emit("Gelu", [x if bias is None else b.emit("Add", [x, bias])], {"approximate": "tanh"})]


@becomes_plain("QuickGelu", operands="X", attributes="alpha")
def quick_gelu(b: Builder) -> Sequence[Value]:
    """``x * sigmoid(alpha * x)``, alpha being 1.702 if the node names none."""
    x = b.x("X")
    return [b.emit("Mul", [x, b.emit("Sigmoid", [b.scaled(x, b.number("alpha", 1.702))])])]
