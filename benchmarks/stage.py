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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import asyncpg
import orjson
from chitchat_dataset import Dataset

from benchmarks import machine
from benchmarks.machine import BenchmarkError
from server.postgres.embedded import EmbeddedPostgres
from server.postgres.migrate import migrate

SECRET: Final = "a secret of the benchmarks, longer than 32 characters"
LOGIN: Final = "atlas_server"
"""What the server logs in as, and nobody else: so its statements are told from ours."""
LIMIT: Final = 120.0
"""Seconds for whatever must happen at all; reached only by what never comes."""
ARRIVAL: Final = 20.0
"""Seconds after the last commit in which its change must have arrived; then it counts as lost."""
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
WRITE: Final = "INSERT INTO messages (id, conversation_id, role, content) VALUES ($1, $2, 'user', $3)"
STATEMENTS: Final = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE userid = $1::regrole"

Written = tuple[int, str, int]
"""Number of the user, id of the message, instant of the answer to its COMMIT (CLOCK_MONOTONIC: the same everywhere)."""
Arrived = tuple[int, str, int]
"""Number of the device, id of the message, instant of the read. User u has the devices u·per_user to u·per_user + …"""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What the devices wrote and had acknowledged."""

    seconds: float
    """From the first mutation to the last answer."""
    waits: list[float]
    """Milliseconds from each mutation to its answer, shortest first."""
    came_back: list[str]
    """Ids of the messages that the feed brought."""


async def eventually(what: str, condition: Callable[[], Awaitable[bool]], limit: float = LIMIT) -> None:
    """Return when `condition` is true. Raises BenchmarkError after `limit` seconds."""
    end = time.monotonic() + limit
    while not await condition():
        if time.monotonic() > end:
            raise BenchmarkError(f"Not within {limit:.0f} s: {what}.")
        await asyncio.sleep(POLL)


async def spawn(module: str, *arguments: str, **options: Any) -> asyncio.subprocess.Process:
    """A process that ends with us, but not by itself at Ctrl-C."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        start_new_session=True,
        preexec_fn=machine.end_with_parent,
        **options,
    )


async def end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


class Server:
    """`python -m server serve` with its default settings."""

    def __init__(self, database_url: str, sockets_per_user: int) -> None:
        foreign = ("ATLAS_", "WEB_CONCURRENCY")  # settings of whoever runs us
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(foreign)},
            "DATABASE_URL": database_url,
            "ATLAS_JWT_SECRET": SECRET,
            "ATLAS_HOST": "127.0.0.1",
            "ATLAS_SOCKETS_PER_USER": str(sockets_per_user),
        }
        self._process: asyncio.subprocess.Process | None = None
        self._drain: asyncio.Task[bytes] | None = None
        self.port = self.pid = 0

    async def start(self, **settings: str) -> int:
        """Start, on the same port as before if there was a before. Returns the instant at which it said `serving`."""
        environment = {**self._environment, "PORT": str(self.port), **settings}
        pipe = asyncio.subprocess.PIPE
        self._process = await spawn("server", "serve", env=environment, stdin=subprocess.DEVNULL, stderr=pipe)
        log = self._process.stderr
        assert log is not None
        last = b"nothing"
        with suppress(TimeoutError):
            async with asyncio.timeout(LIMIT):
                async for last in log:
                    if b'"serving"' in last:
                        now = time.monotonic_ns()
                        self.port, self.pid = orjson.loads(last)["port"], self._process.pid
                        # The rest of its log is only taken away: a full pipe would stop it.
                        self._drain = asyncio.create_task(log.read())
                        return now
        raise BenchmarkError(f"The server did not come to serve; the last it said: {last.decode().strip()}.")

    async def kill(self) -> None:
        if self._process is not None:
            await end(self._process)
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

    async def arrivals(self, expected: int) -> list[Arrived]:
        """What has arrived once `expected` messages have, or all that came in time: the caller counts what is lost."""

        async def all_arrived() -> bool:
            return bool((await self.state())["arrived"] >= expected)

        with suppress(BenchmarkError):
            await eventually("all arrived", all_arrived, ARRIVAL)
        await self.state()  # a device in trouble is no mere loss
        return [(device, message, at) for device, message, at in await self.tell("arrivals")]


