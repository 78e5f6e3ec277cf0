"""Epilogues of templates: the element-wise nodes after an anchor, evaluated on an accumulator in registers."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.element_type import HALF, element_type, scalar_dtype
from graphopt.backends.base.formula import Formula
from graphopt.backends.base.template import Computed, KernelCall
from graphopt.backends.base.tvm_api import ForFrame, IRBuilder, tirx, tirx_builder
from graphopt.backends.lower.generic import GroupLowering
from graphopt.backends.lower.quantize import requantized
from graphopt.backends.lower.scales import known_zero_point
from graphopt.backends.templates.requantize import requantized_at_once, scales_of_sums
from graphopt.backends.templates.storing import BiasedEpilogue, EpilogueFn
from graphopt.backends.templates.zero_points import Offset
from graphopt.backends.tensors.math import rounded_product
from graphopt.backends.tensors.schedule import Evaluate, Schedule
from graphopt.backends.tensors.tensor import Expr, Scope, Tensor, named, weight
from graphopt.errors import InternalError
from graphopt.ir.dims import Dim
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Array, Node, Value

MAX_EXPRESSION = 200
"""Operations behind a variable, as TVM's passes see them, up to which an epilogue is one expression. Each function in a chain of
functions like tanh multiplies them, and the time of TVM's passes grows faster: a product with SiLU in bfloat16 (689) took them 28 s
as an expression, 0.4 s in steps, which cost nothing at run time."""


class _WithinLoops(Schedule):
    """What runs on an accumulator runs in its anchor's loops, and has none of its own."""

    calls_back = picks_loops = merges_copies = True

    def nest(self, shape: tuple[Expr, ...], evaluate: Evaluate, caps: Caps) -> list[Any]:
        raise InternalError("an epilogue needs loops of its own")

    def serial(self, statements: Sequence[Any]) -> list[Any]:
        raise InternalError("an epilogue needs statements of its own")


_WITHIN_LOOPS = _WithinLoops()


class _Part(Enum):
    """What an evaluation is of."""

    whole = "whole"
    bias = "bias"
    rest = "rest"


