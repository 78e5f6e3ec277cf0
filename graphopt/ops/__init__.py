"""Operator knowledge: type inference, traits and cost, one file per operator family. Knows nothing of TVM."""
