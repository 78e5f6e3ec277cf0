"""docs/conformance.md out of the outcomes of a run."""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping, Sequence

import onnx

from tests.conformance.cases import FORMS, all_cases
from tests.conformance.check import OUTCOMES, Outcome
from tests.conformance.narrow import ULPS

TITLES = {"inputs": "as is", "constants": "other inputs constant"}

HEAD = """# Conformance

ONNX's own backend test-suite (onnx {version}, the node, simple, pytorch-operator and pytorch-converted cases) through
`graphopt.backend`. Written by `python -m tests.conformance.run --write`; don't edit.

Every case runs twice: as it is, and with all inputs but the first turned into constants, which is how models in use come.
*Pass* means the same dtypes and shapes, and values within the case's own tolerances. *Rounding* is no pass:
outside them, but within four units in the last place of a 16-bit float or one unit of the largest expected value (the suite
grants a float16 one unit). *Unsupported* means that compiling was refused with a reason. *Wrong* and *crash* are bugs.
"""


NARROW_HEAD = """## In float16 and bfloat16

ONNX has few cases in these types, so that more are derived: every case of one operator whose float32 inputs may be of the
type. Expected is what ONNX's reference computes in float32 from the rounded inputs, rounded once. *Pass* means within {ulps} unit
in the last place, or within 2^-20 of the largest result where sums cancel. What is *rounding* is listed by name in
`tests/conformance/roundings.py`, with why.
"""


def render(outcomes: Sequence[Outcome], narrow: Mapping[str, Sequence[Outcome]] | None = None) -> str:
    """The report; ``narrow`` are outcomes of the cases derived in types of 16 bits, by type."""
    forms = [f for f in FORMS if any(o.form == f for o in outcomes)]
    parts = [HEAD.format(version=onnx.__version__), _totals(outcomes, forms), _bugs(outcomes)]
    if narrow:
        parts += [NARROW_HEAD.format(ulps=ULPS)]
        parts += [f"{to}:\n\n{_totals(found, forms)}" for to, found in narrow.items()]
    parts += ["## By operator", _by_operator(outcomes, forms), "## Why cases are unsupported", _reasons(outcomes)]
    return "\n\n".join(p.strip() for p in parts if p) + "\n"


def _totals(outcomes: Sequence[Outcome], forms: Sequence[str]) -> str:
    rows = []
    for form in forms:
        counts = collections.Counter(o.status for o in outcomes if o.form == form)
        total = sum(counts.values())
        rows.append([TITLES[form], str(total), *(f"{counts[s]} ({counts[s] / total:.1%})" for s in OUTCOMES)])
    return _table(["form", "cases", *OUTCOMES], rows)


def _bugs(outcomes: Sequence[Outcome]) -> str:
    found = [o for o in outcomes if o.status in ("rounding", "wrong", "crash")]
    if not found:
        return ""
    return "## Differences and bugs\n\n" + "\n".join(
        f"- {o.name} ({TITLES[o.form]}): {o.status}: {_cell(o.reason)[:160]}" for o in found
    )


def _by_operator(outcomes: Sequence[Outcome], forms: Sequence[str]) -> str:
    groups: dict[str, dict[str, collections.Counter[str]]] = {}
    cases = all_cases()
    for o in outcomes:
        groups.setdefault(cases[o.name].operator, {f: collections.Counter() for f in forms})[o.form][o.status] += 1
    rows = []
    for operator in sorted(groups):
        counts = groups[operator]
        row = [operator, str(sum(counts[forms[0]].values()))]
        row += [_share(counts[f]) for f in forms]
        rows.append(row)
    return _table(["operator", "cases", *(f"pass, {TITLES[f]}" for f in forms)], rows)


def _share(counts: collections.Counter[str]) -> str:
    bad = counts["wrong"] + counts["crash"]
    text = "all" if counts["pass"] == sum(counts.values()) else str(counts["pass"])
    return f"{text} ({bad} bugs)" if bad else text


def _reasons(outcomes: Sequence[Outcome]) -> str:
    found: dict[str, dict[str, list[str]]] = {}
    for o in outcomes:
        if o.status == "unsupported":
            found.setdefault(_general(o.reason), {}).setdefault(o.form, []).append(o.name)
    rows = []
    for reason, by_form in sorted(found.items(), key=lambda kv: -max(len(v) for v in kv[1].values())):
        names = next(iter(by_form.values()))
        rows.append([_cell(reason), *(str(len(by_form.get(f, []))) for f in FORMS), f"`{names[0]}`"])
    return _table(["reason", *(TITLES[f] for f in FORMS), "for example"], rows)


def _general(reason: str) -> str:
    """The reason without names of values and numbers, so that alike refusals count together."""
    text = re.sub(r"%[\w./:-]+", "%x", reason)
    text = re.sub(r"\((?:[uv]\d+(?:, )?)+\)", "", text)
    return re.sub(r"\[[^\]]*\]", "[...]", text).strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
