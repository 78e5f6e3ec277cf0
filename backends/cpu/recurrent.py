"""Recurrent layers as a template: LSTM, GRU and RNN with constant weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.template import (
    Computed,
    Emitted,
    KernelCall,
    KernelTemplate,
    No,
    Operand,
    Packed,
    Support,
    Yes,
)
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.cost.recurrent import configurations, default_config, seconds
from graphopt.backends.cpu.kernels.recurrent import RecurrentConfig, RecurrentLayout, emit
from graphopt.backends.cpu.recurrent_lengths import check_lengths
from graphopt.backends.lower.activations import named_activations
from graphopt.backends.specs.recurrent import RecurrentSpec
from graphopt.backends.templates.operand import View
from graphopt.backends.tensors.tensor import Expr
from graphopt.ir.dims import Dim, SymExpr
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Node, Value
from graphopt.ops.context import attr, known_array
from graphopt.ops.registry import RECURRENT
from graphopt.ops.table import ops_with

_X, _W, _R, _B, _LENGTHS, _H0, _C0, _PEEPHOLES = range(8)


class Recurrent(KernelTemplate[RecurrentConfig]):
    """LSTM, GRU and RNN of float32 with constant weights; time and batch may be symbolic."""

    name: ClassVar[str] = "recurrent"
    config_type: ClassVar[type[Any]] = RecurrentConfig
    anchors: ClassVar[frozenset[str]] = frozenset(ops_with(RECURRENT))

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        node = call.group.anchor
        if len(call.group.nodes) > 1:
            return No("nodes behind the layer")
        if any(not call.layout(v).is_plain for v in (*call.group.inputs, *call.group.outputs)):
            return No("needs plain layouts")
        given = [v for i, v in enumerate(node.inputs) if v is not None and i != _LENGTHS]
        if any(v.dtype is not DType.f32 for v in (*given, *call.group.outputs)):
            return No("needs float32")
        for i in (_W, _R, _B, _PEEPHOLES):
            value = node.input(i)
            if value is not None and known_array(value) is None:
                return No("needs constant weights")
        x, r = _operand(node, _X), _operand(node, _R)
        if not isinstance(x.shape[2], int) or not all(isinstance(d, int) for d in r.shape):
            return No("needs known features and hidden units")
        if any(isinstance(d, int) and d < 1 for d in (*x.shape, *r.shape)):
            return No("an empty dimension")
        allowed = {d for d in x.shape if isinstance(d, SymExpr)}
        if any(isinstance(d, SymExpr) and d not in allowed for v in call.group.inputs for d in v.shape):
            return No("an operand has a symbolic dimension of its own")
        functions = named_activations(node)
        if isinstance(functions, str):
            return No(functions)
        lengths, steps = node.input(_LENGTHS), x.shape[0 if not attr(node, "layout") else 1]
        known = None if lengths is None else known_array(lengths)
        if known is not None and (known.min() < 0 or (isinstance(steps, int) and known.max() > steps)):
            return No("lengths beyond the data")  # the generic lowering says so
        return Yes()

    def default(self, call: KernelCall, caps: Caps) -> RecurrentConfig:
        """The configuration that is predicted to be fastest."""
        return default_config(_spec(call, {}), caps)

    def space(self, call: KernelCall, caps: Caps) -> Iterable[RecurrentConfig]:
        """All ways to share the work among threads."""
        return list(dict.fromkeys(configurations(_spec(call, {}), caps)))

    def cost(self, call: KernelCall, config: RecurrentConfig, caps: Caps) -> float:
        """Multiply-adds, loads of weights, activations."""
        return seconds(_spec(call, {}), config, caps)

    def emit(self, call: KernelCall, config: RecurrentConfig, caps: Caps, name: str) -> Emitted:
        """The kernel, its weights packed."""
        node = call.group.anchor
        dims: dict[Dim, Expr] = {}
        for d in _operand(node, _X).shape:
            if isinstance(d, SymExpr):
                dims.setdefault(d, tirx.Var(f"d{len(dims)}", "int64"))
        spec = _spec(call, dims)
        layout = RecurrentLayout(spec, config)
        w, r, bias = _operand(node, _W), _operand(node, _R), node.input(_B)
        operands: list[Operand] = [_operand(node, _X), Packed(w, layout.input_weight)]
        operands += [Packed(r, layout.recurrent_weight(i)) for i in range(len(spec.passes))]
        if bias is not None:
            operands.append(Computed((bias,), layout.bias))
            if spec.has_apart_bias:
                operands.append(Packed(bias, layout.apart_bias))
        operands += [v for i in (_LENGTHS, _H0, _C0) if (v := node.input(i)) is not None]
        peepholes = node.input(_PEEPHOLES)
        if peepholes is not None:
            operands.append(Packed(peepholes, layout.peepholes))
        lengths = node.input(_LENGTHS)
        check = None
        if lengths is not None:
            value = lengths

            def check(view: View) -> None:
                check_lengths(view, spec, node.label, value.name)

        return Emitted(emit(spec, config, name, check), operands)


def _operand(node: Node, i: int) -> Value:
    value = node.inputs[i]
    assert value is not None
    return value


def _spec(call: KernelCall, dims: dict[Dim, Expr]) -> RecurrentSpec:
    node = call.group.anchor
    x, r = _operand(node, _X), _operand(node, _R)
    batch_first = bool(attr(node, "layout"))
    lead: list[Any] = [dims.get(d, d) for d in x.shape[:2]]
    batch, time = lead if batch_first else reversed(lead)
    functions = named_activations(node)
    assert not isinstance(functions, str)
    clip = attr(node, "clip")
    direction = str(attr(node, "direction") or "forward")
    return RecurrentSpec(
        node.op, time, batch, int(x.shape[2]), int(r.shape[2]),  # type: ignore[arg-type]
        {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction],
        tuple(functions),
        None if clip is None else float(clip),
        bool(node.op == "LSTM" and attr(node, "input_forget")),
        bool(node.op == "GRU" and attr(node, "linear_before_reset")),
        batch_first,
        node.input(_B) is not None,
        node.input(_LENGTHS) is not None,
        node.input(_PEEPHOLES) is not None,
        (node.input(_H0) is not None, node.input(_C0) is not None),
        tuple(node.outputs.index(v) for v in call.group.outputs),
    )  # fmt: skip
