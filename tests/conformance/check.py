"""One case through graphopt: pass, rounding, unsupported, wrong or crash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from graphopt.errors import UserError
from tests.conformance.cases import Case

Array = npt.NDArray[Any]

HALF = {np.dtype(np.float16): 2.0**-10, np.dtype(ml_dtypes.bfloat16): 2.0**-7}
"""Short floating-point types and the distance from 1 to the next value."""
OUTCOMES = ("pass", "rounding", "unsupported", "wrong", "crash")
"""``rounding``: outside the suite's tolerances, inside what ``NOISE`` units in the last place explain. Not a pass."""
NOISE = 4
SUMS = 2.0**-20
"""Of the largest value: what float32 loses in sums of which little is left, which may be more than a result's own rounding."""


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        reason: why it did not pass, one line.
        code: stable identifier of a refusal.
    """

    name: str
    form: str
    status: str
    reason: str = ""
    code: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def check(case: Case, form: str) -> Outcome:
    """Compile and run the case in one of its forms, compare with what the suite expects."""
    from graphopt.backend import prepare

    case_ = case.in_form(form)
    try:
        # worker processes run side by side, each on one core
        compiled = prepare(case_.model, threads=1)
    except UserError as e:
        return Outcome(case.name, form, "unsupported", e.message, e.code)
    except Exception as e:
        return Outcome(case.name, form, "crash", _line(f"{type(e).__name__}: {e}"))
    try:
        for inputs, expected in case_.data:
            got = compiled.run(dict(zip(case_.feeds, inputs)))
            difference = compare(list(got), expected, case.rtol, case.atol, ulps=case.ulps)
            if difference:
                explained = compare(got, expected, case.rtol, case.atol, noise=NOISE) is None
                return Outcome(case.name, form, "rounding" if explained else "wrong", _line(difference))
    except Exception as e:  # refusing its own inputs after compiling counts as a crash too
        return Outcome(case.name, form, "crash", _line(f"{type(e).__name__}: {e}"))
    return Outcome(case.name, form, "pass")


def compare(
    got: Sequence[Any], expected: Sequence[Any], rtol: float, atol: float, noise: int = 0, ulps: int = 0
) -> str | None:
    """The first difference in count, dtype, shape or value; None if there is none.

    Args:
        ulps: units in the last place granted to 16-bit elements in place of the tolerances, if not 0.
        noise: units in the last place granted beyond the tolerances: to each 16-bit element, and one unit of the largest
            value to every element. The suite's 1e-3 is one unit of a float16, and its expected values are rounded too.
    """
    if len(got) != len(expected):
        return f"{len(got)} outputs instead of {len(expected)}"
    for i, (g, e) in enumerate(zip(got, expected)):
        if e is None:
            return f"output {i} is no tensor"
        if g.dtype != e.dtype:
            return f"output {i} is {g.dtype} instead of {e.dtype}"
        if g.shape != e.shape:
            return f"output {i} is {g.shape} instead of {e.shape}"
        if ulps and e.dtype in HALF:
            if difference := _apart(g, e, ulps):
                return f"output {i}: {difference}"
            continue
        if noise and e.dtype in HALF:
            rtol = max(rtol, noise * HALF[e.dtype])
        if noise and (e.dtype.kind == "f" or e.dtype in HALF) and e.size:
            top = np.abs(e[np.isfinite(e)]).max(initial=0)
            atol = max(atol, float(ml_dtypes.finfo(e.dtype).eps) * float(top))
        if e.dtype.kind not in "biu":
            wide = np.complex128 if e.dtype.kind == "c" else np.float64
            g, e = g.astype(wide), e.astype(wide)
        try:
            np.testing.assert_allclose(g, e, rtol=rtol, atol=atol)
        except AssertionError as error:
            return f"output {i}: {error}"
    return None


def _apart(got: Array, expected: Array, ulps: int) -> str | None:
    """Where elements of 16 bits are further apart than ``ulps`` units in the last place and the noise of sums in float32.

    Infinity follows the largest number.
    """
    bits = [x.view(np.uint16).astype(np.int64) for x in (got, expected)]
    places = [np.where(b < 0x8000, b, 0x8000 - b) for b in bits]
    wide = [x.astype(np.float64) for x in (got, expected)]
    nan = [np.isnan(w) for w in wide]
    apart = np.where(nan[0] | nan[1], np.where(nan[0] & nan[1], 0, 1 << 16), np.abs(places[0] - places[1]))
    top = np.abs(wide[1][np.isfinite(wide[1])]).max(initial=0)
    with np.errstate(invalid="ignore"):
        bad = np.argwhere((apart > ulps) & ~(np.abs(wide[0] - wide[1]) <= SUMS * top))
    if not len(bad):
        return None
    at = tuple(bad[0])
    where, most = [int(a) for a in at], max(apart[tuple(i)] for i in bad)
    return f"{len(bad)} of {got.size} elements at most {most} ulps off, at {where} {got[at]} instead of {expected[at]}"


def _line(text: str) -> str:
    return " ".join(text.split())[:400]
