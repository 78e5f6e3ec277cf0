"""Concat, Split and Slice of open extents without copies, for those extents at which a part is one contiguous range of the whole.

It is one for a single image, but not for several, and kernels want it to begin on a cache line, which depends on extents too. So
buffers have two places (`graphopt.backends.program.program.Lodging`): inside of the whole if all conditions hold, which is
computed once for new extents, else in memory of their own. The kernel that copies is there for the second case and does nothing
in the first.

Memory is planned for both: a buffer's own memory, of no bytes where it isn't used, and that of the whole are in use from the first
write to the last read (`graphopt.backends.program.plan.lives`). No kernel reads and writes overlapping memory: what is moved into a
whole is written by nobody else and read by nobody before, and either all that is moved lies there, or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graphopt.backends.base.dim_names import has_conditions, variable_name
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.lower.copy import emit_copy
from graphopt.backends.program.plan import ALIGNMENT
from graphopt.backends.program.program import Buffer, JoinStep, KernelStep, Lodging, ViewStep
from graphopt.errors import InternalError
from graphopt.ir.dims import Dim, SymExpr, as_symbol, equal_int, mod, product, subs, symbol, symbols_of
from graphopt.ir.fused import Group
from graphopt.ir.graph import Value
from graphopt.ops.context import InferContext
from graphopt.ops.registry import VIEW, has_trait

if TYPE_CHECKING:
    from graphopt.backends.program.lowering import Lowering


@dataclass(frozen=True)
class Part:
    """``value`` is the positions of the whole from ``start`` on, ``size`` of them, in blocks where the axis has blocks."""

    value: Value
    start: int
    size: int

    @property
    def end(self) -> int:
        """Behind its last position."""
        return self.start + self.size


@dataclass
class _Whole:
    """A tensor and the conditions under which ranges of positions along an axis are contiguous in it.

    Attributes:
        step: bytes of one position.
        single: symbols of the extents that must be 1.
        when: all conditions found so far: dimensions that must be 1, and are 0 or 1.
    """

    lowering: Lowering
    value: Value
    step: Dim
    single: Mapping[str, int]
    when: set[Dim] = field(default_factory=set)

    def positions(self, size: Dim) -> int | None:
        """How many positions take ``size`` bytes, None if that depends on extents."""
        size, step = subs(size, self.single), self.step
        if isinstance(size, int):
            return size // step if isinstance(step, int) and step and size % step == 0 else (None if size else 0)
        if not isinstance(step, SymExpr):
            return None
        count = size.terms[0][1] // step.terms[0][1]
        return count if step * count == size else None

    def size_of(self, value: Value) -> int | None:
        """Positions that a whole value takes."""
        shape = self.lowering.fused.layout(value).physical_shape(value.shape)
        return self.positions(product(shape) * _itemsize(value))

    def aligned(self, position: int) -> Dim:
        """1 where a position begins a cache line, else 0."""
        return equal_int(mod(self.step * position, ALIGNMENT), 0)

    def flag(self, label: str) -> str | None:
        """The symbol that says whether all conditions hold, None if they always do."""
        condition = product(sorted(self.when, key=str))
        name = self.lowering.names.name(condition)
        self.lowering.dims.settle(label)
        if condition != 1 and name not in _known(self.lowering):
            raise InternalError(f"whether {condition} holds is not computed before the program runs", node=label)
        return name


def join(lowering: Lowering, group: Group) -> bool:
    """Lower a Concat whose operands may lie inside of its result; whether that was done."""
    node = group.anchor
    assert node.graph is not None
    value = node.out
    axis = InferContext(node, node.graph).axis(int(node.attrs["axis"]), len(value.shape))
    whole = _whole(lowering, value, axis)
    parts = _parts(lowering, value, axis, [v for v in node.inputs if v is not None])
    if whole is None or parts is None or leaves(value):
        return False
    home = lowering.buffer(value)
    moved = _moved(whole, parts, home)
    if not moved or not symbols_of(*home.shape) <= _known(lowering):
        return False
    inside = [_lies_inside(whole, part, moved) for part in parts]
    flag = whole.flag(node.label)
    for buffer, position in moved.items():
        buffer.lodging = Lodging(home, whole.step * position, flag, frozenset(whole.when))
    if all(inside) and flag is not None:
        lowering.kernel(group, unless=flag)
        return True
    for part, is_inside in zip(parts, inside):
        if not is_inside or flag is not None:
            _copy_in(lowering, part, home, axis, flag if is_inside else None)
    if flag is None:
        placed = [lowering.buffers[part.value] for part, is_inside in zip(parts, inside) if is_inside]
        lowering.out.steps.append(JoinStep(placed, home))
    return True


def cut(lowering: Lowering, group: Group, value: Value, axis: int, ranges: Sequence[tuple[Value, Dim]]) -> bool:
    """Lower a Split or Slice whose results may lie inside of its operand; whether that was done.

    Args:
        value: the operand.
        ranges: results, and at which position along ``axis`` of the operand each begins.
    """
    whole = _whole(lowering, value, axis)
    source = lowering.buffers.get(value)
    if whole is None or source is None or not _has_slot(lowering, source.root[0]):
        return False
    layout = lowering.fused.layout(value)
    block = layout.block(axis)
    places: list[tuple[Buffer, int]] = []
    for result, start in ranges:
        size = result.shape[axis]
        if not isinstance(start, int) or not isinstance(size, int) or start % block or size % block:
            return False
        aligned = whole.aligned(start // block)
        if leaves(result) or lowering.fused.layout(result) != layout or aligned == 0:
            return False
        buffer = lowering.buffer(result)
        if buffer.static_bytes is not None or whole.size_of(result) != size // block:
            return False
        whole.when.add(aligned)
        places.append((buffer, start // block))
    whole.when.discard(1)
    flag = whole.flag(group.anchor.label)
    for buffer, position in places:
        buffer.lodging = Lodging(source, whole.step * position, flag, frozenset(whole.when))
        if flag is None:
            lowering.out.steps.append(ViewStep(source, buffer))
    if flag is not None:
        lowering.kernel(group, unless=flag)
    return True


def leaves(value: Value) -> bool:
    """Whether a value, or a view of it, is a result of its graph: the caller gets memory of its own for it."""
    if value.escapes:
        return True
    return any(has_trait(u.node, VIEW) and any(leaves(o) for o in u.node.outputs if o) for u in value.uses)


def idle_where(function: Any, flag: str) -> Any:
    """A kernel that does nothing where ``flag`` is not 0, which it takes as a further symbol."""
    variable = tirx.Var(variable_name(flag), "int64")
    body = tirx.IfThenElse(tirx.EQ(variable, tirx.const(0, "int64")), function.body, None)
    return tirx.PrimFunc([*function.params, variable], body, function.ret_type, function.attrs)


def _whole(lowering: Lowering, value: Value, axis: int) -> _Whole | None:
    """What is asked of a tensor so that ranges along ``axis`` are contiguous in it; None if they never are, or are always known."""
    sizing = lowering.dims.sizing
    layout = lowering.fused.layout(value)
    if sizing is None or (layout.blocks and layout.block(axis) == 1):
        return None
    physical = layout.physical_shape(value.shape)
    place = layout.axes(len(value.shape)).index(axis)
    outer = [d for d in physical[:place] if d != 1]
    single = {name: 1 for d in outer if (name := as_symbol(d)) is not None}
    step = subs(product(physical[place + 1 :]) * _itemsize(value), single)
    if len(single) < len(set(outer)) or has_conditions(step):
        return None
    if not symbols_of(step) | single.keys() <= sizing.extents.keys():
        return None
    return _Whole(lowering, value, step, single, {equal_int(symbol(name), 1) for name in single})


def _parts(lowering: Lowering, whole: Value, axis: int, values: Sequence[Value]) -> list[Part] | None:
    """The operands of a Concat; None if they aren't whole blocks, or only run time knows where they lie."""
    block = lowering.fused.layout(whole).block(axis)
    parts: list[Part] = []
    position = 0
    for value in values:
        extent = value.shape[axis]
        if not isinstance(extent, int) or extent % block or value.dtype is not whole.dtype:
            return None
        parts.append(Part(value, position // block, extent // block))
        position += extent
    return parts


def _moved(whole: _Whole, parts: Sequence[Part], home: Buffer) -> dict[Buffer, int]:
    """Buffers that parts lie in and that can be moved into ``home``, with their positions; notes the conditions for it."""
    moved: dict[Buffer, int] = {}
    for part in parts:
        found = _found(whole, part)
        if found is None:
            continue
        top, shift = found
        base = part.start - shift
        assert top.value is not None
        size = whole.size_of(top.value)
        aligned = whole.aligned(base)
        if top in moved or size is None or base < 0 or base + size > parts[-1].end or aligned == 0:
            continue
        if not _has_slot(whole.lowering, top):
            continue
        others = [p for p in parts if p.start < base + size and base < p.end and p.size]
        if all(_found(whole, p) == (top, p.start - base) for p in others):
            moved[top] = base
            whole.when.add(aligned)
    for part in parts:
        if _lies_inside(whole, part, moved):
            for host in whole.lowering.buffers[part.value].hosts:
                if host.lodging is not None:
                    whole.when |= host.lodging.when
    whole.when.discard(1)
    return moved


def _found(whole: _Whole, part: Part) -> tuple[Buffer, int] | None:
    """The outermost buffer that a part may lie in, and at which position; None if the part has no such place."""
    lowering = whole.lowering
    buffer = lowering.buffers.get(part.value)
    if buffer is None or lowering.fused.layout(part.value) != lowering.fused.layout(whole.value):
        return None
    if buffer.root[1] or whole.size_of(part.value) != part.size:
        return None
    shift: Dim = 0
    hosts = buffer.hosts
    for host in hosts[:-1]:
        assert host.lodging is not None
        shift = shift + host.lodging.shift
    position = whole.positions(shift)
    return None if position is None or hosts[-1].value is None else (hosts[-1], position)


def _lies_inside(whole: _Whole, part: Part, moved: Mapping[Buffer, int]) -> bool:
    """Whether a part is at its place in the whole, if all conditions hold."""
    found = _found(whole, part)
    return found is not None and found[0] in moved and moved[found[0]] + found[1] == part.start


def _has_slot(lowering: Lowering, root: Buffer) -> bool:
    """Whether a buffer is planned and its size follows from extents: others may lie inside of it, and it inside of them."""
    return (
        lowering.written.is_planned(root)
        and root.static_bytes is None
        and root.value is not None
        and not leaves(root.value)
        and symbols_of(*root.shape) <= _known(lowering)
    )


def _known(lowering: Lowering) -> set[str]:
    sizing = lowering.dims.sizing
    assert sizing is not None
    return {*sizing.extents, *sizing.computed}


def _copy_in(lowering: Lowering, part: Part, home: Buffer, axis: int, flag: str | None) -> None:
    """A kernel that copies a part into the whole, unless ``flag`` says that it is there."""
    value, whole = part.value, home.value
    assert whole is not None
    layout = lowering.fused.layout(whole)
    begin = tuple(part.start * layout.block(axis) if i == axis else 0 for i in range(len(value.shape)))
    function, sources, symbols = emit_copy(
        value,
        lowering.fused,
        lowering.target.caps,
        lowering.platform.schedule,
        lowering.names,
        layout,
        whole.shape,
        begin,
    )
    lowering.dims.settle(value.name)
    lowering.dims.require(symbols, value.name)
    if flag is not None:
        function, symbols = idle_where(function, flag), [*symbols, flag]
    operands = [lowering.buffer(v) for v in sources]
    kernel = lowering.add(function, "copy", operands)
    lowering.out.steps.append(KernelStep(kernel, operands, [home], symbols, "copy"))


def _itemsize(value: Value) -> int:
    return (value.dtype.bits + 7) // 8
