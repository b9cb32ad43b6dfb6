"""P1: a committed row reaches only its owner, and no user reaches another user's rows through SQL."""

import contextlib
import copy
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from protocol.codec import MSGPACK, Codec
from protocol.cursor import Cursor, Position
from protocol.frames import ID, Changes, Hello, Live, Page, Ping, Pong
from tests.support.cluster import BOTH_DOORBELLS, Database, administrator
from tests.support.oracle import select_everything
from tests.support.peer import Peer, both_codecs, peer
from tests.support.people import add_conversation, add_message, add_user
from tests.support.rows import Message, MessageDeleted
from tests.support.serving import Running, serving, token
from tests.support.waiting import eventually

ANNES, BERTS = "CANARY-OF-ANNE", "CANARY-OF-BERT"

# ---- On the wire ---------------------------------------------------------------------------------------------------


class Wire(Peer):
    """A connection that keeps every byte that it receives."""

    def __init__(self, socket: ClientConnection, codec: Codec) -> None:
        super().__init__(socket, codec)
        self.received = b""

    async def _receive(self) -> bytes:
        data = await super()._receive()
        self.received += data
        return data

    def knows(self, secret: str | UUID) -> bool:
        if isinstance(secret, UUID):
            return secret.bytes in self.received or str(secret).encode() in self.received
        return secret.encode() in self.received

    async def learns(self, secret: str) -> None:
        """Hear changes until it knows it."""
        while not self.knows(secret):
            await self.hear_a(Changes)


@contextlib.asynccontextmanager
async def wire(
    server: Running, user: UUID, cursor: bytes | None = None, codec: Codec = MSGPACK, *, before: Wire | None = None
) -> AsyncIterator[Wire]:
    """A live connection, of a device that comes back with the rows that it held `before`."""
    async with peer(server.url, codec) as one:
        made = Wire(one.socket, codec)
        if before is not None:
            made.replica, cursor = copy.deepcopy(before.replica), before.cursor
        await made.say(Hello(token=token(user), client_id=uuid4(), cursor=cursor))
        await made.hear_a(Live)
        yield made


@dataclass
class Two:
    """Two users with a conversation and a message each."""

    anne: UUID
    bert: UUID
    annes: UUID
    berts: UUID
    annes_message: UUID
    berts_message: UUID


async def two_users(sql: Any) -> Two:
    anne, bert = await add_user(sql), await add_user(sql)
    annes, berts = await add_conversation(sql, anne, ANNES), await add_conversation(sql, bert, BERTS)
    return Two(anne, bert, annes, berts, await add_message(sql, annes, ANNES), await add_message(sql, berts, BERTS))


Everywhere = tuple[Database, Any, Two]


@pytest.fixture
async def everywhere(every_database: Database) -> AsyncIterator[tuple[Database, Any, Two]]:
    async with administrator(every_database) as sql:
        yield every_database, sql, await two_users(sql)


@pytest.fixture
async def two(sql: Any) -> Two:
    return await two_users(sql)


@both_codecs
@BOTH_DOORBELLS
async def test_two_busy_users_never_get_a_byte_of_each_other(server: Running, sql: Any, two: Two, codec: Codec) -> None:
    made: dict[UUID, list[UUID]] = {two.anne: [two.annes, two.annes_message], two.bert: [two.berts, two.berts_message]}

    async def be_busy(one: Wire, user: UUID, text: str) -> None:
        for number in range(15):
            conversation = await add_conversation(sql, user, f"{text} {number}")
            message = await add_message(sql, conversation, f"{text} {number}")
            made[user] += [conversation, message]
            await one.hear_a(Changes)
            await one.say(one.asking(number, conversation))
            await one.say(one.asking(number))
            await one.hear_a(Page)

    async def delete_some() -> None:
        for user in (two.anne, two.bert):
            await sql.execute("DELETE FROM conversations WHERE id = $1", made[user][-2])

    async with wire(server, two.anne, codec=codec) as one, wire(server, two.bert, codec=codec) as other:
        await be_busy(one, two.anne, ANNES)
        # In the same transactions, too.
        for number in range(10):
            async with sql.transaction():
                for conversation, text in ((two.annes, ANNES), (two.berts, BERTS)):
                    await add_message(sql, conversation, f"{text}, together {number}")
        await be_busy(other, two.bert, BERTS)
        await delete_some()
        for each in (one, other):
            await each.say(Ping())
            await each.hear_a(Pong)
    assert one.knows(ANNES)
    assert other.knows(BERTS)
    assert not one.knows(BERTS)
    assert not other.knows(ANNES)
    assert not [row for row in [two.bert, *made[two.bert]] if one.knows(row)]
    assert not [row for row in [two.anne, *made[two.anne]] if other.knows(row)]


