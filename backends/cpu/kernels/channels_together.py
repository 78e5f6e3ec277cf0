"""The channels of a plain input side by side, for dot products: in NCHW, neighbours lie a plane apart."""

from __future__ import annotations

from graphopt.backends.base.dot_product import DotProduct
from graphopt.backends.base.element_type import computed_type
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.register_tile import bind
from graphopt.backends.templates.operand import GROUPED, View, side_by_side


def channels_together(data: View, dot: DotProduct, lanes: int, parallel: bool) -> View:
    """Emits a copy of (N, C, H, W) as (N, C / g, H, W), each element the g channels that the dot product multiplies at once.

    Channels that the last group lacks are zeros.

    Args:
        data: elements of the dot product's type, or converted to it.
        dot: the instruction.
        lanes: groups in a vector.
        parallel: whether threads share the work.
    """
    batch, channels, height, width = (int(e) if isinstance(e, tirx.IntImm) else e for e in data.shape)
    groups = -(-channels // dot.group)
    plane = bind(height * width)
    source = data.reshaped((batch, channels, plane))
    together = T.alloc_buffer((batch, groups, height, width), GROUPED.storage)
    flat = T.decl_buffer((batch, groups, plane), GROUPED.storage, data=together.data)
    element = source if data.type.dtype is not dot.dtype else View(source.buffer, computed_type(data.type.storage))
    bits = f"uint{32 // dot.group}"

    def group(image: tirx.Expr, first: tirx.Expr, present: int, pixel: tirx.Expr) -> None:
        """The group of ``present`` channels from ``first`` on."""
        members = []
        for offset in range(dot.group):
            at = (image, first * dot.group + offset, pixel)
            if offset >= present:
                members.append(tirx.const(0, bits))
            else:
                members.append(tirx.reinterpret(bits, element[at]))
        T.buffer_store(flat, side_by_side(members), [image, first, pixel])

    def plane_of(image: tirx.Expr, first: tirx.Expr, present: int) -> None:
        whole = bind(tirx.floordiv(plane, lanes))
        with T.serial(0, whole) as i, T.vectorized(0, lanes) as lane:
            group(image, first, present, i * lanes + lane)
        with T.serial(0, plane - whole * lanes) as i:
            group(image, first, present, whole * lanes + i)

    full, rest = divmod(channels, dot.group)
    loop = T.parallel if parallel else T.serial
    if full:
        with loop(0, batch * full) as flat_index:
            plane_of(tirx.floordiv(flat_index, full), tirx.floormod(flat_index, full), dot.group)
    if rest:
        with loop(0, batch) as image:
            plane_of(image, T.int32(full), rest)
    return View(together, GROUPED)
