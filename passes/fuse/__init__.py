"""Passes of the fuse group."""
