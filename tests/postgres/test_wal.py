"""Transactions of the WAL become entries of feeds only where a reading would surely find the same; and they reach every
process of a machine whole."""

import asyncio
import struct
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from server.declaration.chat import CHAT
from server.declaration.sql.publication import ENTRY
from server.declaration.synced import Synced
from server.exceptions import UnavailableError
from server.feed.ports import CONTENT_BYTES, Moved
from server.postgres.wal import pgoutput, relay
from server.postgres.wal.decoding import Decoding
from server.postgres.wal.pgoutput import UNKNOWN, Committed, Relation, Transactions, Value
from server.postgres.wal.relay import Followed, Hello, Leading, lead
from server.postgres.wal.stream import Stream
from tests.support.second import SECOND
from tests.support.waiting import eventually

ANNE, BERT = UUID(int=1), UUID(int=2)
ROW, OTHER = UUID(int=11), UUID(int=12)
TYPES = {"uuid": 2950, "int8": 20, "char": 18, "timestamptz": 1184, "text": 25, "text[]": 1009, "numeric": 1700}


def relation(schema: str, name: str, columns: Sequence[str], types: Sequence[int]) -> Relation:
    return Relation(schema, name, tuple(columns), tuple(types), (None,) * len(types))


LOG = relation("sync", "log", ENTRY, (2950, 20, 20, 20, 20, 20, 18, 18, 2950, 1184, 1009))
CONVERSATIONS = relation(
    "public", "conversations", ("id", "user_id", "title", "created_at", "updated_at"), (2950, 2950, 25, 1184, 1184)
)
MESSAGES = relation(
    "public",
    "messages",
    ("id", "conversation_id", "role", "content", "created_at", "updated_at"),
    (2950, 2950, 25, 25, 1184, 1184),
)
DECLARED = relation("sync", "declaration", ("only_one", "digest"), (16, 25))


# ---- Messages, as Postgres makes them


def described(number: int, relation: Relation) -> bytes:
    columns = b"".join(
        b"\0" + name.encode() + b"\0" + struct.pack(">II", of, 0)
        for name, of in zip(relation.columns, relation.types, strict=True)
    )
    names = relation.schema.encode() + b"\0" + relation.name.encode() + b"\0"
    return b"R" + struct.pack(">I", number) + names + b"d" + struct.pack(">H", len(relation.columns)) + columns


def tuple_of(values: Sequence[Value]) -> bytes:
    found = struct.pack(">H", len(values))
    for value in values:
        if value is None:
            found += b"n"
        elif isinstance(value, bytes):
            found += b"b" + struct.pack(">I", len(value)) + value
        else:
            found += b"u"
    return found


def inserted(number: int, values: Sequence[Value]) -> bytes:
    return b"I" + struct.pack(">I", number) + b"N" + tuple_of(values)


def updated(number: int, values: Sequence[Value], key: Sequence[Value] | None = None) -> bytes:
    former = b"" if key is None else b"K" + tuple_of(key)
    return b"U" + struct.pack(">I", number) + former + b"N" + tuple_of(values)


DESCRIBED = [described(n, relation) for n, relation in enumerate((LOG, CONVERSATIONS, DECLARED, MESSAGES), 1)]
BEGIN = b"B" + bytes(20)
COMMIT = b"C" + bytes(25)


def big(value: int) -> bytes:
    return struct.pack(">q", value)


def entry(user: UUID, seq: int, op: bytes = b"u", kind: bytes = b"c", row: UUID = ROW, n: int = 1) -> list[Value]:
    return [user.bytes, big(seq), big(n), big(seq - 1), big(seq), big(seq - 1), kind, op, row.bytes, None, None]


def conversation(user: UUID, row: UUID = ROW, title: Value = b"a title") -> list[Value]:
    return [row.bytes, user.bytes, title, big(0), big(0)]


def message(row: UUID, parent: UUID, at: int = 0) -> list[Value]:
    return [row.bytes, parent.bytes, b"user", b"said", big(at), big(at)]


def transaction(*messages: bytes, into: Transactions | None = None) -> Committed | None:
    transactions = into or Transactions()
    found = None
    for each in (*DESCRIBED, BEGIN, *messages, COMMIT):
        found = transactions.receive(each, 0, len(each))
    return found


def moves(*messages: bytes, decoding: Decoding | None = None) -> list[Moved]:
    committed = transaction(*messages)
    assert committed is not None
    return list((decoding or Decoding(Synced(CHAT))).moves(committed))


# ---- Transactions


@given(st.lists(st.none() | st.binary(max_size=9) | st.just(UNKNOWN), max_size=7), st.booleans())
def test_a_row_has_the_values_that_were_sent(values: list[Value], has_key: bool) -> None:
    message = updated(2, values, [b"former", None] if has_key else None)
    committed = transaction(message, inserted(1, entry(ANNE, 5)))
    assert committed is not None
    assert [changed.values for changed in committed.rows] == [values]


def test_a_transaction_that_moves_no_feed_is_nothing() -> None:
    assert transaction(inserted(2, conversation(ANNE))) is None


