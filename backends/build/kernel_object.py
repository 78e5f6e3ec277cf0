"""One PrimFunc, one object file: what a kernel's machine code depends on, and how it is made.

Each kernel is compiled by itself, whoever does it: the same bytes come out of this process, of a worker and of the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from graphopt.backends.base import tvm_api
from graphopt.backends.base.target import Target
from graphopt.backends.base.tvm_api import cpu_pass_context, get_global_func, tirx, tvm, tvm_ffi
from graphopt.backends.build import chunks
from graphopt.backends.build.chunks import chunked_pipeline
from graphopt.backends.build.shared_library import object_bytes

_SUBNORMAL = re.compile(r'"value":-?[0-9.]+e-3(?:0[89]|[12][0-9])')
"""Text of a number below the least normal one in float64, or near it."""

_PARALLEL = f'"kind":{int(tirx.ForKind.PARALLEL)},'
"""Text that a kernel with a parallel loop contains."""


@dataclass(frozen=True)
class KernelSource:
    """A kernel before code generation.

    Attributes:
        name: symbol of the function in the library.
        text: the PrimFunc as TVM's JSON, the same in every process for the same kernel.
    """

    name: str
    text: str

    @staticmethod
    def of(name: str, function: Any) -> KernelSource | None:
        """The source of a PrimFunc; None when it calls another function of its module, so can't stand alone."""
        text = _readable(tvm.ir.save_json(function.with_attr("global_symbol", name)))
        return None if '"ir.GlobalVar"' in text else KernelSource(name, text)


def _readable(text: str) -> str:
    """TVM's JSON in a form that TVM can read: it writes subnormal numbers but takes them for errors of syntax when it reads.

    Each becomes a product of two normal numbers with the same value, which LLVM multiplies when it compiles.
    """
    if not _SUBNORMAL.search(text):
        return text
    graph = json.loads(text)
    nodes, least = graph["nodes"], sys.float_info.min
    for node in [n for n in nodes if n["type"] == "ir.FloatImm" and 0 < abs(n["data"]["value"]) < least]:
        data = node["data"]
        for factor in (data["value"] / least, least):
            nodes.append({"type": "ir.FloatImm", "data": {**data, "value": factor}})
        del data["value"]
        node.update(type="prim.Mul", data={**data, "a": len(nodes) - 2, "b": len(nodes) - 1})
    return json.dumps(graph, separators=(",", ":"))


def kernel_key(source: KernelSource, target: Target) -> str:
    """Hex SHA-256 of everything that the object's bytes depend on: kernel, target, compiler and how it is called.

    Options such as a level or a number of threads are in it as far as they change the object, and no further.
    """
    digest = hashlib.sha256()
    compiled_for = json.dumps([target.config, target.host, _threads(source, target)], sort_keys=True)
    for part in (tvm_identity(), compiled_for, source.name, source.text):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def compile_kernel(source: KernelSource, target: Target) -> bytes:
    """The object file of a kernel.

    Raises:
        Exception: of any class, as TVM raises it.
    """
    # not `tvm.ir.load_json`: it brings texts of old versions up to date, a tenth of the time of all else
    module = tvm.IRModule({source.name: tvm_ffi.serialization.from_json_graph_str(source.text)})
    with cpu_pass_context():
        pipeline = chunked_pipeline(_threads(source, target))
        return object_bytes(tvm.tirx.build(module, target.tvm_target(), pipeline=pipeline))


def _threads(source: KernelSource, target: Target) -> int:
    """How many threads its loops are cut into chunks for."""
    return target.caps.cores if _PARALLEL in source.text else 1


@cache
def tvm_identity() -> str:
    """Identifies the code that turns a PrimFunc into an object: TVM's library, its LLVM, and the pass settings here."""
    own = hashlib.sha256()
    for file in (__file__, tvm_api.__file__, chunks.__file__):
        own.update(Path(file).read_bytes())
    folder = Path(tvm.__file__).parent
    sizes = {lib.name: lib.stat().st_size for lib in sorted((folder / "lib").glob("libtvm*")) if lib.is_file()}
    llvm = int(get_global_func("target.llvm_version_major")())
    facts = [tvm_api.TVM_VERSION, tvm_api.TVM_FFI_VERSION, llvm, sizes, own.hexdigest(), _tvm_python(folder)]
    return json.dumps(facts, sort_keys=True)


def _tvm_python(folder: Path) -> str:
    """Digest of TVM's Python files that put the lowering passes in order."""
    digest = hashlib.sha256()
    for name in ("tirx/build.py", "tirx/compilation_pipeline.py", "s_tir/pipeline.py"):
        path = folder / os.fspath(name)
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()
