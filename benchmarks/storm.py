"""All devices come back at the same moment: first to the same server, then to one that was killed and restarted."""

import random

from benchmarks.stage import Stage, Written


async def storm(stage: Stage, changes: int) -> dict[str, float]:
    devices, server = stage.devices, stage.server

    async def write(each: int) -> list[Written]:
        users = [*range(len(stage.users))] * each
        random.shuffle(users)
        return await stage.write(users)

    await devices.connect(server.port)
    await stage.disconnect()
    written = await write(changes)
    await stage.quiet()
    statements = await stage.statements()
    state = await devices.connect(server.port, at_once=devices.count)
    statements = await stage.statements() - statements
    lost = stage.lost(written, await devices.arrivals(len(written)))

    await stage.disconnect()
    before = changes * 2 // 5
    written_again = await write(before)
    await server.kill()
    written_again += await write(changes - before)
    serving = await server.start()
    state_again = await devices.connect(server.port, at_once=devices.count)
    return {
        "sockets": devices.count,
        "written": len(written),
        "seconds_to_live": (state["last_live"] - state["began"]) / 1e9,
        "statements": statements,
        "lost": lost,
        "written_again": len(written_again),
        "seconds_to_live_after_sigkill": (state_again["last_live"] - serving) / 1e9,
        "lost_after_sigkill": stage.lost(written_again, await devices.arrivals(len(written_again))),
    }
