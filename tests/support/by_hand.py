"""Tests that take minutes and prove little beyond what quicker ones do: run by hand, before a release or after a redesign."""

from __future__ import annotations

import os

import pytest

BY_HAND = pytest.mark.skipif(
    not os.environ.get("GRAPHOPT_TESTS_BY_HAND"), reason="takes minutes: set GRAPHOPT_TESTS_BY_HAND=1 to run it"
)