async def test_the_cursor_of_another_user_is_foreign_and_shows_nothing_of_that_user(server: Running, two: Two) -> None:
    async with wire(server, two.anne) as one:
        cursor = one.cursor
    async with wire(server, two.bert, cursor) as other:
        assert other.welcome is not None
        assert (other.welcome.mode, other.welcome.why) == ("snapshot", "foreign")
        assert other.knows(BERTS)
    assert not other.knows(ANNES)
    assert not other.knows(two.anne)


async def test_a_made_up_cursor_shows_nothing_of_others(server: Running, two: Two) -> None:
    async with wire(server, two.bert) as one:
        assert one.cursor is not None
        known = Cursor.decode(one.cursor)
    assert known is not None
    for position in (Position(0), Position(0, 1), Position(1), Position(known.position.seq, 1)):
        async with wire(server, two.bert, known._replace(position=position).encode()) as other:
            pass
        assert not other.knows(ANNES), position


async def test_pages_of_a_strangers_conversation_show_nothing(server: Running, two: Two) -> None:
    async with wire(server, two.bert) as other:
        await other.say(other.asking(1, two.annes))
        assert (await other.hear_a(Page)).rows == []
        assert not other.knows(ANNES)
        assert not other.knows(two.annes_message)


# ---- Rows that change hands ----------------------------------------------------------------------------------------


MOVES = {
    "a conversation": "UPDATE conversations SET user_id = '{0.bert}', title = '{1}' WHERE id = '{0.annes}'",
    "a message": "UPDATE messages SET conversation_id = '{0.berts}', content = '{1}' WHERE id = '{0.annes_message}'",
    "a message under a new id": "UPDATE messages SET id = gen_random_uuid(), conversation_id = '{0.berts}', "
    "content = '{1}' WHERE id = '{0.annes_message}'",
}


@pytest.mark.parametrize("what", MOVES)
async def test_a_row_that_moves_to_another_user_is_gone_for_the_one_and_there_for_the_other(
    everywhere: Everywhere, what: str
) -> None:
    """For devices that are live, that come back and that are new; with the rows below it."""
    database, sql, two = everywhere
    async with serving(database) as server:
        async with wire(server, two.anne) as one, wire(server, two.bert) as other:
            pass
        await add_message(sql, two.annes, f"{ANNES}, another")
        async with wire(server, two.anne) as live, wire(server, two.bert) as there:
            held = live.state()
            async with sql.transaction():
                await sql.execute(MOVES[what].format(two, f"{BERTS}, his now"))
                if what == "a conversation":
                    await sql.execute(
                        "UPDATE messages SET content = $2 WHERE conversation_id = $1", two.annes, f"{BERTS}, his now"
                    )
            expected = [await select_everything(sql, user) for user in (two.anne, two.bert)]
            assert held.keys() - expected[0].keys(), "something went"
            await live.hear_a(Changes)
            await there.hear_a(Changes)
            async with wire(server, two.anne, before=one) as back, wire(server, two.anne) as new:
                for device in (live, back, new):
                    assert device.state() == expected[0]
            async with wire(server, two.bert, before=other) as back, wire(server, two.bert) as new:
                for device in (there, back, new):
                    assert device.state() == expected[1]
            await nothing_of_bert_reaches_anne(server, two, one.cursor, live, two.annes, two.berts)


