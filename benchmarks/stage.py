"""The stage of a benchmark: a durable Postgres of its own, the real server as a process, users, and the load generator.

Everything that is started here is ended here, however the benchmark ends.
"""

import asyncio
import os
import random
import shutil
import signal
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
import psutil
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
FEWEST: Final = 20_000.0
"""Messages that arrive in a second, at the least, where there are so many that this is what takes the time."""
POLL: Final = 0.02
SHARE: Final = 15_000
"""Sockets of one process, the server's or the generator's; for more there are more of both. A hard limit of
20,000 open files is common, and the kernel deals connections out by chance."""
SLOWEST: Final = 100.0
"""Devices that become live a second, at the least: a tenth of what one busy core does."""
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
WRITE_MANY: Final = """
    INSERT INTO messages (id, conversation_id, role, content) SELECT id, $2, 'user', content
    FROM unnest($1::uuid[], $3::text[]) AS said (id, content)
"""
STATEMENTS: Final = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE userid = $1::regrole"
READS: Final = """
    SELECT coalesce(sum(calls), 0)::bigint, coalesce(sum(total_exec_time), 0),
           coalesce(sum(shared_blks_hit + shared_blks_read), 0)::bigint
    FROM pg_stat_statements WHERE userid = $1::regrole AND query LIKE '%FROM sync.log%'
"""

Written = tuple[int, str, int]
"""Number of the user, id of the message, instant of the answer to its COMMIT (CLOCK_MONOTONIC: the same everywhere)."""
Arrived = tuple[int, str, int]
"""Number of the device, id of the message, instant of the read. User u has the devices u·per_user to u·per_user + …"""
Tallied = tuple[int, int]
"""How many devices a message reached exactly once, and the instant at which the last of them read it."""


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
    return await launch(sys.executable, "-m", module, *arguments, **options)


async def launch(*command: str | Path, **options: Any) -> asyncio.subprocess.Process:
    """A process that ends with us, but not by itself at Ctrl-C."""
    return await asyncio.create_subprocess_exec(
        *command, start_new_session=True, preexec_fn=machine.end_with_parent, **options
    )


