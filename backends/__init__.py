"""Code generation: targets, kernel templates, lowering to TVM."""
