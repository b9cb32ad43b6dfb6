"""Devices come new, scroll and come back, and now and then a message is written: with Redis before Postgres, and
without.

Both ways get the same visits in the same order, in turns, each on a server that has just started and with an empty
Redis. As many visits as are counted come before, uncounted: a cache that is in use is not empty.
"""

import asyncio
import random
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import msgpack
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from benchmarks.actors import SECRET
from benchmarks.machine import BenchmarkError
from benchmarks.processes import LIMIT, folder, redis_server
from benchmarks.stage import Stage
from server.edge.auth import mint

CONVERSATIONS: Final = 12
MESSAGES: Final = 80
"""Of each conversation; a new device gets the newest 50 and scrolls through the others."""
SEED: Final = """
    WITH c AS (
        INSERT INTO conversations (id, user_id, title)
        SELECT gen_random_uuid(), $1, 'a title' FROM generate_series(1, $2) RETURNING id
    )
    INSERT INTO messages (conversation_id, role, content, created_at)
    SELECT c.id, 'user', $4, now() - i * interval '1 minute' FROM c, generate_series(1, $3) i
"""
AT_ONCE: Final = 4
"""Visits at the same time."""
PAGES: Final = 3
DEVICES: Final = 2
"""Devices of a person that come back. New ones are used once."""
RANKS: Final = [1 / rank for rank in range(1, CONVERSATIONS + 1)]
"""How often each conversation is read and written: the second half as often as the first, as with words (Zipf)."""
KINDS: Final = ("new", "scroll", "back", "write")
WEIGHTS: Final = (25, 45, 20, 10)
"""Of 100 visits. Nine in ten read."""


@dataclass(slots=True)
class Person:
    user: UUID
    token: str
    conversations: list[UUID]
    cursors: list[bytes | None] = field(default_factory=lambda: [None] * DEVICES)


@dataclass(slots=True)
class Side:
    settings: Mapping[str, str]
    statements: list[int] = field(default_factory=list)
    waits: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS[:3]})
    """Milliseconds: of a new device and one that comes back until it is live, of a page until it is there."""


async def visits(stage: Stage, count: int, rounds: int) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        sql = await asyncpg.connect(stage.postgres.url())
        stack.callback(sql.terminate)
        people = await _people(sql, stage)
        redis = await stack.enter_async_context(redis_server(stack.enter_context(folder())))
        sides = {"with": Side({"REDIS_URL": redis}), "without": Side({"REDIS_URL": ""})}
        for number in range(rounds):
            plan = _plan(2 * count, len(people), seed=number)
            for name in sorted(sides, reverse=bool(number % 2)):
                await _flush(redis)
                await _round(stage, sql, people, plan, sides[name])
    figures: dict[str, float] = {"users": len(people), "visits": count, "rounds": rounds}
    for name, side in sides.items():
        figures[f"statements_{name}"] = median(side.statements)
        for kind, waits in side.waits.items():
            hundredths = quantiles(waits, n=100)
            figures |= {f"{kind}_p50_ms_{name}": hundredths[49], f"{kind}_p99_ms_{name}": hundredths[98]}
        everything = quantiles([wait for waits in side.waits.values() for wait in waits], n=100)
        figures |= {f"all_p50_ms_{name}": everything[49], f"all_p99_ms_{name}": everything[98]}
    pairs = zip(sides["with"].statements, sides["without"].statements, strict=True)
    figures["statements_ratio"] = median(one / other for one, other in pairs)
    return figures


async def _people(sql: Any, stage: Stage) -> list[Person]:
    people = []
    for user in stage.users:
        await sql.execute(SEED, user, CONVERSATIONS, MESSAGES, stage.text(), timeout=LIMIT)
        rows = await sql.fetch("SELECT id FROM conversations WHERE user_id = $1", user)
        token = mint(user, SECRET, audience="authenticated", issuer="benchmarks", lifetime=86_400, now=time.time())
        people.append(Person(user, token, [row["id"] for row in rows]))
    await sql.execute("VACUUM ANALYZE")
    return people


async def _flush(url: str) -> None:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(b"FLUSHALL\r\n")
    await reader.readline()
    writer.close()


@dataclass(frozen=True, slots=True)
class Visit:
    kind: str
    person: int
    device: int
    conversation: int


def _plan(count: int, people: int, seed: int) -> list[Visit]:
    rng = random.Random(seed)
    return [
        Visit(kind, rng.randrange(people), rng.randrange(DEVICES), *rng.choices(range(CONVERSATIONS), RANKS))
        for kind in rng.choices(KINDS, WEIGHTS, k=count)
    ]


async def _round(stage: Stage, sql: Any, people: list[Person], plan: list[Visit], side: Side) -> None:
    await stage.server.kill()
    await stage.server.start(**side.settings)
    half = len(plan) // 2
    await _visit_all(stage, sql, people, plan[:half], Side(side.settings))
    await stage.quiet()
    before = await stage.statements()
    await _visit_all(stage, sql, people, plan[half:], side)
    side.statements.append(await stage.statements() - before)


async def _visit_all(stage: Stage, sql: Any, people: list[Person], plan: list[Visit], side: Side) -> None:
    left = iter(plan)
    writing = asyncio.Lock()

    async def work() -> None:
        for visit in left:
            person = people[visit.person]
            conversation = person.conversations[visit.conversation]
            if visit.kind == "write":
                async with writing:
                    await sql.execute(
                        "INSERT INTO messages (conversation_id, role, content) VALUES ($1, 'user', $2)",
                        conversation,
                        stage.text(),
                    )
            else:
                await _visit(stage.server.port, person, visit, conversation, side)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(work())


async def _visit(port: int, person: Person, visit: Visit, conversation: UUID, side: Side) -> None:
    cursor = None if visit.kind == "new" else person.cursors[visit.device]
    protocol = Subprotocol("atlas-sync.v1.msgpack")
    async with connect(
        f"ws://127.0.0.1:{port}/sync", subprotocols=[protocol], max_size=None, compression=None, proxy=None
    ) as one:
        began = time.perf_counter()
        hello = {
            "t": "hello",
            "token": person.token,
            "client_id": uuid4().bytes,
            "cursor": cursor,
        }
        await one.send(msgpack.packb(hello))
        live = await _hear(one, "live")
        side.waits["new" if cursor is None else "back"].append(1000 * (time.perf_counter() - began))
        if visit.kind != "new":
            person.cursors[visit.device] = live["cursor"]
        if visit.kind == "scroll":
            await _scroll(one, conversation, side.waits["scroll"])


async def _scroll(one: ClientConnection, conversation: UUID, waits: list[float]) -> None:
    before = None
    for number in range(PAGES):
        began = time.perf_counter()
        ask = {"t": "page", "id": number, "conversation": conversation.bytes, "before": before, "limit": 30}
        await one.send(msgpack.packb(ask))
        page = await _hear(one, "page")
        waits.append(1000 * (time.perf_counter() - began))
        if not page["more"]:
            return
        last = page["rows"][-1]
        before = [last[6], last[2]]


async def _hear(one: ClientConnection, kind: str) -> dict[str, Any]:
    while True:
        data = await one.recv()
        assert isinstance(data, bytes)
        frame: dict[str, Any] = msgpack.unpackb(data)
        if frame["t"] == kind:
            return frame
        if frame["t"] == "error":
            raise BenchmarkError(f"The server answered: {frame.get('message')}")
