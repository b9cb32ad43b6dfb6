"""Messages of Postgres' protocol arrive in pieces of any size, and are cut as they were sent."""

import asyncio
import struct
from itertools import pairwise
from typing import Any

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.postgres import binary, wire
from tests.support.cluster import Database

values = st.none() | st.binary(max_size=20)


def data_row(row: list[bytes | None]) -> bytes:
    parts = [struct.pack(">i", -1) if each is None else struct.pack(">i", len(each)) + each for each in row]
    return wire.message(b"D", struct.pack(">H", len(row)), *parts)


@given(st.lists(st.lists(values, max_size=5), max_size=8), st.randoms(use_true_random=False))
def test_whatever_the_pieces_are_the_messages_are_the_same(rows: list[list[bytes | None]], chance: Any) -> None:
    data = b"".join(map(data_row, rows)) + wire.SYNC
    cuts = sorted({0, len(data), *(chance.randrange(len(data)) for _ in range(chance.randrange(6)))})
    messages = wire.Messages()
    found = []
    for begin, end in pairwise(cuts):
        for kind, body, at, stop in messages.split(data[begin:end]):
            found.append((kind, wire.fields(body, at) if kind == wire.DATA_ROW else body[at:stop]))
    assert found == [*((wire.DATA_ROW, row) for row in rows), (ord("S"), b"")]


@given(st.lists(st.integers(0, 400), max_size=6), st.integers(70, 200), st.randoms(use_true_random=False))
def test_of_a_message_that_is_too_long_only_the_begin_is_kept(sizes: list[int], most: int, chance: Any) -> None:
    bodies = [bytes(chance.randrange(256) for _ in range(size)) for size in sizes]
    data = b"".join(wire.message(b"d", body) for body in bodies)
    cuts = sorted({0, len(data), *(chance.randrange(len(data) + 1) for _ in range(chance.randrange(9)))})
    messages = wire.Messages(most)
    found = [
        (body[at:end], end - at)
        for begin, stop in pairwise(cuts)
        for _, body, at, end in messages.split(data[begin:stop])
    ]
    assert [size for _, size in found] == sizes
    for (kept, _), body in zip(found, bodies, strict=True):
        assert kept == body or (len(body) + 4 > most and kept == body[: wire.Messages.HEAD])


def test_a_long_message_in_small_pieces_is_joined_once() -> None:
    body = bytes(range(256)) * 40_000
    data = wire.message(b"d", body)
    messages = wire.Messages()
    found = [
        whole[at:end]
        for begin in range(0, len(data), 1_000)
        for _, whole, at, end in messages.split(data[begin : begin + 1_000])
    ]
    assert found == [body]


def test_an_error_is_told_without_what_may_quote_a_row() -> None:
    body = b"SERROR\0C23505\0Mduplicate key\0DKey (id)=(secret) already exists.\0\0"
    assert wire.error(body, 0, len(body)) == ("23505", "duplicate key")


class Collecting(asyncio.Protocol):
    """Collects the values of rows until Postgres is ready again."""

    def __init__(self) -> None:
        self.messages = wire.Messages()
        self.rows: list[list[bytes | None]] = []
        self.ready = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        for kind, body, at, _ in self.messages.split(data):
            if kind == wire.DATA_ROW:
                self.rows.append(wire.fields(body, at))
            elif kind == wire.READY:
                self.ready.set_result(None)


async def test_a_connection_of_asyncpg_can_be_taken_over_and_ends_with_its_transport(database: Database) -> None:
    """asyncpg offers no public way to its transport. This fails when another version has it elsewhere."""
    connection = await asyncpg.connect(database.url)
    protocol = Collecting()
    transport = wire.take_over(connection, protocol)
    transport.write(wire.query("SELECT pg_backend_pid()"))
    async with asyncio.timeout(10):
        await protocol.ready
    ((pid,),) = protocol.rows
    assert pid is not None
    assert connection.is_closed(), "asyncpg may end what it believes to be open"
    del connection
    transport.abort()


NAN = float("nan")


@pytest.mark.parametrize(
    ("decode", "of", "texts"),
    [
        (binary.text, "text", ["", "ä🙂", "x" * 5_000]),
        (binary.text, "varchar", ["v"]),
        (binary.text, "name", ["n"]),
        (binary.text, "json", ['{"a" : 1}', "[]"]),
        (binary.jsonb, "jsonb", ['{"a": 1, "ä": [null]}', '""']),
        (binary.boolean, "boolean", ["true", "false"]),
        (binary.integer, "smallint", ["-32768", "7"]),
        (binary.integer, "integer", ["2147483647", "-1"]),
        (binary.integer, "bigint", ["-9223372036854775808", "9007199254740993"]),
        (binary.float8, "float8", ["0.1", "-0", "5e-324", "Infinity"]),
        (bytes, "bytea", ["\\x00ff", "\\x"]),
        (binary.uuid, "uuid", ["00000000-0000-4000-8000-0000000000ff"]),
        (binary.texts, "text[]", ["{}", '{a,"b,c",""}']),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
)
async def test_a_binary_value_is_what_asyncpg_reads(
    database: Database, decode: binary.Decode, of: str, texts: list[str]
) -> None:
    connection = await asyncpg.connect(database.url)
    expected = [await connection.fetchval(f"SELECT ($1::text)::{of}", text) for text in texts]
    protocol = Collecting()
    transport = wire.take_over(connection, protocol)
    for text in texts:
        literal = "'" + text.replace("'", "''") + "'"
        bind = wire.message(b"B", b"\0\0", b"\0\0", b"\0\0", wire.BINARY)
        transport.write(wire.parse("", f"SELECT {literal}::{of}") + bind + wire.execute())
    transport.write(wire.SYNC)
    async with asyncio.timeout(10):
        await protocol.ready
    transport.abort()
    assert [decode(value) for (value,) in protocol.rows if value is not None] == expected
