"""Figures that predump promises, measured: `python -m benchmarks`."""
