"""Runs at random: how long, from which seed, and what goes wrong meanwhile.

ATLAS_ORACLE_SECONDS makes them longer, ATLAS_ORACLE_SEED repeats one (as far as chance allows: the faults are real).
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence


def seconds(usual: float) -> float:
    """How long a run lasts."""
    return float(os.environ.get("ATLAS_ORACLE_SECONDS", usual))


def seeded(usual: int | None = None) -> random.Random:
    """Chance, from a seed that a failed test prints. usual: The seed of every run; None: a new one each time."""
    seed = int(os.environ.get("ATLAS_ORACLE_SEED", random.randrange(1 << 32) if usual is None else usual))
    print(f"ATLAS_ORACLE_SEED={seed}")  # noqa: T201 (pytest shows it when the test fails)
    return random.Random(seed)


async def go_wrong(
    faults: Sequence[Callable[[], Awaitable[None]]],
    rng: random.Random,
    lasts: float,
    pause: float,
    check: Callable[[], None] = lambda: None,
) -> Counter[str]:
    """Let faults happen for so many seconds, one at a time: each at least once, then as chance has it.

    pause: Seconds before a fault at the most; `check` is called after it. Returns how often each happened, by name.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + lasts
    happened: Counter[str] = Counter()
    order = rng.sample(faults, len(faults))
    while loop.time() < end or order:
        await asyncio.sleep(rng.random() * pause)
        check()
        fault = order.pop() if order else rng.choice(faults)
        await fault()
        happened[fault.__name__] += 1
    return happened
