"""What pruning costs in accuracy and saves in time.

    python benchmarks/pruning.py                          # everything, hours on a small machine
    python benchmarks/pruning.py curves digits            # accuracy against latency of one model
    python benchmarks/pruning.py curves ppocr_rec --criteria l2 --ratios 0.3
    python benchmarks/pruning.py models resnet50 vit_tiny # sizes and latencies at 30, 50 and 70%
    python benchmarks/pruning.py report                   # tables and plots of what was measured so far

Measurements are kept in ``reports/pruning.json``, so they can be made one at a time; the report is written from that file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruning_report import write_report
from pruning_tasks import TASKS, Array, Feed, Task, outputs

import graphopt
from graphopt.backends.targets.grammar import parse_target
from graphopt.backends.targets.prediction import Predictor
from graphopt.driver.bench.measure import Contender, measure
from graphopt.driver.calibration import CompiledRunner
from graphopt.ir.graph import Graph
from graphopt.models import zoo
from graphopt.passes.prune.apply import apply_plan
from graphopt.passes.prune.calibration.statistics import Statistics, gather
from graphopt.passes.prune.choice.ranking import select
from graphopt.passes.prune.choice.size import size_of
from graphopt.passes.prune.groups import find_groups
from graphopt.passes.prune.importance import CRITERIA
from graphopt.passes.prune.plan import PrunePlan
from graphopt.passes.prune.recovery.reconstruct import reconstruct

STORE = Path(__file__).parent / "reports" / "pruning.json"
THREADS = 2
CURVE_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
CURVE_CRITERIA = ("l2", "activation", "random")
MODEL_RATIOS = (0.3, 0.5, 0.7)
MODELS = (
    "resnet50", "densenet121", "mobilenet_v2", "shufflenet", "opennsfw", "nudenet", "ppocr_det", "ppocr_rec", "ppocr_cls",
    "digits", "squeezenet", "inception_v2", "vit_tiny", "bert_tiny",
)  # fmt: skip
UNDERFLOWING = ("ppocr_rec", "nudenet")
"""Trained models with SiLU: they are repaired before they are timed, see ``Curve.sizes``."""
SEED = 0


class Curve:
    """One task's model, analysed once for the batch of the data and once for the single sample that is timed."""

    def __init__(self, task: Task) -> None:
        self.task = task
        path = zoo.get(task.model).path()
        self.graph = graphopt.import_onnx(path, shapes=task.shapes(task.batch))
        self.groups = find_groups(self.graph)
        self.single = find_groups(graphopt.import_onnx(path, shapes=task.shapes(1)))
        assert [(g.name, g.size) for g in self.groups.groups] == [(g.name, g.size) for g in self.single.groups]
        self.runner = CompiledRunner(threads=THREADS)
        self._stats: Statistics | None = None

    @property
    def stats(self) -> Statistics:
        """What calibration gathered on the original."""
        if self._stats is None:
            self._stats = gather(self.graph, self.task.calibration, self.runner, seed=SEED)
        return self._stats

    def mark(self, graph: Graph) -> float:
        """The metric of the compiled graph."""
        names = [output.name for output in graph.outputs]

        def run(feed: Feed) -> dict[str, Array]:
            return self.runner(graph, names, feed)

        return self.task.mark(outputs(run, self.task.tests))

    def plan(self, criterion: str, ratio: float) -> PrunePlan:
        """Which channels go."""
        judge = CRITERIA[criterion]
        scores = judge.score(self.groups, self.stats if judge.needs_data else None, SEED)
        return select(self.groups, scores, ratio=ratio, multiple=self.task.multiple, normalise=not judge.comparable)

    def point(self, criterion: str, ratio: float) -> dict[str, Any]:
        """Marks of one pruned model before and after reconstruction."""
        plan = self.plan(criterion, ratio)
        pruned = apply_plan(plan)
        start = time.perf_counter()
        repaired, report = reconstruct(plan, pruned, self.task.calibration, self.runner, seed=SEED)
        seconds = time.perf_counter() - start
        return {
            "before": self.mark(pruned), "after": self.mark(repaired), "seconds": seconds,
            "sqnr_before": report.sqnr_before, "sqnr_after": report.sqnr_after,
        }  # fmt: skip

    def sizes(self, ratios: Sequence[float]) -> dict[str, dict[str, float]]:
        """Latency of one sample and sizes, by ratio. Shapes are the same for all criteria, so their times are too.

        Roughly repaired models are timed: the activations of broken ones underflow, and subnormal numbers take a processor
        many times as long as others.
        """
        graphs = {"0": self.single.graph}
        samples = [{n: a[i : i + 1] for n, a in self.task.calibration[0].items()} for i in range(self.task.batch)]
        for ratio in ratios:
            plan = PrunePlan(self.single, self.plan("activation", ratio).removed)
            graphs[str(ratio)], _ = reconstruct(plan, apply_plan(plan), samples, self.runner, rounds=2, seed=SEED)
        return measured(graphs, self.task.sample)


