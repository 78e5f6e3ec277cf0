"""Channels without influence on any output, found and removed."""
