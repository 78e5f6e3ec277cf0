"""Artefact format, loader and execution."""