@BOTH_DOORBELLS
async def test_a_conversation_that_moves_there_and_back_is_what_it_was(server: Running, sql: Any, two: Two) -> None:
    async with wire(server, two.anne) as early, wire(server, two.bert) as others:
        pass
    async with wire(server, two.anne) as one, wire(server, two.bert) as other:
        before = [await select_everything(sql, user) for user in (two.anne, two.bert)]
        give = "UPDATE conversations SET user_id = $2 WHERE id = $1"
        for _ in range(3):
            await sql.execute(give, two.annes, two.bert)
            await sql.execute(give, two.annes, two.anne)
        for user, device, held in zip((two.anne, two.bert), (one, other), before, strict=True):
            last = await sql.fetchval("SELECT seq FROM sync.feeds WHERE user_id = $1", user)
            while (await device.hear_a(Changes)).seq != last:
                pass
            assert device.state() == held
    async with wire(server, two.anne, before=early) as one, wire(server, two.bert, before=others) as other:
        assert [one.state(), other.state()] == before


async def nothing_of_bert_reaches_anne(
    server: Running, two: Two, old: bytes | None, live: Wire, *conversations: UUID
) -> None:
    """Neither live, nor resumed from an old cursor, nor in a snapshot, nor in a page."""
    await live.say(Ping())
    await live.hear_a(Pong)
    wires = [live]
    for cursor in (old, None):
        async with wire(server, two.anne, cursor) as one:
            for conversation in (None, *conversations):
                await one.say(one.asking(1, conversation))
                await one.hear_a(Page)
        wires.append(one)
    assert [one.knows(BERTS) for one in wires] == [False] * 3


@BOTH_DOORBELLS
async def test_a_message_that_leaves_a_deleted_conversation_shows_nothing_of_its_new_owner(
    server: Running, sql: Any, two: Two
) -> None:
    async with wire(server, two.anne) as one:
        old = one.cursor
    again = await add_message(sql, two.annes, ANNES)
    async with wire(server, two.anne) as live, wire(server, two.bert) as other:
        async with sql.transaction():
            await sql.execute(
                "UPDATE messages SET conversation_id = $1, content = $2 WHERE id = ANY($3)",
                two.berts,
                BERTS,
                [again, two.annes_message],
            )
            await sql.execute("DELETE FROM conversations WHERE id = $1", two.annes)
        await sql.execute("UPDATE messages SET content = $2 WHERE id = $1", again, f"{BERTS} again")
        await other.learns(f"{BERTS} again")
        assert other.state() == await select_everything(sql, two.bert)
        await live.hear_a(Changes)
        assert live.state() == await select_everything(sql, two.anne)
        await nothing_of_bert_reaches_anne(server, two, old, live, two.annes, two.berts)


@BOTH_DOORBELLS
async def test_a_message_that_changes_hands_and_partition_at_once_is_deleted_for_the_one_and_new_for_the_other(
    server: Running, sql: Any, two: Two
) -> None:
    """To Postgres and to the triggers it is a deletion and an insertion."""
    async with wire(server, two.anne) as one:
        old = one.cursor
    again = await add_message(sql, two.annes, ANNES)
    async with wire(server, two.anne) as live, wire(server, two.bert) as other:
        await sql.execute(
            "UPDATE messages SET conversation_id = $1, content = $2, created_at = created_at - interval '400 days'"
            " WHERE id = ANY($3)",
            two.berts,
            BERTS,
            [again, two.annes_message],
        )
        gone = await live.hear_a(Changes)
        assert {(type(row), row[ID]) for row in gone.rows} == {
            (MessageDeleted, again),
            (MessageDeleted, two.annes_message),
        }
        await other.hear_a(Changes)
        await nothing_of_bert_reaches_anne(server, two, old, live, two.annes, two.berts)


