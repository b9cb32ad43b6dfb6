"""A server on 127.0.0.1 that does what a test tells it to, and a device that records what it reports to its app."""

import asyncio
import json
import random
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import msgpack
from websockets.asyncio.server import Server, ServerConnection, serve

from atlas_sync import Batch, Device, Event, Schema, Status

DEVICE, CONVERSATION, MESSAGE = UUID(int=1), UUID(int=2), UUID(int=3)
USER = UUID(int=0xABC)
CHAT = Schema.chat()
K0, K1, K2 = b"k0", b"k1", b"k2"
SECOND = 1_000_000
NOW = 1_751_000_000 * SECOND  # the server's clock, which is not the device's


async def soon(wait: Awaitable[Any]) -> Any:
    async with asyncio.timeout(10):
        return await wait


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (what is waited for knows nothing of events)
            await asyncio.sleep(0.005)


def token_of(name: str, **claims: object) -> str:
    """A token of this user, if the claims do not say otherwise; its signature is its name."""
    payload = urlsafe_b64encode(json.dumps({"sub": str(USER), **claims}).encode()).decode().rstrip("=")
    return f"header.{payload}.{name}"


class ServerEnd:
    """The server's end of one connection."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.json = socket.subprotocol == "atlas-sync.v1.json"

    async def receive(self) -> dict[str, Any]:
        data = await soon(self.socket.recv())
        frame: dict[str, Any] = json.loads(data) if self.json else msgpack.unpackb(data)
        return frame

    async def send(self, t: str, **fields: object) -> None:
        frame = {"t": t, **fields}
        await soon(self.socket.send(json.dumps(frame) if self.json else msgpack.packb(frame)))

    async def welcome(self, **fields: object) -> dict[str, Any]:
        """Receive `hello`, answer it, and return it."""
        hello = await self.receive()
        limits = {"frame_bytes": 262_144, "page_rows": 1000, "pages_in_flight": 2, "mutations": 3}
        mode: dict[str, object] = {"mode": "snapshot", "why": "new"} if hello["cursor"] is None else {"mode": "resumed"}
        times = {"time": NOW, "expires": NOW + 3600 * SECOND, "keepalive": 25_000}
        texts = {"session": "s", "epoch": "e", "schema": CHAT.hash, "tier": "pro"}
        await self.send("welcome", **{**texts, **mode, **times, "limits": limits, **fields})
        return hello

    async def changes(self, start: bytes, to: bytes, *rows: object, **more: object) -> None:
        await self.send("changes", **{"from": start}, to=to, rows=rows, **more)

    async def live(self, cursor: object, seq: int = 1) -> None:
        await self.send("live", cursor=cursor, seq=seq)

    async def ack(self, *results: object) -> None:
        await self.send("ack", results=results)

    async def error(self, code: str, close: int | None = None, **fields: object) -> None:
        await self.send("error", **{"code": code, "message": f"about {code}", "retryable": True, **fields})
        if close is not None:
            await self.socket.close(close)

    def cut(self) -> None:
        self.socket.transport.abort()

    async def closed(self) -> int | None:
        await soon(self.socket.wait_closed())
        return self.socket.close_code


class FakeServer:
    """Accepts connections; the test takes them with `next`."""

    def __init__(self) -> None:
        self.peers: asyncio.Queue[ServerEnd] = asyncio.Queue()
        self.url = ""
        self.server: Server | None = None

    async def start(self, port: int = 0) -> None:
        protocols: Any = ["atlas-sync.v1.msgpack", "atlas-sync.v1.json"]
        self.server = await serve(self.handle, "127.0.0.1", port, subprotocols=protocols, close_timeout=1)
        self.url = f"ws://127.0.0.1:{next(iter(self.server.sockets)).getsockname()[1]}/sync"

    async def handle(self, socket: ServerConnection) -> None:
        self.peers.put_nowait(ServerEnd(socket))
        await socket.wait_closed()

    async def next(self) -> ServerEnd:
        peer: ServerEnd = await soon(self.peers.get())
        return peer

    async def stop(self) -> None:
        if self.server is not None:
            self.server.close()
            await self.server.wait_closed()


class Always(random.Random):
    """Randomness that is always the same."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def random(self) -> float:
        return self.value


class Watched:
    """A device, and what it reported to its app."""

    def __init__(self, url: str, **options: Any) -> None:
        self.batches: list[Batch] = []
        self.statuses: list[Status] = []
        self.events: list[Event] = []
        self.tokens: list[str] = []
        defaults: dict[str, Any] = {
            "user": USER,
            "token": self.token,
            "client_id": DEVICE,
            "schema": CHAT,
            "on_batch": self.batches.append,
            "on_event": self.events.append,
            "on_status": self.statuses.append,
            "cursor": K0,
            "rng": Always(0.0),
        }
        self.device = Device(url, **{**defaults, **options})

    def token(self) -> str:
        self.tokens.append(token_of(f"token {len(self.tokens) + 1}"))
        return self.tokens[-1]


@asynccontextmanager
async def running(url: str, **options: Any) -> AsyncIterator[Watched]:
    watched = Watched(url, **options)
    run = asyncio.create_task(watched.device.run())
    try:
        yield watched
    finally:
        await soon(watched.device.stop())
        await soon(run)
