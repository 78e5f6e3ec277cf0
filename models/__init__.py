"""Models by name: real trained ones out of PyPI wheels, seeded generators, small nets trained here."""

from graphopt.models.zoo import ZooModel, digits_test, get, names

__all__ = ["ZooModel", "digits_test", "get", "names"]
