"""The command line: one file per verb. The only part of graphopt that prints."""
