"""Flows over the whole stack: compile, optimize, check, bench."""