class Epilogue:
    """The epilogue of one call, with the operands that it needs besides the accumulator.

    Args:
        call: the group; its anchor has been computed into an accumulator.
        dims: the template's expressions for the symbolic dimensions that it knows.
        bias: what the anchor itself adds, an element a position along ``axis``; to sums of integers, integers of 32 bits are added
            before anything else.
        scale: what its sums are multiplied with before, one number or an element a position along ``axis``.
        axis: of the result.
        integers: for sums of integers, the scale of the data, with which they are multiplied once they are float32; None for other
            sums.
        sums: TVM's name of the type that sums of integers are in, if there are any.
        offset: integers that are added to such sums first.

    Attributes:
        values: operands that it reads, in the order in which ``function`` wants their buffers; arrays are made for this kernel.
        shapes: their physical shapes.
        types: their element types.
        weight: operations of one evaluation, about.
        conditional: whether something in it can't be vectorised by TVM.
        stepwise: whether it is too much for one expression, so that its steps are statements.
    """

    def __init__(
        self,
        call: KernelCall,
        caps: Caps,
        dims: Mapping[Dim, Expr],
        *,
        bias: Value | None = None,
        scale: Value | None = None,
        axis: int = 0,
        integers: Value | None = None,
        sums: str = "int32",
        offset: Offset | None = None,
    ) -> None:
        self._offset = offset
        self._call = call
        self._caps = caps
        self._dims = dims
        self._bias, self._scale, self._axis = bias, scale, axis
        self._sum = element_type(call.group.anchor.out.dtype).accumulator
        self._integers = integers
        self._accumulator: Expr = None
        self._part = _Part.whole
        probe = self._lower({})
        shape = probe.builder.shape(call.group.outputs[0].shape)
        index = tuple(tirx.Var(f"i{i}", "int64") for i in range(len(shape)))
        # of a number TVM would fold all that follows
        self._accumulator = tirx.Var("accumulator", self._sum if integers is None else sums)
        with Scope(inline=True) as scope:
            value = scope.wrap(probe.tensors[call.group.outputs[0]](*index))
        self.stepwise = scope.heaviest > MAX_EXPRESSION
        self.conditional = scope.branches
        self.weight = weight(value)
        self._operands = list(probe.buffers)
        tables = [table for table, _ in probe.packed]
        self.values: list[Value | Array | Computed] = [*self._operands, *tables]
        self.shapes = [call.layout(v).physical_shape(probe.builder.shape(v.shape)) for v in self._operands]
        self.types = [element_type(v.dtype) for v in self._operands]
        for table in tables:
            made = table.formula if isinstance(table, Computed) else table
            self.shapes.append(made.shape)
            self.types.append(element_type(made.dtype if isinstance(made, Formula) else DType.from_numpy(made.dtype)))
        self._ready: dict[int, GroupLowering] = {}

    def _lower(self, buffers: Mapping[Value, Any], packed: Sequence[Any] = ()) -> GroupLowering:
        call = self._call
        lowering = GroupLowering(call, self._caps, _WITHIN_LOOPS, dims=self._dims, buffers=buffers, packed=packed)
        anchor = call.group.anchor
        shape = lowering.builder.shape(anchor.out.shape)

        group = call.group
        read = {self._bias, *(v for node in group.epilogue for v in node.inputs)}
        for node in group.prologue:
            if node.out in read:  # the anchor's kernel reads the others
                lowering.lower(node)

        def along(value: Value, index: tuple[Expr, ...]) -> Expr:
            row = element_type(value.dtype)
            converted = row.is_narrow and group.source(value) is not value
            tensor = lowering.rounded(value) if converted else lowering.operand(value)
            one = all(d == 1 for d in value.shape)
            return row.computed(tensor(*(0 if one else index[self._axis] for _ in value.shape)))

        halves = call.fused.options.adds_halves and anchor.out.dtype is HALF.dtype and self._integers is None
        whole = self._integers is not None and self._bias is not None and self._bias.dtype is DType.i32
        whole_bias, bias = (self._bias, None) if whole else (None, self._bias)
        offset = None if self._offset is None else lowering.pack(self._offset.operand)
        requantize, factors = None, None
        if self._integers is not None:
            requantize = requantized_at_once(group, self._integers, self._scale, self._bias)
            channels = anchor.out.shape[self._axis]
            assert isinstance(channels, int)
            factors = lowering.pack(scales_of_sums(self._integers, self._scale, requantize, channels))

        def element(*index: Expr) -> Expr:
            if self._part is _Part.bias:
                assert bias is not None
                return along(bias, index)
            value = self._accumulator
            if factors is None:
                value = value if self._scale is None else value * along(self._scale, index)
            else:
                if whole_bias is not None:
                    value = value.astype("int32")  # the sum with it may have more bits than float32
                if offset is not None and self._offset is not None:
                    value = value + offset(*self._offset.place(index))
                if whole_bias is not None:
                    value = value + along(whole_bias, index)
                # what follows may be an addition, which only some processors fuse with a product
                product = operator.mul if requantize is not None else rounded_product
                value = product(value.astype(self._sum), factors(index[self._axis]))
            if not halves:
                return value if bias is None or self._part is _Part.rest else value + along(bias, index)
            if bias is not None:
                added = along(bias, index)
                value = value + (HALF.stored(added) if scalar_dtype(value) == HALF.storage else added)
            return HALF.stored(value)

        lowering.tensors[anchor.out] = Tensor(shape, HALF.compute if halves else self._sum, element)
        members = set(group.nodes)
        for node in (anchor, *group.epilogue):
            if node is requantize:
                lowering.tensors[node.out] = _quantized(lowering, anchor.out, node)
            elif node is not anchor:
                lowering.lower(node)
            if sum(use.node in members for use in node.out.uses) > 1:
                lowering.tensors[node.out] = named(lowering.tensors[node.out])
        return lowering

    def function(self) -> EpilogueFn:
        """``(accumulator, logical index, operand buffers) -> value to store``.

        Where the value is too much for one expression, its steps become statements at the place where the function is called. The
        result is a `BiasedEpilogue` where a bias comes first, and may be added in another order than it is written.
        """
        whole = partial(self._apply, _Part.whole)
        options, node = self._call.fused.options, self._call.group.anchor
        halves = options.adds_halves and node.out.dtype is HALF.dtype
        if self._bias is None or self._scale is not None or self._integers is not None or halves or options.exact:
            return whole
        return BiasedEpilogue(whole, self._bias_at, partial(self._apply, _Part.rest))

    def _apply(self, part: _Part, accumulator: Expr, index: tuple[Expr, ...], buffers: Sequence[Any]) -> Expr:
        """The value to store, or that without the bias."""
        lowering = self._lowering(buffers)
        self._accumulator, self._part = accumulator, part
        stepwise = self.stepwise and IRBuilder.is_in_scope()
        with Scope(inline=not stepwise, lane=_iteration() if stepwise else None) as scope:
            scope.branches = stepwise and self.conditional
            value = lowering.tensors[self._call.group.outputs[0]](*index)
        if not stepwise:
            return scope.wrap(value)
        for statement in scope.statements():
            tirx_builder.add_to_parent(statement)
        return value

    def _bias_at(self, index: tuple[Expr, ...], buffers: Sequence[Any]) -> Expr:
        """The bias alone."""
        self._part = _Part.bias
        with Scope(inline=True) as scope:
            return scope.wrap(self._lowering(buffers).tensors[self._call.group.anchor.out](*index))

    def _lowering(self, buffers: Sequence[Any]) -> GroupLowering:
        """The nodes over a kernel's buffers."""
        key = hash(buffers[0]) if buffers else 0
        if key not in self._ready:
            count = len(self._operands)
            self._ready[key] = self._lower(dict(zip(self._operands, buffers)), buffers[count:])
        return self._ready[key]


def _quantized(lowering: GroupLowering, source: Value, node: Node) -> Tensor:
    """What a QuantizeLinear makes of the anchor's values, which are in its steps already; a Relu in between is a bound of these."""
    into, zero_point = lowering.quantization(node), known_zero_point(node)
    assert into is not None
    assert zero_point is not None
    dtype, rectified = element_type(node.out.dtype).storage, node.inputs[0] is not source
    return requantized(lowering.tensors[source], into, zero_point, dtype, rectified=rectified)


def _iteration() -> tuple[Expr, int] | None:
    """Number and extent of the iterations of the innermost loop around the current place, None if the extent is not known.

    A loop that is vectorised has a known extent, and is the innermost one around an epilogue.
    """
    for frame in reversed(IRBuilder.current().frames):
        if isinstance(frame, ForFrame):
            var, domain = frame.vars[-1], frame.doms[-1]
            known = isinstance(domain.extent, tirx.IntImm)
            return (var - domain.min, int(domain.extent)) if known else None
    return None
