"""P2, P8: messages in the archive are a device's like all others: read, paged through, edited, and nobody else's."""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from protocol.frames import Applied, Changes, Live
from server.postgres.maintain import maintain_once
from tests.support.cluster import NEWEST, Database, administrator
from tests.support.device import live_device, now
from tests.support.maintenance import (
    POLICY,
    add_old_messages,
    archive_after,
    maintained,
    make_month,
    select_all,
    whereabouts,
    whole_log,
)
from tests.support.peer import Peer, peer
from tests.support.people import add_conversation, add_message, add_user
from tests.support.rows import (
    Before,
    CreateMessage,
    DeleteConversation,
    DeleteMessage,
    EditMessage,
    Message,
    MessageDeleted,
)
from tests.support.serving import Running, serving

pytestmark = pytest.mark.usefixtures("strays_move")

SIZES = [1, 2, 5, 13, 500]
MONTHS = [-16, -15, -14]
"""With partitions of their own, and old enough for the archive."""


@pytest.fixture
async def sql(every_database: Database) -> AsyncIterator[Any]:
    async with administrator(every_database) as connection:
        yield connection


@pytest.fixture
async def server(every_database: Database) -> AsyncIterator[Running]:
    async with serving(every_database) as running:
        yield running


@pytest.fixture
async def user(sql: Any) -> UUID:
    return await add_user(sql)


@pytest.fixture
async def conversation(sql: Any, user: UUID) -> UUID:
    """With messages of today, of months that will be archived, and some that strayed, before, among and after those."""
    made = await add_conversation(sql, user)
    for month in MONTHS:
        await make_month(sql, month)
    for month in (-30, *MONTHS, -5, 0):
        await add_old_messages(sql, made, month, 3)
    # Several at one instant.
    await sql.execute(
        "INSERT INTO messages (conversation_id, role, content, created_at) "
        "SELECT conversation_id, 'assistant', 'at the same instant', created_at FROM messages WHERE content = 'old 2'"
    )
    await add_message(sql, made)
    return made


async def archive(database: Database, sql: Any) -> None:
    await maintained(database)
    assert await sql.fetchval("SELECT count(*) FROM messages_archive") == 16
    assert await sql.fetchval("SELECT count(*) FROM messages") == 9


async def history(sql: Any, conversation: UUID) -> list[UUID]:
    """Newest first, as SELECT over both tables finds it."""
    both = " UNION ALL ".join(
        f"SELECT id, created_at FROM {table} WHERE conversation_id = $1" for table in ("messages", "messages_archive")
    )
    records = await sql.fetch(f"{both} ORDER BY created_at DESC, id DESC", conversation)
    return [UUID(str(record[0])) for record in records]


async def scrolled(device: Peer, conversation: UUID, limit: int, between: Any = None) -> list[UUID]:
    """From today back to the end."""
    got: list[UUID] = []
    before: Before | None = None
    more = True
    while more:
        answer = await device.page(conversation, before, limit)
        for row in answer.rows:
            assert isinstance(row, Message)
            got.append(row.id)
            before = Before(row.created_at, row.id)
        more = answer.more
        if between is not None:
            await between(len(got))
    return got


# ---- Reading -------------------------------------------------------------------------------------------------------


async def test_a_device_pages_from_today_through_the_archive_and_gets_every_message_once(
    every_database: Database, sql: Any, server: Running, user: UUID, conversation: UUID
) -> None:
    await archive(every_database, sql)
    expected = await history(sql, conversation)
    assert len(expected) == 25
    async with peer(server.url) as device:
        await device.greet(user, window={"conversation": 0, "message": 0})
        for limit in SIZES:
            assert await scrolled(device, conversation, limit) == expected, limit


@NEWEST
async def test_a_stray_among_archived_months_is_paged_at_its_place(
    every_database: Database, sql: Any, server: Running, user: UUID, conversation: UUID
) -> None:
    await archive(every_database, sql)
    # Between the others, in the midst of an archived month, before all of them, and not yet moved.
    for month in (-40, -22, -15, -14):
        await add_old_messages(sql, conversation, month, 2, "late", seconds=5_000)
    assert (await whereabouts(sql))["public.messages_default"] == 8
    expected = await history(sql, conversation)
    async with peer(server.url) as device:
        await device.greet(user, window={"conversation": 0, "message": 0})
        for limit in SIZES:
            assert await scrolled(device, conversation, limit) == expected, limit
        await maintained(every_database)
        assert "public.messages_default" not in await whereabouts(sql)
        for limit in SIZES:
            assert await scrolled(device, conversation, limit) == expected, limit


