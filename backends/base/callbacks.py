"""Names of the functions that compiled code calls by name; `graphopt.runtime.refusals` defines them."""

from __future__ import annotations

REFUSE = "graphopt.refuse"
"""``refuse(where, why, name, value, name, value, ...)``: a condition on run-time values does not hold."""
RESERVE = "graphopt.reserve"
"""``reserve(where, bytes as float64, name, value, ...)``: a buffer of `ASK_FROM` bytes or more is about to be allocated."""
ASK_FROM = 2**30
"""Compiled code asks before it allocates so many bytes at once."""
