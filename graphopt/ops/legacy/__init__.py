"""Rules that rewrite old operator forms, grouped by what changed. Entry: ``graphopt.ops.upgrade``."""
