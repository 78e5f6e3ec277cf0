"""Who takes part: graphopt's compiled model and peers on the ONNX model, by the same rules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.driver.bench.child import Entrant
from graphopt.driver.bench.measure import OpenAxes
from graphopt.driver.bench.peers.prepare import peer_info
from graphopt.ir.graph import Array
from graphopt.runtime.signature import Signature

if TYPE_CHECKING:
    from graphopt.runtime.model import CompiledModel

OURS = "graphopt"
_OWN = "graphopt.driver.bench.own"


def own_entrant(
    compiled: CompiledModel, folder: Path, feed: Mapping[str, Array], compile_s: float, name: str = OURS
) -> Entrant:
    """A compiled model, through its file.

    Args:
        compiled: for this machine.
        folder: for the file; has to stay until the race is over.
        feed: inputs.
        compile_s: seconds that compiling took.
        name: for tables.

    Raises:
        CompileError: no linker.
    """
    assert compiled.target is not None
    path = folder / f"{name}.gopt"
    compiled.save(path)
    return Entrant(
        name, OURS, f"{_OWN}:prepare", path, feed, compiled.target.caps.cores, module=_OWN, compile_s=compile_s
    )


def peer_entrant(
    name: str, source: Path, folder: Path, feed: Mapping[str, Array], threads: int, open_axes: OpenAxes | None = None
) -> Entrant:
    """A peer on the model as it came.

    Args:
        name: one of ``graphopt.driver.bench.peers.prepare.PEERS``.
        source: path of the ONNX file.
        folder: for files; has to stay until the race is over.
        feed: inputs.
        threads: CPU threads, the same for all.
        open_axes: what the peer must not take for fixed, as `open_axes_of` says; by default every dimension is fixed to the
            inputs'.

    Raises:
        UserError: unknown or not installed.
    """
    info = peer_info(name)
    head = folder / "head.onnx"
    if not head.exists():
        write_head(source, head)
    return Entrant(
        name, info.title, f"{info.prepare.__module__}:{info.prepare.__name__}", source, feed, threads,
        open=open_axes or {}, module=info.module, head=head,
    )  # fmt: skip


def open_axes_of(signature: Signature) -> dict[str, list[int]]:
    """Axes of inputs that a compiled model left open: peers should leave them open as well."""
    found = {s.name: [axis for axis, dim in enumerate(s.shape) if not isinstance(dim, int)] for s in signature.inputs}
    return {name: axes for name, axes in found.items() if axes}


def write_head(source: Path, to: Path) -> None:
    """Write the model's inputs and outputs alone: a peer that looks at them shall not hold all weights meanwhile."""
    import onnx

    model = onnx.load_model(source, load_external_data=False)
    onnx.save_model(head_of(model), to)


def head_of(model: Any) -> Any:
    """The model without what lies between inputs and outputs."""
    import onnx

    head = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    head.graph.name = model.graph.name
    constant = {item.name for item in model.graph.initializer}
    head.graph.input.extend(item for item in model.graph.input if item.name not in constant)
    head.graph.output.extend(model.graph.output)
    return head
