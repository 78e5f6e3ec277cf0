"""The generic kernel of any group: every node through its lowering, one set of loops where shapes agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.dialect import written_in
from graphopt.backends.base.dim_names import variable_name
from graphopt.backends.base.element_type import element_type
from graphopt.backends.base.template import Computed, Emitted, KernelCall, Operand
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.byte_tables import looked_up, table_of
from graphopt.backends.lower.registry import LowerContext, lookup, rounded, scalar_operand, stored
from graphopt.backends.lower.scales import GroupScales, Quantization
from graphopt.backends.tensors.builder import KernelBuilder, Output, reader
from graphopt.backends.tensors.schedule import Schedule
from graphopt.backends.tensors.tensor import Expr, Tensor
from graphopt.errors import GraphOptError, InternalError, UnsupportedOpError
from graphopt.ir.dims import Dim
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Array, Content, Node, Value
from graphopt.ir.layout import PLAIN
from graphopt.passes.precision.halves import computes_halves


class GroupLowering:
    """Turns the nodes of a group into tensors over buffers, which it declares as operands are asked for.

    Args:
        call: the group.
        caps: of the target.
        schedule: how loops are written.
        dims: expressions for symbolic dimensions that are known already.
        buffers: those of operands that are declared already.
        packed: those of constants made for this kernel, in the order in which they are asked for.
    """

    def __init__(
        self,
        call: KernelCall,
        caps: Caps,
        schedule: Schedule,
        *,
        dims: Mapping[Dim, Expr] | None = None,
        buffers: Mapping[Value, Any] | None = None,
        packed: Sequence[Any] = (),
    ) -> None:
        self.call = call
        self._symbols: dict[str, Any] = {}
        self.builder = KernelBuilder(
            caps, schedule, _Symbols(self._symbols), known_dims=dict(dims or {}), names=call.names
        )
        self.tensors: dict[Value, Tensor] = {}
        self.buffers: dict[Value, Any] = dict(buffers or {})
        self.packed: list[tuple[Array | Computed, Any]] = []
        self._given = packed
        self._scales = GroupScales(call.group.nodes)
        self._scale_table: Tensor | None = None
        self._rounded: dict[Value, Tensor] = {}

    def operand(self, value: Value) -> Tensor:
        """The tensor of a value: computed in this kernel, an immediate, dimensions, or a buffer that becomes a parameter."""
        if value in self.tensors:
            return self.tensors[value]
        k = self.builder
        row = element_type(value.dtype)
        dtype = row.storage
        shape = k.shape(value.shape)
        scale = self._scales.scale(value, self._scale_entries)
        if scale is not None:
            tensor = Tensor(shape, dtype, lambda *_: scale)
        elif value.content is not None and value.data is None and not value.binds:
            tensor = self._from_dimensions(value.content, dtype, shape)
        elif value.data is not None and value.data.size > 0 and (value.data.size == 1 or _uniform(value.data)):
            tensor = scalar_operand(value.data, row.compute, shape)
        else:
            layout = self.call.layout(value)
            buffer = self.buffers.get(value)
            if buffer is None:
                k.name_dims(value.shape)
                shape = k.shape(value.shape)
                buffer = tirx.decl_buffer(_storable(layout.physical_shape(shape)), dtype, f"p{len(self.buffers)}")
                self.buffers[value] = buffer
            tensor = reader(buffer, shape, dtype, layout)
        self.tensors[value] = tensor
        return tensor

    def rounded(self, value: Value) -> Tensor:
        """The tensor of a value that was computed in this kernel, rounded to its type: one for all that read it."""
        if value not in self._rounded:
            self._rounded[value] = rounded(self.operand(value), element_type(value.dtype))
        return self._rounded[value]

    def _scale_entries(self) -> Tensor:
        """The table of the scales of the group's nodes, which becomes an operand where one of them is asked for."""
        if self._scale_table is None:
            self._scale_table = self.pack(self._scales.table)
        return self._scale_table

    def quantization(self, node: Node) -> Quantization | None:
        """Scale and zero point of a QuantizeLinear or DequantizeLinear as elements of an operand; None if they aren't known."""
        return self._scales.quantization(node, self._scale_entries)

    def pack(self, array: Array | Computed) -> Tensor:
        """A constant made for this kernel (weights in another order) as an operand."""
        if isinstance(array, Computed):
            return self._packed(array, array.formula.dtype, array.formula.shape)
        array = np.ascontiguousarray(array)
        return self._packed(array, DType.from_numpy(array.dtype), array.shape)

    def _packed(self, array: Array | Computed, type_: DType, shape: tuple[int, ...]) -> Tensor:
        dtype = element_type(type_).storage
        number = len(self.packed)
        if number < len(self._given):
            buffer = self._given[number]
        else:
            buffer = tirx.decl_buffer(_storable(shape), dtype, f"packed{number}")
        self.packed.append((array, buffer))
        return reader(buffer, shape, dtype)

    def _from_dimensions(self, content: Content, dtype: str, shape: Sequence[Expr]) -> Tensor:
        flat = [self.builder.dim(d) for d in content.reshape(-1)]
        strides = [1] * content.ndim
        for i in range(content.ndim - 2, -1, -1):
            strides[i] = strides[i + 1] * content.shape[i + 1]

        def element(*index: Expr) -> Expr:
            position: Expr = tirx.const(0, "int64")
            for i, s in zip(index, strides):
                position = position + i * s
            out = _typed(flat[-1] if flat else 0, dtype)  # nothing is read of an empty tensor
            for i in range(len(flat) - 2, -1, -1):
                out = tirx.Select(tirx.EQ(position, tirx.const(i, "int64")), _typed(flat[i], dtype), out)
            return out

        return Tensor(shape, dtype, element)

    def context(self, node: Node) -> LowerContext:
        """What the lowering of ``node`` sees."""
        outputs = self.call.group.outputs
        layout = self.call.layout(outputs[0]) if outputs else PLAIN
        return LowerContext(
            node, self.builder, self.operand, self.rounded, self.pack, layout, self.call.read,
            self.quantization, self.call.fused.options.adds_halves and computes_halves(node),
        )  # fmt: skip

    def lower(self, node: Node) -> None:
        """Add the tensors of a node's outputs.

        Raises:
            UnsupportedOpError: no lowering for the operator, or none for this form of it.
        """
        table = table_of(node, self.call.group.nodes)
        if table is not None:
            byte, entries = table
            dtype = element_type(node.out.dtype).storage
            self.tensors[node.out] = looked_up(self.operand(byte), self.pack(entries), dtype)
            return
        fn = lookup(node.op, node.domain)
        if fn is None:
            raise UnsupportedOpError(
                f"operator {node.qualified_op} can't be compiled", node=node.label,
                hint="replace it in the model, or export with operators that graphopt lists under `graphopt inspect --ops`",
            )  # fmt: skip
        try:
            result = fn(self.context(node))
        except GraphOptError:
            raise
        except (TypeError, ValueError, IndexError, KeyError, AttributeError) as e:
            raise InternalError(f"lowering {node.op} failed: {type(e).__name__}: {e}", node=node.label) from e
        for value, tensor in zip(node.outputs, result if isinstance(result, list) else [result]):
            if value is not None:
                self.tensors[value] = tensor

    def store(self, values: Sequence[Value]) -> list[Any]:
        """Emit loops that write ``values`` to new output buffers, which are returned."""
        buffers, outputs = [], []
        for i, value in enumerate(values):
            layout = self.call.layout(value)
            shape = layout.physical_shape(self.builder.shape(value.shape))
            row = element_type(value.dtype)
            tensor = stored(self.operand(value), row)
            buffer, done = self.builder.output(tensor, layout, _storable(shape), row.storage, f"out{i}")
            buffers.append(buffer)
            if not done:
                outputs.append(Output(tensor, buffer, layout))
        self.builder.emit(outputs)
        return buffers

    def symbol_params(self) -> tuple[list[str], list[Any]]:
        """Names and variables of the symbols used."""
        names = sorted(self.builder.used_symbols)
        return names, [self.builder.used_symbols[n] for n in names]


