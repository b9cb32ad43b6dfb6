"""Connections on which nothing happens: memory of each, CPU and statements of all."""

import asyncio

from benchmarks.stage import Stage


async def idle(stage: Stage, seconds: float) -> dict[str, float]:
    server, devices = stage.server, stage.devices
    empty = server.resident_bytes()
    state = await devices.connect(server.port)
    await stage.quiet()
    statements, cpu, client = await stage.statements(), server.cpu_seconds(), devices.cpu_seconds()
    await asyncio.sleep(seconds)
    cpu, client = server.cpu_seconds() - cpu, devices.cpu_seconds() - client
    statements = await stage.statements() - statements
    resident = server.resident_bytes()
    await devices.state()  # raises if a device was disconnected
    return {
        "sockets": devices.count,
        "processes": server.processes,
        "seconds": seconds,
        "connect_seconds": (state["last_live"] - state["began"]) / 1e9,
        "kib_per_connection": (resident - empty) / 1024 / devices.count,
        "cpu_percent": 100 * cpu / seconds,
        "statements": statements,
        "statements_per_socket": statements / devices.count,
        "client_cpu_percent": 100 * client / seconds,
    }
