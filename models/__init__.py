"""Models by name: real trained ones out of PyPI wheels, seeded generators, small nets trained here."""
