"""Other runtimes, each prepared the way its documentation advises for float32 on CPU threads."""