def test_of_rows_that_are_too_large_none_is_kept_and_the_entries_are() -> None:
    large = inserted(2, conversation(ANNE, title=b"x" * 600_000))
    committed = transaction(large, large, inserted(2, conversation(ANNE)), inserted(1, entry(ANNE, 5)))
    assert committed is not None
    assert committed.rows == []
    assert len(committed.log) == 1


def test_of_too_many_entries_only_how_far_each_feed_moved_is_kept() -> None:
    with patch.object(pgoutput, "MOST_ENTRIES", 3):
        many = [inserted(1, entry(user, 5, n=n)) for n in range(3) for user in (ANNE, BERT)]
        found = moves(*many)
    assert sorted((moved.user, moved.seq, moved.prev) for moved in found) == [(str(ANNE), 5, 4), (str(BERT), 5, 4)]
    assert [moved.entries() for moved in found] == [None, None]


# ---- Entries


def test_each_user_gets_the_entries_of_the_own_feed() -> None:
    found = moves(
        inserted(2, conversation(ANNE)),
        inserted(1, entry(ANNE, 5)),
        inserted(2, conversation(BERT, OTHER)),
        inserted(1, entry(BERT, 9, row=OTHER)),
    )
    entries = {moved.user: moved.entries() for moved in found}
    for user, row in ((ANNE, ROW), (BERT, OTHER)):
        (only,) = entries[str(user)] or ()
        assert only.row is not None
        assert (only.row[0], only.row[2], only.row[3]) == ("c", row, "a title")


UNSURE: dict[str, list[bytes]] = {
    "the row is another user's": [inserted(2, conversation(BERT)), inserted(1, entry(ANNE, 5))],
    "the row did not change": [inserted(1, entry(ANNE, 5))],
    "a value was left as it is": [updated(2, conversation(ANNE, title=UNKNOWN)), inserted(1, entry(ANNE, 5))],
    "a text is none": [inserted(2, conversation(ANNE, title=b"\xff")), inserted(1, entry(ANNE, 5))],
    "the row was deleted, too": [
        inserted(2, conversation(ANNE)),
        inserted(1, entry(ANNE, 5)),
        inserted(1, entry(ANNE, 5, op=b"d", n=2)),
    ],
    "a parent was deleted, and a row below one changed": [
        inserted(4, message(ROW, OTHER)),
        inserted(1, entry(ANNE, 5, kind=b"m")),
        inserted(1, entry(ANNE, 5, op=b"d", row=OTHER, n=2)),
    ],
    "its time is none that the log has": [
        inserted(4, message(ROW, OTHER, at=7)),
        inserted(1, entry(ANNE, 5, kind=b"m")),
    ],
    "the log has no key": [inserted(1, [*entry(ANNE, 5, op=b"d")[:8], None, None, None])],
    "it is a row of the gate": [inserted(1, entry(ANNE, 5, op=b"d", kind=b"p"))],
    "the kind is not declared": [inserted(1, entry(ANNE, 5, op=b"d", kind=b"?"))],
    "there is more content than a batch has": [
        inserted(2, conversation(ANNE, title=b"x" * (CONTENT_BYTES - 100))),
        inserted(2, conversation(ANNE, OTHER)),
        inserted(1, entry(ANNE, 5)),
        inserted(1, entry(ANNE, 5, row=OTHER, n=2)),
    ],
    "one entry of several": [
        inserted(2, conversation(ANNE)),
        inserted(1, entry(ANNE, 5)),
        inserted(1, entry(ANNE, 5, row=OTHER, n=2)),
    ],
}


@pytest.mark.parametrize("messages", UNSURE.values(), ids=UNSURE)
def test_what_a_reading_may_find_otherwise_is_left_to_it(messages: list[bytes]) -> None:
    (moved,) = moves(*messages)
    assert (moved.user, moved.seq, moved.prev) == (str(ANNE), 5, 4)
    assert moved.entries() is None


def test_one_row_and_rows_of_several_users_may_be_larger_than_a_batch() -> None:
    large = [
        piece
        for user, row in ((ANNE, ROW), (BERT, OTHER))
        for piece in (
            inserted(2, conversation(user, row, title=b"x" * CONTENT_BYTES)),
            inserted(1, entry(user, 5, row=row)),
        )
    ]
    assert [len(moved.entries() or ()) for moved in moves(*large)] == [1, 1]


def test_a_column_of_another_type_is_left_to_a_reading() -> None:
    transactions = Transactions()
    transaction(into=transactions)
    other = replace(CONVERSATIONS, types=(2950, 2950, TYPES["numeric"], 1184, 1184))
    for message in (described(2, other), inserted(2, conversation(ANNE)), inserted(1, entry(ANNE, 5))):
        transactions.receive(message, 0, len(message))
    committed = transactions.receive(COMMIT, 0, len(COMMIT))
    assert committed is not None
    (moved,) = Decoding(Synced(CHAT)).moves(committed)
    assert moved.entries() is None