@NEWEST
@pytest.mark.parametrize("limit", [1, 4])
async def test_archiving_between_two_pages_leaves_no_gap_and_repeats_nothing(
    every_database: Database, sql: Any, server: Running, user: UUID, conversation: UUID, limit: int
) -> None:
    expected = await history(sql, conversation)

    async def a_month_more(so_far: int) -> None:
        # In the end all is in the archive but this month.
        months = max(1, 40 - 40 * so_far // 12)
        await archive_after(every_database, months)
        await maintain_once(every_database.url, POLICY, lambda _: None)

    async with peer(server.url) as device:
        await device.greet(user, window={"conversation": 0, "message": 0})
        assert await scrolled(device, conversation, limit, a_month_more) == expected
    assert await sql.fetchval("SELECT count(*) FROM messages_archive") == 20


async def test_a_snapshot_takes_messages_from_the_archive_too(
    every_database: Database, sql: Any, server: Running, user: UUID, conversation: UUID
) -> None:
    await archive(every_database, sql)
    expected = await history(sql, conversation)
    for window in (5, 9, 10, 14, 200):
        async with peer(server.url) as device:
            await device.greet(user, window={"conversation": 10, "message": window})
            rows = [row for row in await device.rows_until_live() if isinstance(row, Message)]
            assert [row.id for row in rows] == expected[:window]


@NEWEST
async def test_a_device_gets_a_conversation_that_is_wholly_archived(
    every_database: Database, sql: Any, server: Running, user: UUID, conversation: UUID
) -> None:
    old = await add_conversation(sql, user)
    messages = await add_old_messages(sql, old, -15, 4)
    await maintained(every_database)
    assert await sql.fetchval("SELECT count(*) FROM messages WHERE conversation_id = $1", old) == 0
    async with peer(server.url) as device:
        await device.greet(user, window={"conversation": 10, "message": 3})
        rows = [row for row in await device.rows_until_live() if isinstance(row, Message)]
        assert [row.id for row in rows if row.conversation_id == old] == messages[:0:-1]
        for limit in SIZES:
            assert await scrolled(device, old, limit) == messages[::-1]


@NEWEST
async def test_a_device_that_was_away_while_a_message_was_edited_and_then_archived_gets_the_edit(
    every_database: Database, sql: Any, server: Running, user: UUID, conversation: UUID
) -> None:
    async with live_device(server.url, user) as device:
        cursor = device.cursor
    assert await sql.execute("UPDATE messages SET content = 'edited' WHERE content = 'old 1'") == "UPDATE 6"
    gone = await sql.fetchval("SELECT id FROM messages WHERE content = 'old 3' ORDER BY created_at LIMIT 1 OFFSET 1")
    await sql.execute("DELETE FROM messages WHERE id = $1", gone)
    await maintained(every_database)
    async with peer(server.url) as device:
        assert (await device.greet(user, cursor)).mode == "resumed"
        rows = await device.rows_until_live()
    assert sorted(row.content for row in rows if isinstance(row, Message)) == ["edited"] * 6
    assert [row.id for row in rows if isinstance(row, MessageDeleted)] == [gone]
    assert len(rows) == 7


# ---- Writing -------------------------------------------------------------------------------------------------------


async def archived_message(sql: Any, conversation: UUID) -> tuple[UUID, int]:
    record = await sql.fetchrow(
        "SELECT id, sync.seq_at(created_at) FROM messages_archive WHERE conversation_id = $1 AND role = 'user' "
        "ORDER BY random() LIMIT 1",  # of the role that devices may write
        conversation,
    )
    return UUID(str(record[0])), record[1]


@NEWEST
async def test_an_edit_and_a_deletion_of_an_archived_message_reach_all_devices(
    every_database: Database, sql: Any, server: Running, user: UUID, conversation: UUID
) -> None:
    await archive(every_database, sql)
    message, at = await archived_message(sql, conversation)
    async with live_device(server.url, user) as one, live_device(server.url, user) as other:
        for device in (one, other):
            assert device.state() == await select_all(sql, user)
        edited = await one.apply(EditMessage(message, at, "edited", now()))
        for device in (one, other):
            state = await device.reach(edited)
            assert state["m", message][2] == "edited"
            assert state == await select_all(sql, user)
        deleted = await one.apply(DeleteMessage(message, at))
        for device in (one, other):
            state = await device.reach(deleted)
            assert ("m", message) not in state
            assert state == await select_all(sql, user)
    assert len(await history(sql, conversation)) == 24


@NEWEST
async def test_writing_an_archived_message_again_makes_no_second_one(
    every_database: Database, sql: Any, server: Running, user: UUID, conversation: UUID
) -> None:
    client_id, message = uuid4(), uuid4()
    at = await sql.fetchval("SELECT sync.seq_at(date_trunc('month', now(), 'UTC') - interval '14 months')") + 10**9
    create = CreateMessage(message, conversation, "user", "written long ago", at)
    async with live_device(server.url, user, client_id) as device:
        await device.apply(create)
    await maintained(every_database)
    assert await sql.fetchval("SELECT count(*) FROM messages_archive WHERE id = $1", message) == 1
    before, log = await select_all(sql, user), await whole_log(sql)
    async with live_device(server.url, user, client_id, n=2) as device:
        # Its answer was lost: the same number again. And an outbox that was restored from a backup: another number.
        assert [result.n for result in await device.push(create, n=1)] == [1]
        (result,) = await device.push(create, n=2)
        assert isinstance(result, Applied)
    assert (await select_all(sql, user), await whole_log(sql)) == (before, log)


@NEWEST
async def test_a_new_message_cannot_take_the_id_of_an_archived_message_of_another_user(
    every_database: Database, sql: Any, server: Running, user: UUID, conversation: UUID
) -> None:
    await archive(every_database, sql)
    message, at = await archived_message(sql, conversation)
    before = await select_all(sql, user)
    stranger = await add_user(sql)
    mine = await add_conversation(sql, stranger)
    async with live_device(server.url, stranger) as device:
        rejected = await device.rejection(CreateMessage(message, mine, "user", "mine now", at))
        assert rejected.code == "bad_id"
        for parent in (conversation, uuid4()):
            rejected = await device.rejection(CreateMessage(message, parent, "user", "mine now", at))
            assert rejected.code == "unknown_parent"
        rejected = await device.rejection(EditMessage(message, at, "mine now", now()))
        assert rejected.code == "unknown_row"
        await device.push(DeleteMessage(message, at))
    await maintained(every_database)
    assert await select_all(sql, user) == before


@NEWEST
async def test_deleting_a_conversation_deletes_its_archived_messages(
    every_database: Database, sql: Any, server: Running, user: UUID, conversation: UUID
) -> None:
    await archive(every_database, sql)
    kept = await add_conversation(sql, user)
    await add_old_messages(sql, kept, -15, 2)
    async with live_device(server.url, user) as one, live_device(server.url, user) as other:
        deleted = await one.apply(DeleteConversation(conversation))
        for device in (one, other):
            state = await device.reach(deleted)
            assert state == await select_all(sql, user)
            assert sum(kind == "m" for kind, _ in state) == 2
    assert await sql.fetchval("SELECT count(*) FROM messages_archive") == 0


@NEWEST
async def test_a_change_by_sql_in_the_archive_reaches_a_device_that_is_connected(
    every_database: Database, sql: Any, server: Running, user: UUID, conversation: UUID
) -> None:
    await archive(every_database, sql)
    async with live_device(server.url, user) as device:
        await sql.execute("UPDATE messages_archive SET content = 'mended' WHERE content = 'old 1'")
        changes = await device.hear_a(Changes)
        assert {row.content for row in changes.rows if isinstance(row, Message)} == {"mended"}
        assert device.state() == await select_all(sql, user)


# ---- Whose ---------------------------------------------------------------------------------------------------------


async def test_nobody_sees_or_changes_another_users_archived_messages(
    every_database: Database, sql: Any, server: Running, user: UUID, conversation: UUID
) -> None:
    await archive(every_database, sql)
    stranger = await add_user(sql)
    async with peer(server.url) as device:
        await device.greet(stranger)
        await device.hear_a(Live)
        assert (await device.page(conversation, None, 50)).rows == []
    for who, count in ((user, 16), (stranger, 0)):
        async with sql.transaction():
            await sql.execute("SET LOCAL ROLE authenticated")
            await sql.execute("SELECT set_config('request.jwt.claims', $1, true)", json.dumps({"sub": str(who)}))
            assert await sql.fetchval("SELECT count(*) FROM messages_archive") == count
            assert await sql.execute("UPDATE messages_archive SET content = 'x'") == f"UPDATE {count}"
            assert await sql.execute("DELETE FROM messages_archive") == f"DELETE {count}"
    assert await sql.fetchval("SELECT count(*) FROM messages_archive") == 0


@NEWEST
async def test_as_long_as_nothing_is_old_enough_nothing_is_archived_and_a_device_pages_through_everything(
    every_database: Database, sql: Any, server: Running, user: UUID, conversation: UUID
) -> None:
    await archive_after(every_database, 1_200)
    await maintained(every_database)
    assert await sql.fetchval("SELECT count(*) FROM messages_archive") == 0
    expected = await history(sql, conversation)
    async with peer(server.url) as device:
        await device.greet(user)
        for limit in SIZES:
            assert await scrolled(device, conversation, limit) == expected, limit
