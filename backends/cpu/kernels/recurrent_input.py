"""What the cells of a recurrent layer get from the sequence: one matrix product for all of its elements, biases included."""

from __future__ import annotations

from graphopt.backends.base.tvm_api import tirx
from graphopt.backends.base.tvm_api import tirx_builder as T
from graphopt.backends.cpu.kernels.matmul_tile import MatmulConfig, row_tiles, tiles_per_block
from graphopt.backends.cpu.kernels.panel_product import PanelOperands, PanelShape, PanelTile, multiply_panels
from graphopt.backends.cpu.kernels.register_tile import bind, bind_segments, tile_count
from graphopt.backends.cpu.kernels.task_loops import share
from graphopt.backends.specs.matmul import MatmulSpec
from graphopt.backends.specs.window import ceil_div
from graphopt.backends.templates.operand import View
from graphopt.backends.templates.storing import StoreStyle
from graphopt.backends.tensors.tensor import Expr


def project(
    spec: MatmulSpec, config: MatmulConfig, data: View, weight: View, bias: View | None, out: tirx.Buffer, panels: int
) -> None:
    """Emits ``out[d, row, column] = sum_k data[row, k] * weight[d * panels + column // width, k, column % width] + bias``.

    Args:
        spec: rows, columns of all directions and depth of the product.
        config: tiles; its columns fill whole panels.
        data: (rows, K).
        weight: (directions * panels, K, columns of a panel).
        bias: (directions, columns of a direction); left out for none.
        out: (directions, rows, columns of a direction).
        panels: of a direction.
    """
    width = config.columns
    total = spec.n // width
    segments = bind_segments(row_tiles(spec.m, config.m_tile))
    tiles = bind(tile_count(segments))
    symbolic = not isinstance(tiles, int)
    most_tiles = tiles_per_block(spec, config)
    blocks = bind(ceil_div(tiles, most_tiles), symbolic)
    groups = -(-total // config.n_group)
    shape = PanelShape(
        spec.k, config.n_vectors, config.lanes, spec.types.sum, config.m_tile, most_tiles, -(-total // groups),
        config.k_block,
    )  # fmt: skip

    def finish(tile: PanelTile, panel: Expr, row: Expr) -> None:
        direction, first = tirx.floordiv(panel, panels), tirx.floormod(panel, panels) * width

        def store(value: Expr, point: Expr, column: Expr) -> None:
            if bias is not None:
                value = value + bias[direction, first + column]
            T.buffer_store(out, value, [direction, row + point, first + column])

        tile.store_columns(width, store, StoreStyle.unrolled)

    reach = PanelOperands(
        a=lambda row, k: data[row, k],
        b=lambda panel, k, column: weight[panel, k, column],
        finish=finish,
        following=weight if config.prefetch else None,
    )
    loop = T.parallel if config.parallel else T.serial
    with loop(0, blocks * groups) as flat:
        block, group = bind(tirx.floordiv(flat, groups), symbolic), tirx.floormod(flat, groups)
        multiply_panels(shape, reach, segments, share(block, tiles, blocks), share(group, total, groups))
