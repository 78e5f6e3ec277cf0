"""Hand-designed kernels, each a function from a specification and a configuration to TIR."""
