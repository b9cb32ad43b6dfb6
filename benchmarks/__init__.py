"""What the server costs and how quick it is, measured from outside against the real thing: `python -m benchmarks`."""
