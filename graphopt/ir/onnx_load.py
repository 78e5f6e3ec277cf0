"""From path, bytes or ModelProto to a checked, self-contained ModelProto. An ONNX file is untrusted input.

External data is mapped, not read, and only from inside the model's own folder; damaged files and cyclic graphs are
refused with an error that names the file and the remedy.
"""

from __future__ import annotations

import math
import mmap
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

from graphopt.errors import ModelError, UnsupportedOpError
from graphopt.ir.deviations import Deviation
from graphopt.ir.dtypes import DType
from graphopt.ir.graph import Array
from graphopt.ir.onnx_check import check
from graphopt.ir.onnx_payload import LARGE, take_payloads
from graphopt.ir.onnx_repair import repair
from graphopt.ir.onnx_text import check_text
from graphopt.ir.types import MAX_ELEMENTS

ModelSource: TypeAlias = str | os.PathLike[str] | bytes | ModelProto
MIN_OPSET = 6
_HINT_REEXPORT = "export the model again, or run onnx.checker.check_model on it to see every problem"


@dataclass
class LoadedModel:
    """A checked model.

    Attributes:
        source: its name, for messages.
        external: tensors kept outside of the message (mapped files, large weights) by name.
        deviations: what was accepted although the specification has it otherwise.
    """

    proto: ModelProto
    source: str
    external: dict[str, Array] = field(default_factory=dict)
    deviations: list[Deviation] = field(default_factory=list)


def load_model(src: ModelSource, *, strict: bool = False) -> LoadedModel:
    """Read and check a model; model-local functions are inlined.

    Unless ``strict``, what breaks a rule but has one meaning only is accepted (``graphopt.ir.onnx_repair``).

    Raises:
        ModelError: missing, truncated, not ONNX, fails the checker, cyclic, or external data missing or outside its
        folder.
        UnsupportedOpError: opset outside the supported range, or tensors of a kind that is not compiled.
    """
    folder: Path | None = None
    payloads: dict[str, Array] = {}
    if isinstance(src, ModelProto):
        proto, source = ModelProto(), "<ModelProto>"
        proto.CopyFrom(src)
    elif isinstance(src, bytes):
        source = "<bytes>"
        proto, payloads = _parse_large(src, source)
    else:
        path = Path(src)
        source, folder = str(path), path.parent
        proto, payloads = _parse_large(_read(path), source)
    if not proto.HasField("graph"):
        raise ModelError(f"{source} is not an ONNX model: it holds no graph", hint=_HINT_REEXPORT)
    check_text(proto, source)
    _check_sizes(proto.graph, source)
    deviations = [] if strict else repair(proto)
    _check_attributes(proto.graph, source)
    external = _map_external(proto, folder, source) | payloads
    for tensor in proto.graph.initializer if payloads else ():
        if tensor.name in payloads:
            tensor.data_location = TensorProto.EXTERNAL  # not here
    moved = _sort_nodes(proto.graph, source, strict)
    if moved:
        deviations.append(Deviation("unsorted-nodes", moved, "it stands before a node whose result it needs"))
    _check_opset(proto, source)
    deviations += check(proto, source, strict=strict)
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    return LoadedModel(proto, source, external, deviations)


