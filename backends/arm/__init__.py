"""ARM: its capabilities; templates built on ARM-only instructions belong here, all others in ``backends/cpu``."""
