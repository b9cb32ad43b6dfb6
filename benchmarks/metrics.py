"""What metrics cost: two servers side by side, one with them and one without.

Both do the same work at the same time, each for all devices, so that whatever slows the machine slows both. The one is
scraped in the middle of each turn, as by Prometheus every 15 seconds. In the other the calls do nothing; their
remaining cost, some 0.1 µs each, is not in the ratio.
"""

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import median
from typing import Final

import httpx

from benchmarks.actors import Devices, Server
from benchmarks.live import delays, percentile
from benchmarks.stage import Stage

TOKEN: Final = "the token of the benchmarks"


@dataclass(frozen=True, slots=True)
class Side:
    server: Server
    module: str
    devices: Devices


async def metrics(stage: Stage, rate: float, seconds: float, rounds: int) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        other = stage.another_server()
        stack.push_async_callback(other.kill)
        kept = Side(stage.server, "server", stage.devices)
        bare = Side(other, "benchmarks.unmetered", await stage.generator(stack))
        # In turns, because Postgres notifies first the server that listened first.
        turns = [
            await _turn(stage, (kept, bare) if number % 2 else (bare, kept), rate, seconds) for number in range(rounds)
        ]
    figures: dict[str, float] = {"changes": rate, "users": len(stage.users), "rounds": rounds}
    for name in ("server_us_per_change", percentile(50), percentile(99)):
        figures |= {
            name: median(turn[kept.module][name] for turn in turns),
            f"{name}_without": median(turn[bare.module][name] for turn in turns),
            f"{name}_ratio": median(turn[kept.module][name] / turn[bare.module][name] for turn in turns),
        }
    return figures | {"lost": sum(side["lost"] for turn in turns for side in turn.values())}


async def _turn(stage: Stage, sides: tuple[Side, Side], rate: float, seconds: float) -> dict[str, dict[str, float]]:
    """Return the figures of each side, by its module."""
    for side in sides:
        await side.devices.call_all("disconnect")
        await side.server.kill()
        await side.server.start(side.module, ATLAS_METRICS_TOKEN=TOKEN)
        await side.devices.connect(side.server.port)
    await stage.quiet()
    users = random.choices(range(len(stage.users)), k=max(1, round(rate * seconds)))
    before = {side.module: side.server.cpu_seconds() for side in sides}
    scraping = asyncio.create_task(_scrape(stage.server, seconds / 2))
    written = await stage.write(users, rate)
    await scraping
    turn = {}
    for side in sides:
        arrivals = await side.devices.arrivals(len(written) * stage.per_user)
        cpu = side.server.cpu_seconds() - before[side.module]
        turn[side.module] = delays(written, arrivals) | {
            "server_us_per_change": 1e6 * cpu / len(written),
            "lost": stage.lost(written, arrivals),
        }
    return turn


async def _scrape(server: Server, after: float) -> None:
    await asyncio.sleep(after)
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(
            f"http://127.0.0.1:{server.port}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}
        )
    answer.raise_for_status()
