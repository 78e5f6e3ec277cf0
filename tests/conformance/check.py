"""One case through graphopt: pass, rounding, unsupported, wrong or crash."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import ml_dtypes
import numpy as np

from graphopt.errors import UserError
from tests.conformance.cases import Case

HALF = {np.dtype(np.float16): 2.0**-10, np.dtype(ml_dtypes.bfloat16): 2.0**-7}
"""Short floating-point types and the distance from 1 to the next value."""
OUTCOMES = ("pass", "rounding", "unsupported", "wrong", "crash")
"""``rounding``: outside the suite's tolerances, inside what ``NOISE`` units in the last place explain. Not a pass."""
NOISE = 4


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
            difference = compare(list(got), expected, case.rtol, case.atol)
            if difference:
                explained = compare(got, expected, case.rtol, case.atol, noise=NOISE) is None
                return Outcome(case.name, form, "rounding" if explained else "wrong", _line(difference))
    except Exception as e:  # refusing its own inputs after compiling counts as a crash too
        return Outcome(case.name, form, "crash", _line(f"{type(e).__name__}: {e}"))
    return Outcome(case.name, form, "pass")


def compare(got: list[Any], expected: list[Any], rtol: float, atol: float, noise: int = 0) -> str | None:
    """The first difference in count, dtype, shape or value; None if there is none.

    Args:
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
        if noise and e.dtype in HALF:
            rtol = max(rtol, noise * HALF[e.dtype])
        if noise and e.dtype.kind == "f" and e.size:
            top = np.abs(e[np.isfinite(e)]).max(initial=0)
            atol = max(atol, float(np.finfo(e.dtype).eps) * float(top))
        if e.dtype.kind not in "biu":
            wide = np.complex128 if e.dtype.kind == "c" else np.float64
            g, e = g.astype(wide), e.astype(wide)
        try:
            np.testing.assert_allclose(g, e, rtol=rtol, atol=atol)
        except AssertionError as error:
            return f"output {i}: {error}"
    return None


def _line(text: str) -> str:
    return " ".join(text.split())[:400]
