"""Kernel templates for CPUs: what they know of the machine is Caps."""
