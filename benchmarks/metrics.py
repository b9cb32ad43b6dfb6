"""What it costs to keep figures: `live` with them and without, in turns, and the ratio of the two.

Without them the calls are made, and do nothing: what is left of their cost, some 0.1 µs each, is not in the ratio. The
turns go with, without, without, with, so that a machine that grows slower or quicker meanwhile favours neither.
"""

from statistics import median
from typing import Final

from benchmarks.live import live
from benchmarks.stage import Stage

TURNS: Final = (True, False, False, True)
FIGURES: Final = ("server_us_per_change", "p50_ms", "p99_ms")


async def metrics(stage: Stage, rate: float, seconds: float, rounds: int) -> dict[str, float]:
    found: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    for kept in TURNS * rounds:
        await stage.disconnect()
        await stage.server.kill()
        await stage.server.start("server" if kept else "benchmarks.unmetered")
        found[kept].append(await live(stage, rate, seconds))
    figures: dict[str, float] = {"changes": rate, "users": len(stage.users)}
    for name in FIGURES:
        median_with, without = (median(turn[name] for turn in found[which]) for which in (True, False))
        figures |= {name: median_with, f"{name}_without": without, f"{name}_ratio": median_with / without}
    return figures | {"lost": sum(turn["lost"] for turns in found.values() for turn in turns)}
