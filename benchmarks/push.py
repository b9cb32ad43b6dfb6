"""Devices write: durable, acknowledged mutations per second, and the time until each ack."""

from benchmarks import machine
from benchmarks.stage import Pushed, Stage

CALM: int = 100
"""Mutations per second of a server with little load."""


async def push(stage: Stage, rate: float, seconds: float) -> dict[str, float]:
    devices, server = stage.devices, stage.server

    def cpu() -> list[float]:
        used = [machine.cpu_seconds(pid) for pid in (server.pid, devices.pid)]
        return [*used, machine.cpu_seconds(stage.postgres.pid, family=True)]

    await devices.connect(server.port)
    await stage.quiet()
    calm = await stage.push(min(CALM, rate), seconds)
    before = cpu()
    loaded = await stage.push(rate, seconds)
    ours, client, postgres = (now - then for now, then in zip(cpu(), before, strict=True))
    most = await stage.push(None, seconds)

    await stage.disconnect()
    await server.kill()
    await server.start(ATLAS_PUSH_BATCH="1")
    await devices.connect(server.port)
    single = await stage.push(None, seconds)

    runs = (calm, loaded, most, single)
    acked = sum(len(run.waits) for run in runs)
    messages, numbers = await stage.stored()
    count = len(loaded.waits)
    return {
        "sockets": devices.count,
        "acked_per_second": count / loaded.seconds,
        **_waits("ack", loaded),
        **_waits("calm_ack", calm),
        "most_acked_per_second": len(most.waits) / most.seconds,
        "most_ack_p99_ms": _waits("ack", most)["ack_p99_ms"],
        "one_by_one_acked_per_second": len(single.waits) / single.seconds,
        "one_by_one_ack_p99_ms": _waits("ack", single)["ack_p99_ms"],
        "server_us_per_mutation": 1e6 * ours / count,
        "postgres_us_per_mutation": 1e6 * postgres / count,
        "client_cpu_percent": 100 * client / loaded.seconds,
        "acked": acked,
        "lost": acked - messages,
        "lost_numbers": acked - numbers,
        "lost_on_the_way_back": acked * stage.per_user - sum(len(run.came_back) for run in runs),
    }


def _waits(name: str, run: Pushed) -> dict[str, float]:
    waits = run.waits or [0.0]
    return {f"{name}_p{share}_ms": waits[len(waits) * share // 100] for share in (50, 99)}
