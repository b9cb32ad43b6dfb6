"""The stage of a benchmark: a durable Postgres of its own, the real server as a process, users, and the load generator.

Everything that is started here is ended here, however the benchmark ends.
"""

import asyncio
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import orjson
from chitchat_dataset import Dataset

from benchmarks import machine
from benchmarks.machine import BenchmarkError
from server.postgres.embedded import EmbeddedPostgres
from server.postgres.migrate import migrate

SECRET: Final = "a secret of the benchmarks, longer than 32 characters"
LOGIN: Final = "atlas_server"
"""What the server logs in as: a member of atlas_sync and nothing else, so its statements are told from ours."""
LIMIT: Final = 120.0
"""Seconds for whatever must happen at all; reached only by what never comes."""
POLL: Final = 0.02
AT_ONCE: Final = 500
"""Devices that connect at the same time where the crowd is not what is measured: well below the server's backlog."""
WRITERS: Final = 8
SETTINGS: Final = {
    "shared_buffers": "256MB",
    "max_connections": "200",
    "shared_preload_libraries": "pg_stat_statements",
}
SEED: Final = """
    WITH who AS (INSERT INTO profiles (id, subscription_tier) SELECT unnest($1::uuid[]), 'core'),
         what AS (INSERT INTO conversations (id, user_id, title)
                  SELECT * FROM unnest($2::uuid[], $1::uuid[], $3::text[]))
    INSERT INTO messages (conversation_id, role, content) SELECT unnest($2::uuid[]), 'user', unnest($3::text[])
"""
STATEMENTS: Final = """
    SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE userid = $1::regrole AND dbid =
        (SELECT oid FROM pg_database WHERE datname = current_database())
"""

Written = tuple[int, str, int]
"""User number, message id (hexadecimal), instant of the answer to COMMIT (CLOCK_MONOTONIC, so comparable)."""


async def eventually(what: str, condition: Callable[[], Awaitable[bool]], limit: float = LIMIT) -> None:
    """Return when `condition` is true. Raises BenchmarkError after `limit` seconds."""
    end = time.monotonic() + limit
    while not await condition():
        if time.monotonic() > end:
            raise BenchmarkError(f"Not within {limit:.0f} s: {what}.")
        await asyncio.sleep(POLL)