def test_while_this_process_has_another_declaration_everything_is_left_to_a_reading() -> None:
    synced = Synced(CHAT)
    decoding = Decoding(synced)
    synced.on_use.append(decoding.forget)
    change = [inserted(2, conversation(ANNE)), inserted(1, entry(ANNE, 5))]

    def carries(*more: bytes) -> bool:
        (moved,) = moves(*more, *change, decoding=decoding)
        return moved.entries() is not None

    assert carries()
    assert not carries(inserted(3, [b"\1", SECOND.digest.encode()]))
    assert not carries()
    synced.use(SECOND)
    assert not carries(), "it declares no conversations"
    assert not carries(inserted(3, [b"\1", CHAT.digest.encode()]))
    synced.use(CHAT)
    assert carries()


# ---- One stream for several processes


@pytest.fixture
async def folder() -> AsyncIterator[Path]:
    with tempfile.TemporaryDirectory(prefix="atlas-test-") as path:
        yield Path(path)


async def leading(folder: Path) -> Leading:
    made = lead(folder)
    assert made is not None
    await made.open()
    return made


async def following(folder: Path) -> tuple[Followed, list[Any], "asyncio.Task[str]"]:
    received: list[Any] = []
    followed = Followed(received.append)
    return followed, received, asyncio.create_task(followed.open(folder, "an epoch"))


def passed(leader: Leading, *messages: bytes) -> None:
    for message in messages:
        leader.pass_on(message)


A_CHANGE = (inserted(2, conversation(ANNE)), inserted(1, entry(ANNE, 5)), COMMIT)


async def test_a_follower_gets_whole_transactions_from_some_moment_on(folder: Path) -> None:
    leader = await leading(folder)
    assert lead(folder) is None, "another process leads"
    early, got_early, opening = await following(folder)
    await asyncio.sleep(0)
    assert not opening.done()
    leader.start(lambda: Hello("an epoch", "a digest"))
    assert await opening == "a digest"
    passed(leader, described(1, LOG), described(2, CONVERSATIONS), BEGIN)
    late, got_late, opening_late = await following(folder)
    # Within a transaction nobody joins.
    await eventually(lambda: len(leader._joining) == 1)
    passed(leader, *A_CHANGE)
    await opening_late
    passed(leader, BEGIN, *A_CHANGE)
    await eventually(lambda: (len(got_early), len(got_late)) == (2, 1))
    assert [changed.values for changed in got_late[0].rows] == [conversation(ANNE)]
    for followed in (early, late):
        followed.end()
    leader.end()


async def test_when_the_leader_is_gone_its_followers_know_and_one_of_them_leads(folder: Path) -> None:
    leader = await leading(folder)
    leader.start(lambda: Hello("an epoch", "a digest"))
    followed, _, opening = await following(folder)
    await opening
    leader.end()
    with pytest.raises(UnavailableError, match="is gone"):
        await followed.wait(10)
    again = lead(folder)
    assert again is not None
    again.end()
    _, _, opening = await following(folder)
    with pytest.raises(UnavailableError, match="is gone"):
        await opening


async def test_a_leader_that_never_streams_or_has_another_history_is_not_followed(folder: Path) -> None:
    leader = await leading(folder)
    waiting, _, opening = await following(folder)
    await eventually(lambda: len(leader._joining) == 1)
    leader.start(lambda: Hello("another epoch", "a digest"))
    with pytest.raises(UnavailableError, match="another history"):
        await opening
    waiting.end()
    leader.end()


async def test_a_follower_that_does_not_read_is_cut_off_and_delays_nobody(folder: Path) -> None:
    leader = await leading(folder)
    leader.start(lambda: Hello("an epoch", "a digest"))
    reader, writer = await asyncio.open_unix_connection(str(folder / relay.SOCKET))
    followed, received, opening = await following(folder)
    await opening
    passed(leader, described(1, LOG), described(2, CONVERSATIONS))
    large = inserted(2, conversation(ANNE, title=b"x" * 100_000))
    with patch.object(relay, "MOST_WAITING", 500_000):
        for _ in range(30):
            passed(leader, BEGIN, large, inserted(1, entry(ANNE, 5)), COMMIT)
            await eventually(lambda: received)
            received.clear()
    assert len(leader._followers) == 1
    del reader
    writer.close()
    followed.end()
    leader.end()


async def test_a_leader_that_falls_silent_is_left(folder: Path) -> None:
    leader = await leading(folder)
    leader.start(lambda: Hello("an epoch", "a digest"))
    followed, _, opening = await following(folder)
    await opening
    await followed.prove()
    with patch.object(relay, "SILENT_SECONDS", -1.0), pytest.raises(UnavailableError, match="is gone"):
        await followed.prove()
    followed.end()
    leader.end()


class Closed(asyncio.Transport):
    """As uvloop's is before connection_lost is called."""

    def is_closing(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        raise RuntimeError("the handle is closed")

    def abort(self) -> None: ...


async def test_a_stream_whose_connection_was_closed_raises_what_is_waited_for() -> None:
    stream = Stream(lambda _: None)
    stream._transport = Closed()
    proving = asyncio.create_task(stream.prove())
    await asyncio.sleep(0)
    stream.connection_lost(None)
    with pytest.raises(UnavailableError, match="ended"):
        await proving
