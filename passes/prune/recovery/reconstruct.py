"""Recovery without training: layers behind removed channels get the weights that reproduce the original's results best.

Layers are repaired in graph order, in rounds. Every round runs the original and the pruned graph as repaired so far on the
calibration data; the layers of a round whose inputs are final get the weights with which the pruned graph's own inputs
give the original's results, so that they make up for what went wrong before them. Layers further down in the same round
are fitted to the original's inputs, as if everything before them were exact: with one round, all are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, inf, log10
from zlib import crc32

import numpy as np

from graphopt.errors import UserError
from graphopt.ir.editor import Editor, clone
from graphopt.ir.graph import Array, Graph
from graphopt.ops.infer import infer_node
from graphopt.passes.prune.calibration.linear_layer import LinearLayer, Rows, linear_layers
from graphopt.passes.prune.calibration.moments import Moments, blocks, finite_rows, pick_rows, require_finite
from graphopt.passes.prune.calibration.statistics import MAX_COLUMNS, MAX_MEMORY, Runner, enough_rows
from graphopt.passes.prune.plan import PrunePlan
from graphopt.passes.prune.recovery.least_squares import RIDGES, Affine, shifted, solve, spread, squared_error
from graphopt.passes.prune.recovery.repairable import Unit, affected_units, affine, put, sliced, takes_bias

MAX_ROUNDS = 8
HELD_OUT = 4
"""One part in so many of the calibration data says whether a fit to the others is any good, and with which penalty."""
LEAST_GAIN = 0.001
"""A fit has to be better on held-out data by this part of the error to be taken."""


@dataclass(frozen=True)
class LayerRepair:
    """What happened to one layer (or to layers that share weights).

    Attributes:
        name: of the node; several joined by ``+``.
        round: in which it was looked at, from 1.
        own_inputs: whether it was fitted to the pruned graph's own inputs, not the original's.
        before: squared error of its results on held-out data, relative to their variance, with the weights it had.
        after: the same with weights fitted to the rest of the data. What is taken in the end is fitted to all of it, with
            the same penalty.
        ridge: penalty of the fit, None where only the bias was changed or nothing.
        changed: whether it was repaired.
        remark: why not, or "".
    """

    name: str
    round: int
    own_inputs: bool
    before: float
    after: float
    ridge: float | None
    changed: bool
    remark: str = ""


@dataclass
class ReconstructionReport:
    """Layers in the order of repair, and the outputs' signal-to-noise ratio on held-out data in dB.

    Attributes:
        layers: one entry a layer.
        sqnr_before: of the pruned graph's outputs against the original's.
        sqnr_after: of the returned graph's.
        rounds: how many were worked through.
        remark: says it when repairs were taken back.
    """

    layers: list[LayerRepair] = field(default_factory=list)
    sqnr_before: float = 0.0
    sqnr_after: float = 0.0
    rounds: int = 0
    remark: str = ""


def reconstruct(
    plan: PrunePlan,
    pruned: Graph,
    feeds: Sequence[Mapping[str, Array]],
    runner: Runner,
    *,
    rounds: int | None = None,
    max_columns: int = MAX_COLUMNS,
    max_memory: int = MAX_MEMORY,
    ridges: Sequence[float] = RIDGES,
    seed: int = 0,
) -> tuple[Graph, ReconstructionReport]:
    """Repair a pruned graph on calibration data.

    Args:
        plan: what was removed.
        pruned: what ``apply_plan`` made of it; not touched.
        feeds: inputs of the model. The last quarter of them (of the rows, when there is one feed) is held out.
        runner: runs graphs and gives inner values.
        rounds: 1 fits all layers to the original's inputs; by default one for each depth, at most ``MAX_ROUNDS``.
        max_columns: layers with longer rows keep their weights but for a factor and an offset for each output channel.
        max_memory: bytes of products that are kept at once; more passes over the data where that is not enough.
        ridges: penalties to choose from on held-out data.
        seed: of the choice of rows where there are more than needed.

    Returns:
        A repaired copy with the same nodes and names (biases may be new), and the report. A layer keeps its weights where
        new ones are no better on held-out data; the copy is as good as ``pruned`` on held-out data, or it is ``pruned``.

    Raises:
        UserError: there are no feeds, or the original graph gives NaN or infinity on them.
    """
    if not feeds:
        raise UserError("there are no calibration samples", code="empty-calibration", hint="pass at least one")
    if rounds is not None and rounds < 1:
        raise UserError(f"rounds must be at least 1, not {rounds}", code="bad-option")
    return _Repair(plan, clone(pruned), feeds, runner, max_columns, max_memory, tuple(ridges), seed).run(rounds)


class _Repair:
    def __init__(
        self,
        plan: PrunePlan,
        work: Graph,
        feeds: Sequence[Mapping[str, Array]],
        runner: Runner,
        max_columns: int,
        max_memory: int,
        ridges: tuple[float, ...],
        seed: int,
    ) -> None:
        self.plan, self.work, self.feeds, self.runner = plan, work, feeds, runner
        self.max_columns, self.max_memory, self.ridges, self.seed = max_columns, max_memory, ridges, seed
        self.original = plan.groups.graph
        self.before, self.now = linear_layers(self.original), linear_layers(work)
        self.units = affected_units(plan, work)
        self.outputs = [v.name for v in self.original.outputs if not v.is_const and v.dtype.numpy.kind == "f"]
        self.fitted = len(feeds) - ceil(len(feeds) / HELD_OUT) if len(feeds) > 1 else 1
        self.report = ReconstructionReport()

    # -- rounds ---------------------------------------------------------------------------------------------------
    def run(self, rounds: int | None) -> tuple[Graph, ReconstructionReport]:
        best, best_noise = clone(self.work), self.noise()
        first_noise, kept = best_noise, 0
        for number, units in enumerate(self.chunks(rounds), 1):
            start = min(unit.depth for unit in units)
            for batch in self.batches(units):
                self.repair(number, batch, start)
            self.report.rounds = number
            noise = self.noise()
            if noise <= best_noise:
                best, best_noise, kept = clone(self.work), noise, number
        self.report.sqnr_before, self.report.sqnr_after = _decibels(first_noise), _decibels(best_noise)
        if kept < self.report.rounds:
            self.report.remark = (
                f"the outputs came out best on held-out data after {kept} of {self.report.rounds} rounds: "
                "what later ones did was taken back"
            )
        return best, self.report

    def chunks(self, rounds: int | None) -> list[list[Unit]]:
        """Units by round: depths in order, cut into equal numbers of them."""
        depths = sorted({unit.depth for unit in self.units})
        count = min(len(depths), MAX_ROUNDS if rounds is None else rounds)
        parts = [set(part.tolist()) for part in np.array_split(depths, count)] if count else []
        return [[unit for unit in self.units if unit.depth in part] for part in parts]

    def batches(self, units: Sequence[Unit]) -> list[list[Unit]]:
        """Units whose products fit into memory together."""
        out: list[list[Unit]] = []
        left = 0
        for unit in units:
            layer = self.now[unit.names[0]]
            need = 2 * len(unit.names) * Moments.bytes(layer.groups, layer.ins, layer.outs)
            if not out or need > left:
                out.append([])
                left = self.max_memory
            out[-1].append(unit)
            left -= need
        return out

    def noise(self) -> float:
        """Squared error of the outputs on held-out data, relative to their squares."""
        error = power = 0.0
        for feed in self.feeds[self.fitted :] or self.feeds:
            wanted = self.runner(self.original, self.original_names, feed)
            got = self.runner(self.work, self.pruned_names, feed)
            for name in self.outputs:
                want = np.asarray(wanted[name], np.float64)
                if got[name].shape == want.shape:
                    error += float(np.square(want - got[name]).sum())
                    power += float(np.square(want).sum())
        return error / power if power else (inf if error or not np.isfinite(error) else 0.0)

    # -- one round ------------------------------------------------------------------------------------------------
    @property
    def original_names(self) -> list[str]:
        """What is asked of the original: always the same, so that it is compiled once."""
        names = [n for unit in self.units for n in unit.names]
        found = [v for n in names for v in (self.before[n].x.name, self.before[n].node.out.name)]
        return list(dict.fromkeys([*found, *self.outputs]))

    @property
    def pruned_names(self) -> list[str]:
        """What is asked of the pruned graph: always the same, so that kernels can be used again."""
        inputs = [self.now[n].x.name for unit in self.units for n in unit.names]
        results = [self.now[n].node.out.name for unit in self.units if self.wide(unit) for n in unit.names]
        return list(dict.fromkeys([*inputs, *results, *self.outputs]))

    def wide(self, unit: Unit) -> bool:
        """Whether products of the unit's rows take too much memory: only scales and offsets of its results are fitted."""
        return self.now[unit.names[0]].ins > self.max_columns

    def repair(self, number: int, units: Sequence[Unit], start: int) -> None:
        """Fit the units' layers on one pass over the data."""
        todo = []
        for unit in units:
            own = unit.depth == start
            problem = unit.problem
            if problem is None and self.wide(unit) and (not own or self.now[unit.names[0]].gives_products):
                problem = f"its rows are longer than {self.max_columns}; more rounds may let it be rescaled"
            if problem is None and not own and not unit.lost:
                continue  # exact with the original's inputs
            if problem is not None:
                self.report.layers.append(
                    LayerRepair("+".join(unit.names), number, own, 0.0, 0.0, None, False, problem)
                )
            else:
                todo.append((unit, own))
        if not todo:
            return
        moments = self.gather(todo)
        editor = Editor(self.work, infer_node)
        for unit, own in todo:
            self.report.layers.append(self.fit(unit, own, number, *moments[unit], editor))

    def gather(self, todo: Sequence[tuple[Unit, bool]]) -> dict[Unit, tuple[Moments, Moments]]:
        """Moments of the units' layers over data to fit to, and over data held out."""
        found = {}
        for unit, _ in todo:
            layer = self.now[unit.names[0]]
            sizes = (layer.groups * layer.outs, 1, 1) if self.wide(unit) else (layer.groups, layer.ins, layer.outs)
            found[unit] = Moments(*sizes), Moments(*sizes)
        for index, feed in enumerate(self.feeds):
            whole = self.runner(self.original, self.original_names, feed)
            cut = self.runner(self.work, self.pruned_names, feed)
            for unit, own in todo:
                for name in unit.names:
                    self.add(name, whole, cut if own else None, index, *found[unit], wide=self.wide(unit))
        return found

    def add(
        self,
        name: str,
        whole: Mapping[str, Array],
        cut: Mapping[str, Array] | None,
        index: int,
        fit: Moments,
        held: Moments,
        wide: bool,
    ) -> None:
        """One layer and feed; ``cut`` has the pruned graph's values where they are its inputs."""
        before, now = self.before[name], self.now[name]
        x_whole = whole[before.x.name]
        x = sliced(self.plan, before.x, x_whole) if cut is None else cut[now.x.name]
        total = now.count(x)
        picks = pick_rows(total, -(-enough_rows(now) // len(self.feeds)), (self.seed, crc32(name.encode()), index))
        border = (total if index < self.fitted else 0) if len(self.feeds) > 1 else total - total // HELD_OUT
        for part in (picks[picks < border], picks[picks >= border]):
            moments = fit if len(part) and part[0] < border else held
            for block in blocks(part):
                wanted = self.results(before, now, whole, x_whole, block)
                if wide:
                    assert cut is not None
                    rows = now.results(cut[now.node.out.name], block)
                    require_finite(now, rows, f"%{now.node.out.name}")
                    moments.add(_singly(rows), _singly(wanted))
                else:
                    moments.add(finite_rows(now, x, block, f"%{before.x.name}"), wanted)

    def results(
        self, before: LinearLayer, now: LinearLayer, whole: Mapping[str, Array], x: Array, block: Array
    ) -> Rows:
        """What the layer's rows should give: the original's results at channels that are left."""
        if not before.gives_products:
            y = sliced(self.plan, before.node.out, whole[before.node.out.name])
            rows = now.results(y, block)
            require_finite(now, rows, f"%{before.node.out.name}")
            return rows
        weight = affine(before).weight.astype(np.float32)
        products = np.matmul(before.rows(x, block), weight.transpose(0, 2, 1))  # [G, n, M x taps]
        n = products.shape[1]
        flat = products.transpose(1, 0, 2).reshape(n, before.channels_out, -1)
        kept = self.plan.keep(before.node.out)[1]
        flat = flat if kept is None else flat[:, kept]
        return np.ascontiguousarray(flat.reshape(n, now.groups, now.outs).transpose(1, 0, 2))

    def fit(self, unit: Unit, own: bool, number: int, fit: Moments, held: Moments, editor: Editor) -> LayerRepair:
        """Choose among the layer as it is, another bias, and least squares, by the error on held-out data."""
        layers = [self.now[name] for name in unit.names]
        layer, wide = affine(layers[0]), self.wide(unit)
        prior = Affine(np.ones((layer.offset.size, 1, 1)), np.zeros((layer.offset.size, 1))) if wide else layer
        intercept = all(takes_bias(one) for one in layers)
        judge = held if held.count else fit
        scale = float(spread(judge).sum()) or 1.0
        before = float(squared_error(judge, prior).sum()) / scale
        name = "+".join(unit.names)
        if not fit.count:
            return LayerRepair(name, number, own, before, before, None, False, "no data reached it")
        tried: list[tuple[float, float | None, Affine]] = []
        if intercept:
            candidate = shifted(fit, prior)
            tried.append((float(squared_error(judge, candidate).sum()) / scale, None, candidate))
        for ridge in self.ridges:
            candidate = solve(fit, prior, ridge, intercept)
            tried.append((float(squared_error(judge, candidate).sum()) / scale, ridge, candidate))
        after, chosen, new = min(tried, key=lambda t: t[0])
        if not after < before * (1 - LEAST_GAIN):
            return LayerRepair(name, number, own, before, before, None, False, "no fit was better on held-out data")
        if held.count:  # the choice is made: now all the data may settle the numbers
            whole = fit + held
            new = shifted(whole, prior) if chosen is None else solve(whole, prior, chosen, intercept)
        put(editor, layers, new.after(layer) if wide else new, self.density(layers[0]))
        return LayerRepair(name, number, own, before, after, chosen, True)

    @staticmethod
    def density(layer: LinearLayer) -> float:
        """Rows an output position, where they are known; 1 otherwise."""
        if not layer.gives_products:
            return 1.0
        ratio = 1.0
        for have, made in zip(layer.x.shape[2:], layer.node.out.shape[2:]):
            ratio *= have / made if isinstance(have, int) and isinstance(made, int) and made else 1.0
        return ratio


def _singly(rows: Rows) -> Rows:
    """[G, n, M] as [G M, n, 1]: every result alone."""
    groups, n, outs = rows.shape
    return np.ascontiguousarray(rows.transpose(0, 2, 1)).reshape(groups * outs, n, 1)


def _decibels(noise: float) -> float:
    """Signal-to-noise ratio in dB."""
    return inf if noise == 0 else -10 * log10(noise) if np.isfinite(noise) else -inf
