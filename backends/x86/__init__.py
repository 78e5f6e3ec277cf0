"""x86-64: its capabilities; templates built on x86-only instructions belong here, all others in ``backends/cpu``."""