async def end(process: asyncio.subprocess.Process) -> None:
    """End a process of `spawn`, and those that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


class Server:
    """`python -m server serve` with its default settings, as one process or as several."""

    def __init__(self, database_url: str, sockets_per_user: int, processes: int = 1) -> None:
        foreign = ("ATLAS_", "WEB_CONCURRENCY")  # settings of whoever runs us
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(foreign)},
            "DATABASE_URL": database_url,
            "ATLAS_JWT_SECRET": SECRET,
            "ATLAS_HOST": "127.0.0.1",
            "ATLAS_SOCKETS_PER_USER": str(sockets_per_user),
            "WEB_CONCURRENCY": str(processes),
        }
        self.processes = processes
        self._process: asyncio.subprocess.Process | None = None
        self._drain: asyncio.Task[bytes] | None = None
        self.port = self.pid = 0

    async def start(self, **settings: str) -> int:
        """Start, on the same port as before if there was a before. Returns the instant at which its last process said
        `serving`."""
        environment = {**self._environment, "PORT": str(self.port), **settings}
        pipe = asyncio.subprocess.PIPE
        self._process = await spawn("server", "serve", env=environment, stdin=subprocess.DEVNULL, stderr=pipe)
        log = self._process.stderr
        assert log is not None
        last, serving = b"nothing", 0
        with suppress(TimeoutError):
            async with asyncio.timeout(LIMIT):
                async for last in log:
                    serving += b'"serving"' in last
                    if serving == self.processes:
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

    def cpu_seconds(self) -> float:
        """Of all its processes."""
        return machine.cpu_seconds(self.pid, family=True)

    def resident_bytes(self) -> int:
        return sum(map(machine.resident_bytes, self._pids()))

    def open_files(self) -> int:
        return sum(map(machine.open_files, self._pids()))

    def _pids(self) -> list[int]:
        return [self.pid, *(child.pid for child in psutil.Process(self.pid).children())]


class Devices:
    """The load generator: one process, or several that share the devices; see `benchmarks.devices`."""

    def __init__(self, processes: list[asyncio.subprocess.Process], count: int) -> None:
        self._processes = processes
        self.pid = processes[0].pid
        self.count = count
        self.connected = 0
        """How many the last `connect` was about."""

    async def prepare(self, users: list[str], conversations: list[str], per_user: int) -> None:
        share = -(-self.count // len(self._processes))
        common = {"users": users, "conversations": conversations, "per_user": per_user, "secret": SECRET}
        given = [
            {**common, "first": first, "count": min(share, self.count - first)} for first in range(0, self.count, share)
        ]
        await self._tell("prepare", given)

    async def tell(self, command: str, **given: Any) -> Any:
        """The answer of the only process: for what several cannot share."""
        if len(self._processes) > 1:
            raise BenchmarkError(f"More than {SHARE:,} devices can only be connected, and `{command}` asks for more.")
        (answer,) = await self._tell(command, [given])
        return answer

    async def tell_all(self, command: str, **given: Any) -> list[Any]:
        return await self._tell(command, [given] * len(self._processes))

    async def _tell(self, command: str, given: list[dict[str, Any]]) -> list[Any]:
        for process, mine in zip(self._processes, given, strict=True):
            assert process.stdin is not None
            process.stdin.write(orjson.dumps([command, mine]) + b"\n")
        answers = []
        for process in self._processes:
            assert process.stdout is not None
            line = await process.stdout.readline()
            if not line:
                raise BenchmarkError("The load generator ended; what it wrote above says why.")
            answers.append(orjson.loads(line))
        return answers

    def cpu_seconds(self) -> float:
        return sum(machine.cpu_seconds(process.pid) for process in self._processes)

    async def state(self) -> dict[str, Any]:
        """Of all processes together. Raises BenchmarkError when something has happened to a device that must not."""
        states = await self.tell_all("state")
        for state in states:
            if state["trouble"]:
                raise BenchmarkError(f"A device was not served ({state['trouble']}).")
        together: dict[str, Callable[[Iterable[int]], int]] = {
            "live": sum,
            "arrived": sum,
            "began": min,
            "last_live": max,
        }
        return {key: merge(state[key] for state in states) for key, merge in together.items()}

    async def connect(self, port: int, at_once: int = AT_ONCE, only: list[int] | None = None) -> dict[str, Any]:
        """Connect all, or `only` these. Returns the state once every one is live."""
        self.connected = self.count if only is None else len(only)
        await self.tell_all("connect", port=port, at_once=-(-at_once // len(self._processes)), only=only)

        async def all_live() -> bool:
            return bool((await self.state())["live"] == self.connected)

        limit = LIMIT + self.connected / SLOWEST
        await eventually(f"all of {self.connected:,} devices live", all_live, limit)
        return await self.state()

    async def arrivals(self, expected: int) -> list[Arrived]:
        """What has arrived once `expected` messages have, or all that came in time: the caller counts what is lost."""
        await self._arrived(expected)
        arrivals = await self.tell_all("arrivals")
        return [(device, message, at) for some in arrivals for device, message, at in some]

    async def tallies(self, expected: int) -> tuple[int, dict[str, Tallied]]:
        """The same for devices that were told to `tally`: in how many frames, and by message."""
        await self._arrived(expected)
        said = await self.tell("tallies")
        return said["frames"], {message: (devices, at) for message, devices, at in said["messages"]}

    async def _arrived(self, expected: int) -> None:
        async def all_arrived() -> bool:
            return bool((await self.state())["arrived"] >= expected)

        with suppress(BenchmarkError):
            await eventually("all arrived", all_arrived, ARRIVAL + expected / FEWEST)
        await self.state()  # a device in trouble is no mere loss


class Stage:
    """What a benchmark works with: `users` of them, numbered, with a conversation and `per_user` devices each."""

    def __init__(self, postgres: EmbeddedPostgres, users: int, per_user: int) -> None:
        self.postgres = postgres
        self.users = sorted(uuid4() for _ in range(users))
        self.per_user = per_user
        self.server = Server(postgres.url(user=LOGIN), max(20, per_user), -(-users * per_user // SHARE))
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
        self.devices = await self.generator(stack)

    async def generator(self, stack: AsyncExitStack) -> Devices:
        """A load generator with the devices of all users, none of them connected yet; it ends with `stack`."""
        pipe = asyncio.subprocess.PIPE
        generators = []
        for _ in range(self.server.processes):
            generator = await spawn("benchmarks.devices", stdin=pipe, stdout=pipe, limit=1 << 28)  # bytes of one answer
            stack.push_async_callback(end, generator)
            generators.append(generator)
        devices = Devices(generators, len(self.users) * self.per_user)
        users, conversations = ([str(each) for each in ids] for ids in (self.users, self._conversations))
        await devices.prepare(users, conversations, self.per_user)
        return devices

    def text(self) -> str:
        """Something that somebody said."""
        return random.choice(self._texts)

    async def statements(self) -> int:
        """Statements that the server's login has run so far."""
        return int(await self._admin.fetchval(STATEMENTS, LOGIN))

    async def reads(self) -> tuple[int, float, int]:
        """Of the feeds so far: statements, milliseconds in them, and buffers that they looked at."""
        return await self._admin.fetchrow(READS, LOGIN)  # type: ignore[no-any-return]  # asyncpg's record of three

    async def settle(self) -> None:
        """Return once the server has nothing left to do for whoever has just come or gone."""

        async def quiet() -> bool:
            statements, cpu = await self.statements(), self.server.cpu_seconds()
            await asyncio.sleep(0.5)
            # One statement of a process may be its own heartbeat; a quarter of a core those of 100,000 sockets.
            few = await self.statements() - statements <= self.server.processes
            return few and self.server.cpu_seconds() - cpu < 0.125

        await eventually("the server at rest", quiet)

    async def disconnect(self) -> None:
        """Cut every device off, and return when the server has noticed."""
        before = self.server.open_files()
        await self.devices.tell_all("disconnect")

        async def noticed() -> bool:
            return self.server.open_files() <= before - self.devices.connected

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
                await connection.execute(WRITE, message, self._conversations[user], self.text())
                written.append((user, message.hex, time.monotonic_ns()))

        async with asyncio.TaskGroup() as tasks:
            for connection in self._writers:
                tasks.create_task(work(connection))
        return written

    async def write_many(self, user: int, count: int, together: int) -> list[str]:
        """So many messages for one user, `together` of them in each transaction. Returns their ids."""
        ids = [uuid4() for _ in range(count)]
        for begin in range(0, count, together):
            some = ids[begin : begin + together]
            texts = [self.text() for _ in some]
            await self._writers[0].execute(WRITE_MANY, some, self._conversations[user], texts, timeout=LIMIT)
        return [message.hex for message in ids]

    async def push(self, rate: float | None, seconds: float, each: int = 1) -> Pushed:
        """Have the devices write; see `benchmarks.devices`. Returns when all is acknowledged and has come back."""
        await self.devices.tell("push", rate=rate, seconds=seconds, batch=each, text=self.text())
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
    machine.allow_files(min(users * per_user, SHARE))
    async with AsyncExitStack() as stack:
        postgres = EmbeddedPostgres(stack.enter_context(folder()), settings=SETTINGS)
        stack.callback(postgres.stop, immediate=True)
        postgres.start()
        made = Stage(postgres, users, per_user)
        await made.open(stack)
        yield made