async def test_the_id_of_a_deleted_conversation_in_other_hands_shows_nothing_of_its_new_owner(
    server: Running, sql: Any, two: Two
) -> None:
    async with wire(server, two.anne) as one:
        old = one.cursor
    await sql.execute("UPDATE conversations SET title = $1 WHERE id = $2", f"{ANNES}, changed", two.annes)
    message = await add_message(sql, two.annes, ANNES)
    async with wire(server, two.anne) as live, wire(server, two.bert) as other:
        await sql.execute("DELETE FROM conversations WHERE id = $1", two.annes)
        await sql.execute(
            "INSERT INTO conversations (id, user_id, title) VALUES ($1, $2, $3)", two.annes, two.bert, BERTS
        )
        await sql.execute(
            "INSERT INTO messages (id, conversation_id, role, content) VALUES ($1, $2, 'user', $3)",
            message,
            two.annes,
            f"{BERTS} said this",
        )
        await other.learns(f"{BERTS} said this")
        await nothing_of_bert_reaches_anne(server, two, old, live, two.annes)


async def test_the_id_of_a_deleted_message_in_other_hands_shows_nothing_of_its_new_owner(
    server: Running, sql: Any, two: Two
) -> None:
    async with wire(server, two.anne) as one:
        old = one.cursor
    await sql.execute("UPDATE messages SET content = $1 WHERE id = $2", f"{ANNES}, changed", two.annes_message)
    async with wire(server, two.anne) as live, wire(server, two.bert) as other:
        created_at = await sql.fetchval("DELETE FROM messages WHERE id = $1 RETURNING created_at", two.annes_message)
        await sql.execute(
            "INSERT INTO messages (id, conversation_id, role, content, created_at) VALUES ($1, $2, 'user', $3, $4)",
            two.annes_message,
            two.berts,
            f"{BERTS} said this",
            created_at,
        )
        await other.learns(f"{BERTS} said this")
        await nothing_of_bert_reaches_anne(server, two, old, live, two.annes)


async def test_a_device_learns_that_rows_it_held_are_gone_when_their_ids_have_another_owner(
    server: Running, sql: Any, two: Two
) -> None:
    async with wire(server, two.anne) as one:
        old = one.cursor
    await sql.execute("DELETE FROM conversations WHERE id = $1", two.annes)
    await sql.execute("INSERT INTO conversations (id, user_id, title) VALUES ($1, $2, $3)", two.annes, two.bert, BERTS)
    async with peer(server.url) as device:
        await device.greet(two.anne, old)
        rows = await device.rows_until_live()
    assert [(type(row).__name__, row.id) for row in rows] == [("ConversationDeleted", two.annes)]


# ---- Doorbells -----------------------------------------------------------------------------------------------------


async def test_a_doorbell_says_nothing_but_whose_feed_moved_and_how_far(everywhere: Everywhere) -> None:
    database, sql, two = everywhere
    heard: list[str] = []
    async with administrator(database) as listening:
        await listening.add_listener(
            await sql.fetchval("SELECT channel FROM sync.meta"), lambda *said: heard.append(said[3])
        )
        await sql.execute("UPDATE messages SET content = $1 WHERE id = $2", f"{ANNES}, changed", two.annes_message)
        await sql.execute("UPDATE messages SET content = $1 WHERE id = $2", f"{BERTS}, changed", two.berts_message)
        await sql.execute("UPDATE profiles SET email = 'anne@example.com' WHERE id = $1", two.anne)
        await sql.execute("DELETE FROM conversations WHERE id = $1", two.annes)
        last = await sql.fetchval("SELECT user_id || ' ' || seq FROM sync.feeds WHERE user_id = $1", two.anne)
        await eventually(lambda: last in heard)
    for payload in heard:
        user, seq = payload.split(" ")
        assert UUID(user) in (two.anne, two.bert)
        assert seq.isdigit()


async def test_an_invented_doorbell_does_no_harm(server: Running, sql: Any, two: Two) -> None:
    invented = [
        "",
        " ",
        "nonsense",
        "1 2 3",
        f"{two.anne}",
        f"{two.anne} ",
        f"{two.anne} x",
        f"{two.anne} -1",
        f"{two.anne} 0",
        f"{two.anne} {10**18}",
        f"{two.anne} {2**63 - 1}",
        f"{two.anne} {10**30}",
        f"{two.anne} ²",
        f"{two.anne} 1 2",
        f"{two.bert} {10**18}",
        "x" * 7_000,
        "\u2028 1",
    ]
    async with wire(server, two.anne) as one:
        for payload in invented:
            await sql.execute("SELECT pg_notify(channel, $1) FROM sync.meta", payload)
            message = await add_message(sql, two.annes, f"after {payload[:50]!r}")
            frame = await one.hear_a(Changes)
            assert [row.id for row in frame.rows if isinstance(row, Message)] == [message], payload
        assert not one.knows(BERTS)


