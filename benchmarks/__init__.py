"""Measurements, each with its reference in the same run: `python -m benchmarks`. See README.md in this folder."""
