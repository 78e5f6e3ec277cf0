"""What the cells of a recurrent layer get from the sequence: one matrix product for all of its elements, biases included."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Projection:
    """``out[d, row, column] = sum_k data[row, k] * weight[d * panels + column // width, k, column % width] + bias[d, column]``.

    Attributes:
        spec: rows, columns of a direction and depth.
        config: tiles; their columns fill whole panels, ``panels`` of them a direction.
        data: (rows, K).
        weight: (directions * panels, K, columns of a panel).
        bias: (directions, columns of a direction); None for none.
    """

    spec: MatmulSpec
    config: MatmulConfig
    data: View
    weight: View
    bias: View | None

    def of_all(self, out: tirx.Buffer, directions: int) -> None:
        """Emits the product of all directions, shared out among threads where the configuration says so."""
        self._emit(out, 0, 0, directions, self.config.parallel)

    def of_one(self, out: tirx.Buffer, place: Expr, direction: Expr) -> None:
        """Emits the product of one direction on one thread, into ``out[place]``."""
        self._emit(out, place, direction, 1, False)

    def _emit(self, out: tirx.Buffer, place: Expr, direction: Expr, directions: int, parallel: bool) -> None:
        spec, config, bias = self.spec, self.config, self.bias
        width = config.columns
        panels = spec.n // width
        total = directions * panels
        segments = bind_segments(row_tiles(spec.m, config.m_tile))
        tiles = bind(tile_count(segments))
        symbolic = not isinstance(tiles, int)
        most_tiles = tiles_per_block(spec, config)
        blocks = bind(ceil_div(tiles, most_tiles), symbolic)
        groups = -(-total // config.n_group)
        shape = PanelShape(
            spec.k, config.n_vectors, config.lanes, spec.types.sum, config.m_tile, most_tiles, -(-total // groups),
            config.k_block, by_lane=config.by_lane,
        )  # fmt: skip

        def finish(tile: PanelTile, panel: Expr, row: Expr) -> None:
            which, first = tirx.floordiv(panel, panels), tirx.floormod(panel, panels) * width

            def store(value: Expr, point: Expr, column: Expr) -> None:
                if bias is not None:
                    value = value + bias[direction + which, first + column]
                T.buffer_store(out, value, [place + which, row + point, first + column])

            tile.store_columns(width, store, StoreStyle.unrolled)

        reach = PanelOperands(
            a=lambda row, k: self.data[row, k],
            b=lambda panel, k, column: self.weight[direction * panels + panel, k, column],
            finish=finish,
            following=self.weight if config.prefetch else None,
            skipped=direction * panels,
        )
        loop = T.parallel if parallel else T.serial
        with loop(0, blocks * groups) as flat:
            block, group = bind(tirx.floordiv(flat, groups), symbolic), tirx.floormod(flat, groups)
            multiply_panels(shape, reach, segments, share(block, tiles, blocks), share(group, total, groups))
