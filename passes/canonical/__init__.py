"""Passes of the canonical group."""
