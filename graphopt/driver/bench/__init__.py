"""Measuring: latency beside peers, time per kernel, what the machine can do at most."""
