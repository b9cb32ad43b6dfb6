"""The pollers: clients that poll, all in one process.

Commands arrive as JSON lines on standard input. It answers each with one line, and ends with its input. It runs on
uvloop, because the kernel counts the bytes of its read() per process, and not those of asyncio's own loop.
"""

import asyncio
import sys
import time
from datetime import datetime
from itertools import count
from typing import Any, Final

import asyncpg
import orjson
import uvloop

CONNECTIONS: Final = 16
"""Connections, as in the pool of the app's own server."""
CONVERSATIONS: Final = """
    SELECT id, user_id, title, created_at, updated_at FROM conversations WHERE user_id = $1 ORDER BY updated_at DESC
"""
MESSAGES: Final = """
    SELECT id, conversation_id, role, content, created_at, updated_at FROM messages
    WHERE conversation_id = $1 ORDER BY created_at
"""
NEW_CONVERSATIONS: Final = """
    SELECT id, user_id, title, created_at, updated_at FROM conversations WHERE user_id = $1 AND updated_at > $2
"""
NEW_MESSAGES: Final = """
    SELECT m.id, m.conversation_id, m.role, m.content, m.created_at, m.updated_at
    FROM conversations c JOIN messages m ON m.conversation_id = c.id WHERE c.user_id = $1 AND m.updated_at > $2
"""


class Client:
    """What one user's device has received. `since` are the newest updated_at of both tables. Only messages newer than
    the start are listed. `asked` is the instant at which its last answered poll began."""

    def __init__(self, number: int, user: str, began: datetime) -> None:
        self.number = number
        self.user = user
        self.began = began
        self.asked = 0
        self.since = (began, began)
        self.held: set[str] = set()

    async def full(self, connection: Any) -> set[str]:
        """Poll for everything. Return the messages that are new."""
        held = set()
        for conversation in await connection.fetch(CONVERSATIONS, self.user):
            rows = await connection.fetch(MESSAGES, conversation["id"])
            held |= {row["id"].hex for row in rows if row["created_at"] >= self.began}
        return held

    async def delta(self, connection: Any) -> set[str]:
        """Poll for rows newer than the newest received. Return the messages that are new."""
        conversations = await connection.fetch(NEW_CONVERSATIONS, self.user, self.since[0])
        messages = await connection.fetch(NEW_MESSAGES, self.user, self.since[1])
        newest = [
            max((row["updated_at"] for row in rows), default=since)
            for rows, since in zip((conversations, messages), self.since, strict=True)
        ]
        self.since = newest[0], newest[1]
        return self.held | {row["id"].hex for row in messages}


class Pollers:
    """All clients, and what arrived at them. Every public method except `run` is a command and returns its answer."""

    def __init__(self) -> None:
        self._clients: list[Client] = []
        self._idle: asyncio.LifoQueue[Any] = asyncio.LifoQueue()
        self._sync = Client.full
        self._gap = 0.0
        self._waits: list[int] = []
        self._arrivals: list[tuple[int, str, int]] = []

    async def prepare(self, url: str, kind: str, users: list[str], interval: float, since: str) -> None:
        """Begin to poll. The polls of all users are spread evenly over `interval` seconds."""
        for _ in range(CONNECTIONS):
            self._idle.put_nowait(await asyncpg.connect(url))
        began = datetime.fromisoformat(since)
        self._clients = [Client(number, user, began) for number, user in enumerate(users)]
        self._sync = {"full": Client.full, "delta": Client.delta}[kind]
        self._gap = interval / len(users)

    async def state(self) -> dict[str, Any]:
        """In the format of the load generator of the sockets; and the instant since which each user has polled."""
        asked = min(client.asked for client in self._clients)
        here = {"live": len(self._clients), "arrived": len(self._arrivals), "asked": asked}
        return {**here, "began": 0, "last_live": 0, "trouble": None}

    async def arrivals(self) -> list[tuple[int, str, int]]:
        """Return the new messages since the last call: number of the user, id, instant of the poll's answer."""
        arrivals, self._arrivals = self._arrivals, []
        return arrivals

    async def waits(self) -> list[int]:
        """Return the nanoseconds of each poll since the last call, from when it was due until it was answered."""
        waits, self._waits = self._waits, []
        return waits

    async def held(self) -> list[str]:
        """Return the ids of the new messages that the clients have now."""
        return [message for client in self._clients for message in client.held]

    async def run(self) -> None:
        began = time.monotonic_ns()
        async with asyncio.TaskGroup() as tasks:
            for turn in count():
                due = began + int(turn * self._gap * 1e9)
                await asyncio.sleep((due - time.monotonic_ns()) / 1e9)
                connection = await self._idle.get()
                tasks.create_task(self._poll(self._clients[turn % len(self._clients)], connection, due))

    async def _poll(self, client: Client, connection: Any, due: int) -> None:
        asked = time.monotonic_ns()
        held = await self._sync(client, connection)
        now = time.monotonic_ns()
        self._idle.put_nowait(connection)
        client.asked = asked
        self._waits.append(now - due)
        self._arrivals += [(client.number, message, now) for message in held - client.held]
        client.held = held


async def main() -> None:
    told = asyncio.StreamReader(limit=1 << 26)  # bytes of one command
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(told), sys.stdin)
    pollers = Pollers()
    async with asyncio.TaskGroup() as tasks:
        polling = None
        while line := await told.readline():
            name, given = orjson.loads(line)
            answer = await getattr(pollers, name)(**given)
            if polling is None:
                polling = tasks.create_task(pollers.run())
            sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
            sys.stdout.buffer.flush()
        if polling is not None:
            polling.cancel()


if __name__ == "__main__":
    uvloop.run(main())
