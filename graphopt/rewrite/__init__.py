"""Pass infrastructure: Pass, Pipeline, Pattern, Rule, instruments."""
