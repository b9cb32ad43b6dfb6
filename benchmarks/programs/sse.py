"""python sse.py PORT REDIS_URL WAY: a worker adds the tokens of an answer to a Redis stream, and this sends them as
Server-Sent Events, from the event on that the device names (Last-Event-ID).

`each`: for each device a connection to Redis and a blocking XREAD, as articles and libraries for FastAPI and Starlette
show it. `together`: one XREAD for all streams that devices of this process watch, at most every 2 ms, and XRANGE for
what a device missed: cheaper, and more than most apps build.
"""

import asyncio
import contextlib
import json
import sys
from collections import defaultdict
from collections.abc import AsyncIterator

import redis.asyncio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

Entries = list[tuple[str, dict[str, str]]]
News = list[tuple[str, Entries]]
Position = tuple[int, int]

PAUSE = 0.002
LONG_MS = 15_000
"""How long a read waits for its only stream. redis-py gives up after 5 seconds by default."""
BLOCK_MS = 50
"""How long a read without news holds up the first read of another stream."""

port, redis_url, way = sys.argv[1:]
store = redis.asyncio.Redis.from_url(
    redis_url, decode_responses=True, protocol=2, max_connections=100_000, socket_timeout=2 * LONG_MS / 1000
)


async def read(positions: dict[str, str], milliseconds: int) -> News:
    news: News = await store.xread(positions, block=milliseconds)  # type: ignore[arg-type, assignment]  # any answer
    return news


def event(entries: Entries) -> str:
    return "".join(f"id: {entry}\ndata: {json.dumps(fields, ensure_ascii=False)}\n\n" for entry, fields in entries)


def position(entry: str) -> Position:
    milliseconds, _, number = entry.partition("-")
    return int(milliseconds), int(number or 0)


async def each(name: str, last: str) -> AsyncIterator[str]:
    while True:
        for _, entries in await read({name: last}, LONG_MS):
            yield event(entries)
            last = entries[-1][0]


class Reader:
    def __init__(self) -> None:
        self._watchers: dict[str, set[asyncio.Queue[Entries]]] = defaultdict(set)
        self._positions: dict[str, str] = {}

    async def run(self) -> None:
        while True:
            if not self._positions:
                await asyncio.sleep(PAUSE)
                continue
            for name, entries in await read(self._positions, BLOCK_MS):
                if name in self._positions:
                    self._positions[name] = entries[-1][0]
                for queue in self._watchers.get(name, ()):
                    queue.put_nowait(entries)
            await asyncio.sleep(PAUSE)

    async def events(self, name: str, last: str) -> AsyncIterator[str]:
        queue: asyncio.Queue[Entries] = asyncio.Queue()
        self._watchers[name].add(queue)
        try:
            missed: Entries = await store.xrange(name, "(" + last)  # type: ignore[assignment]  # they are decoded
            if missed:
                yield event(missed)
                last = missed[-1][0]
            # Whoever is behind, or first, sets it back: the others drop what they have.
            known = self._positions.get(name, last)
            self._positions[name] = min(known, last, key=position)
            while True:
                entries = [entry for entry in await queue.get() if position(entry[0]) > position(last)]
                if entries:
                    yield event(entries)
                    last = entries[-1][0]
        finally:
            self._watchers[name].discard(queue)
            if not self._watchers[name]:
                del self._watchers[name]
                self._positions.pop(name, None)


reader = Reader()


async def stream(request: Request) -> StreamingResponse:
    name, last = request.path_params["name"], request.headers.get("last-event-id", "0-0")
    events = each(name, last) if way == "each" else reader.events(name, last)
    return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


@contextlib.asynccontextmanager
async def reading(_: Starlette) -> AsyncIterator[None]:
    task = asyncio.create_task(reader.run())
    yield
    task.cancel()


app = Starlette(routes=[Route("/streams/{name}", stream)], lifespan=reading)
uvicorn.run(
    app,
    host="127.0.0.1",
    port=int(port),
    log_level="error",
    loop="uvloop",
    http="httptools",
    timeout_graceful_shutdown=1,
)
