"""Attention as a template: the plain form of ONNX's operator, exact softmax over rows of scores that stay in cache."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from graphopt.backends.base.caps import Caps
from graphopt.backends.base.element_type import FLOAT32
from graphopt.backends.base.template import Emitted, KernelCall, KernelTemplate, No, Support, Yes
from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.cpu.cost.constants import CLOCK, FMA_FLOPS_PER_LANE
from graphopt.backends.cpu.kernels.attention import AttentionConfig, emit
from graphopt.backends.cpu.kernels.attention_rows import MOST_ROWS
from graphopt.backends.cpu.kernels.matmul_packed import WORTH_TWO_THREADS
from graphopt.backends.cpu.kernels.tiling import lane_steps, register_tiles, split_balanced, tile_cycles
from graphopt.backends.lower.attention import AttentionForm, attention_form
from graphopt.backends.specs.attention import AttentionSpec
from graphopt.backends.specs.dot_products import dot_product_for
from graphopt.backends.specs.types import KernelTypes
from graphopt.backends.templates.epilogue import Epilogue
from graphopt.backends.templates.fitted_epilogue import extra_operands, plain_epilogue, store_style
from graphopt.backends.templates.kernel_types import types_of
from graphopt.backends.templates.reading import plain_prologue, row_of
from graphopt.backends.tensors.tensor import Expr
from graphopt.ir.dims import Dim, SymExpr
from graphopt.ir.graph import Value
from graphopt.ir.layout import Layout

_STORE_CYCLES = 2.0


class FusedAttention(KernelTemplate[AttentionConfig]):
    """Scaled dot-product attention with or without a mask, grouped heads, causal or not; sizes may be symbolic."""

    name: ClassVar[str] = "attention"
    config_type: ClassVar[type[Any]] = AttentionConfig
    anchors: ClassVar[frozenset[str]] = frozenset({"Attention"})
    converts: ClassVar[bool] = True
    reads_blocks: ClassVar[bool] = True

    def takes(self, layout: Layout) -> bool:
        """Whether keys and values may be stored so: the elements of a vector side by side."""
        return not layout.blocks and (layout.order is None or layout.order[-1] == len(layout.order) - 1)

    def supports(self, call: KernelCall, caps: Caps) -> Support:
        """Yes, or why not."""
        form = attention_form(call.group.anchor)
        if isinstance(form, str):
            return No(form)
        reason = plain_epilogue(call.group) or plain_prologue(call, data=range(4))
        if reason is not None:
            return No(reason)
        operands = _operands(call)
        cached = [v for v in operands[1:3] if v is not operands[0]]
        if any(not call.layout(v).is_plain for v in (*call.group.inputs, *call.group.outputs) if v not in cached):
            return No("needs plain layouts of all but keys and values")
        allowed = {d for v in operands for d in v.shape if isinstance(d, SymExpr)}
        if any(isinstance(d, SymExpr) and d not in allowed for v in call.group.inputs for d in v.shape):
            return No("an epilogue operand has a symbolic dimension of its own")
        return Yes()

    def default(self, call: KernelCall, caps: Caps) -> AttentionConfig:
        """Tiles as for products of these sizes; the queries of a head divided until the threads are equally busy."""
        form, sizes, types = _form(call), _Sizes.of(call), _types(call)
        lanes, by_lane = types.lanes(caps), lane_steps(caps, types.accumulator)

        def cycles(tile: tuple[int, int]) -> tuple[float, int]:
            points, vectors = tile
            k_count, k_vectors = _panels(sizes.keys, vectors, lanes)
            v_count, v_vectors = _panels(form.v_size, vectors, lanes)
            total = 0.0
            for segment in split_balanced(sizes.queries, points):
                height = segment.tile
                scores = k_count * (
                    form.size * tile_cycles(height, k_vectors, caps, by_lane) + _STORE_CYCLES * height * k_vectors
                )
                result = v_count * (
                    sizes.keys * tile_cycles(height, v_vectors, caps, by_lane) + _STORE_CYCLES * height * v_vectors
                )
                total += int(segment.count) * (scores + result)
            return total, -points * vectors

        tile = min(register_tiles(caps, 4, sizes.queries, 0, by_lane), key=cycles)
        flops = 2.0 * sizes.batch * form.heads * sizes.queries * sizes.keys * (form.size + form.v_size)
        # of open lengths the likely one may be worth one thread, and a longer one all of them
        parallel = flops / (4 * lanes * CLOCK) > WORTH_TWO_THREADS or not all(isinstance(d, int) for d in form.scores)
        dot = dot_product_for(types, form.size, caps)
        config = _config(form, sizes, tile, lanes, _shares(form, sizes, tile[0], caps), caps.cores > 1 and parallel)
        return replace(config, together=_together(form, sizes, lanes, dot, caps), dot=dot, by_lane=by_lane)

    def space(self, call: KernelCall, caps: Caps) -> Iterable[AttentionConfig]:
        """Tiles that fit the registers; a head whole, divided for threads, or a tile a task. Few queries also without."""
        form, sizes, lanes = _form(call), _Sizes.of(call), _types(call).lanes(caps)
        dot = dot_product_for(_types(call), form.size, caps)
        by_lane = lane_steps(caps, _types(call).accumulator)
        found: dict[AttentionConfig, None] = {}
        for tile in register_tiles(caps, 4, sizes.queries, 0, by_lane):
            for shares in (1, _shares(form, sizes, tile[0], caps), -(-sizes.queries // tile[0])):
                for parallel in caps.thread_choices:
                    found[replace(_config(form, sizes, tile, lanes, shares, parallel), dot=dot, by_lane=by_lane)] = None
        if together := _together(form, sizes, lanes, dot, caps):
            for parallel in caps.thread_choices:
                found[replace(self.default(call, caps), together=together, parallel=parallel)] = None
        return list(found)

    def cost(self, call: KernelCall, config: AttentionConfig, caps: Caps) -> float:
        """Multiply-adds over the peak rate of the vector units."""
        form = _form(call)
        flops = 2.0 * (form.size + form.v_size) * math.prod(call.nominal(d) for d in form.scores)
        return flops / (FMA_FLOPS_PER_LANE * _types(call).lanes(caps) * CLOCK * max(caps.cores, 1))

    def emit(self, call: KernelCall, config: AttentionConfig, caps: Caps, name: str) -> Emitted:
        """The kernel."""
        operands = _operands(call)
        dims: dict[Dim, Expr] = {}
        for v in operands:
            for d in v.shape:
                if isinstance(d, SymExpr):
                    dims.setdefault(d, tirx.Var(f"d{len(dims)}", "int64"))
        epilogue = Epilogue(call, caps, dims)
        function = emit(
            _spec(call, dims),
            config,
            epilogue.function(),
            extra_operands(epilogue),
            name,
            store_style(epilogue),
        )
        return Emitted(function, [*operands, *epilogue.values])


@dataclass(frozen=True)
class _Sizes:
    """Batch and lengths, the likely ones where they are symbolic."""

    batch: int
    queries: int
    keys: int

    @classmethod
    def of(cls, call: KernelCall) -> _Sizes:
        form = _form(call)
        return cls(*(call.nominal(d) for d in (form.batch, form.queries, form.keys)))


def _panels(columns: int, vectors: int, lanes: int) -> tuple[int, int]:
    """How many panels of at most ``vectors`` vectors, and of how many."""
    needed = -(-columns // lanes)
    count = -(-needed // vectors)
    return count, -(-needed // count)


def _shares(form: AttentionForm, sizes: _Sizes, points: int, caps: Caps) -> int:
    """Tasks that the queries of a head are divided among so that threads are equally busy."""
    tasks = sizes.batch * form.heads
    even = (s for s in range(1, caps.cores + 1) if tasks * s % caps.cores == 0 or tasks >= 4 * caps.cores)
    return min(next(even, 1), -(-sizes.queries // points))


def _together(form: AttentionForm, sizes: _Sizes, lanes: int, dot: str, caps: Caps) -> int:
    """Heads of a task that reads keys and values where they lie: as many as share them, but for threads to have work; 0 if none."""
    if dot or not isinstance(form.queries, int) or form.size % lanes or form.v_size % lanes:
        return 0
    sharing = form.heads // form.kv_heads
    few = [g for g in range(1, sharing + 1) if sharing % g == 0 and g * sizes.queries <= MOST_ROWS]
    busy = [g for g in few if sizes.batch * form.heads // g >= caps.cores]
    return max(busy or few[:1], default=0)


def _config(
    form: AttentionForm, sizes: _Sizes, tile: tuple[int, int], lanes: int, shares: int, parallel: bool
) -> AttentionConfig:
    points, vectors = tile
    k_vectors, v_vectors = (_panels(columns, vectors, lanes)[1] for columns in (sizes.keys, form.v_size))
    return AttentionConfig(points, k_vectors, v_vectors, lanes, shares, parallel)


def _form(call: KernelCall) -> AttentionForm:
    form = attention_form(call.group.anchor)
    assert not isinstance(form, str)
    return form


def _operands(call: KernelCall) -> list[Value]:
    return [v for v in call.group.anchor.inputs[:4] if v is not None]


def _types(call: KernelCall) -> KernelTypes:
    q, k = _operands(call)[:2]
    return types_of(call, q, row_of(call, k)).widened


def _spec(call: KernelCall, dims: Mapping[Dim, Expr]) -> AttentionSpec:
    def extent(d: Dim) -> Any:
        return dims.get(d, d)

    form, mask = _form(call), _form(call).mask
    return AttentionSpec(
        extent(form.batch), form.heads, form.kv_heads, extent(form.queries), extent(form.keys), form.size, form.v_size,
        form.scale, form.causal, form.packed,
        None if mask is None else tuple(extent(d) for d in mask.shape),
        FLOAT32 if mask is None else row_of(call, mask), row_of(call, _operands(call)[2]), _types(call),
        *(call.layout(v) for v in _operands(call)[1:3]),
    )  # fmt: skip
