"""Doorbells from the WAL: whatever happens to the stream, and whoever writes, devices get each change, and in time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

import psutil
import pytest

from protocol.frames import ID, Changes, Live
from server import metrics
from server.exceptions import UnfitError
from server.postgres.publication import Doorbells
from server.postgres.wal import doorbells as wal_doorbells
from server.postgres.wal import pgoutput, stream
from tests.support.client_device import ClientDevice
from tests.support.cluster import SERVER_LOGIN, Cluster, Database, administrator, running_cluster
from tests.support.oracle import select_everything
from tests.support.peer import Peer, peer
from tests.support.people import add_conversation, add_message, add_user
from tests.support.pools import statements_given_up_early
from tests.support.proxy import postgres_behind_proxy
from tests.support.serving import ServerProcess, serving
from tests.support.waiting import eventually

SENDERS = "SELECT count(*) FROM pg_stat_replication WHERE usename = 'atlas_streamer'"
CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'walsender'"
SLOTS = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"


@pytest.fixture
def doorbells() -> Doorbells:
    return Doorbells.WAL


def level(metric: str) -> float:
    """The sum of a metric of this process."""
    (found,) = [each.metric for each in metrics.CATALOGUE if each.name == metric]
    return sum(s.value for family in found.collect() for s in family.samples if not s.name.endswith("_created"))


def streaming() -> bool:
    return level("atlas_streaming") == 1


def statements(name: str) -> float:
    metrics.flush()
    (found,) = [each.metric for each in metrics.CATALOGUE if each.name == "atlas_statement_seconds"]
    samples = (sample for family in found.collect() for sample in family.samples)
    return sum(s.value for s in samples if s.name.endswith("_count") and s.labels.get("name") == name)


def carried() -> float:
    metrics.flush()
    (found,) = [each.metric for each in metrics.CATALOGUE if each.name == "atlas_doorbells_total"]
    return sum(s.value for family in found.collect() for s in family.samples if s.labels.get("fate") == "carried")


@contextlib.asynccontextmanager
async def live(url: str, user: UUID) -> AsyncIterator[Peer]:
    async with peer(url) as device:
        await device.greet(user)
        await device.hear_a(Live)
        yield device


async def gets(device: Peer, *messages: UUID) -> None:
    """All of these, in whatever frames."""
    missing = set(messages)
    while missing:
        missing -= {row[ID] for row in (await device.hear_a(Changes)).rows}


async def test_a_change_reaches_its_devices_without_a_read(database: Database, sql: Any, user: UUID) -> None:
    conversation = await add_conversation(sql, user)
    async with serving(database, sweep=60) as server, live(server.url, user) as device:
        await eventually(streaming)
        before = carried()
        for _ in range(20):
            await gets(device, await add_message(sql, conversation))
        # While a sweep compares, what it finds is read.
        assert carried() - before > 15


async def test_while_changes_are_streamed_no_commit_rings(database: Database, sql: Any, user: UUID) -> None:
    conversation = await add_conversation(sql, user)
    async with serving(database, sweep=60) as server, live(server.url, user) as device:
        await eventually(streaming)
        await eventually(lambda: sql.fetchval("SELECT quiet_until > now() FROM sync.meta"))
        heard: list[object] = []
        async with administrator(database) as other:
            await other.add_listener(await sql.fetchval("SELECT channel FROM sync.meta"), lambda *a: heard.append(a))
            await gets(device, await add_message(sql, conversation))
            await other.execute("SELECT 1")
            assert heard == []


async def test_a_server_that_listens_beside_one_that_streams_misses_nothing(
    database: Database, sql: Any, user: UUID
) -> None:
    conversation = await add_conversation(sql, user)
    listening = database.cluster.postgres.url(database.name, SERVER_LOGIN)
    async with serving(database, sweep=60) as one, live(one.url, user) as device:
        await eventually(lambda: sql.fetchval("SELECT quiet_until > now() FROM sync.meta"))
        async with serving(listening, sweep=60) as other, live(other.url, user) as beside:
            for _ in range(3):
                message = await add_message(sql, conversation)
                await asyncio.gather(gets(device, message), gets(beside, message))


@pytest.mark.parametrize("how", ["its backend is ended", "it falls silent"])
async def test_a_stream_that_ends_is_replaced_and_meanwhile_the_server_listens(
    database: Database, sql: Any, user: UUID, how: str
) -> None:
    conversation = await add_conversation(sql, user)
    with (
        patch.object(wal_doorbells, "HEARTBEAT_SECONDS", 0.1),
        patch.object(stream, "ANSWER_SECONDS", 0.5),
        statements_given_up_early(),  # the sweep that follows needs a connection that is not silent
    ):
        async with (
            postgres_behind_proxy(database.server_url) as (proxy, url),
            serving(url, sweep=60) as server,
            live(server.url, user) as device,
        ):
            await eventually(streaming)
            if how == "it falls silent":
                proxy.swallow()
            else:
                await sql.execute(CUT)
            await gets(device, await add_message(sql, conversation))
            await eventually(streaming)
            before = carried()
            await gets(device, await add_message(sql, conversation))
            await eventually(lambda: carried() > before)


async def test_a_stream_that_stalls_within_a_transaction_delays_its_devices_and_loses_nothing(
    database: Database, sql: Any, user: UUID
) -> None:
    conversation = await add_conversation(sql, user)
    async with (
        postgres_behind_proxy(database.server_url) as (proxy, url),
        serving(url, sweep=60) as server,
        live(server.url, user) as device,
    ):
        await eventually(streaming)
        proxy.stall()
        messages = [await add_message(sql, conversation, "x" * 100_000) for _ in range(4)]
        proxy.release()
        await gets(device, *messages)


async def test_postgres_keeps_no_slot_of_a_server_that_is_gone(database: Database, sql: Any) -> None:
    async with ServerProcess(database.server_url) as server:
        await eventually(lambda: sql.fetchval(f"SELECT ({SLOTS}) = 1"))
        await server.kill()
        await eventually(lambda: sql.fetchval(f"SELECT ({SLOTS}) = 0"))


WRITERS = {
    "INSERT of many": """
        INSERT INTO messages (conversation_id, role, content)
        SELECT '{0}', 'user', '{1} many ' || n FROM generate_series(1, 120) n
    """,
    "UPDATE of all": "UPDATE messages SET content = content || '!' WHERE conversation_id = '{0}'",
    "UPDATE beside a TOASTed value": "UPDATE messages SET role = 'system' WHERE length(content) > 10000",
    "savepoints": """
        INSERT INTO messages (conversation_id, role, content) VALUES ('{0}', 'user', '{1} kept');
        SAVEPOINT one; INSERT INTO messages (conversation_id, role, content) VALUES ('{0}', 'user', '{1} lost');
        ROLLBACK TO one; UPDATE messages SET content = '{1} kept twice' WHERE content = '{1} kept'
    """,
    "MERGE": """
        MERGE INTO messages m USING (SELECT id FROM messages WHERE conversation_id = '{0}' ORDER BY id LIMIT 3) s
        ON m.id = s.id WHEN MATCHED THEN UPDATE SET content = '{1} merged'
    """,
    "INSERT and DELETE": """
        INSERT INTO messages (id, conversation_id, role, content)
        VALUES ('00000000-0000-4000-8000-00000000000a', '{0}', 'user', '{1} short-lived');
        DELETE FROM messages WHERE id = '00000000-0000-4000-8000-00000000000a'
    """,
    "DELETE and INSERT under the same key": """
        WITH gone AS (DELETE FROM messages WHERE id = (SELECT id FROM messages WHERE conversation_id = '{0}' LIMIT 1)
                      RETURNING *)
        INSERT INTO conversations (id, user_id, title) SELECT gen_random_uuid(), user_id, '{1} again' FROM conversations
        WHERE id = '{0}' AND EXISTS (SELECT FROM gone)
    """,
    "another partition": """
        UPDATE messages SET created_at = created_at - interval '35 days'
        WHERE id = (SELECT id FROM messages WHERE conversation_id = '{0}' ORDER BY id LIMIT 1)
    """,
    "a new column": """
        ALTER TABLE messages ADD COLUMN note text; COMMIT;
        UPDATE messages SET note = 'n', content = '{1} noted'
        WHERE id = (SELECT id FROM messages WHERE conversation_id = '{0}' ORDER BY id DESC LIMIT 1); COMMIT;
        ALTER TABLE messages DROP COLUMN note
    """,
    "a cascade": """
        INSERT INTO conversations (id, user_id, title)
        SELECT '00000000-0000-4000-8000-00000000000b', user_id, '{1} to go' FROM conversations WHERE id = '{0}';
        INSERT INTO messages (conversation_id, role, content)
        VALUES ('00000000-0000-4000-8000-00000000000b', 'user', '{1} to go, too');
        DELETE FROM conversations WHERE id = '00000000-0000-4000-8000-00000000000b'
    """,
    "a large value": """
        UPDATE messages SET content = '{1} ' || repeat('large ', 20000)
        WHERE conversation_id = '{0}' AND role = 'system'
    """,
}
"""By kind of writer: transactions on a conversation, {0}, of a user, {1}."""


async def test_after_writers_of_every_kind_a_device_holds_what_select_finds(
    every_postgres: Cluster, doorbells: Doorbells
) -> None:
    database = await every_postgres.create(doorbells=doorbells)
    try:
        async with administrator(database) as sql, serving(database, sweep=60) as server:
            await sql.execute("SELECT sync.ensure_partitions(now() - interval '50 days', now())")
            user = await add_user(sql)
            conversation = await add_conversation(sql, user, str(user))
            await add_message(sql, conversation, str(user) + "".join(map(chr, range(40, 9000))) * 3)
            device = ClientDevice(server.url, user)
            device.start()
            try:
                assert device.device is not None
                await device.device.wait_live(20)
                await eventually(streaming)
                for kind, statements in WRITERS.items():
                    for part in statements.split("COMMIT;"):
                        async with sql.transaction():
                            await sql.execute(part.format(conversation, user))
                    try:
                        await device.ends_up_with_what_select_finds(sql, 20)
                    except AssertionError as error:
                        raise AssertionError(f"after {kind}") from error
                rows = [(conversation, "user", f"{user} copied {n}") for n in range(50)]
                columns = ("conversation_id", "role", "content")
                await sql.copy_records_to_table("messages", records=rows, columns=columns)
                await device.ends_up_with_what_select_finds(sql, 20)
                assert device.snapshots == ["new"]
            finally:
                await device.stop()
    finally:
        await database.drop()


async def test_of_a_transaction_that_is_too_large_only_the_doorbell_rings(
    database: Database, sql: Any, user: UUID
) -> None:
    conversation = await add_conversation(sql, user, str(user))
    device: ClientDevice
    with patch.object(pgoutput, "MOST_ENTRIES", 50):
        async with serving(database, sweep=60) as server:
            device = ClientDevice(server.url, user)
            device.start()
            try:
                assert device.device is not None
                await device.device.wait_live(20)
                await eventually(streaming)
                before = carried()
                await sql.execute(
                    "INSERT INTO messages (conversation_id, role, content) SELECT $1, 'user', $2 || n "
                    "FROM generate_series(1, 60) n",
                    conversation,
                    str(user),
                )
                await device.ends_up_with_what_select_finds(sql, 20)
                assert carried() == before
                await add_message(sql, conversation, str(user))
                await device.ends_up_with_what_select_finds(sql, 20)
                assert carried() == before + 1
            finally:
                await device.stop()
    assert len(await select_everything(sql, user)) == 63


async def test_a_change_below_a_row_that_goes_to_another_user_meanwhile_is_not_shown_to_the_former_one(
    database: Database, sql: Any
) -> None:
    anne, bert = await add_user(sql), await add_user(sql)
    conversation = await add_conversation(sql, anne)
    message = await add_message(sql, conversation)
    async with (
        serving(database, sweep=60) as server,
        live(server.url, anne) as former,
        live(server.url, bert) as owner,
        administrator(database) as giving,
        administrator(database) as writing,
    ):
        await eventually(streaming)
        transaction = giving.transaction()
        await transaction.start()
        await giving.execute("UPDATE conversations SET user_id = $2 WHERE id = $1", conversation, bert)
        await giving.execute("SET CONSTRAINTS ALL IMMEDIATE")
        update = asyncio.create_task(
            writing.execute("UPDATE messages SET content = 'only for bert' WHERE id = $1", message)
        )
        await eventually(lambda: sql.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))
        await transaction.commit()
        await update
        said = ""
        while "only for bert" not in said:
            said = repr((await owner.hear_a(Changes)).rows)
        mark = await add_conversation(sql, anne, "the last one")
        seen: list[Any] = []
        while mark not in [row[ID] for row in seen]:
            seen += (await former.hear_a(Changes)).rows
        assert "only for bert" not in repr(seen)


async def test_without_its_publication_a_server_listens(every_postgres: Cluster, doorbells: Doorbells) -> None:
    database = await every_postgres.create(doorbells=doorbells)
    try:
        with patch.object(wal_doorbells, "HEARTBEAT_SECONDS", 0.1):
            async with administrator(database) as sql, serving(database, sweep=60) as server:
                user = await add_user(sql)
                conversation = await add_conversation(sql, user)
                async with live(server.url, user) as device:
                    await eventually(streaming)
                    await sql.execute("DROP PUBLICATION atlas_sync")
                    await eventually(lambda: not streaming())
                    await gets(device, await add_message(sql, conversation))
    finally:
        await database.drop()


async def test_several_processes_share_one_stream_and_another_takes_it_over(database: Database, sql: Any) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    one_stream = f"SELECT ({SENDERS}) = 1 AND ({SLOTS}) = 1"
    async with ServerProcess(database.server_url, WEB_CONCURRENCY="3", ATLAS_SWEEP_SECONDS="600") as server:
        await eventually(lambda: sql.fetchval(one_stream))
        await eventually(lambda: sql.fetchval("SELECT quiet_until > now() FROM sync.meta"))
        async with contextlib.AsyncExitStack() as stack:
            devices = [await stack.enter_async_context(live(server.url, user)) for _ in range(9)]
            message = await add_message(sql, conversation)
            await asyncio.gather(*(gets(device, message) for device in devices))
        assert await sql.fetchval(one_stream)
        client = "SELECT pid FROM pg_stat_replication WHERE usename = 'atlas_streamer'"
        before = await sql.fetchval(client)
        assert server.process is not None
        for worker in psutil.Process(server.process.pid).children():
            worker.kill()
            break
        await sql.execute(CUT)
        await eventually(lambda: sql.fetchval(f"SELECT ({SENDERS}) = 1 AND $1 <> ALL (ARRAY({client}))", before))
        async with contextlib.AsyncExitStack() as stack:
            devices = [await stack.enter_async_context(live(server.url, user)) for _ in range(9)]
            message = await add_message(sql, conversation)
            await asyncio.gather(*(gets(device, message) for device in devices))


async def test_a_server_that_must_stream_and_cannot_says_what_to_do(database: Database) -> None:
    unable = database.cluster.postgres.url(database.name, SERVER_LOGIN)
    with pytest.raises(BaseException) as raised:
        async with serving(unable, doorbells="wal"):
            pass
    assert isinstance(raised.value, UnfitError)
    assert "ALTER ROLE atlas_server REPLICATION" in str(raised.value)


async def test_a_server_that_may_stream_and_cannot_listens(database: Database, sql: Any, user: UUID) -> None:
    conversation = await add_conversation(sql, user)
    unable = database.cluster.postgres.url(database.name, SERVER_LOGIN)
    async with serving(unable, doorbells="auto", sweep=60) as server, live(server.url, user) as device:
        assert not streaming()
        await gets(device, await add_message(sql, conversation))


def test_where_each_commit_would_wait_for_it_a_server_does_not_stream() -> None:
    async def refused() -> None:
        database = await cluster.create(doorbells=Doorbells.WAL)
        with pytest.raises(UnfitError, match="synchronous_standby_names"):
            async with serving(database):
                pass

    with running_cluster("18", {"synchronous_standby_names": "*", "synchronous_commit": "local"}) as cluster:
        asyncio.run(refused())


class Hanging:
    """Commits that are in the WAL, and that nobody sees: they wait for a standby that does not come."""

    SILENT = "SELECT quiet_until > clock_timestamp() FROM sync.meta"
    WAITS = "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $1"
    STATE = (
        "SELECT state, wait_event_type, wait_event, pg_blocking_pids(pid), query FROM pg_stat_activity WHERE pid = $1"
    )

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[asyncio.Task[None]] = []

    async def begin(self, sql: Any) -> None:
        # A server that streams brings this about seconds later. A commit that rings NOTIFY has a lock of the whole
        # cluster until it is seen: the next one would wait for that lock, and not be in the WAL.
        await eventually(lambda: sql.fetchval(self.SILENT))
        await sql.execute("SET synchronous_commit = local")
        await sql.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        await sql.execute("SELECT pg_reload_conf()")
        # Until the checkpointer has read it, too.
        while not await self._hangs(sql, "SELECT pg_logical_emit_message(true, 'a probe', '')"):
            pass

    async def commit(self, sql: Any, statement: str, *arguments: object) -> None:
        assert await self._hangs(sql, statement, *arguments), statement

    async def _hangs(self, sql: Any, statement: str, *arguments: object) -> bool:
        """Whether the statement's commit waits. Otherwise it has ended."""
        writer = await self._database.connect()
        pid = writer.get_server_pid()
        commit = asyncio.create_task(self._execute(writer, statement, *arguments))
        try:
            await eventually(lambda: commit.done() or sql.fetchval(self.WAITS, pid))
        except AssertionError as error:
            error.add_note(str(await sql.fetchrow(self.STATE, pid)))
            raise
        if commit.done():
            commit.result()
            return False
        self._waiting.append(commit)
        return True

    async def _execute(self, writer: Any, statement: str, *arguments: object) -> None:
        try:
            await writer.execute(statement, *arguments)
        finally:
            with contextlib.suppress(OSError):
                await writer.close()

    async def end(self, sql: Any) -> None:
        await sql.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await sql.execute("SELECT pg_reload_conf()")
        await asyncio.gather(*self._waiting)


