"""Connections on which nothing happens: what each costs in memory, and all of them in CPU and statements."""

import asyncio

from benchmarks import machine
from benchmarks.stage import Stage


async def idle(stage: Stage, seconds: float) -> dict[str, float]:
    server, sockets = stage.server.pid, stage.devices.count
    empty = machine.resident_bytes(server)
    state = await stage.devices.connect(stage.server.port)
    await stage.settle()
    statements, cpu = await stage.statements(), machine.cpu_seconds(server)
    await asyncio.sleep(seconds)
    cpu_after, statements_after = machine.cpu_seconds(server), await stage.statements()
    resident = machine.resident_bytes(server)
    await stage.devices.state()  # nobody was dropped
    return {
        "sockets": sockets,
        "seconds": seconds,
        "connect_seconds": (state["last_live"] - state["began"]) / 1e9,
        "kib_per_connection": (resident - empty) / 1024 / sockets,
        "cpu_percent": 100 * (cpu_after - cpu) / seconds,
        "statements": statements_after - statements,
    }
