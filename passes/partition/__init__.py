"""From the first level to the second: the cut of a graph into kernels."""
