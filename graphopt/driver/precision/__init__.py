"""Conversion of models to 16 bits: ``graphopt.convert``."""
