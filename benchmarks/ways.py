"""The ways of streaming an answer that `streams` compares: ours, and the common one of a Redis stream and Server-Sent
Events. How each is started, and how its writers and devices speak to it."""

import asyncio
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import msgpack
import orjson
import redis.asyncio

from benchmarks import machine
from benchmarks.actors import SECRET, Server
from benchmarks.appends import Device, Kind, Writer
from benchmarks.machine import BenchmarkError
from benchmarks.peer import PROGRAMS, Place, free_port, started
from benchmarks.processes import LIMIT, eventually
from benchmarks.stage import LOGIN, STATEMENTS
from benchmarks.websocket import UPGRADE, masked
from server.demo.embedded import EmbeddedPostgres
from server.edge.auth import mint

TOKEN: Final = "the token of the benchmarks' writers, of 32 characters"
AT_ONCE: Final = 32
"""Requests at the same time that open and end streams: well below what a server refuses."""
SETTLED: Final = 20.0
"""Seconds after which a text that is not in its row counts as lost."""
PEOPLE: Final = """
    WITH who AS (INSERT INTO profiles (id, subscription_tier) SELECT unnest($1::uuid[]), 'core')
    INSERT INTO conversations (id, user_id, title) SELECT n, n, 'An answer' FROM unnest($1::uuid[]) AS n
"""
ROWS: Final = """
    INSERT INTO messages (id, conversation_id, role, content)
    SELECT id, owner, 'assistant', '' FROM unnest($1::uuid[], $2::uuid[]) AS row (id, owner)
"""
TEXTS: Final = "SELECT id, content FROM messages WHERE id = ANY ($1)"
Item = TypeVar("Item")
Answer = TypeVar("Answer")
Spent = tuple[float, float]
"""CPU seconds of the servers' processes, and of what keeps the texts: Postgres or Redis."""


class Way(ABC):
    """Has two server processes, whose ports are `ports`: writers write to the first."""

    name: str
    ports: tuple[int, int]
    kinds: tuple[Kind, Kind]
    """Of the writers: grouped, and each append by itself."""
    headers = ""

    @abstractmethod
    async def start(self, stack: AsyncExitStack, place: Path) -> None:
        """Start the servers; they end with `stack`."""

    @abstractmethod
    async def open(self, count: int) -> list[str]:
        """Open so many streams, each of another user. Return the names that their writers call them."""

    @abstractmethod
    def device(self, name: str, side: int, markers: int = 0) -> Device:
        """A device that receives this stream from the server `side`, 0 or 1."""

    @abstractmethod
    async def close(self, texts: dict[str, str]) -> int:
        """End these streams, which have these texts. Return how many of them are not kept as they were written."""

    @abstractmethod
    def spent(self) -> Spent: ...

    async def statements(self) -> int:
        """The number of statements that the servers have run in Postgres so far."""
        return 0

    def writers(self, names: Sequence[str], grouped: bool, backends: int) -> list[Writer]:
        kind, port = self.kinds[not grouped], self.ports[0]
        if not grouped:
            return [Writer(kind, port, [name], self.headers) for name in names]
        shares = [names[first::backends] for first in range(min(backends, len(names)))]
        return [Writer(kind, port, share, self.headers) for share in shares]


