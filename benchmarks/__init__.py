"""Comparisons with other tools, measured so that they can be believed: `python -m benchmarks CASE`."""
