"""Benchmarks of the real server, measured from outside: `python -m benchmarks`."""
