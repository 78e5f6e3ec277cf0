"""Checks of quantized models: what lies at a rounding tie may be one step off, and each layer is held against float."""
