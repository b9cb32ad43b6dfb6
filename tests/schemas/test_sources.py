"""A feed is read by the store, at once for a live reader, or from the WAL. All three say the same to a reader at one
position. What one of the short ways cannot be sure of, it leaves to the store."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, Final
from uuid import UUID

import pytest

from protocol.cursor import Position
from server.declaration.synced import Synced
from server.feed.change import Batch, Entry, Reading, follow
from server.feed.history import History
from server.feed.hub import Hub
from server.feed.ports import Moved, ReadKey
from server.postgres.declared import declared
from server.postgres.express import PostgresExpress
from server.postgres.migrate import migrate
from server.postgres.pool import Pool
from server.postgres.publication import Doorbells
from server.postgres.route import Route
from server.postgres.store import PostgresStore
from server.postgres.wal.decoding import Decoding
from server.postgres.wal.pgoutput import Committed
from server.postgres.wal.stream import Stream
from tests.support.cluster import Cluster, Database, administrator
from tests.support.schemas import ALL, Schema
from tests.support.waiting import eventually

TRANSACTIONS: Final = 150
PLENTY: Final = 1 << 30
"""Rows and bytes: all there are."""

every_schema = pytest.mark.parametrize("schema", ALL, ids=lambda schema: schema.name)


class Sources:
    """The three ways, on one database."""

    def __init__(self, database: Database) -> None:
        self._hub = Hub(lambda _: None)
        self._history = History(self._hub)
        self._route = Route(database.server_url, self._history)
        self._synced = Synced()
        self._pool = Pool(self._route, self._synced, size=1)
        self._store = PostgresStore(self._pool, self._synced)
        self._express = PostgresExpress(self._route, self._synced)
        self._moved: asyncio.Queue[Moved] = asyncio.Queue()
        self.positions: dict[str, Position] = {}
        """By user, of a reader who has everything up to here."""

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["Sources"]:
        opened = await self._route.connect()
        found = await declared(opened.raw)
        await opened.raw.close()
        assert found is not None
        self._synced.use(found)
        running = asyncio.create_task(self._express.run())
        decoding = Decoding(self._synced)
        stream = Stream(partial(self._receive, decoding))
        try:
            decoding.declared = await stream.open(self._route.first, self._history.epoch)
            await stream.start()
            await eventually(lambda: self._express.free)
            yield self
        finally:
            stream.end()
            running.cancel()
            await asyncio.wait([running])
            self._pool.terminate()

    def _receive(self, decoding: Decoding, committed: Committed) -> None:
        for moved in decoding.moves(committed):
            self._moved.put_nowait(moved)

    async def moved(self, mark: str) -> list[Moved]:
        """What moved in the stream, up to the transaction that moved only the feed of `mark`."""
        found = []
        while (moved := await asyncio.wait_for(self._moved.get(), 30)).user != mark:
            found.append(moved)
        return found

    async def by_store(self, user: str) -> Reading:
        (reading,) = await self._store.read_feed([ReadKey(user, self.positions[user])], PLENTY, PLENTY)
        return reading

    async def at_once(self, user: str) -> Sequence[Entry] | None:
        answer: asyncio.Future[Sequence[Entry] | None] = asyncio.get_running_loop().create_future()
        self._express.read(user, self.positions[user].seq, answer.set_result)
        return await answer


def batch(after: Position, entries: Sequence[Entry]) -> Batch:
    last = entries[-1]
    found = follow(after, Reading(last.seq, None, entries, last.mark))
    assert isinstance(found, Batch), "the entries do not follow the position"
    return found


@pytest.fixture
async def database(every_postgres: Cluster) -> AsyncIterator[Database]:
    made = await every_postgres.create("template0")
    made.streamed = True
    yield made
    await made.drop()


MOODS: Final = """
CREATE SCHEMA "Of the app";
CREATE TYPE "Of the app"."Mood" AS ENUM ('glad', 'sad', 'très «triste»');
CREATE TABLE moods (
    id uuid PRIMARY KEY, owner uuid NOT NULL, mood "Of the app"."Mood", price numeric(9, 3), due date, weight real,
    size character(5), tags text[], numbers bigint[], code varchar(9)
);
CREATE INDEX ON moods (owner);
"""
DECLARED: Final = """
[kind.mood]
tag = "m"
table = "public.moods"
owner = "owner"
columns = ["mood", "price", "due", "weight", "size", "tags", "numbers", "code"]
window = "all"
"""
MOOD: Final = (
    "INSERT INTO moods VALUES (gen_random_uuid(), $1, 'très «triste»', -12.5, '2026-02-28', 0.1, 'ab ', "
    """'{"a,\\"b", NULL, " "}', '{9223372036854775807}', 'x')"""
)


async def test_the_wal_has_values_of_every_common_type(database: Database) -> None:
    users = [UUID(int=1, version=4)]
    mark = UUID(int=2, version=4)
    async with administrator(database) as sql:
        await sql.execute(MOODS)
        await migrate(database.url, text=DECLARED, name="moods", doorbells=Doorbells.WAL)
        async with Sources(database).open() as sources:
            said: Counter[str] = Counter()
            sources.positions[str(users[0])] = Position(0)
            changes = (
                MOOD,
                "UPDATE moods SET mood = 'glad' WHERE owner = $1",
                "UPDATE moods SET due = NULL WHERE owner = $1",
            )
            for change in changes:
                await sql.execute(change, users[0])
                await sql.execute("SELECT sync.record($1, 'p', 'd', $1)", mark)
                await compare(sources, await sources.moved(str(mark)), users, said)
    assert said["by the WAL"] == len(changes)


@every_schema
async def test_all_sources_say_the_same_or_leave_it_to_the_store(database: Database, schema: Schema) -> None:
    rng = random.Random(f"{schema.name} {database.cluster.version}")
    users = sorted(UUID(int=rng.getrandbits(128), version=4) for _ in range(3))
    mark = UUID(int=rng.getrandbits(128), version=4)
    async with administrator(database) as sql:
        await sql.execute(schema.ddl)
        for user in (*users, mark):
            await schema.add_user(sql, user)
        text = schema.declaration.read_text()
        await migrate(database.url, text=text, name=schema.name, doorbells=Doorbells.WAL)
        async with Sources(database).open() as sources:
            said: Counter[str] = Counter()
            for user in users:
                sources.positions[str(user)] = Position(await head(sql, user))
            for _ in range(TRANSACTIONS):
                await schema.write(sql, rng, users)
                await sql.execute("SELECT sync.record($1, 'p', 'd', $1)", mark)
                await compare(sources, await sources.moved(str(mark)), users, said)
    assert said["by the WAL"] > TRANSACTIONS / 4, said
    assert said["at once"] > TRANSACTIONS / 4, said


async def compare(sources: Sources, moved: list[Moved], users: list[UUID], said: Counter[str]) -> None:
    """What each source says of one transaction, to a reader who had everything before it."""
    streamed = {each.user: each for each in moved}
    assert len(streamed) == len(moved), "a feed moved twice in one transaction"
    for user in map(str, users):
        after = sources.positions[user]
        reading = await sources.by_store(user)
        expected = follow(after, reading)
        assert isinstance(expected, Batch)
        at_once = await sources.at_once(user)
        if not reading.entries:
            assert user not in streamed
            assert at_once is None
            continue
        each = streamed[user]
        assert (each.prev, each.seq) == (after.seq, expected.to.seq)
        for name, entries in (("at once", at_once), ("by the WAL", each.entries())):
            if entries is not None:
                said[name] += 1
                assert repr(batch(after, entries)) == repr(expected), name
        sources.positions[user] = expected.to


async def head(sql: Any, user: UUID) -> int:
    return int(await sql.fetchval("SELECT coalesce(max(seq), 0) FROM sync.feeds WHERE user_id = $1", user))