def graphs_of(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and all subgraphs in it."""
    yield graph
    for node in graph.node:
        for attr in node.attribute:
            if attr.type == AttributeProto.GRAPH:
                yield from graphs_of(attr.g)


def _read(path: Path) -> bytes | mmap.mmap:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < LARGE:
                return file.read()
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as e:
        raise ModelError(f"model file {path} does not exist", code="no-such-file", hint="check the path") from e
    except IsADirectoryError as e:
        raise ModelError(f"{path} is a directory", code="no-such-file", hint="name the .onnx file inside it") from e
    except OSError as e:
        raise ModelError(f"can't read {path}: {e.strerror}", hint="check the file's permissions") from e


def _parse(blob: bytes, source: str) -> ModelProto:
    proto = ModelProto()
    try:
        proto.ParseFromString(blob)
    except DecodeError as e:
        raise ModelError(
            f"{source} is not an ONNX model, or it is truncated ({len(blob)} bytes)",
            hint="compare the file's size with the original's and download or export it again",
        ) from e
    return proto


def _parse_large(blob: bytes | mmap.mmap, source: str) -> tuple[ModelProto, dict[str, Array]]:
    """The model, and large weights by name that it comes without."""
    rest, payloads = take_payloads(blob)
    proto = _parse(rest, source)
    if payloads:
        names = Counter(t.name for t in _tensors(proto.graph))
        if any(names[name] != 1 for name in payloads):  # a subgraph has its own of that name
            return _parse(bytes(blob), source), {}
    return proto, payloads


def _check_attributes(graph: GraphProto, source: str) -> None:
    known = {
        AttributeProto.FLOAT, AttributeProto.INT, AttributeProto.STRING, AttributeProto.TENSOR, AttributeProto.GRAPH,
        AttributeProto.FLOATS, AttributeProto.INTS, AttributeProto.STRINGS, AttributeProto.TYPE_PROTO,
    }  # fmt: skip
    for g in graphs_of(graph):
        if g.sparse_initializer:
            raise UnsupportedOpError(
                f"{source} stores sparse initializers", hint="store them dense (onnx.numpy_helper.from_array)"
            )
        for node in g.node:
            for attr in node.attribute:
                if attr.type not in known and not attr.ref_attr_name:
                    kind = AttributeProto.AttributeType.Name(attr.type)
                    raise UnsupportedOpError(
                        f"attribute {attr.name!r} has the unsupported type {kind}",
                        node=f"{node.name or '<unnamed>'} ({node.op_type})",
                        hint="export the model without it",
                    )


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    for g in graphs_of(graph):
        yield from g.initializer
        for node in g.node:
            for attr in node.attribute:
                if attr.type == AttributeProto.TENSOR:
                    yield attr.t


def _check_sizes(graph: GraphProto, source: str) -> None:
    for t in _tensors(graph):
        if any(d < 0 for d in t.dims) or math.prod(max(d, 1) for d in t.dims) > MAX_ELEMENTS:
            raise ModelError(f"{source}: tensor {t.name!r} has the absurd shape {list(t.dims)}", hint=_HINT_REEXPORT)
    for g in graphs_of(graph):
        for info in g.input:
            dims = [d.dim_value for d in info.type.tensor_type.shape.dim]
            if math.prod(max(d, 1) for d in dims) > MAX_ELEMENTS:
                raise ModelError(f"{source}: input {info.name!r} has the absurd shape {dims}", hint=_HINT_REEXPORT)


def _map_external(proto: ModelProto, folder: Path | None, source: str) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for t in _tensors(proto.graph):
        if t.data_location != TensorProto.EXTERNAL:
            continue
        info = {e.key: e.value for e in t.external_data}
        location = info.get("location", "")
        what = f"{source}: tensor {t.name!r} keeps its data in {location!r}"
        if folder is None:
            raise ModelError(
                f"{what}, but a model given as bytes has no folder to look in",
                code="external-data",
                hint="pass the path of the model file, or load the data first (onnx.load does)",
            )
        try:
            base = folder.resolve()
            path = (base / location).resolve()
            is_file = path.is_file()
        except (OSError, ValueError, RuntimeError) as e:  # too long, with a NUL, a loop of links
            raise ModelError(
                f"{source}: tensor {t.name!r} keeps its data in {location[:80]!r}, which is no file name that can be followed: "
                f"{getattr(e, 'strerror', None) or e}"[:300],
                code="external-data",
                hint="save the model again with relative external data (onnx.save_model)",
            ) from e
        if not location or Path(location).is_absolute() or not path.is_relative_to(base):
            raise ModelError(
                f"{what}, which is outside the model's folder",
                code="external-data",
                hint="refusing to read it; save the model again with relative external data (onnx.save_model)",
            )
        if not is_file:
            raise ModelError(
                f"{what}, which does not exist", code="external-data", hint=f"put the file next to {Path(source).name}"
            )
        dtype = DType.from_onnx(t.data_type)
        try:
            offset = int(info.get("offset", 0))
        except ValueError as e:
            raise ModelError(f"{what} at a malformed offset", code="external-data", hint=_HINT_REEXPORT) from e
        count = math.prod(t.dims)
        if dtype.bits < 8 or dtype is DType.string:
            raise UnsupportedOpError(f"{what} as {dtype}", hint="store tensors of this type inside the model")
        end = offset + count * dtype.numpy.itemsize
        if offset < 0 or end > path.stat().st_size:
            raise ModelError(
                f"{what}, which has {path.stat().st_size} bytes where {end} are needed",
                code="external-data",
                hint="the data file is truncated or belongs to another model",
            )
        key = t.name or f"external:{location}:{offset}"
        if count:
            try:
                flat = np.memmap(path, dtype=dtype.numpy, mode="r", offset=offset, shape=(count,))
            except (OSError, ValueError) as e:
                raise ModelError(
                    f"{what}, which can't be read: {e}", code="external-data", hint="check the file's permissions"
                ) from e
            arrays[key] = np.asarray(flat).reshape(tuple(t.dims))
        else:
            arrays[key] = np.empty(tuple(t.dims), dtype.numpy)
    return arrays


def _sort_nodes(graph: GraphProto, source: str, strict: bool) -> str | None:
    """Put nodes into topological order where they are not, or name the nodes of a cycle.

    Returns:
        The first node that stood too early, None if all stood right. ``strict`` leaves it there, for the checker to refuse.
    """
    found = None
    for g in graphs_of(graph):
        made_here = {o for n in g.node for o in n.output if o}
        ready: set[str] = set()
        ordered, waiting = [], list(g.node)
        while waiting:
            rest = []
            for node in waiting:
                needs = {i for i in _all_inputs(node) if i in made_here}
                if needs <= ready:
                    ordered.append(node)
                    ready.update(node.output)
                else:
                    rest.append(node)
            if len(rest) == len(waiting):
                names = ", ".join(f"{n.name or '<unnamed>'} ({n.op_type})" for n in rest[:5])
                raise ModelError(
                    f"{source}: the graph has a cycle through {names}",
                    code="cyclic-graph",
                    node=f"{rest[0].name or '<unnamed>'} ({rest[0].op_type})",
                    hint="a value may not depend on itself; use Loop or Scan for recurrence",
                )
            waiting = rest
        early = next((b for a, b in zip(ordered, g.node) if a is not b), None)
        if early is not None and not strict:
            found = found or f"{early.name or '<unnamed>'} ({early.op_type})"
            copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in ordered]
            del g.node[:]
            g.node.extend(copies)
    return found


def _all_inputs(node: onnx.NodeProto) -> Iterator[str]:
    yield from (i for i in node.input if i)
    for attr in node.attribute:
        if attr.type == AttributeProto.GRAPH:
            local = {o for n in attr.g.node for o in n.output} | {v.name for v in attr.g.input}
            local |= {t.name for t in attr.g.initializer}
            for inner in attr.g.node:
                yield from (i for i in _all_inputs(inner) if i not in local)
            yield from (v.name for v in attr.g.output if v.name not in local)


def _check_opset(proto: ModelProto, source: str) -> None:
    newest = onnx.defs.onnx_opset_version()
    version = opset_of(proto)
    versions = sorted({o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")})
    if len(versions) > 1:
        raise ModelError(
            f"{source} imports ai.onnx in versions {', '.join(map(str, versions))}, which differ in its operators",
            code="ambiguous-opset",
            hint="leave one opset_import of ai.onnx, the one that the model was exported for",
        )
    if version is not None and not MIN_OPSET <= version <= newest:
        raise UnsupportedOpError(
            f"{source} uses ai.onnx opset {version}; supported are {MIN_OPSET} to {newest}",
            code="unsupported-opset",
            hint="convert it with onnx.version_converter.convert_version"
            if version < MIN_OPSET
            else "upgrade the onnx package or export for an older opset",
        )


def opset_of(proto: ModelProto) -> int | None:
    """The ai.onnx opset version imported, None if the model imports none."""
    versions = [o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")]
    return max(versions) if versions else None
