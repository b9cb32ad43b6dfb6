"""SPEC.md 2.4: an instant that not every decoder can hold travels as the nearest that it can; pages stay exact (P8)."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from atlas_sync import Device, Encoding, Row, Schema
from protocol.codec import Codec
from protocol.frames import FIRST_INSTANT, LAST_INSTANT
from tests.support.cluster import Database
from tests.support.instants import INSTANTS, add_conversations_of_all_times, add_messages_of_all_times
from tests.support.peer import Peer, both_codecs, peer
from tests.support.people import add_conversation, add_message, add_user
from tests.support.rows import Conversation, Message
from tests.support.serving import serving, token
from tests.support.waiting import LIMIT

pytestmark = pytest.mark.shared_database(every_postgres=True)


async def history(device: Peer, conversation: Any, limit: int) -> list[Conversation | Message]:
    """All pages, joined together."""
    return [
        row
        async for page in device.pages(conversation, limit)
        for row in page.rows
        if isinstance(row, Conversation | Message)
    ]


@both_codecs
@pytest.mark.parametrize("limit", [1, 2, 3, 50])
async def test_messages_of_all_times_are_paged_without_a_gap_or_a_repeat(
    every_database: Database, every_sql: Any, codec: Codec, limit: int
) -> None:
    sql = every_sql
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    await add_message(sql, await add_conversation(sql, await add_user(sql)))
    await add_messages_of_all_times(sql, conversation)
    expected = await sql.fetch(
        "SELECT id FROM messages WHERE conversation_id = $1 ORDER BY created_at DESC, id DESC", conversation
    )
    async with serving(every_database) as server, peer(server.url, codec) as device:
        await device.greet(user)
        rows = await history(device, conversation, limit)
    assert [row.id for row in rows] == [row["id"] for row in expected]
    assert all(FIRST_INSTANT <= row.created_at <= LAST_INSTANT for row in rows)
    assert [row.created_at for row in rows] == sorted((row.created_at for row in rows), reverse=True)


@both_codecs
@pytest.mark.parametrize("limit", [1, 2, 50])
async def test_conversations_of_all_times_are_paged_without_a_gap_or_a_repeat(
    database: Database, sql: Any, codec: Codec, limit: int
) -> None:
    user = await add_user(sql)
    await add_conversations_of_all_times(sql, user)
    expected = await sql.fetch(
        "SELECT id FROM conversations WHERE user_id = $1 ORDER BY updated_at DESC, id DESC", user
    )
    async with serving(database) as server, peer(server.url, codec) as device:
        await device.greet(user)
        rows = await history(device, None, limit)
    assert [row.id for row in rows] == [row["id"] for row in expected]
    assert next(row.updated_at for row in rows if isinstance(row, Conversation)) == LAST_INSTANT


async def test_a_change_of_any_time_is_sent_as_the_nearest_instant(database: Database, sql: Any) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    async with serving(database) as server, peer(server.url) as device:
        await device.greet(user)
        await device.rows_until_live()
        for instant, expected in (
            ("infinity", LAST_INSTANT),
            ("-infinity", FIRST_INSTANT),
            ("0001-01-01", FIRST_INSTANT),
        ):
            await sql.execute(
                "UPDATE conversations SET updated_at = $2::text::timestamptz WHERE id = $1", conversation, instant
            )
            rows: list[Any] = []
            while not rows:
                rows = list(getattr(await device.hear(), "rows", []))
            if instant != "0001-01-01":  # what was the same on the wire may come or not
                assert rows[0].updated_at == expected


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
@pytest.mark.parametrize("limit", [1, 3])
async def test_the_client_pages_over_messages_of_all_times(
    database: Database, sql: Any, encoding: Encoding, limit: int
) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    await add_messages_of_all_times(sql, conversation)
    kind = Schema.chat()["message"]
    found: list[str] = []
    async with serving(database) as server:
        device = Device(
            server.url,
            user=user,
            token=lambda: token(user),
            client_id=uuid4(),
            schema=Schema.chat(),
            encoding=encoding,
            on_batch=lambda batch: None,
        )
        running = asyncio.ensure_future(device.run())
        await device.wait_live(LIMIT)
        before, more = None, True
        while more:
            page = await device.page("message", conversation, before, limit)
            rows = [row for row in page.rows if isinstance(row, Row)]
            found += [row.content for row in rows]
            before, more = kind.place(rows[-1]) if rows else before, page.more
        await device.stop()
        await running
    assert found == INSTANTS
    assert device.reason is None
