"""The stage of a benchmark: its own durable Postgres, users, a server, and the load generator.

Everything that is started here is ended here, however the benchmark ends.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import asyncpg
from chitchat_dataset import Dataset

from benchmarks import actors, machine
from benchmarks.actors import Arrived, Devices, Server
from benchmarks.processes import LIMIT, end, eventually, folder, spawn
from server.declaration.chat import CHAT, CHAT_TOML
from server.demo.embedded import EmbeddedPostgres
from server.postgres.migrate import migrate
from server.postgres.publication import Doorbells

LOGIN: Final = "atlas_server"
"""The server's own login, so that its statements can be told from ours."""
WRITERS: Final = 8
REST: Final = 0.5
"""Seconds in which a server at rest does next to nothing."""
SETTINGS: Final = {
    "shared_buffers": "256MB",
    "max_connections": "200",
    "shared_preload_libraries": "pg_stat_statements",
}
LOGICAL: Final = {"wal_level": "logical"}
"""Also needed where servers read changes from the WAL."""
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
ANOTHER_TABLE: Final = """
    CREATE TABLE notes_{0} (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid NOT NULL REFERENCES profiles ON DELETE CASCADE,
        note text, data jsonb, done boolean NOT NULL DEFAULT false, updated_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE INDEX ON notes_{0} (user_id, updated_at DESC, id DESC)
"""
ANOTHER_KIND: Final = """
[kind.note_{0}]
table = "public.notes_{0}"
owner = "user_id"
columns = ["note", "data", "done", "updated_at"]
newest = "updated_at"
window = 50
"""
STATEMENTS: Final = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE userid = $1::regrole"
READS: Final = """
    SELECT coalesce(sum(calls), 0)::bigint, coalesce(sum(total_exec_time), 0),
           coalesce(sum(shared_blks_hit + shared_blks_read), 0)::bigint
    FROM pg_stat_statements WHERE userid = $1::regrole AND query LIKE '%FROM sync.log%'
"""
MAY_STREAM: Final = f"ALTER ROLE {LOGIN} REPLICATION"
"""What the login needs besides, where servers read changes from the WAL."""
STREAMING: Final = """
    SELECT CASE WHEN EXISTS (SELECT FROM pg_replication_slots WHERE database = current_database() AND active)
                THEN sync.keep_quiet() ELSE false END
"""

Written = tuple[int, str, int]
"""Number of the user, id of the message, instant of the answer to its COMMIT (CLOCK_MONOTONIC, for all processes)."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What the devices wrote."""

    seconds: float
    """Seconds from the first mutation to the last answer."""
    waits: list[float]
    """Milliseconds from each mutation to its answer, shortest first."""
    came_back: list[str]
    """Ids of the messages that arrived in the feed."""
    text: str
    """The text of each message."""


