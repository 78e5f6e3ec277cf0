"""From a TVM module to machine code: compiled kernel by kernel, cached, linked, or loaded into this process."""