# ---- Through SQL ---------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def as_user(database: Database, user: UUID | None, role: str = "authenticated") -> AsyncIterator[Any]:
    """A session as PostgREST would set it up for a token of this user."""
    connection = await database.connect()
    await connection.execute("SELECT set_config('request.jwt.claims', $1, false)", claims(user, role))
    await connection.execute(f"SET ROLE {role}")
    try:
        yield connection
    finally:
        await connection.close()


def claims(user: UUID | None, role: str) -> str:
    return orjson.dumps({"role": role} if user is None else {"sub": str(user), "role": role}).decode()


async def test_a_user_reads_only_rows_of_that_user(everywhere: Everywhere) -> None:
    database, _, two = everywhere
    async with as_user(database, two.anne) as anne:
        assert [row["id"] for row in await anne.fetch("SELECT id FROM profiles")] == [two.anne]
        assert [row["id"] for row in await anne.fetch("SELECT id FROM conversations")] == [two.annes]
        assert [row["id"] for row in await anne.fetch("SELECT id FROM messages")] == [two.annes_message]


@pytest.mark.parametrize("role", ["authenticated", "anon"])
async def test_a_session_without_a_user_reads_nothing(everywhere: Everywhere, role: str) -> None:
    database, _, _ = everywhere
    async with as_user(database, None, role) as nobody:
        for table in ("profiles", "conversations", "messages"):
            try:
                assert await nobody.fetch(f"SELECT * FROM {table}") == []
            except asyncpg.InsufficientPrivilegeError:
                assert role == "anon"


async def test_a_row_that_a_user_writes_through_sql_reaches_the_devices_of_that_user(everywhere: Everywhere) -> None:
    database, _, two = everywhere
    async with (
        serving(database) as server,
        wire(server, two.anne) as one,
        wire(server, two.bert) as other,
        as_user(database, two.anne) as anne,
    ):
        async with anne.transaction():
            conversation = await add_conversation(anne, two.anne, f"{ANNES}, by herself")
            message = await add_message(anne, conversation, f"{ANNES}, by herself")
        assert {row[ID] for row in (await one.hear_a(Changes)).rows} == {conversation, message}
        await anne.execute("UPDATE messages SET content = 'edited' WHERE id = $1", message)
        assert {row[ID] for row in (await one.hear_a(Changes)).rows} == {message}
        await anne.execute("DELETE FROM conversations WHERE id = $1", conversation)
        assert {row[ID] for row in (await one.hear_a(Changes)).rows} == {conversation}
        await other.say(Ping())
        await other.hear_a(Pong)
        assert not other.knows(ANNES)


async def test_a_user_changes_and_deletes_nothing_of_others(everywhere: Everywhere) -> None:
    database, sql, two = everywhere
    async with as_user(database, two.bert) as bert:
        for statement in (
            "UPDATE conversations SET title = 'mine now' WHERE id = $1",
            "DELETE FROM conversations WHERE id = $1",
            "UPDATE messages SET content = 'mine now' WHERE conversation_id = $1",
            "DELETE FROM messages WHERE conversation_id = $1",
        ):
            assert (await bert.execute(statement, two.annes)).endswith(" 0"), statement
    assert await sql.fetchval("SELECT title FROM conversations WHERE id = $1", two.annes) == ANNES
    assert await sql.fetchval("SELECT content FROM messages WHERE id = $1", two.annes_message) == ANNES


