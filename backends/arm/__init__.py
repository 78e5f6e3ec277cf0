"""The arm backend."""
