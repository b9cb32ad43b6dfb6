"""How long honest devices wait for the answers to their pings, before and while one socket floods the server."""

import asyncio
import contextlib
import random
import time
from typing import Any, Final
from uuid import UUID, uuid4

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from benchmarks.actors import SECRET
from benchmarks.flooder import KINDS
from benchmarks.machine import BenchmarkError
from benchmarks.processes import LIMIT, end, spawn
from benchmarks.stage import Stage
from protocol.codec import MSGPACK
from protocol.frames import Hello, Live, Ping, Pong
from server.edge.auth import mint

EVERY: Final = 0.05
"""Seconds from an answer to the device's next ping."""


async def attack(stage: Stage, kind: str, paid: bool, megabits: float, seconds: float) -> dict[str, float]:
    if kind not in KINDS:
        raise BenchmarkError(f"--kind is one of {', '.join(KINDS)}.")
    attacker, *honest = stage.users
    async with contextlib.AsyncExitStack() as stack:
        devices = [await _device(stack, stage.server.port, user) for user in honest]
        before = await _pings(devices, seconds)
        pipe = asyncio.subprocess.PIPE
        flooder = await spawn("benchmarks.flooder", stdin=pipe, stdout=pipe)
        stack.push_async_callback(end, flooder)
        token = _token(attacker) if paid else None
        order = {"port": stage.server.port, "kind": kind, "megabits": megabits, "seconds": seconds, "token": token}
        flooding = asyncio.create_task(flooder.communicate(orjson.dumps(order) + b"\n"))
        during = await _pings(devices, seconds)
        async with asyncio.timeout(LIMIT):
            said: dict[str, Any] = orjson.loads((await flooding)[0])
    return {
        "devices": len(devices),
        "p50_ms": _share(during, 0.5),
        "p99_ms": _share(during, 0.99),
        "longest_ms": during[-1],
        "p50_before_ms": _share(before, 0.5),
        "p99_before_ms": _share(before, 0.99),
        "sent_megabits_per_second": said["bytes"] * 8 / 1e6 / seconds,
        "cut_offs": said["cut_offs"],
        "longest_seconds_until_cut_off": said["longest_seconds"],
    }


def _token(user: UUID) -> str:
    return mint(user, SECRET, audience="authenticated", issuer="benchmarks", lifetime=3_600, now=time.time())


async def _device(stack: contextlib.AsyncExitStack, port: int, user: UUID) -> ClientConnection:
    """Return a device that is live."""
    socket = await stack.enter_async_context(
        connect(f"ws://127.0.0.1:{port}/sync", subprotocols=[Subprotocol(MSGPACK.subprotocol)], compression=None)
    )
    await socket.send(MSGPACK.encode(Hello(token=_token(user), client_id=uuid4())))
    while not isinstance(MSGPACK.decode_to_client(await socket.recv(decode=False)), Live):
        pass
    return socket


async def _pings(devices: list[ClientConnection], seconds: float) -> list[float]:
    """Return the milliseconds until each answer, shortest first."""
    waits: list[float] = []
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds

    async def ping(device: ClientConnection) -> None:
        await asyncio.sleep(random.uniform(0, EVERY))
        while loop.time() < until:
            begun = time.perf_counter()
            await device.send(MSGPACK.encode(Ping()))
            while not isinstance(MSGPACK.decode_to_client(await device.recv(decode=False)), Pong):
                pass
            waits.append((time.perf_counter() - begun) * 1000)
            await asyncio.sleep(EVERY)

    await asyncio.gather(*map(ping, devices))
    return sorted(waits)


def _share(waits: list[float], share: float) -> float:
    return waits[int(len(waits) * share)]