REFUSED: dict[str, tuple[str, Callable[[Two], list[Any]]]] = {
    "a conversation for somebody else": (
        "INSERT INTO conversations (user_id) VALUES ($1)",
        lambda two: [two.anne],
    ),
    "a message in somebody else's conversation": (
        "INSERT INTO messages (conversation_id, role, content) VALUES ($1, 'user', 'x')",
        lambda two: [two.annes],
    ),
    "giving a conversation away": (
        "UPDATE conversations SET user_id = $1 WHERE id = $2",
        lambda two: [two.anne, two.berts],
    ),
    "moving a message into somebody else's conversation": (
        "UPDATE messages SET conversation_id = $1 WHERE id = $2",
        lambda two: [two.annes, two.berts_message],
    ),
    "another tier": ("UPDATE profiles SET subscription_tier = 'studio' WHERE id = $1", lambda two: [two.bert]),
    "another status": ("UPDATE profiles SET subscription_status = 'x' WHERE id = $1", lambda two: [two.bert]),
    "a second profile": ("INSERT INTO profiles (id, subscription_tier) VALUES ($1, 'core')", lambda two: [uuid4()]),
    "no profile": ("DELETE FROM profiles WHERE id = $1", lambda two: [two.bert]),
    "the log": ("SELECT * FROM sync.log", lambda two: []),
    "the feeds": ("SELECT * FROM sync.feeds", lambda two: []),
    "the history": ("SELECT * FROM sync.meta", lambda two: []),
    "moving a feed": ("UPDATE sync.feeds SET seq = 0 WHERE user_id = $1", lambda two: [two.anne]),
    "a change that never was": (
        "SELECT sync.record($1, 'c', 'd', $2, NULL)",
        lambda two: [two.anne, two.annes],
    ),
    "another history": ("UPDATE sync.meta SET history = gen_random_uuid()", lambda two: []),
    "partitions": ("SELECT sync.ensure_partitions(now(), now())", lambda two: []),
    "truncating": ("TRUNCATE messages", lambda two: []),
    "a table of his own": ("CREATE TABLE sync.mine (id int)", lambda two: []),
    "a trigger less": ("ALTER TABLE messages DISABLE TRIGGER ALL", lambda two: []),
    "no triggers at all": ("SET session_replication_role = replica", lambda two: []),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_statement_that_gives_rows_to_another_user_is_refused(everywhere: Everywhere, what: str) -> None:
    database, sql, two = everywhere
    statement, arguments = REFUSED[what]
    before = await everything(sql)
    for role, user in (("authenticated", two.bert), ("anon", None)):
        async with as_user(database, user, role) as bert:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await bert.execute(statement, *arguments(two))
    assert await everything(sql) == before


async def everything(sql: Any) -> list[Any]:
    tables = ("profiles", "conversations", "messages", "sync.feeds", "sync.log", "sync.meta")
    return [await sql.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]


async def partitions(sql: Any) -> list[str]:
    found = await sql.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits"
        " WHERE inhparent IN ('public.messages'::regclass, 'sync.log'::regclass)"
    )
    return [row["name"] for row in found]


async def test_no_partition_is_a_back_door(everywhere: Everywhere) -> None:
    database, sql, two = everywhere
    await sql.fetchval("SELECT sync.ensure_partitions(now() - interval '2 months', now() + interval '6 months')")
    names = await partitions(sql)
    assert len(names) > 10
    for role, user in (("authenticated", two.anne), ("anon", None)):
        async with as_user(database, user, role) as anne:
            for name in names:
                for statement in (f"SELECT * FROM {name}", f"DELETE FROM {name}", f"TRUNCATE {name}"):
                    with pytest.raises(asyncpg.InsufficientPrivilegeError):
                        await anne.execute(statement)


async def test_a_partition_stays_closed_to_a_role_that_may_use_the_schema(everywhere: Everywhere) -> None:
    """A careless GRANT of the whole schema, as a dashboard may make it: row level security still holds."""
    database, sql, two = everywhere
    await sql.execute("GRANT USAGE ON SCHEMA sync TO authenticated")
    names = [name for name in await partitions(sql) if "messages" in name]
    for name in names:
        await sql.execute(f"GRANT SELECT ON {name} TO authenticated")
    async with as_user(database, two.bert) as bert:
        for name in names:
            assert await bert.fetch(f"SELECT * FROM {name}") == []


