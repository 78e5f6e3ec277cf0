"""16 bits instead of 32: which nodes may compute in them, and the rewriting."""