class Stage:
    """What a benchmark works with: `users` of them, numbered, with a conversation and `per_user` devices each."""

    def __init__(self, postgres: EmbeddedPostgres, users: int, per_user: int) -> None:
        self.postgres = postgres
        self.users = sorted(uuid4() for _ in range(users))
        self.per_user = per_user
        self.server = Server(postgres.url(user=LOGIN), max(20, per_user))
        self.machine: dict[str, Any] = {}
        self.devices: Devices
        self._conversations = [uuid4() for _ in self.users]
        turns = (turn for conversation in Dataset().values() for turn in conversation["messages"])
        self._texts: list[str] = [said["text"] for turn in turns for said in turn if said["text"]]
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
        texts = random.choices(self._texts, k=len(self.users))
        await self._admin.execute(SEED, self.users, self._conversations, texts, timeout=LIMIT)
        # Now rather than by autovacuum in the middle of a measurement.
        await self._admin.execute("VACUUM ANALYZE")
        await self._admin.execute("CHECKPOINT")
        stack.push_async_callback(self.server.kill)
        await self.server.start()
        pipe = asyncio.subprocess.PIPE
        generator = await spawn("benchmarks.devices", stdin=pipe, stdout=pipe, limit=1 << 28)  # bytes of one answer
        stack.push_async_callback(end, generator)
        self.devices = Devices(generator, len(self.users) * self.per_user)
        users, conversations = ([str(each) for each in ids] for ids in (self.users, self._conversations))
        await self.devices.tell(
            "prepare", users=users, conversations=conversations, per_user=self.per_user, secret=SECRET
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

        await eventually("the server at rest", quiet)

    async def disconnect(self) -> None:
        """Cut every device off, and return when the server has noticed."""
        before = machine.open_files(self.server.pid)
        await self.devices.tell("disconnect")

        async def noticed() -> bool:
            return machine.open_files(self.server.pid) <= before - self.devices.count

        await eventually("the server noticed that all devices left", noticed)

    async def write(self, users: Iterable[int], rate: float | None = None) -> list[Written]:
        """A message for each of these users, in a transaction of its own: at random moments, on average `rate` a
        second, or as quickly as may be."""
        left = iter(users)
        written: list[Written] = []

        async def work(connection: Any) -> None:
            due = time.monotonic()
            for user in left:
                if rate is not None:
                    due += random.expovariate(rate / WRITERS)
                    await asyncio.sleep(due - time.monotonic())
                message = uuid4()
                # The answer to a statement outside of a transaction is the answer to its COMMIT.
                await connection.execute(WRITE, message, self._conversations[user], random.choice(self._texts))
                written.append((user, message.hex, time.monotonic_ns()))

        async with asyncio.TaskGroup() as tasks:
            for connection in self._writers:
                tasks.create_task(work(connection))
        return written

    async def push(self, rate: float | None, seconds: float, each: int = 1) -> Pushed:
        """Have the devices write; see `benchmarks.devices`. Returns when all is acknowledged and has come back."""
        await self.devices.tell("push", rate=rate, seconds=seconds, batch=each, text=random.choice(self._texts))
        said: dict[str, Any] = {}

        async def acknowledged() -> bool:
            await self.devices.state()
            said.update(await self.devices.tell("pushed") or {})
            return bool(said)

        await eventually("everything acknowledged", acknowledged)
        arrived = await self.devices.arrivals(len(said["waits"]) * self.per_user)
        return Pushed(said["took"] / 1e9, sorted(wait / 1e6 for wait in said["waits"]), [m for _, m, _ in arrived])

    async def stored(self) -> tuple[int, int]:
        """Messages beyond those that were there before the devices wrote, and numbers consumed by them."""
        messages = "SELECT count(*) - (SELECT count(*) FROM conversations) FROM messages"
        return await self._admin.fetchrow(  # type: ignore[no-any-return]  # asyncpg's record of two
            f"SELECT ({messages}), (SELECT coalesce(sum(last_mutation), 0)::bigint FROM sync.clients)"
        )

    def lost(self, written: list[Written], arrivals: list[Arrived]) -> int:
        """How many of the written messages did not arrive, counted for each device of their user."""
        arrived = {(device, message) for device, message, _ in arrivals}
        each = range(self.per_user)
        return sum(
            (user * len(each) + device, message) not in arrived for user, message, _ in written for device in each
        )


@contextmanager
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="atlas-benchmark-", dir="/tmp"))
    path.chmod(0o755)  # under root, Postgres is another account
    try:
        yield path
    finally:
        shutil.rmtree(path)


@asynccontextmanager
async def stage(users: int, per_user: int = 1) -> AsyncIterator[Stage]:
    """Set the stage for so many users with so many devices each, and clear it away afterwards."""
    machine.allow_files(users * per_user)
    async with AsyncExitStack() as stack:
        postgres = EmbeddedPostgres(stack.enter_context(folder()), settings=SETTINGS)
        stack.callback(postgres.stop, immediate=True)
        postgres.start()
        made = Stage(postgres, users, per_user)
        await made.open(stack)
        yield made
