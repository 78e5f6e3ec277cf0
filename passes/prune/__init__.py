"""Structured pruning: coupled channel groups, what to remove of them, and the surgery; zeros in weights."""
