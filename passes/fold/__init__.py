"""Passes of the fold group."""
