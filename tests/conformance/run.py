"""``python -m tests.conformance.run [--write] [--type TYPE] [--json FILE] [FILTER ...]``: the conformance score, case by case."""

from __future__ import annotations

import argparse
import collections
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.conformance.cases import FORMS, Case, all_cases
from tests.conformance.check import OUTCOMES, Outcome
from tests.conformance.narrow import NARROW, narrow_cases
from tests.conformance.pool import run_all
from tests.conformance.report import render
from tests.support.servers import ROOT


def evaluate(
    cases: Sequence[Case], forms: tuple[str, ...] = FORMS, workers: int = 2, verbose: bool = False
) -> list[Outcome]:
    """Outcomes of every case in every form; a form that changes nothing takes over the outcome as it is."""
    by_name = {case.name: case for case in cases}
    todo = list(dict.fromkeys((c.name, f if c.has_form(f) else "inputs") for f in forms for c in cases))

    def progress(o: Outcome) -> None:
        if verbose or o.status in ("wrong", "crash"):
            print(f"{o.status.upper():<11} {o.form:<9} {o.name}  {o.reason}", flush=True)

    outcomes = run_all([(by_name[name], form) for name, form in todo], workers, progress=progress)
    ran = {(o.name, o.form): o for o in outcomes}
    return [ran.get((c.name, f)) or replace(ran[c.name, "inputs"], form=f) for f in forms for c in cases]


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 1 if anything is wrong or crashes."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.run", description=__doc__)
    parser.add_argument("filters", nargs="*", help="only cases with one of these in their names")
    parser.add_argument("--type", choices=NARROW, help="the cases derived in a type of 16 bits in place of ONNX's own")
    parser.add_argument("--form", choices=FORMS, action="append", help="only this form")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="write docs/conformance.md")
    parser.add_argument("--json", type=Path, help="write all outcomes")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every outcome")
    args = parser.parse_args(argv)
    if args.write and (args.type or args.filters or args.form):
        parser.error("the report is of all cases: --write goes alone")
    names = [n for n in all_cases() if not args.filters or any(f in n for f in args.filters)]
    cases = narrow_cases(args.type, names) if args.type else [all_cases()[n] for n in names]
    forms = tuple(args.form or FORMS)
    if "inputs" not in forms:
        cases = [c for c in cases if c.has_form("constants")]
    start = time.monotonic()
    outcomes = evaluate(cases, forms, args.workers, args.verbose)
    for form in forms:
        counts = collections.Counter(o.status for o in outcomes if o.form == form)
        print(form, {status: counts[status] for status in OUTCOMES}, f"of {sum(counts.values())}")
    print(f"{time.monotonic() - start:.0f} s")
    if args.json:
        args.json.write_text(json.dumps([o.to_dict() for o in outcomes], indent=0))
    if args.write:
        narrow = {to: evaluate(narrow_cases(to, names), forms, args.workers) for to in NARROW}
        (ROOT / "docs" / "conformance.md").write_text(render(outcomes, narrow))
    return int(any(o.status in ("wrong", "crash") for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
