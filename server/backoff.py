"""How long to wait before trying again."""

import random


def backoff(failures: int, longest: float = 2.0) -> float:
    """Seconds after so many failures in a row: doubling from 0.1 up to `longest`, and never the same for two who fail
    together."""
    return min(0.05 * 2.0 ** min(failures, 16), longest) * random.uniform(0.5, 1)
