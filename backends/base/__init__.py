"""What every backend shares in kind: Target, Caps, Program, KernelTemplate, selection, the TVM seam."""
