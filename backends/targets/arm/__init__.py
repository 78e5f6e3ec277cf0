"""64-bit ARM."""