# ---- The server's own login ----------------------------------------------------------------------------------------


async def test_the_servers_login_writes_nothing(everywhere: Everywhere) -> None:
    database, sql, two = everywhere
    before = await everything(sql)
    login = await asyncpg.connect(database.server_url)
    tables = ["profiles", "conversations", "messages", "sync.feeds", "sync.log", "sync.meta", *await partitions(sql)]
    statements = [statement for table in tables for statement in (f"DELETE FROM {table}", f"TRUNCATE {table}")]
    statements += [
        "INSERT INTO profiles (id) VALUES (gen_random_uuid())",
        "UPDATE profiles SET subscription_tier = 'free'",
        f"INSERT INTO conversations (user_id) VALUES ('{two.anne}')",
        "UPDATE conversations SET title = 'x'",
        f"INSERT INTO messages (conversation_id, role, content) VALUES ('{two.annes}', 'user', 'x')",
        "UPDATE messages SET content = 'x'",
        "UPDATE sync.feeds SET seq = 0",
        "UPDATE sync.log SET seq = 0",
        "INSERT INTO sync.log (user_id, seq, prev, kind, op, row_id) SELECT id, 1, 0, 'p', 'd', id FROM profiles",
        "UPDATE sync.meta SET history = gen_random_uuid()",
        f"SELECT sync.record('{two.anne}', 'c', 'd', '{two.annes}', NULL)",
        "SELECT sync.ensure_partitions(now(), now() + interval '1 year')",
        "CREATE TABLE public.mine (id int)",
        "CREATE TABLE sync.mine (id int)",
        "SET session_replication_role = replica",
    ]
    for statement in statements:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await login.execute(statement)
    await login.close()
    assert await everything(sql) == before


async def test_the_servers_login_reads_no_more_of_a_profile_than_it_needs(everywhere: Everywhere) -> None:
    database, _, two = everywhere
    login = await asyncpg.connect(database.server_url)
    assert len(await login.fetch("SELECT id, subscription_tier, subscription_status FROM profiles")) == 2
    for column in ("email", "usage_stats", "*"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await login.fetch(f"SELECT {column} FROM profiles WHERE id = $1", two.anne)
    await login.close()


# ---- What devices could not see ------------------------------------------------------------------------------------


async def test_not_even_an_administrator_truncates_a_table(everywhere: Everywhere) -> None:
    """Not even an administrator: no device would hear of it."""
    _, sql, _ = everywhere
    names = [name for name in await partitions(sql) if "messages" in name]
    assert len(names) > 3
    for table in ("messages", "conversations CASCADE", "profiles CASCADE", *names):
        with pytest.raises(asyncpg.RaiseError):
            await sql.execute(f"TRUNCATE {table}")
    assert await sql.fetchval("SELECT count(*) FROM messages") == 2


async def test_a_partition_that_is_made_later_refuses_a_truncate(everywhere: Everywhere) -> None:
    _, sql, _ = everywhere
    before = set(await partitions(sql))
    await sql.fetchval("SELECT sync.ensure_partitions(now() + interval '1 year', now() + interval '1 year')")
    (made,) = {name for name in await partitions(sql) if "messages" in name} - before
    with pytest.raises(asyncpg.RaiseError):
        await sql.execute(f"TRUNCATE {made}")


async def test_after_the_end_of_a_connection_nothing_of_it_is_left_to_another(
    server: Running, sql: Any, two: Two
) -> None:
    """One socket after the other, of one user after the other, on a server that keeps readers by user."""
    for number in range(10):
        async with wire(server, two.anne) as one:
            await add_message(sql, two.annes, f"{ANNES} {number}")
            with contextlib.suppress(ConnectionClosed):
                await one.hear_a(Changes)
        async with wire(server, two.bert) as other:
            await add_message(sql, two.berts, f"{BERTS} {number}")
            await other.hear_a(Changes)
        assert not other.knows(ANNES)
        assert not one.knows(BERTS)