INSERT = "INSERT INTO messages (id, conversation_id, role, content) VALUES ($1, $2, 'user', 'seen later')"


def test_a_commit_that_is_in_the_wal_before_anybody_sees_it_reaches_every_device() -> None:
    async def check() -> None:
        database = await cluster.create(doorbells=Doorbells.WAL)
        hanging = Hanging(database)
        async with administrator(database) as sql, serving(database, sweep=60) as server:
            users = [await add_user(sql) for _ in range(3)]
            conversations = [await add_conversation(sql, user) for user in users]
            async with live(server.url, users[0]) as one, live(server.url, users[1]) as other:
                await eventually(streaming)
                await hanging.begin(sql)
                carried_one, late_one = uuid4(), uuid4()
                await hanging.commit(sql, INSERT, carried_one, conversations[0])
                await gets(one, carried_one)
                # A row of the gate is always read, and no read shows it yet.
                await hanging.commit(
                    sql, "UPDATE profiles SET subscription_status = 'seen later' WHERE id = $1", users[1]
                )
                await hanging.commit(sql, INSERT, late_one, conversations[2])
                async with live(server.url, users[2]) as late:
                    assert not await sql.fetchval("SELECT count(*) FROM messages WHERE content = 'seen later'")
                    await hanging.end(sql)
                    await gets(late, late_one)
                await gets(other, users[1])

    with running_cluster("18") as cluster:
        asyncio.run(check())


def test_a_device_that_has_what_nobody_sees_yet_does_not_start_over() -> None:
    async def check() -> None:
        database = await cluster.create(doorbells=Doorbells.WAL)
        hanging = Hanging(database)
        async with administrator(database) as sql, serving(database, sweep=0.05) as server:
            user = await add_user(sql)
            conversation = await add_conversation(sql, user)
            async with live(server.url, user) as device:
                await eventually(streaming)
                await hanging.begin(sql)
                first, second = uuid4(), uuid4()
                await hanging.commit(sql, INSERT, first, conversation)
                await gets(device, first)
                reads = statements("read_feed")
                await eventually(lambda: statements("read_feed") > reads + 2)
                await hanging.end(sql)
                await sql.execute(INSERT, second, conversation)
                await gets(device, second)

    with running_cluster("18") as cluster:
        asyncio.run(check())
