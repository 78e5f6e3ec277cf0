"""The frame of a template's function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphopt.backends.base.element_type import ElementType
from graphopt.backends.base.tvm_api import IRBuilder, tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.templates.operand import Parameter, View
from graphopt.backends.templates.storing import ExtraOperand


def build_prim_func(
    name: str,
    inputs: Sequence[Parameter],
    extras: Sequence[ExtraOperand],
    output: tuple[Sequence[tirx.Expr | int], ElementType],
    body: Callable[[list[View], list[tirx.Buffer], View], None],
) -> tirx.PrimFunc:
    """Builds a PrimFunc with parameters ``*inputs, *extras, output``.

    Args:
        name: its global symbol.
        inputs: name, shape and element type of each input.
        extras: operands of the epilogue.
        output: shape and element type of the last parameter.
        body: emits the code, given views of inputs and output; extras are as the epilogue wants them.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "global_symbol": name})
        views = [View(T.arg(label, T.buffer(tuple(shape), type_.storage)), type_) for label, shape, type_ in inputs]
        extra_buffers = [T.arg(extra.name, T.buffer(extra.shape, extra.type.storage)) for extra in extras]
        shape, type_ = output
        result = View(T.arg("output", T.buffer(tuple(shape), type_.storage)), type_)
        body(views, extra_buffers, result)
    return builder.get()


def build_function(
    name: str, inputs: Sequence[Parameter], outputs: Sequence[Parameter], body: Callable[[list[View], list[View]], None]
) -> tirx.PrimFunc:
    """Builds a PrimFunc of several results, with parameters ``*inputs, *outputs``.

    Args:
        name: its global symbol.
        inputs, outputs: name, shape and element type of each.
        body: emits the code, given views of inputs and outputs.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "global_symbol": name})

        def declared(parameters: Sequence[Parameter]) -> list[View]:
            return [
                View(T.arg(label, T.buffer(tuple(shape), type_.storage)), type_) for label, shape, type_ in parameters
            ]

        body(declared(inputs), declared(outputs))
    return builder.get()
