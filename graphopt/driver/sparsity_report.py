"""What zeros in weights did: how many, layer by layer; what the compiled file saves and why not more; outputs; latency."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.driver.prune_report import Change, OutputRow
from graphopt.passes.prune.sparse.sparsity import LayerZeros
from graphopt.runtime.zero_bitmap import compress

if TYPE_CHECKING:
    from graphopt.backends.program.program import Program

LATENCY_NOTE = (
    "no kernel skips zeros: the latency is that of the dense model. Whole channels of zeros are another matter: the pass "
    "remove-dead-channels, part of -O3, takes them out"
)


@dataclass(frozen=True)
class StoredConstants:
    """The compiled model's constants that one kind of kernel reads.

    Attributes:
        template: kind of kernel; ``generic`` for the generic schedule.
        constants: how many.
        compressed: how many of them are stored as bitmap and values.
        zeros: part of their elements that are zero, in the form in which kernels read them.
        bytes: in memory.
        stored: in the file.
    """

    template: str
    constants: int
    compressed: int
    zeros: float
    bytes: int
    stored: int


@dataclass(frozen=True)
class SparsityReport:
    """The result of ``graphopt.sparsify`` besides the graph.

    Attributes:
        source: of the model.
        pattern, method, scope: how zeros were chosen.
        ratio: part of the weights that was asked to be zero.
        data: what Wanda saw and outputs were compared on.
        target: of the compiled model.
        layers: one row a layer, those left alone too.
        reconstructed: names of layers whose other weights were set anew on calibration data.
        artifact_bytes: of the compiled model's file; None when it was not compiled or can't be linked here.
        dense_bytes: of the sparse model's file if nothing in it were compressed, None likewise.
        stored: the sparse model's constants by kind of kernel.
        outputs: signal to noise of every output against the original.
        latency_ms: median time of a run; None when not measured.
        notes: remarks.
    """

    source: str
    pattern: str
    method: str
    scope: str
    ratio: float
    data: str
    target: str
    layers: tuple[LayerZeros, ...]
    reconstructed: tuple[str, ...]
    artifact_bytes: Change | None
    dense_bytes: int | None
    stored: tuple[StoredConstants, ...]
    outputs: tuple[OutputRow, ...]
    latency_ms: Change | None
    notes: tuple[str, ...]

    @property
    def elements(self) -> int:
        """Weights of all layers."""
        return sum(row.elements for row in self.layers)

    @property
    def zeros(self) -> Change:
        """Zeros among them."""
        return Change(sum(row.before for row in self.layers), sum(row.after for row in self.layers))

    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold; None stands for infinite and undefined ratios."""
        return {
            "source": self.source,
            "pattern": self.pattern,
            "method": self.method,
            "scope": self.scope,
            "ratio": self.ratio,
            "data": self.data,
            "target": self.target,
            "elements": self.elements,
            "zeros": {"before": int(self.zeros.before), "after": int(self.zeros.after)},
            "layers": [asdict(row) for row in self.layers],
            "reconstructed": list(self.reconstructed),
            "artifact_bytes": None if self.artifact_bytes is None else self.artifact_bytes.to_dict(),
            "dense_bytes": self.dense_bytes,
            "stored": [asdict(row) for row in self.stored],
            "outputs": [
                {"name": row.name, "sqnr_db": row.sqnr_db if row.sqnr_db is None or np.isfinite(row.sqnr_db) else None}
                for row in self.outputs
            ],
            "latency_ms": None if self.latency_ms is None else self.latency_ms.to_dict(),
            "notes": list(self.notes),
        }


def stored_constants(program: Program) -> tuple[StoredConstants, ...]:
    """The constants of a program by the template of the first kernel that reads them, largest first."""
    readers: dict[int, str] = {}
    for step in program.kernels:
        for buffer in step.inputs:
            readers.setdefault(id(buffer), step.template)
    groups: dict[str, list[Any]] = {}
    for buffer in program.constants:
        if buffer.data is not None:
            groups.setdefault(readers.get(id(buffer), "generic"), []).append(np.ascontiguousarray(buffer.data))
    rows = []
    for template, arrays in groups.items():
        small = [compress(array) for array in arrays]
        size = sum(array.size for array in arrays)
        rows.append(
            StoredConstants(
                template,
                len(arrays),
                sum(c is not None for c in small),
                sum(array.size - int(np.count_nonzero(array)) for array in arrays) / max(size, 1),
                sum(array.nbytes for array in arrays),
                sum(array.nbytes if c is None else c.nbytes for array, c in zip(arrays, small)),
            )
        )
    return tuple(sorted(rows, key=lambda row: -row.bytes))