class _Symbols(dict[str, Any]):
    """Creates a variable for every symbol asked for; whether it is defined is checked where the kernel is called."""

    def __init__(self, store: dict[str, Any]) -> None:
        super().__init__()
        self._store = store

    def __contains__(self, name: object) -> bool:
        return True

    def __getitem__(self, name: str) -> Any:
        if name not in self._store:
            self._store[name] = tirx.Var(variable_name(name), "int64")
        return self._store[name]


def _uniform(data: Any) -> bool:
    flat = data.reshape(-1)
    return data.size <= 65536 and bool((flat == flat[0]).all())


def _storable(shape: Sequence[Expr]) -> list[Expr]:
    return [tirx.const(d, "int64") if isinstance(d, int) else d for d in shape]


def _typed(value: Expr, dtype: str) -> Expr:
    if isinstance(value, int):
        return tirx.const(value, dtype)
    if dtype == "bool":
        return tirx.NE(value, tirx.const(0, "int64"))
    return value if dtype == "int64" else value.astype(dtype)


def emit_generic(call: KernelCall, caps: Caps, name: str, schedule: Schedule) -> Emitted:
    """The kernel of a group by the generic schedule of a target.

    Raises:
        UnsupportedOpError: an operator has no lowering.
    """
    lowering = GroupLowering(call, caps, schedule)
    with written_in(schedule.dialect(caps)):
        for value in call.group.outputs:
            lowering.builder.name_dims(value.shape)
        for node in call.group.nodes:
            lowering.lower(node)
        outputs = lowering.store(call.group.outputs)
    names, symbols = lowering.symbol_params()
    inputs: list[Operand] = [*lowering.buffers, *(array for array, _ in lowering.packed)]
    params = [*lowering.buffers.values(), *(buffer for _, buffer in lowering.packed), *outputs, *symbols]
    return Emitted(lowering.builder.finish(params, name), inputs, names)
