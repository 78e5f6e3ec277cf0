"""Hand-designed kernel templates for x86."""
