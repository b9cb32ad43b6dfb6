"""P8: a page is exact: pages joined together are the history, without a gap or a repeat."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest
from msgspec import Raw, structs

from protocol.codec import CODECS, MSGPACK, Codec
from protocol.frames import FIRST_INSTANT, LAST_INSTANT, SEQ, Changes, Error, Live, Page, Ping, Pong, Welcome
from tests.support.cluster import Database, administrator
from tests.support.peer import Peer, after, both_codecs, peer
from tests.support.people import add_conversation, add_message, add_user
from tests.support.rows import Before, Conversation, Message, all_received, encoded_value
from tests.support.serving import serving
from tests.support.waiting import LIMIT

pytestmark = pytest.mark.shared_database(every_postgres=True)

ONLY_PAGES = {"conversation": 0, "message": 0}
FRAME = 280_000
"""«Some 260 KB» (SPEC.md 2.5)."""
SIZES = [1, 2, 7, 500]
COUNT = 23
"""Rows that are paged through: no multiple of any size, and with many equal instants among them."""


@dataclass
class Reading:
    """A device that holds nothing and asks for pages."""

    peer: Peer
    user: UUID
    conversation: UUID
    sql: Any
    welcome: Welcome

    async def page(self, conversation: UUID | None, before: Before | None = None, limit: int = 50) -> Page:
        page = await self.peer.page(conversation, before, limit)
        assert len(page.rows) <= limit
        return page

    async def all_pages(
        self,
        conversation: UUID | None,
        limit: int,
        between: Callable[[Page], Awaitable[None]] | None = None,
    ) -> list[Page]:
        pages: list[Page] = []
        async for page in self.peer.pages(conversation, limit):
            assert len(page.rows) <= limit
            pages.append(page)
            if between is not None and page.more:
                await between(page)
        return pages

    async def history(self, conversation: UUID | None, limit: int) -> list[tuple[Any, ...]]:
        return [held(row) for page in await self.all_pages(conversation, limit) for row in page.rows]

    async def conversations(self) -> list[tuple[Any, ...]]:
        """What SELECT finds, in the order of the pages."""
        records = await self.sql.fetch(
            "SELECT id, title, sync.seq_at(created_at), sync.seq_at(updated_at) FROM conversations"
            " WHERE user_id = $1 ORDER BY updated_at DESC, id DESC",
            self.user,
        )
        return [tuple(record) for record in records]

    async def messages(self, conversation: UUID) -> list[tuple[Any, ...]]:
        records = await self.sql.fetch(
            "SELECT id, conversation_id, role, content, sync.seq_at(created_at), sync.seq_at(updated_at) FROM messages"
            " WHERE conversation_id = $1 ORDER BY created_at DESC, id DESC",
            conversation,
        )
        return [tuple(record) for record in records]


def held(row: object) -> tuple[Any, ...]:
    """A row without its seq, as SELECT finds it."""
    if isinstance(row, Conversation):
        return row.id, row.title, row.created_at, row.updated_at
    assert isinstance(row, Message)
    return row.id, row.conversation_id, row.role, row.content, row.created_at, row.updated_at


@contextlib.asynccontextmanager
async def reading(database: Database, codec: Codec = MSGPACK) -> AsyncIterator[Reading]:
    async with administrator(database) as sql, serving(database) as server, peer(server.url, codec) as one:
        user = await add_user(sql)
        conversation = await add_conversation(sql, user)
        welcome = await one.greet(user, window=ONLY_PAGES)
        await one.hear_a(Live)
        yield Reading(one, user, conversation, sql, welcome)


async def add_conversations(reader: Reading, rows: int) -> None:
    """Three at a time were last updated at the same instant."""
    await reader.sql.execute(
        "INSERT INTO conversations (user_id, title, created_at, updated_at)"
        " SELECT $1, 'number ' || i, '2025-01-01', timestamptz '2025-06-01' + (i / 3) * interval '1.000001 s'"
        " FROM generate_series(1, $2::int) i",
        reader.user,
        rows,
    )


async def add_messages(reader: Reading, rows: int, conversation: UUID | None = None) -> None:
    """Three at a time were created at the same instant; they lie in several partitions."""
    await reader.sql.execute(
        "INSERT INTO messages (conversation_id, role, content, created_at)"
        " SELECT $1, (ARRAY['user', 'assistant', 'system'])[1 + i % 3], 'number ' || i,"
        " now() - (i / 3) * interval '5 days 1 microsecond' FROM generate_series(1, $2::int) i",
        conversation or reader.conversation,
        rows,
    )


# ---- Joined together they are the history --------------------------------------------------------------------------


async def test_the_pages_of_a_conversation_joined_together_are_its_messages(every_database: Database) -> None:
    async with reading(every_database) as reader:
        await add_messages(reader, COUNT)
        await add_messages(reader, 5, await add_conversation(reader.sql, reader.user))
        expected = await reader.messages(reader.conversation)
        assert len(expected) == COUNT
        for limit in SIZES:
            assert await reader.history(reader.conversation, limit) == expected, limit


async def test_the_pages_of_the_list_joined_together_are_the_conversations(every_database: Database) -> None:
    async with reading(every_database) as reader:
        await add_conversations(reader, COUNT - 1)
        expected = await reader.conversations()
        assert len(expected) == COUNT
        for limit in SIZES:
            assert await reader.history(None, limit) == expected, limit


@pytest.mark.parametrize("codec", list(CODECS.values()), ids=lambda codec: codec.subprotocol)
async def test_both_encodings_have_the_same_pages(database: Database, codec: Codec) -> None:
    async with reading(database, codec) as reader:
        await add_messages(reader, COUNT)
        assert await reader.history(reader.conversation, 4) == await reader.messages(reader.conversation)
        assert await reader.history(None, 4) == await reader.conversations()


async def test_all_rows_at_the_same_instant_are_told_apart_by_their_ids(every_database: Database) -> None:
    async with reading(every_database) as reader:
        await reader.sql.execute(
            "INSERT INTO messages (conversation_id, role, content) SELECT $1, 'user', 'x' FROM generate_series(1, 30)",
            reader.conversation,
        )
        for limit in SIZES:
            assert await reader.history(reader.conversation, limit) == await reader.messages(reader.conversation), limit


async def test_a_page_has_at_most_the_rows_that_welcome_names(every_database: Database) -> None:
    async with reading(every_database) as reader:
        most = reader.welcome.limits.page_rows
        await add_messages(reader, 2 * most + 1)
        pages = await reader.all_pages(reader.conversation, 1000)
        assert max(len(page.rows) for page in pages) <= most
        assert [held(row) for page in pages for row in page.rows] == await reader.messages(reader.conversation)


async def test_a_long_list_of_conversations_comes_whole(every_database: Database) -> None:
    async with reading(every_database) as reader:
        await add_conversations(reader, 1_100)
        assert await reader.history(None, 1000) == await reader.conversations()


async def test_a_page_without_before_and_limit_has_the_newest_fifty_rows(database: Database) -> None:
    async with reading(database) as reader:
        await add_messages(reader, 60)
        await reader.peer.say_raw(
            b"\x84\xa1t\xa4page\xa2id\x07\xa4kind\xa7message\xa6parent\xc4\x10" + reader.conversation.bytes
        )
        page = await reader.peer.hear_a(Page)
        assert [held(row) for row in page.rows] == (await reader.messages(reader.conversation))[:50]
        assert (page.id, page.more) == (7, True)


# ---- more ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 7, 500])
async def test_more_is_true_exactly_while_there_is_more(database: Database, limit: int) -> None:
    async with reading(database) as reader:
        for rows in {1, limit - 1, limit, limit + 1, 2 * limit} - {0}:
            await reader.sql.execute("DELETE FROM messages")
            await reader.sql.execute("DELETE FROM conversations WHERE id <> $1", reader.conversation)
            await add_messages(reader, rows)
            await add_conversations(reader, rows - 1)
            for conversation in (reader.conversation, None):
                pages = await reader.all_pages(conversation, limit)
                assert len(pages) == -(-rows // limit), rows
                assert sum(len(page.rows) for page in pages) == rows


async def test_a_conversation_without_messages_has_an_empty_page(database: Database) -> None:
    async with reading(database) as reader:
        page = await reader.page(reader.conversation)
        assert (page.rows, page.more) == ([], False)


async def test_a_user_without_conversations_has_an_empty_list(database: Database) -> None:
    async with reading(database) as reader:
        await reader.sql.execute("DELETE FROM conversations")
        page = await reader.page(None)
        assert (page.rows, page.more) == ([], False)


async def test_a_page_before_the_oldest_row_is_empty(database: Database) -> None:
    async with reading(database) as reader:
        await add_messages(reader, 3)
        last = (await reader.all_pages(reader.conversation, 2))[-1]
        page = await reader.page(reader.conversation, after(last))
        assert (page.rows, page.more) == ([], False)


# ---- What is written between pages ---------------------------------------------------------------------------------


async def test_older_rows_that_are_inserted_between_pages_come_and_newer_ones_disturb_nothing(
    every_database: Database,
) -> None:
    async with reading(every_database) as reader:
        await add_messages(reader, COUNT)
        before = await reader.messages(reader.conversation)
        older: list[UUID] = []

        async def write(page: Page) -> None:
            await add_message(reader.sql, reader.conversation, "newer than all")
            oldest = page.rows[-1]
            assert isinstance(oldest, Message)
            older.append(
                await reader.sql.fetchval(
                    "INSERT INTO messages (conversation_id, role, content, created_at) SELECT conversation_id, 'user',"
                    " 'just older', created_at - interval '1 microsecond' FROM messages WHERE id = $1 RETURNING id",
                    oldest.id,
                )
            )

        pages = await reader.all_pages(reader.conversation, 7, write)
        got = [held(row) for page in pages for row in page.rows]
        assert older
        assert [row for row in got if row[0] not in older] == before
        now = await reader.messages(reader.conversation)
        assert got == [row for row in now if row in before or row[0] in older]


async def test_conversations_made_between_pages_disturb_nothing(every_database: Database) -> None:
    async with reading(every_database) as reader:
        await add_conversations(reader, COUNT)
        before = await reader.conversations()

        async def write(page: Page) -> None:
            await add_conversation(reader.sql, reader.user, "newer than all")

        pages = await reader.all_pages(None, 7, write)
        assert [held(row) for page in pages for row in page.rows] == before


async def test_a_deleted_row_is_still_a_place_to_go_on_from(every_database: Database) -> None:
    async with reading(every_database) as reader:
        await add_messages(reader, COUNT)
        before = await reader.messages(reader.conversation)

        async def write(page: Page) -> None:
            last = page.rows[-1]
            assert isinstance(last, Message)
            await reader.sql.execute("DELETE FROM messages WHERE id = $1", last.id)

        pages = await reader.all_pages(reader.conversation, 7, write)
        assert [held(row) for page in pages for row in page.rows] == before


async def test_a_page_tells_how_far_the_feed_was(every_database: Database) -> None:
    async with reading(every_database) as reader:
        await add_messages(reader, 3)
        head = await reader.sql.fetchval("SELECT seq FROM sync.feeds WHERE user_id = $1", reader.user)
        for conversation in (reader.conversation, None, uuid4()):
            page = await reader.page(conversation)
            assert page.as_of == head
            assert {row[SEQ] for row in page.rows} <= {head}


# ---- Whose history -------------------------------------------------------------------------------------------------


async def test_another_users_conversation_has_no_rows(every_database: Database) -> None:
    async with reading(every_database) as reader:
        theirs = await add_conversation(reader.sql, await add_user(reader.sql))
        await add_messages(reader, 3, theirs)
        last = (await reader.messages(theirs))[0]
        for before in (None, Before(last[4] + 1, last[0])):
            page = await reader.page(theirs, before)
            assert (page.rows, page.more) == ([], False)


async def test_the_list_has_nobody_elses_conversations(every_database: Database) -> None:
    async with reading(every_database) as reader:
        theirs = await add_conversation(reader.sql, await add_user(reader.sql))
        assert theirs not in {row[0] for row in await reader.history(None, 2)}


async def test_a_conversation_that_does_not_exist_has_no_rows(every_database: Database) -> None:
    async with reading(every_database) as reader:
        for conversation in (uuid4(), UUID(int=0), UUID(int=2**128 - 1)):
            page = await reader.page(conversation)
            assert (page.rows, page.more) == ([], False)


# ---- How many at a time --------------------------------------------------------------------------------------------


async def test_one_page_too_many_is_refused_and_the_others_are_answered(database: Database) -> None:
    async with reading(database) as reader:
        await add_messages(reader, 5)
        most = reader.welcome.limits.pages_in_flight
        async with reader.sql.transaction():
            await reader.sql.execute("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")  # nobody's page is read
            for number in range(most + 1):
                await reader.peer.say(reader.peer.asking(100 + number, reader.conversation))
            error = await reader.peer.hear_a(Error)
            await reader.peer.say(Ping())
            assert isinstance(await reader.peer.hear(), Pong)
        assert (error.code, error.retryable) == ("too_many_pages", True)
        assert (error.answers, error.id) == ("page", 100 + most)
        answered = [await reader.peer.hear_a(Page) for _ in range(most)]
        assert {page.id for page in answered} == {100 + number for number in range(most)}
        assert {len(page.rows) for page in answered} == {5}


async def test_a_device_may_ask_for_the_next_page_after_an_answer(database: Database) -> None:
    async with reading(database) as reader:
        await add_messages(reader, COUNT)
        expected = await reader.messages(reader.conversation)
        for _ in range(3 * reader.welcome.limits.pages_in_flight):
            assert await reader.history(reader.conversation, 20) == expected


async def test_pages_are_answered_by_their_ids_in_whatever_order(database: Database) -> None:
    async with reading(database) as reader:
        await add_messages(reader, 5)
        ids = [2**53, 0, 17, 17]
        for number in ids:
            await reader.peer.say(reader.peer.asking(number, reader.conversation if number else None))
        pages = [await reader.peer.hear_a(Page) for _ in ids]
        assert sorted(page.id for page in pages) == sorted(ids)
        assert all(len(page.rows) == (5 if page.id else 1) for page in pages)


async def test_changes_go_on_arriving_while_pages_are_read(database: Database) -> None:
    async with reading(database) as reader:
        await add_messages(reader, COUNT)
        await reader.peer.hear_a(Changes)
        for _ in range(5):
            await reader.peer.say(reader.peer.asking(1, reader.conversation))
            await add_message(reader.sql, reader.conversation)
            kinds = {type(await reader.peer.hear()), type(await reader.peer.hear())}
            assert kinds == {Page, Changes}


# ---- What is large, or far away ------------------------------------------------------------------------------------


async def sized(reader: Reading, conversation: UUID | None) -> tuple[list[tuple[Any, ...]], list[tuple[int, int]]]:
    """The history, and of each page how many rows it has and how many bytes its frame."""
    rows: list[tuple[Any, ...]] = []
    pages: list[tuple[int, int]] = []
    before: Before | None = None
    more = True
    while more:
        await reader.peer.say(reader.peer.asking(1, conversation, before, 1000))
        data = b""
        frame: object = None
        while not isinstance(frame, Page):
            async with asyncio.timeout(LIMIT):
                received = await reader.peer.socket.recv()
            assert isinstance(received, bytes)
            data, frame = received, MSGPACK.decode_to_client(received)
        frame = structs.replace(frame, rows=all_received(frame.rows))
        assert frame.rows
        rows += map(held, frame.rows)
        pages.append((len(frame.rows), len(data)))
        more = frame.more
        before = after(frame)
    return rows, pages


async def add_contents(reader: Reading, sizes: list[int]) -> None:
    """Messages of so many bytes, the newest first."""
    for number, size in enumerate(sizes):
        await reader.sql.execute(
            "INSERT INTO messages (conversation_id, role, content, created_at)"
            " VALUES ($1, 'assistant', repeat('x', $2::int), now() - $3::int * interval '1 s')",
            reader.conversation,
            size,
            number,
        )


@pytest.mark.parametrize(
    "sizes",
    [[100_000] * 12, [260_000] * 4, [262_143, 1, 262_144, 1, 262_145], [1, 1_000_000, 1, 1, 3_000_000], [600] * 700],
    ids=["100 KB each", "260 KB each", "at the bound", "two very large ones", "many small ones"],
)
async def test_a_page_cut_short_for_its_size_still_yields_everything(
    every_database: Database, sizes: list[int]
) -> None:
    async with reading(every_database) as reader:
        await add_contents(reader, sizes)
        rows, _ = await sized(reader, reader.conversation)
        assert rows == await reader.messages(reader.conversation)


@pytest.mark.parametrize(
    "sizes",
    [[100_000] * 12, [200_000] * 4, [600] * 700],
    ids=["100 KB each", "200 KB each", "600 B each"],
)
async def test_the_frame_of_a_page_has_some_260_kilobytes_at_most(database: Database, sizes: list[int]) -> None:
    async with reading(database) as reader:
        await add_contents(reader, sizes)
        _, pages = await sized(reader, reader.conversation)
        assert max(size for _, size in pages) <= FRAME, pages


async def test_a_row_that_is_larger_than_a_frame_travels_alone(database: Database) -> None:
    async with reading(database) as reader:
        await add_contents(reader, [1_000, 1_000_000, 1_000])
        _, pages = await sized(reader, reader.conversation)
        assert [count for count, size in pages if size > FRAME] == [1], pages


async def test_long_titles_make_short_pages(database: Database) -> None:
    async with reading(database) as reader:
        await reader.sql.execute(
            "INSERT INTO conversations (user_id, title) SELECT $1, repeat('x', 20000) FROM generate_series(1, 40)",
            reader.user,
        )
        rows, pages = await sized(reader, None)
        assert rows == await reader.conversations()
        assert max(size for _, size in pages) <= FRAME, pages


@both_codecs
async def test_a_place_that_no_row_can_have_is_a_place_or_a_bad_page(database: Database, codec: Codec) -> None:
    """Beyond the instants that travel nothing is one; the connection goes on."""
    async with reading(database, codec) as reader:
        await add_messages(reader, 3)
        beyond = [LAST_INSTANT + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1] + [2**64, 10**30, 10**400] * codec.text
        beyond += [9_224_318_500_000_000_000]  # between the last instant of Postgres and its infinity
        for conversation in (reader.conversation, None):
            ask = reader.peer.asking(1, conversation, limit=2)
            for at in [*beyond, *(-place for place in beyond if place <= 2**63 or codec.text)]:
                place = Raw(f'[{at},"{uuid4()}"]'.encode()) if codec.text else encoded_value((at, uuid4()))
                await reader.peer.say(structs.replace(ask, before=place))
                error = await reader.peer.hear_a(Error)
                assert (error.code, error.retryable, error.answers, error.id) == ("bad_page", False, "page", 1), at
            rows = len(await reader.messages(conversation)) if conversation else len(await reader.conversations())
            for at, expected in ((LAST_INSTANT, min(rows, 2)), (FIRST_INSTANT, 0)):
                assert len((await reader.page(conversation, Before(at, uuid4()), 2)).rows) == expected


NO_PAGES: dict[str, dict[str, object]] = {
    "a kind that nobody knows": {"kind": "thing"},
    "a tag for a kind": {"kind": "m", "parent": "HERE"},
    "no name": {"kind": ""},
    "a name in capitals": {"kind": "Conversation"},
    "no parent": {"kind": "message"},
    "a parent that is nil": {"kind": "message", "parent": None},
    "a parent too many": {"kind": "conversation", "parent": "HERE"},
    "a parent that is a number": {"kind": "message", "parent": 7},
    "a parent that is true": {"kind": "message", "parent": True},
    "a parent that is a text": {"kind": "message", "parent": "x"},
    "a parent that is an array": {"kind": "message", "parent": ["HERE"]},
    "a parent that is a map": {"kind": "message", "parent": {"id": "HERE"}},
    "a place that is a number": {"kind": "conversation", "before": 7},
    "a place that is a text": {"kind": "conversation", "before": "x"},
    "a place that is a map": {"kind": "conversation", "before": {"0": 1, "1": "HERE"}},
    "a place of one half": {"kind": "conversation", "before": [1]},
    "a place of three": {"kind": "conversation", "before": [1, "HERE", 1]},
    "a place of very many": {"kind": "conversation", "before": [1] * 10_000},
    "an instant that is a text": {"kind": "conversation", "before": ["1", "HERE"]},
    "an instant with a fraction": {"kind": "conversation", "before": [1.5, "HERE"]},
    "an instant that is true": {"kind": "conversation", "before": [True, "HERE"]},
    "an instant that is an array": {"kind": "conversation", "before": [[1], "HERE"]},
    "an instant that is a map": {"kind": "conversation", "before": [{}, "HERE"]},
    "an id that is nil": {"kind": "conversation", "before": [1, None]},
    "an id that is a number": {"kind": "conversation", "before": [1, 7]},
    "an id that is no uuid": {"kind": "conversation", "before": [1, "x"]},
    "an id with U+0000": {"kind": "conversation", "before": [1, "\0"]},
    "an id of two": {"kind": "conversation", "before": [1, ["HERE", 1]]},
    "an id of none": {"kind": "conversation", "before": [1, []]},
    "an id that is a map": {"kind": "conversation", "before": [1, {"id": "HERE"}]},
    "an id in arrays": {"kind": "conversation", "before": [1, [["HERE"]]]},
}
"""HERE stands for the id of the conversation."""


@both_codecs
async def test_a_page_of_what_is_no_list_is_refused_and_the_connection_goes_on(
    database: Database, codec: Codec
) -> None:
    async with reading(database, codec) as reader:

        def here(value: Any) -> Any:
            if isinstance(value, list):
                return [here(each) for each in value]
            if isinstance(value, dict):
                return {name: here(each) for name, each in value.items()}
            return reader.conversation if value == "HERE" else value

        for number, (what, fields) in enumerate(NO_PAGES.items()):
            await reader.peer.say_raw(bytes(encoded_value({"t": "page", "id": number, **here(fields)}, codec)))
            error = await reader.peer.hear_a(Error)
            assert (error.code, error.retryable, error.answers, error.id) == ("bad_page", False, "page", number), what
        assert len((await reader.page(None)).rows) == 1
