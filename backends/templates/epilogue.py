"""Epilogues of templates: the element-wise nodes after an anchor, evaluated on an accumulator in registers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.element_type import element_type
from graphopt.backends.base.template import KernelCall
from graphopt.backends.base.tvm_api import ForFrame, IRBuilder, tirx, tirx_builder
from graphopt.backends.lower.generic import GroupLowering
from graphopt.backends.lower.quantize import saturated_steps
from graphopt.backends.templates.packed_bytes import packed_byte
from graphopt.backends.tensors.schedule import Evaluate, Schedule
from graphopt.backends.tensors.tensor import Expr, Scope, Tensor, named, weight
from graphopt.errors import InternalError
from graphopt.ir.dims import Dim
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Array, Node, Value
from graphopt.ops.context import attr

_LEAST_STEP = 1e-30
"""Of a result's quantization, below which its inverse might not be finite."""
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


class Epilogue:
    """The epilogue of one call, with the operands that it needs besides the accumulator.

    Args:
        call: the group; its anchor has been computed into an accumulator.
        dims: the template's expressions for the symbolic dimensions that it knows.
        bias: what the anchor itself adds, an element a position along ``axis``; to sums of integers, integers of 32 bits are added
            before anything else.
        scale: what its sums are multiplied with before, one number or an element a position along ``axis``.
        axis: of the result.
        integers: for sums of integers, the factor that they are multiplied with once they are float32; None for other sums.
        sums: TVM's name of the type that sums of integers are in, if there are any.
        offset: integers that are added to such sums first, one a position along ``axis``.

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
        integers: float | None = None,
        sums: str = "int32",
        offset: Array | None = None,
    ) -> None:
        self._offset = offset
        self._call = call
        self._caps = caps
        self._dims = dims
        self._bias, self._scale, self._axis = bias, scale, axis
        self._sum = element_type(call.group.anchor.out.dtype).accumulator
        self._integers = integers
        self._accumulator: Expr = None
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
        tables = [array for array, _ in probe.packed]
        self.values: list[Value | Array] = [*self._operands, *tables]
        self.shapes = [call.layout(v).physical_shape(probe.builder.shape(v.shape)) for v in self._operands]
        self.shapes += [array.shape for array in tables]
        self.types = [element_type(v.dtype) for v in self._operands]
        self.types += [element_type(DType.from_numpy(array.dtype)) for array in tables]
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

        requantize = self._requantized_at_once()
        whole = self._integers is not None and self._bias is not None and self._bias.dtype is DType.i32
        whole_bias, bias = (self._bias, None) if whole else (None, self._bias)
        offset = None if self._offset is None else lowering.pack(self._offset)

        def element(*index: Expr) -> Expr:
            value = self._accumulator
            if self._integers is None:
                value = value if self._scale is None else value * along(self._scale, index)
            else:
                if whole_bias is not None:
                    value = value.astype("int32")  # the sum with it may have more bits than float32
                if offset is not None:
                    value = value + offset(index[self._axis])
                if whole_bias is not None:
                    value = value + along(whole_bias, index)
                # one product of sum and scale, whatever instructions there are: scales are multiplied with one another first
                factor = tirx.const(self._factor(requantize), self._sum)
                value = value.astype(self._sum) * (
                    factor if self._scale is None else along(self._scale, index) * factor
                )
                if (
                    requantize is None
                ):  # what follows may be an addition, which only some processors fuse with a product
                    value = tirx.call_llvm_pure_intrin(self._sum, "llvm.arithmetic.fence", value)
            return value if bias is None else value + along(bias, index)

        lowering.tensors[anchor.out] = Tensor(shape, self._sum, element)
        members = set(group.nodes)
        for node in (anchor, *group.epilogue):
            if node is requantize:
                lowering.tensors[node.out] = _rounded(lowering, anchor.out, node)
            elif node is not anchor:
                lowering.lower(node)
            if sum(use.node in members for use in node.out.uses) > 1:
                lowering.tensors[node.out] = named(lowering.tensors[node.out])
        return lowering

    def _requantized_at_once(self) -> Node | None:
        """The QuantizeLinear whose step divides the scale of sums: only Relu lies in between, which doesn't mind scales."""
        if self._integers is None or (self._bias is not None and self._bias.dtype is not DType.i32):
            return None
        value = self._call.group.anchor.out
        for node in self._call.group.epilogue:
            if node.inputs[0] is not value or value.escapes or len(value.uses) != 1:
                return None
            if node.op == "QuantizeLinear":
                scaled = _constant_scale(node) > 0.0 and not attr(node, "precision")
                return node if scaled and self._stays_finite(node) else None
            if node.op != "Relu":
                return None
            value = node.out
        return None

    def _factor(self, requantize: Node | None) -> float:
        """What sums are multiplied with beside the weight's scale."""
        step = 1.0 if requantize is None else _constant_scale(requantize)
        with np.errstate(over="ignore"):
            return float(np.float32(self._integers) / np.float32(step))

    def _stays_finite(self, requantize: Node) -> bool:
        """Whether all scales over the step are finite: a sum of zero times infinity would be NaN."""
        scale = np.ones(1, np.float32) if self._scale is None else self._scale.data
        if scale is None:
            return False
        with np.errstate(over="ignore"):
            return bool(np.isfinite(scale * np.float32(self._factor(requantize))).all())

    def function(self) -> Callable[[Expr, tuple[Expr, ...], Sequence[Any]], Expr]:
        """``(accumulator, logical index, operand buffers) -> value to store``.

        Where the value is too much for one expression, its steps become statements at the place where the function is called.
        """

        def apply(accumulator: Expr, index: tuple[Expr, ...], buffers: Sequence[Any]) -> Expr:
            key = hash(buffers[0]) if buffers else 0
            if key not in self._ready:
                count = len(self._operands)
                self._ready[key] = self._lower(dict(zip(self._operands, buffers)), buffers[count:])
            lowering = self._ready[key]
            self._accumulator = accumulator
            stepwise = self.stepwise and IRBuilder.is_in_scope()
            with Scope(inline=not stepwise, lane=_iteration() if stepwise else None) as scope:
                scope.branches = stepwise and self.conditional
                value = lowering.tensors[self._call.group.outputs[0]](*index)
            if not stepwise:
                return scope.wrap(value)
            for statement in scope.statements():
                tirx_builder.add_to_parent(statement)
            return value

        return apply


