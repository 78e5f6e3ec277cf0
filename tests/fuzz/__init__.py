"""Hostile input: mutated ONNX files, artefacts and run-time arrays, drawn by hypothesis.

``test_fuzz.py`` runs a bounded, repeatable number of cases; ``python -m tests.fuzz`` runs as many as asked for, in processes of
their own, so that a crash, a hang or a lack of memory is a finding and not the end.
"""
