"""Benchmarks: `python -m bench [names]` writes `bench/results.json`."""
