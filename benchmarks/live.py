"""Delay of changes from their commit to the devices, and what each costs."""

import os
import random
import time
from typing import Final

from benchmarks import machine
from benchmarks.actors import Arrived
from benchmarks.stage import Stage, Written
from server.declaration.chat import CHAT

SHARES: Final = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)
"""Percentiles of the delays, in percent: p1_ms … p99_9_ms."""


def percentile(share: float) -> str:
    """Return the name of a percentile's figure."""
    return f"p{share}_ms".replace(".", "_")


def delays(written: list[Written], arrivals: list[Arrived]) -> dict[str, float]:
    """Return the percentiles of the milliseconds from the commits to the devices."""
    committed = {message: at for _, message, at in written}
    waits = sorted((at - committed[message]) / 1e6 for _, message, at in arrivals) or [0.0]
    return {percentile(share): waits[int(len(waits) * share / 100)] for share in SHARES}


async def live(stage: Stage, rate: float, seconds: float) -> dict[str, float]:
    def cpu() -> tuple[float, ...]:
        postgres = machine.cpu_seconds(stage.postgres.pid, family=True)
        return postgres, *map(machine.cpu_seconds, (stage.server.pid, stage.devices.pid, os.getpid()))

    users = random.choices(range(len(stage.users)), k=max(1, round(rate * seconds)))
    await stage.devices.connect(stage.server.port)
    await stage.quiet()
    began, before = time.monotonic(), cpu()
    written = await stage.write(users, rate)
    took = time.monotonic() - began
    arrivals = await stage.devices.arrivals(len(written) * stage.per_user)
    postgres, server, client, writer = (now - then for now, then in zip(cpu(), before, strict=True))

    lost = stage.lost(written, arrivals)
    return {
        "changes": rate,
        "users": len(stage.users),
        "devices": stage.per_user,
        "kinds": max(stage.kinds, len(CHAT.kinds)),
        **delays(written, arrivals),
        "server_us_per_change": 1e6 * server / len(written),
        "postgres_us_per_change": 1e6 * postgres / len(written),
        "changes_per_second": len(written) / took,
        "written": len(written) * stage.per_user,
        "delivered": len(written) * stage.per_user - lost,
        "lost": lost,
        "client_cpu_percent": 100 * client / took,
        "writer_cpu_percent": 100 * writer / took,
    }
