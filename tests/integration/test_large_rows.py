"""P6: a device that does not read costs one batch, whatever the rows that it is sent; and rows of any size arrive."""

import asyncio
import socket
from typing import Any
from uuid import UUID, uuid4

import pytest

from protocol.codec import Codec
from protocol.frames import Hello, Live, Page, Snapshot
from server.edge.websocket import HIGH_WATER, WebSocket
from server.feed.ports import CONTENT_BYTES
from tests.support.cluster import Database
from tests.support.peer import both_codecs, peer
from tests.support.people import add_conversation, add_message, add_user
from tests.support.rows import Conversation, Message
from tests.support.serving import serving, token
from tests.support.waiting import LIMIT, eventually

pytestmark = pytest.mark.shared_database

MB = 1_000_000
MOST = HIGH_WATER + CONTENT_BYTES + 64 * 1024
"""What may wait in the buffer of a socket: until it is full, and one batch on top with its frames."""
TITLES = "INSERT INTO conversations (user_id, title) SELECT $1, repeat('t', $2::int) FROM generate_series(1, $3)"


class Buffers:
    """How much waits in a WebSocket's buffer whenever something was written to one. The kernel takes next to nothing
    of it until `widen`: with a buffer of 4 KiB a megabyte takes as long as a second."""

    def __init__(self) -> None:
        self.seen = [0]
        self._sockets: list[socket.socket] = []

    @property
    def most(self) -> int:
        return max(self.seen)

    async def wait_full(self) -> None:
        await eventually(lambda: self.seen[-1] > HIGH_WATER)

    def narrow(self, transport: asyncio.BaseTransport) -> None:
        self._sockets.append(transport.get_extra_info("socket"))
        self._sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)

    def widen(self) -> None:
        for each in self._sockets:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MB)


@pytest.fixture
def buffers(monkeypatch: pytest.MonkeyPatch) -> Buffers:
    """Those of every server of this test."""
    buffers = Buffers()
    send, made = WebSocket.send, WebSocket.connection_made

    def watched(self: WebSocket, wire: bytes) -> None:
        send(self, wire)
        if self._transport is not None:
            buffers.seen.append(self._transport.get_write_buffer_size())

    def narrow(self: WebSocket, transport: asyncio.BaseTransport) -> None:
        buffers.narrow(transport)
        made(self, transport)

    monkeypatch.setattr(WebSocket, "send", watched)
    monkeypatch.setattr(WebSocket, "connection_made", narrow)
    return buffers


@both_codecs
@pytest.mark.parametrize("size", [10_000, 100_000, 500_000])
async def test_a_snapshot_of_large_titles_costs_one_piece(
    database: Database, sql: Any, codec: Codec, size: int, buffers: Buffers
) -> None:
    user = await add_user(sql)
    count = 60 if size < 500_000 else 8
    await sql.execute(TITLES, user, size, count)
    async with serving(database) as server, peer(server.url, codec) as device:
        device.socket.transport.pause_reading()
        await device.say(Hello(token=token(user), client_id=uuid4(), window={"conversation": 500, "message": 10}))
        await buffers.wait_full()
        buffers.widen()
        device.socket.transport.resume_reading()
        titles: list[str | None] = []
        async with asyncio.timeout(LIMIT):
            while not isinstance(frame := await device.hear(), Live):
                if isinstance(frame, Snapshot):
                    titles += [row.title for row in frame.rows if isinstance(row, Conversation)]
        assert titles == ["t" * size] * count
        assert buffers.most <= MOST + size


@both_codecs
async def test_pages_that_are_not_read_cost_one_page(
    database: Database, sql: Any, codec: Codec, buffers: Buffers
) -> None:
    user = await add_user(sql)
    await sql.execute(TITLES, user, 1_000, 3)
    conversation = await add_conversation(sql, user)
    for _ in range(30):
        await add_message(sql, conversation, "m" * 60_000)
    async with serving(database) as server, peer(server.url, codec) as device:
        await device.say(Hello(token=token(user), client_id=uuid4(), window={"conversation": 0, "message": 0}))
        await device.hear_a(Live)
        device.socket.transport.pause_reading()
        for number in range(4):
            await device.say(device.asking(number, conversation, limit=500))
        await buffers.wait_full()
        buffers.widen()
        device.socket.transport.resume_reading()
        async with asyncio.timeout(LIMIT):
            pages = [await device.hear_a(Page) for _ in range(4)]
        assert sorted(page.id for page in pages) == [0, 1, 2, 3]
        assert buffers.most <= MOST


@both_codecs
async def test_changes_that_are_not_read_cost_one_batch(
    database: Database, sql: Any, codec: Codec, buffers: Buffers
) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    async with serving(database) as server, peer(server.url, codec) as device:
        await device.greet(user)
        await device.hear_a(Live)
        device.socket.transport.pause_reading()
        for _ in range(4):
            await add_message(sql, conversation, "m" * MB)
            await sql.execute(TITLES, user, MB, 1)
        await buffers.wait_full()
        buffers.widen()
        device.socket.transport.resume_reading()
        rows = 0
        async with asyncio.timeout(LIMIT):
            while rows < 8:
                frame = await device.hear()
                rows += sum(isinstance(row, Message | Conversation) for row in getattr(frame, "rows", []))
        assert buffers.most <= MOST + MB


@both_codecs
async def test_rows_of_a_megabyte_come_by_every_way(database: Database, sql: Any, codec: Codec) -> None:
    user = await add_user(sql)
    await sql.execute(TITLES, user, MB, 3)
    conversation = await add_conversation(sql, user, "c" * MB)
    said = [await add_message(sql, conversation, str(number) * MB) for number in range(3)]
    async with serving(database) as server, peer(server.url, codec) as device:
        await device.greet(user)
        held: dict[UUID, int] = {}
        async with asyncio.timeout(LIMIT):
            while not isinstance(frame := await device.hear(), Live):
                for row in getattr(frame, "rows", []):
                    if isinstance(row, Conversation | Message):
                        held[row.id] = len((row.title if isinstance(row, Conversation) else row.content) or "")
        assert sorted(held.values()) == [MB] * 7
        assert held.keys() >= {conversation, *said}
        for where, expected in ((None, 4), (conversation, 3)):
            assert sum([len(page.rows) async for page in device.pages(where)]) == expected