class Stage:
    """What a benchmark works with: `users` numbered users, each with one conversation and `per_user` devices."""

    def __init__(self, postgres: EmbeddedPostgres, users: int, per_user: int, kinds: int, doorbells: Doorbells) -> None:
        self.postgres = postgres
        self.kinds = kinds
        self.doorbells: Doorbells = doorbells
        self.users = sorted(uuid4() for _ in range(users))
        self.per_user = per_user
        self.server = self.another_server()
        self.machine: dict[str, Any] = {}
        self.devices: Devices
        self.conversations = [uuid4() for _ in self.users]
        turns = (turn for conversation in Dataset().values() for turn in conversation["messages"])
        self._texts: list[str] = [said["text"] for turn in turns for said in turn if said["text"]]
        self._admin: Any = None
        self._writers: list[Any] = []

    async def open(self, stack: AsyncExitStack) -> None:
        await migrate(self.postgres.url(), doorbells=self.doorbells)
        if (more := self.kinds - len(CHAT.kinds)) > 0:
            await self._declare(more)
        for _ in range(WRITERS + 1):
            connection = await asyncpg.connect(self.postgres.url())
            stack.callback(connection.terminate)
            self._writers.append(connection)
        self._admin = self._writers.pop()
        self.machine = machine.describe(await self._admin.fetchval("SHOW server_version"))
        await self._admin.execute(f"CREATE ROLE {LOGIN} LOGIN IN ROLE atlas_sync; CREATE EXTENSION pg_stat_statements")
        texts = random.choices(self._texts, k=len(self.users))
        await self._admin.execute(SEED, self.users, self.conversations, texts, timeout=LIMIT)
        # Now, instead of by autovacuum in the middle of a measurement.
        await self._admin.execute("VACUUM ANALYZE")
        await self._admin.execute("CHECKPOINT")
        if self.doorbells is Doorbells.WAL:
            await self._admin.execute(MAY_STREAM)
        stack.push_async_callback(self.server.kill)
        await self.server.start()
        if self.doorbells is Doorbells.WAL:
            await silent(self._admin)
        self.devices = await self.generator(stack)

    async def _declare(self, more: int) -> None:
        """Declare so many kinds beside those of the chat schema, each with a table of its own."""
        declared = [CHAT_TOML]
        connection = await asyncpg.connect(self.postgres.url())
        try:
            for n in range(1, more + 1):
                await connection.execute(ANOTHER_TABLE.format(n))
                declared.append(ANOTHER_KIND.format(n))
        finally:
            await connection.close()
        await migrate(self.postgres.url(), text="\n".join(declared))

    def another_server(self) -> Server:
        """Return another server for the same devices, not started yet."""
        processes = -(-len(self.users) * self.per_user // actors.SHARE)
        return Server(self.postgres.url(user=LOGIN), max(20, self.per_user), processes, self.doorbells)

    async def generator(self, stack: AsyncExitStack) -> Devices:
        """Return a load generator with the devices of all users, not connected yet; it ends with `stack`."""
        pipe = asyncio.subprocess.PIPE
        generators = []
        for _ in range(self.server.processes):
            generator = await spawn("benchmarks.devices", stdin=pipe, stdout=pipe, limit=1 << 28)  # bytes of one answer
            stack.push_async_callback(end, generator)
            generators.append(generator)
        devices = Devices(generators, len(self.users) * self.per_user)
        users, conversations = ([str(each) for each in ids] for ids in (self.users, self.conversations))
        await devices.prepare(users, conversations, self.per_user)
        return devices

    def text(self) -> str:
        """Return the text of a real message."""
        return random.choice(self._texts)

    async def statements(self) -> int:
        """Return the number of statements that the server has run so far."""
        return int(await self._admin.fetchval(STATEMENTS, LOGIN))

    async def reads(self) -> tuple[int, float, int]:
        """Return for the reads of feeds so far: statements, their milliseconds, and the buffers that they used."""
        return await self._admin.fetchrow(READS, LOGIN)  # type: ignore[no-any-return]  # asyncpg's record of three

    async def quiet(self) -> None:
        """Return as soon as the server has finished its work for devices that just connected or disconnected."""

        async def idle() -> bool:
            statements, cpu = await self.statements(), self.server.cpu_seconds()
            await asyncio.sleep(REST)
            # One statement of a process may be its own heartbeat; a quarter of a core those of 100,000 sockets.
            few = await self.statements() - statements <= self.server.processes
            return few and self.server.cpu_seconds() - cpu < 0.25 * REST

        await eventually("the server at rest", idle)

    async def disconnect(self) -> None:
        """Cut every device off, and return as soon as the server has noticed."""
        before = self.server.open_files()
        await self.devices.call_all("disconnect")

        async def noticed() -> bool:
            return self.server.open_files() <= before - self.devices.connected

        await eventually("the server noticed that all devices left", noticed)

    async def write(self, users: Iterable[int], rate: float | None = None) -> list[Written]:
        """Write a message for each of these users, each in its own transaction: at random moments, on average `rate`
        per second, or as quickly as possible."""
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
                await connection.execute(WRITE, message, self.conversations[user], self.text())
                written.append((user, message.hex, time.monotonic_ns()))

        async with asyncio.TaskGroup() as tasks:
            for connection in self._writers:
                tasks.create_task(work(connection))
        return written

    async def write_many(self, user: int, count: int, together: int) -> list[str]:
        """Write `count` messages for one user, `together` of them per transaction. Return their ids."""
        ids = [uuid4() for _ in range(count)]
        for begin in range(0, count, together):
            some = ids[begin : begin + together]
            texts = [self.text() for _ in some]
            await self._writers[0].execute(WRITE_MANY, some, self.conversations[user], texts, timeout=LIMIT)
        return [message.hex for message in ids]

    async def push(self, rate: float | None, seconds: float, each: int = 1) -> Pushed:
        """Let the devices write; see `benchmarks.writing`. Return when all is acknowledged and has arrived again."""
        text = self.text()
        await self.devices.call("push", rate=rate, seconds=seconds, batch=each, text=text)
        said: dict[str, Any] = {}

        async def acknowledged() -> bool:
            await self.devices.state()
            said.update(await self.devices.call("pushed") or {})
            return bool(said)

        await eventually("everything acknowledged", acknowledged)
        arrived = await self.devices.arrivals(len(said["waits"]) * self.per_user)
        return Pushed(
            said["took"] / 1e9, sorted(wait / 1e6 for wait in said["waits"]), [m for _, m, _ in arrived], text
        )

    async def stored(self) -> tuple[int, int]:
        """Return the messages written by the devices, and the mutation numbers consumed."""
        messages = "SELECT count(*) - (SELECT count(*) FROM conversations) FROM messages"
        return await self._admin.fetchrow(  # type: ignore[no-any-return]  # asyncpg's record of two
            f"SELECT ({messages}), (SELECT coalesce(sum(last_mutation), 0)::bigint FROM sync.clients)"
        )

    def lost(self, written: list[Written], arrivals: list[Arrived]) -> int:
        """Return how many of the written messages did not arrive, counted for each device of their user."""
        arrived = {(device, message) for device, message, _ in arrivals}
        each = range(self.per_user)
        return sum(
            (user * len(each) + device, message) not in arrived for user, message, _ in written for device in each
        )


async def database(stack: AsyncExitStack, place: Path) -> tuple[EmbeddedPostgres, Any]:
    """Start a migrated Postgres with the servers' login in the folder `place`, until `stack` ends. Return it, and a
    connection as administrator."""
    postgres = EmbeddedPostgres(place / "postgres", settings=SETTINGS)
    stack.callback(postgres.stop, immediate=True)
    postgres.start()
    await migrate(postgres.url())
    admin = await asyncpg.connect(postgres.url())
    stack.callback(admin.terminate)
    await admin.execute(f"CREATE ROLE {LOGIN} LOGIN IN ROLE atlas_sync")
    return postgres, admin


async def silent(admin: Any) -> None:
    """Return when a server reads the WAL and NOTIFY is silent, which the server itself brings about within seconds."""

    async def streaming() -> bool:
        return bool(await admin.fetchval(STREAMING))

    await eventually("a server that reads the WAL, and NOTIFY silent", streaming)


@asynccontextmanager
async def stage(
    users: int, per_user: int = 1, kinds: int = 0, doorbells: Doorbells = Doorbells.LISTEN
) -> AsyncIterator[Stage]:
    """Set up a stage with `users` users and `per_user` devices each, and clear it away afterwards. At least so many
    `kinds` are declared. `doorbells` is how its servers hear of changes."""
    machine.allow_files(min(users * per_user, actors.SHARE))
    async with AsyncExitStack() as stack:
        settings = SETTINGS | (LOGICAL if doorbells is Doorbells.WAL else {})
        postgres = EmbeddedPostgres(stack.enter_context(folder()), settings=settings)
        stack.callback(postgres.stop, immediate=True)
        postgres.start()
        made = Stage(postgres, users, per_user, kinds, doorbells)
        await made.open(stack)
        yield made