class Http:
    """A connection that is kept, for one request after the other."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Return the status, and the JSON of the answer, or its bytes if that is none."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        raw = b"" if body is None else orjson.dumps(body)
        writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n".encode()
            + raw
        )
        async with asyncio.timeout(LIMIT):
            head = await reader.readuntil(b"\r\n\r\n")
            size = 0
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    size = int(line.partition(b":")[2])
            said = await reader.readexactly(size)
        status = int(head.split(b" ", 2)[1])
        try:
            return status, orjson.loads(said)
        except orjson.JSONDecodeError:
            return status, said

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Atlas(Way):
    """Ours, with two servers on one Postgres."""

    name, kinds = "atlas", (Kind.GROUPED, Kind.SINGLE)
    headers = f"Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"

    def __init__(self, postgres: EmbeddedPostgres, sockets_per_user: int) -> None:
        self.postgres = postgres
        self.servers = [Server(postgres.url(user=LOGIN), sockets_per_user) for _ in range(2)]
        self._sql: Any = None
        self.owners: dict[str, UUID] = {}
        """The user of each stream."""
        self.rows: dict[str, UUID] = {}
        """The row of each stream."""

    async def start(self, stack: AsyncExitStack, place: Path) -> None:
        self._sql = await asyncpg.connect(self.postgres.url())
        stack.callback(self._sql.terminate)
        for server in self.servers:
            stack.push_async_callback(server.kill)
        await self.serve()

    async def serve(self) -> None:
        for server in self.servers:
            await server.start(ATLAS_SERVICE_TOKEN=TOKEN)
        self.ports = self.servers[0].port, self.servers[1].port

    async def again(self) -> None:
        """End the servers and start them anew, so that their memory is that of new processes."""
        for server in self.servers:
            await server.stop()
        await self.serve()

    async def people(self, count: int) -> list[UUID]:
        users = [uuid4() for _ in range(count)]
        await self._sql.execute(PEOPLE, users, timeout=LIMIT)
        return users

    async def open(self, count: int) -> list[str]:
        return await self.open_for(await self.people(count))

    async def open_for(self, users: Sequence[UUID]) -> list[str]:
        """Open a stream for each of these."""
        rows = [uuid4() for _ in users]
        await self._sql.execute(ROWS, rows, users, timeout=LIMIT)

        async def work(connection: Http, number: int) -> str:
            body = {"user": str(users[number]), "kind": "message", "id": str(rows[number]), "column": "content"}
            status, said = await connection.ask("POST", "/v1/streams", body)
            if status != 201:
                raise BenchmarkError(f"Opening a stream was answered with {status} {said!r}.")
            return str(said["stream"])

        names = await each_of(self.ports[0], range(len(users)), work)
        self.owners |= zip(names, users, strict=True)
        self.rows |= zip(names, rows, strict=True)
        return names

    async def append(self, names: Sequence[str], pieces: Sequence[str], offset: int = 0) -> None:
        """Append all pieces, one after the other, to each of these streams, whose texts end at `offset`: in groups."""
        connection = Http(self.ports[0])
        for piece in pieces:
            for first in range(0, len(names), 250):
                entries = [[name, offset, piece] for name in names[first : first + 250]]
                status, said = await connection.ask("PATCH", "/v1/streams", {"appends": entries})
                if status != 200 or any(answer[0] != 200 for answer in said["answers"]):
                    raise BenchmarkError(f"Appending was answered with {status}.")
            offset += len(piece)
        connection.close()

    async def keep_alive(self, names: Sequence[str], offset: int) -> None:
        """A sign of life of these streams, whose texts end at `offset`."""
        await self.append(names, [""], offset)

    def resident_bytes(self) -> list[int]:
        return [server.resident_bytes() for server in self.servers]

    def device(self, name: str, side: int, markers: int = 0) -> Device:
        return self.device_of(self.owners[name], side, markers)

    def device_of(self, user: UUID, side: int, markers: int = 0) -> Device:
        live = msgpack.packb("t") + msgpack.packb("live")
        return Device(self.ports[side], [(UPGRADE, b"HTTP/1.1 101"), (masked(hello(user)), live)], markers)

    async def close(self, texts: dict[str, str]) -> int:
        async def work(connection: Http, name: str) -> int:
            body = {"offset": len(texts[name]), "write": True}
            status, _ = await connection.ask("POST", f"/v1/streams/{name}/done", body)
            return status

        statuses = await each_of(self.ports[0], list(texts), work)
        rows = {self.rows[name]: text for name, text in texts.items()}

        async def kept() -> int:
            return sum(rows[row] == text for row, text in await self._sql.fetch(TEXTS, list(rows), timeout=LIMIT))

        async def all_kept() -> bool:
            return await kept() == len(rows)

        with suppress(BenchmarkError):
            await eventually("all answers in their rows", all_kept, SETTLED)
        return max(len(rows) - await kept(), sum(status != 200 for status in statuses))

    def spent(self) -> Spent:
        servers = sum(server.cpu_seconds() for server in self.servers)
        return servers, machine.cpu_seconds(self.postgres.pid, family=True)

    async def statements(self) -> int:
        return int(await self._sql.fetchval(STATEMENTS, LOGIN))


class Sse(Way):
    """The common way: see `programs/sse.py`."""

    kinds = (Kind.PIPELINED, Kind.ONE_BY_ONE)

    def __init__(self, name: str, redis: str) -> None:
        self.name = name
        self._redis = redis
        self._redis_pid = 0
        self._pids: list[int] = []
        self._servers: tuple[int, int]

    async def start(self, stack: AsyncExitStack, place: Path) -> None:
        servers = []
        for side in range(2):
            port = free_port()
            command = (sys.executable, PROGRAMS / "sse.py", str(port), self._redis, self.name)
            self._pids.append(await started(stack, Place(place, "", ""), f"{self.name}-{side}", port, *command))
            servers.append(port)
        self._servers = servers[0], servers[1]
        link = redis.asyncio.Redis.from_url(self._redis)
        self._redis_pid = (await link.info("server"))["process_id"]
        await link.aclose()
        self.ports = urlsplit(self._redis).port or 0, 0

    async def open(self, count: int) -> list[str]:
        return [str(uuid4()) for _ in range(count)]

    async def append(self, names: Sequence[str], pieces: Sequence[str]) -> None:
        """Append all pieces, one after the other, to each of these streams."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[0])
        for name in names:
            writer.writelines(command("XADD", name, "*", "t", piece) for piece in pieces)
        for _ in range(2 * len(names) * len(pieces)):
            await reader.readline()
        writer.close()

    def device(self, name: str, side: int, markers: int = 0) -> Device:
        request = f"GET /streams/{name} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"
        return Device(self._servers[side], [(request.encode(), b"HTTP/1.1 200")], markers)

    async def close(self, texts: dict[str, str]) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[0], limit=1 << 28)
        lost = 0
        for name, text in texts.items():
            writer.write(command("XRANGE", name, "-", "+") + command("DEL", name))
            said = []
            for _ in range(int((await reader.readline())[1:])):
                lines = [await reader.readline() for _ in range(8)]  # *2 $15 id *2 $1 t $20 text
                said.append(lines[-1].decode()[:-2])
            await reader.readline()
            lost += "".join(said) != text
        writer.close()
        return lost

    def spent(self) -> Spent:
        return sum(map(machine.cpu_seconds, self._pids)), machine.cpu_seconds(self._redis_pid)


def command(*words: str) -> bytes:
    """A command for Redis."""
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        raw = word.encode()
        parts += [b"$%d\r\n" % len(raw), raw, b"\r\n"]
    return b"".join(parts)


def hello(user: UUID) -> bytes:
    token = mint(user, SECRET, audience="authenticated", issuer="benchmarks", lifetime=86_400, now=time.time())
    frame = {"t": "hello", "token": token, "client_id": uuid4().bytes, "cursor": None, "extras": ["streams"]}
    return bytes(msgpack.packb(frame))


async def each_of(port: int, items: Iterable[Item], work: Callable[[Http, Item], Awaitable[Answer]]) -> list[Answer]:
    """Do this for each item, several at a time, each on one of some connections. Return the answers in order."""
    given = list(items)
    answers: dict[int, Answer] = {}
    left = iter(enumerate(given))

    async def worker() -> None:
        connection = Http(port)
        try:
            for number, item in left:
                answers[number] = await work(connection, item)
        finally:
            connection.close()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(AT_ONCE, len(given))):
            tasks.create_task(worker())
    return [answers[number] for number in range(len(given))]
