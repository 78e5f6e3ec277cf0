"""Do two trees generate the same kernels? Structural hashes of all PrimFuncs and of the steps that call them.

    python benchmarks/primfuncs.py --write before.json          (in the old tree)
    python benchmarks/primfuncs.py --check before.json          (in the new one)

Every model of the zoo, with its own shapes and with those that its file leaves open, and every case of ONNX's backend suite is
lowered for several targets; nothing is compiled to machine code. A script for the time of one refactoring.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import sys
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

TARGETS = ("x86-64-v3", "x86-64-v4", "arm:cortex-a76", "cuda:sm_80")
NODE_TARGETS = ("x86-64-v3", "cuda:sm_80")
OPEN = ("digits", "bert_tiny", "ppocr_cls", "ppocr_rec", "ppocr_det", "silero_vad_op18_ifless")
THREADS = 2


def jobs() -> Iterator[tuple[str, str]]:
    """(model, target) pairs; a model is a name of the zoo, ``name:open``, or ``node/case``."""
    from graphopt.models import zoo

    for name in (*zoo.names(), *(f"{n}:open" for n in OPEN)):
        yield from ((name, target) for target in TARGETS)
    from tests.conformance.cases import all_cases

    for name in all_cases():
        yield from ((f"node/{name}", target) for target in NODE_TARGETS)
        yield f"const/{name}", NODE_TARGETS[0]


def digest(job: tuple[str, str]) -> tuple[str, str | dict[str, Any]]:
    """What a model becomes on a target: hashes of its kernels, and a digest of steps, buffers and constants."""
    model, target = job
    from graphopt.driver.compiling import to_program
    from graphopt.errors import GraphOptError

    try:
        source, options = _source(model)
        program = to_program(source, target, threads=THREADS, **options)[2]
    except GraphOptError as error:
        return f"{model} {target}", f"{type(error).__name__}: {error.code}"
    found = _program(program)
    gc.collect()
    return f"{model} {target}", found


def _source(model: str) -> tuple[Any, dict[str, Any]]:
    kind, _, rest = model.partition("/")
    if kind in ("node", "const"):
        from tests.conformance.cases import all_cases

        case = all_cases()[rest]
        return (case if kind == "node" else case.in_form("constants")).model, {}
    from graphopt.models import zoo

    name, _, form = model.partition(":")
    entry = zoo.get(name)
    return entry.path(), {} if form == "open" else {"shapes": {n: a.shape for n, a in entry.inputs(0).items()}}


def _program(program: Any) -> dict[str, Any]:
    from graphopt.backends.base.tvm_api import tvm_ffi
    from graphopt.backends.program.program import BranchStep, KernelStep

    kernels = {
        name: int(tvm_ffi.structural_hash(f.without_attr("global_symbol"))) for name, f in program.functions.items()
    }
    steps: list[str] = []
    constants: list[str] = []

    def visit(part: Any) -> None:
        for step in part.steps:
            if isinstance(step, KernelStep):
                outs = [f"{b.name}{list(map(str, b.shape))}@{b.offset}" for b in step.outputs]
                steps.append(
                    f"{outs} = {step.function}({[b.name for b in step.inputs]}) {step.symbols} {step.template}"
                )
            elif isinstance(step, BranchStep):
                visit(step.then.program)
                visit(step.otherwise.program)
            else:
                steps.append(f"{type(step).__name__} {vars(step).get('shift')}")
        for b in part.constants:
            data = b.data.tobytes() if b.data is not None else b""
            constants.append(f"{b.name} {hashlib.blake2b(data, digest_size=8).hexdigest()}")
        steps.append(f"arena {part.arena_bytes}")

    visit(program)
    text = "\n".join(steps + constants)
    return {"kernels": kernels, "rest": hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path)
    parser.add_argument("--check", type=Path)
    parser.add_argument("--only", default="", help="models whose name begins so, comma between several")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    wanted = [j for j in jobs() if j[0].startswith(tuple(options.only.split(",")))]
    with get_context("spawn").Pool(options.workers, maxtasksperchild=400) as pool:
        found = dict(pool.imap_unordered(digest, wanted, chunksize=4))
    if options.write:
        options.write.write_text(json.dumps(found, sort_keys=True, indent=0))
    count = sum(len(f["kernels"]) for f in found.values() if isinstance(f, dict))
    print(f"{len(found)} programs, {count} kernels")
    if options.check:
        old = json.loads(options.check.read_text())
        bad = [k for k in found if found[k] != old.get(k)]
        for k in bad[:40]:
            print("differs:", k, *_difference(old.get(k), found[k]))
        print(f"{len(bad)} of {len(found)} differ")
        return int(bool(bad))
    return 0


def _difference(old: Any, new: Any) -> list[str]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [str(old)[:80], "->", str(new)[:80]]
    names = [n for n in {**old["kernels"], **new["kernels"]} if old["kernels"].get(n) != new["kernels"].get(n)]
    return names[:6] or ["steps, buffers or constants"]


if __name__ == "__main__":
    sys.exit(main())