def measured(graphs: dict[str, Graph], feed: Feed) -> dict[str, dict[str, float]]:
    """Parameters, FLOPs and interleaved latencies of graphs by name."""
    contenders, found = [], {}
    for key, graph in graphs.items():
        model = graphopt.compile(graph, "native", threads=THREADS)
        fed = {spec.name: feed[spec.name] for spec in model.inputs}
        contenders.append(Contender(key, lambda model=model, fed=fed: model.run(fed)))  # type: ignore[misc]
        size = size_of(graph)
        found[key] = {"parameters": size.parameters, "flops": size.flops}
    for latency in measure(contenders, repeat=30):
        found[latency.name]["ms"] = latency.median_ms
    return found


def measure_curve(name: str, criteria: Sequence[str], ratios: Sequence[float]) -> None:
    """Measure points and keep them."""
    curve = Curve(TASKS[name]())
    keep("curves", name, {
        "metric": curve.task.metric, "rises": curve.task.rises, "data": curve.task.data, "multiple": curve.task.multiple,
        "original": curve.mark(curve.graph),
    })  # fmt: skip
    keep("curves", name, {"sizes": curve.sizes(ratios)})
    for ratio in ratios:
        for criterion in criteria:
            point = curve.point(criterion, ratio)
            keep("curves", name, {"points": {f"{criterion} {ratio}": point}})
            print(name, criterion, ratio, json.dumps(point), flush=True)


def measure_model(name: str) -> None:
    """Measure one model of the zoo at all ratios and keep that."""
    model = zoo.get(name)
    groups = find_groups(graphopt.import_onnx(model.path(), shapes=model.shapes or None))
    scores = CRITERIA["l2"].score(groups, None, SEED)
    multiple = Predictor(parse_target("native")).channel_multiple
    graphs = {"0": groups.graph}
    for ratio in MODEL_RATIOS:
        plan = select(groups, scores, ratio=ratio, multiple=multiple)
        pruned = apply_plan(plan)
        if name in UNDERFLOWING:
            samples = [model.inputs(seed) for seed in range(1, 9)]
            pruned, _ = reconstruct(plan, pruned, samples, CompiledRunner(threads=THREADS), rounds=2, seed=SEED)
        graphs[str(ratio)] = pruned
    found = measured(graphs, model.inputs(0))
    keep("models", name, {"multiple": multiple, "sizes": found})
    print(name, json.dumps(found), flush=True)


def keep(part: str, name: str, values: dict[str, Any]) -> None:
    """Add to what was measured before."""
    store = json.loads(STORE.read_text()) if STORE.exists() else {}
    entry = store.setdefault(part, {}).setdefault(name, {})
    for key, value in values.items():
        entry[key] = {**entry.get(key, {}), **value} if isinstance(value, dict) else value
    STORE.write_text(json.dumps(store, indent=1, sort_keys=True) + "\n")


def main() -> None:
    """Measure what is asked for, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", default="all", choices=("all", "curves", "models", "report"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--criteria", default=",".join(CURVE_CRITERIA))
    parser.add_argument("--ratios", default=",".join(map(str, CURVE_RATIOS)))
    args = parser.parse_args()
    if args.part in ("all", "models"):
        for name in args.names or MODELS:
            measure_model(name)
    if args.part in ("all", "curves"):
        for name in args.names or TASKS:
            measure_curve(
                name, [c for c in args.criteria.split(",") if c], [float(ratio) for ratio in args.ratios.split(",")]
            )
    write_report(STORE)


if __name__ == "__main__":
    main()