class Server:
    """`python -m server serve`, with its default settings, in a session of its own: Ctrl-C is for us."""

    def __init__(self, database_url: str, sockets_per_user: int) -> None:
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("ATLAS_", "WEB_CONC"))},
            "DATABASE_URL": database_url,
            "ATLAS_JWT_SECRET": SECRET,
            "ATLAS_HOST": "127.0.0.1",
            "ATLAS_SOCKETS_PER_USER": str(sockets_per_user),
        }
        self._process: asyncio.subprocess.Process | None = None
        self._drain: asyncio.Task[None] | None = None
        self.port = 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> int:
        """Start, on the same port as before if there was a before. Returns the instant at which it said `serving`."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server", "serve"),
            env={**self._environment, "PORT": str(self.port)},
            stdin=subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        log = self._process.stderr
        assert log is not None
        last = b"nothing"
        with suppress(TimeoutError):
            async with asyncio.timeout(LIMIT):
                async for line in log:
                    if b'"serving"' in line:
                        now = time.monotonic_ns()
                        self.port = orjson.loads(line)["port"]
                        self._drain = asyncio.create_task(self._swallow(log))
                        return now
                    last = line
        raise BenchmarkError(f"The server did not come to serve; the last it said: {last.decode().strip()}.")

    async def _swallow(self, log: asyncio.StreamReader) -> None:
        """Take its log away without looking: two lines a connection, and a full pipe would stop it."""
        while await log.read(1 << 20):
            pass

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        if self._drain is not None:
            await self._drain


class Devices:
    """The load generator's process; see `benchmarks.devices`."""

    def __init__(self, process: asyncio.subprocess.Process, count: int) -> None:
        self._process = process
        self.pid = process.pid
        self.count = count

    async def tell(self, command: str, **given: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(orjson.dumps([command, given]) + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise BenchmarkError("The load generator ended; what it wrote above says why.")
        return orjson.loads(line)

    async def state(self) -> dict[str, Any]:
        """Raises BenchmarkError when something has happened to a device that must not."""
        state: dict[str, Any] = await self.tell("state")
        if state["trouble"]:
            raise BenchmarkError(f"A device was not served ({state['trouble']}).")
        return state

    async def connect(self, port: int, at_once: int = AT_ONCE) -> dict[str, Any]:
        """Connect all. Returns the state once every one is live."""
        await self.tell("connect", port=port, at_once=at_once)

        async def all_live() -> bool:
            return bool((await self.state())["live"] == self.count)

        await eventually(f"all of {self.count:,} devices live", all_live)
        return await self.state()

    async def arrivals(self, expected: int, limit: float = 20.0) -> list[tuple[int, str, int]]:
        """What has arrived once `expected` messages have, or `limit` seconds later: the caller counts what is lost."""

        async def all_arrived() -> bool:
            return bool((await self.state())["arrived"] >= expected)

        with suppress(BenchmarkError):
            await eventually("all arrived", all_arrived, limit)
        await self.state()  # a device in trouble is no mere loss
        return [(device, message, at) for device, message, at in await self.tell("arrivals")]


class Stage:
    """What a benchmark works with."""

    def __init__(self, postgres: EmbeddedPostgres, users: int, per_user: int) -> None:
        self.postgres = postgres
        self.users = sorted(uuid4() for _ in range(users))
        self.per_user = per_user
        self.conversations: list[UUID] = [uuid4() for _ in self.users]
        self.server = Server(postgres.url(user=LOGIN), max(20, per_user))
        self.texts = [text for entry in Dataset().values() for turn in entry["messages"] for text in _texts(turn)]
        self.machine: dict[str, Any] = {}
        self.devices: Devices
        self._admin: Any = None
        self._writers: list[Any] = []

    async def open(self, stack: AsyncExitStack) -> None:
        await migrate(self.postgres.url())
        for _ in range(WRITERS + 1):
            connection = await asyncpg.connect(self.postgres.url())
            stack.callback(connection.terminate)
            self._writers.append(connection)
        self._admin = self._writers.pop()
        self.machine = machine.describe(await self._admin.fetchval("SHOW server_version"))
        await self._admin.execute(f"CREATE ROLE {LOGIN} LOGIN IN ROLE atlas_sync; CREATE EXTENSION pg_stat_statements")
        texts = random.choices(self.texts, k=len(self.users))
        await self._admin.execute(SEED, self.users, self.conversations, texts, timeout=LIMIT)
        # Now rather than by autovacuum in the middle of a measurement.
        await self._admin.execute("VACUUM ANALYZE")
        await self._admin.execute("CHECKPOINT")
        stack.push_async_callback(self.server.kill)
        await self.server.start()
        await self._start_devices(stack)

    async def _start_devices(self, stack: AsyncExitStack) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.devices"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 28,  # bytes of one answer
            start_new_session=True,
        )

        async def end() -> None:
            if process.returncode is None:
                process.kill()
            await process.wait()

        stack.push_async_callback(end)
        self.devices = Devices(process, len(self.users) * self.per_user)
        await self.devices.tell(
            "prepare", users=[str(user) for user in self.users], per_user=self.per_user, secret=SECRET
        )

    async def statements(self) -> int:
        """Statements that the server's login has run so far."""
        return int(await self._admin.fetchval(STATEMENTS, LOGIN))

    async def settle(self) -> None:
        """Return once the server has nothing left to do for whoever has just come or gone."""

        async def quiet() -> bool:
            statements, cpu = await self.statements(), machine.cpu_seconds(self.server.pid)
            await asyncio.sleep(0.5)
            # One statement may be its own heartbeat; a quarter of a core those of 100,000 sockets.
            return await self.statements() - statements <= 1 and machine.cpu_seconds(self.server.pid) - cpu < 0.125

        await eventually("the server at rest after the devices had connected", quiet)

    async def disconnect(self) -> None:
        """Cut every device off, and return when the server has noticed."""
        before = machine.open_files(self.server.pid)
        await self.devices.tell("disconnect")

        async def noticed() -> bool:
            return machine.open_files(self.server.pid) <= before - self.devices.count

        await eventually("the server has noticed that all devices left", noticed)

    async def write_at(self, rate: float, seconds: float) -> list[Written]:
        """Messages into random users' conversations at random moments, `rate` a second on average."""
        end = time.monotonic() + seconds

        async def work(connection: Any) -> None:
            due = time.monotonic()
            while (due := due + random.expovariate(rate / WRITERS)) < end:
                if (wait := due - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                written.append(await self._write(connection, random.randrange(len(self.users))))

        written: list[Written] = []
        async with asyncio.TaskGroup() as tasks:
            for connection in self._writers:
                tasks.create_task(work(connection))
        return written

    async def write_for(self, users: Iterable[int]) -> list[Written]:
        """A message for each of these users, as quickly as may be."""
        left = iter(users)

        async def work(connection: Any) -> None:
            written.extend([await self._write(connection, user) for user in left])

        written: list[Written] = []
        async with asyncio.TaskGroup() as tasks:
            for connection in self._writers:
                tasks.create_task(work(connection))
        return written

    async def _write(self, connection: Any, user: int) -> Written:
        """One message, in a transaction of its own: the answer to the statement is the answer to its COMMIT."""
        message = uuid4()
        await connection.execute(
            "INSERT INTO messages (id, conversation_id, role, content) VALUES ($1, $2, 'user', $3)",
            message,
            self.conversations[user],
            random.choice(self.texts),
        )
        return user, message.hex, time.monotonic_ns()

    def lost(self, written: list[Written], arrivals: list[tuple[int, str, int]]) -> int:
        """How many of the written messages did not arrive at a device of their user."""
        arrived = {(device, message) for device, message, _ in arrivals}
        return sum(
            (user * self.per_user + device, message) not in arrived
            for user, message, _ in written
            for device in range(self.per_user)
        )


def _texts(turn: list[dict[str, str]]) -> Iterable[str]:
    return (said["text"] for said in turn if said["text"])


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="atlas-benchmark-", dir="/tmp"))
    folder.chmod(0o755)  # under root, Postgres is another account
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@asynccontextmanager
async def stage(users: int, per_user: int = 1) -> AsyncIterator[Stage]:
    """Set the stage for so many users with so many devices each, and clear it away afterwards."""
    machine.allow_files(users * per_user)
    async with AsyncExitStack() as stack:
        postgres = EmbeddedPostgres(stack.enter_context(_folder()), settings=SETTINGS)
        stack.callback(postgres.stop, immediate=True)
        postgres.start()
        made = Stage(postgres, users, per_user)
        await made.open(stack)
        yield made
