"""What the database records of a change, on the newest and on the oldest supported PostgreSQL."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.support.cluster import Database
from tests.support.people import add_conversation, add_message, add_user

README = Path(__file__).parents[2] / "server" / "README.md"


@pytest.fixture
async def sql(every_database: Database) -> AsyncIterator[Any]:
    connection = await every_database.connect()
    yield connection
    await connection.close()


@pytest.fixture
async def user(sql: Any) -> UUID:
    return await add_user(sql)


@pytest.fixture
async def conversation(sql: Any, user: UUID) -> UUID:
    return await add_conversation(sql, user)


async def recorded(sql: Any, user: UUID, after: int = 0) -> list[tuple[str, str, UUID]]:
    rows = await sql.fetch(
        "SELECT kind::text, op::text, row_id FROM sync.log WHERE user_id = $1 AND seq > $2 ORDER BY seq, n", user, after
    )
    return [(row[0], row[1], UUID(str(row[2]))) for row in rows]


async def head(sql: Any, user: UUID) -> int:
    return int(await sql.fetchval("SELECT seq FROM sync.feeds WHERE user_id = $1", user))


async def test_entries_of_one_transaction_share_one_seq_and_name_the_seq_before(
    sql: Any, user: UUID, conversation: UUID
) -> None:
    for _ in range(3):
        async with sql.transaction():
            await add_message(sql, conversation)
            await add_message(sql, conversation)
    log = await sql.fetch("SELECT seq, prev FROM sync.log WHERE user_id = $1 ORDER BY seq, n", user)
    transactions = sorted({(row["seq"], row["prev"]) for row in log})
    assert len(transactions) == 5
    assert [prev for _, prev in transactions] == [0, *(seq for seq, _ in transactions[:-1])]
    assert await head(sql, user) == transactions[-1][0]


async def test_seq_is_the_time_of_the_commit_and_never_falls(sql: Any, user: UUID, conversation: UUID) -> None:
    clock = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    before = await sql.fetchval(clock)
    await add_message(sql, conversation)
    assert before <= await head(sql, user) <= await sql.fetchval(clock)
    ahead = before + 10**12
    await sql.execute("UPDATE sync.feeds SET seq = $2 WHERE user_id = $1", user, ahead)
    await add_message(sql, conversation)
    assert await head(sql, user) == ahead + 1


async def test_the_transaction_that_commits_last_is_last_although_it_wrote_first(
    every_database: Database, sql: Any, user: UUID, conversation: UUID
) -> None:
    slow = await every_database.connect()
    transaction = slow.transaction()
    await transaction.start()
    first_written = await add_message(slow, conversation)
    first_committed = await add_message(sql, conversation)
    await transaction.commit()
    await slow.close()
    assert (await recorded(sql, user))[-2:] == [("m", "u", first_committed), ("m", "u", first_written)]


async def test_two_writers_of_one_user_do_not_deadlock_over_its_feed(
    every_database: Database, sql: Any, user: UUID
) -> None:
    """Each changes what the other one changed first. With the feed's lock taken at the change, and not at the commit,
    this deadlocks."""
    one, other = [await add_conversation(sql, user) for _ in range(2)]
    a, b = await every_database.connect(), await every_database.connect()
    rename = "UPDATE conversations SET title = $2 WHERE id = $1"
    ta, tb = a.transaction(), b.transaction()
    await ta.start()
    await tb.start()
    await a.execute(rename, one, "a")
    await b.execute(rename, other, "b")
    waiting = asyncio.create_task(b.execute(rename, one, "b"))
    await ta.commit()
    await waiting
    await tb.commit()
    assert len(await recorded(sql, user)) == 3 + 1 + 2
    await a.close()
    await b.close()


async def test_a_transaction_that_is_rolled_back_records_nothing(sql: Any, user: UUID, conversation: UUID) -> None:
    before = await head(sql, user)
    transaction = sql.transaction()
    await transaction.start()
    await add_message(sql, conversation)
    await transaction.rollback()
    assert await head(sql, user) == before
    async with sql.transaction():
        savepoint = sql.transaction()
        await savepoint.start()
        await add_message(sql, conversation)
        await sql.execute("SET CONSTRAINTS ALL IMMEDIATE")
        await savepoint.rollback()
        kept = await add_message(sql, conversation)
    assert await recorded(sql, user, before) == [("m", "u", kept)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE conversations SET title = title",
        "UPDATE messages SET content = content",
        "UPDATE profiles SET usage_stats = '{\"tokens\": 1}', updated_at = now()",
        "INSERT INTO conversations (id, user_id) SELECT id, user_id FROM conversations ON CONFLICT DO NOTHING",
        "DELETE FROM messages WHERE false",
    ],
)
async def test_an_update_of_no_synced_column_records_nothing(
    sql: Any, user: UUID, conversation: UUID, statement: str
) -> None:
    await add_message(sql, conversation)
    before = await head(sql, user)
    await sql.execute(statement)
    assert await head(sql, user) == before


async def test_an_upsert_records_its_effect(sql: Any, user: UUID, conversation: UUID) -> None:
    before = await head(sql, user)
    await sql.execute(
        "INSERT INTO conversations (id, user_id, title) VALUES ($1, $2, 'x') "
        "ON CONFLICT (id) DO UPDATE SET title = excluded.title",
        conversation,
        user,
    )
    assert await recorded(sql, user, before) == [("c", "u", conversation)]


async def test_a_write_made_directly_on_a_partition_is_recorded(sql: Any, user: UUID, conversation: UUID) -> None:
    partition = await sql.fetchval("SELECT 'public.messages_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')")
    before = await head(sql, user)
    message = await sql.fetchval(
        f"INSERT INTO {partition} (conversation_id, role, content) VALUES ($1, 'user', 'x') RETURNING id", conversation
    )
    assert await recorded(sql, user, before) == [("m", "u", UUID(str(message)))]


async def test_a_deleted_conversation_is_one_entry_without_its_messages(
    sql: Any, user: UUID, conversation: UUID
) -> None:
    for _ in range(3):
        await add_message(sql, conversation)
    before = await head(sql, user)
    await sql.execute("DELETE FROM conversations WHERE id = $1", conversation)
    assert await recorded(sql, user, before) == [("c", "d", conversation)]


async def test_deleting_a_profile_records_the_deletion_of_its_conversations(
    sql: Any, user: UUID, conversation: UUID
) -> None:
    before = await head(sql, user)
    await sql.execute("DELETE FROM profiles WHERE id = $1", user)
    assert sorted(await recorded(sql, user, before)) == [("c", "d", conversation), ("p", "d", user)]


async def test_a_message_that_moves_leaves_one_conversation_and_enters_another(
    sql: Any, user: UUID, conversation: UUID
) -> None:
    message = await add_message(sql, conversation)
    other = await add_conversation(sql, user)
    before = await head(sql, user)
    await sql.execute("UPDATE messages SET conversation_id = $2 WHERE id = $1", message, other)
    assert await recorded(sql, user, before) == [("m", "d", message), ("m", "u", message)]


async def test_a_message_that_moves_into_a_conversation_deleted_in_the_same_transaction_has_left_the_old_one(
    sql: Any, user: UUID, conversation: UUID
) -> None:
    message = await add_message(sql, conversation)
    other = await add_conversation(sql, user)
    before = await head(sql, user)
    async with sql.transaction():
        await sql.execute("UPDATE messages SET conversation_id = $2 WHERE id = $1", message, other)
        await sql.execute("DELETE FROM conversations WHERE id = $1", other)
    assert ("m", "d", message) in await recorded(sql, user, before)


async def test_archiving_a_partition_records_nothing(sql: Any, user: UUID, conversation: UUID) -> None:
    await sql.execute(
        "INSERT INTO messages (conversation_id, role, content, created_at) VALUES ($1, 'user', 'x', now())",
        conversation,
    )
    before = await head(sql, user)
    partition = await sql.fetchval("SELECT 'public.messages_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')")
    await sql.execute(f"ALTER TABLE messages DETACH PARTITION {partition}")
    assert await head(sql, user) == before


async def test_partitions_are_made_once_and_a_stray_lies_in_the_default_one(
    sql: Any, user: UUID, conversation: UUID
) -> None:
    ensure = "SELECT sync.ensure_partitions(now(), now() + interval '3 months')"
    assert await sql.fetchval(ensure) == 0
    await sql.execute(
        "INSERT INTO messages (conversation_id, role, content, created_at) VALUES ($1, 'user', 'x', '1999-12-31')",
        conversation,
    )
    assert await sql.fetchval("SELECT count(*) FROM public.messages_default") == 1
    assert await sql.fetchval("SELECT sync.ensure_partitions(now() - interval '2 months', now())") == 2


async def test_a_doorbell_names_the_feed_and_its_seq_and_nothing_else(
    every_database: Database, sql: Any, user: UUID, conversation: UUID
) -> None:
    listener = await every_database.connect()
    heard: asyncio.Queue[str] = asyncio.Queue()
    channel = await listener.fetchval("SELECT channel FROM sync.meta")
    await listener.add_listener(channel, lambda *arguments: heard.put_nowait(arguments[3]))
    async with sql.transaction():
        await add_message(sql, conversation, "a secret")
        await add_message(sql, conversation, "a secret")
    async with asyncio.timeout(10):
        assert await heard.get() == f"{user} {await head(sql, user)}"
    assert heard.empty()
    await listener.remove_listener(channel, heard.put_nowait)
    await listener.close()


async def test_writers_under_repeatable_read_are_told_to_try_again_rather_than_reorder(
    every_database: Database, sql: Any, user: UUID, conversation: UUID
) -> None:
    other = await every_database.connect()
    transaction = other.transaction(isolation="repeatable_read")
    await transaction.start()
    await add_message(other, conversation)
    await add_message(sql, conversation)
    with pytest.raises(asyncpg.SerializationError):
        await transaction.commit()
    await other.close()


async def test_two_databases_that_part_have_different_epochs(every_database: Database, sql: Any) -> None:
    before = await sql.fetchval("SELECT sync.epoch()")
    assert await sql.fetchval("SELECT sync.epoch()") == before
    assert len(before) == 16
    await sql.execute("UPDATE sync.meta SET history = $1", uuid4())
    assert await sql.fetchval("SELECT sync.epoch()") != before


@pytest.mark.parametrize("table", ["profiles", "conversations", "messages"])
async def test_a_migration_of_the_app_may_change_rows_and_then_the_table(
    sql: Any, user: UUID, conversation: UUID, table: str
) -> None:
    """Its triggers are deferred, and Postgres does not alter a table with pending trigger events."""
    await add_message(sql, conversation)
    backfill = {
        "profiles": "UPDATE profiles SET subscription_status = 'active'",
        "conversations": "UPDATE conversations SET title = 'untitled'",
        "messages": "UPDATE messages SET content = 'empty'",
    }[table]
    alter = f"ALTER TABLE {table} ADD COLUMN note text"
    with pytest.raises(asyncpg.ObjectInUseError, match="pending trigger events") as error:
        await sql.execute(f"BEGIN; {backfill}; {alter}; COMMIT")
    await sql.execute("ROLLBACK")
    assert error.value.sqlstate == "55006"
    before = await head(sql, user)
    async with sql.transaction():
        await sql.execute(backfill)
        await sql.execute("SET CONSTRAINTS ALL IMMEDIATE")
        await sql.execute(alter)
        await sql.execute(backfill.replace(" = '", " = 'still "))
        await sql.execute(f"ALTER TABLE {table} DROP COLUMN note")
    kinds = [kind for kind, _, _ in await recorded(sql, user, before)]
    assert kinds == [table[0]] * 2, "each change is recorded, whenever its trigger runs"


async def test_the_migration_in_the_readme_of_the_server_works(sql: Any, user: UUID, conversation: UUID) -> None:
    blocks = re.findall(r"```sql\n(.*?)```", README.read_text(), re.DOTALL)
    (statements,) = [block for block in blocks if "SET CONSTRAINTS" in block]
    await add_message(sql, conversation, "")
    before = await head(sql, user)
    with pytest.raises(asyncpg.ObjectInUseError):
        await sql.execute(re.sub(r"SET CONSTRAINTS.*", "", statements))
    await sql.execute("ROLLBACK")
    await sql.execute(statements)
    assert [(kind, op) for kind, op, _ in await recorded(sql, user, before)] == [("m", "u")]
