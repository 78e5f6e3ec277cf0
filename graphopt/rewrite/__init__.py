"""Machinery of transformations: passes, pipelines, patterns, rules and the instruments that watch them."""