def _constant_scale(node: Node) -> float:
    """The one known scale of a QuantizeLinear, 0 if there is none: finite, and so large that dividing by it is harmless."""
    scale, zero_point = node.inputs[1], node.input(2)
    if scale is None or scale.data is None or scale.data.size != 1 or scale.dtype is not DType.f32:
        return 0.0
    if zero_point is not None and (zero_point.data is None or zero_point.data.size != 1):
        return 0.0
    step = float(scale.data.reshape(-1)[0])
    return step if _LEAST_STEP <= step <= 1.0 / _LEAST_STEP else 0.0


def _rounded(lowering: GroupLowering, source: Value, node: Node) -> Tensor:
    """What a QuantizeLinear makes of the anchor's values, which are in its steps already; a Relu in between is a bound of these."""
    dtype, zero_point = element_type(node.out.dtype).storage, node.input(2)
    zero = 0 if zero_point is None or zero_point.data is None else int(zero_point.data.reshape(-1)[0])
    least = None if node.inputs[0] is source else 0
    steps = lowering.tensors[source]
    found = saturated_steps(steps, zero, dtype, least)
    if node.out.dtype not in (DType.i8, DType.u8):
        return found
    return Tensor(found.shape, dtype, lambda *index: packed_byte(steps(*index), zero, dtype, least), steps=found.steps)


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
