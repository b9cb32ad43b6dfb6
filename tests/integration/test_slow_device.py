"""P6: a device that does not read costs a bounded amount of memory, delays nobody, and misses nothing."""

import asyncio
import contextlib
import socket
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest
from websockets.exceptions import ConnectionClosed

from protocol.codec import MSGPACK
from protocol.frames import ID, Changes, Hello, Live, Snapshot
from tests.support.cluster import BOTH_DOORBELLS, Database
from tests.support.peer import peer
from tests.support.people import add_conversation, add_message, add_user
from tests.support.serving import ServerProcess, serving, token
from tests.support.waiting import eventually

pytestmark = pytest.mark.shared_database

CHANGES = 50_000
CONTENT = 200
ALLOWED = 4 * 1024 * 1024
"""Bytes: both kernel buffers, our own, one batch, and the noise of an allocator; the changes themselves are 15 MB."""


async def away_and_behind(server_url: str, sql: Any) -> tuple[UUID, bytes]:
    """A user with a device's cursor, and 50,000 changes after it."""
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    async with peer(server_url) as device:
        await device.greet(user)
        await device.hear_a(Live)
        assert device.cursor is not None
        cursor = device.cursor
    for _ in range(10):
        await sql.execute(
            "INSERT INTO messages (conversation_id, role, content) SELECT $1, 'user', repeat('x', $2) "
            "FROM generate_series(1, $3)",
            conversation,
            CONTENT,
            CHANGES // 10,
        )
    return user, cursor


@BOTH_DOORBELLS
async def test_a_device_that_stops_reading_costs_only_its_buffers_and_then_gets_everything(
    database: Database, sql: Any
) -> None:
    other = await add_user(sql)
    others_conversation = await add_conversation(sql, other)
    async with ServerProcess(database.server_url) as server, peer(server.url) as bystander:
        await bystander.greet(other)
        await bystander.hear_a(Live)
        user, cursor = await away_and_behind(server.url, sql)
        assert server.process is not None
        process = psutil.Process(server.process.pid)
        before = process.memory_info().rss
        async with peer(server.url, max_queue=1) as slow:
            hello = Hello(token=token(user), client_id=uuid4(), cursor=cursor)
            await slow.say(hello)
            # Nobody reads on the slow connection; the others are served as ever, again and again.
            for i in range(20):
                message = await add_message(sql, others_conversation, f"to a reader {i}")
                assert [row[ID] for row in (await bystander.hear_a(Changes)).rows] == [message]
            assert process.memory_info().rss - before < ALLOWED
            assert len(await slow.rows_until_live()) == CHANGES
            assert process.memory_info().rss - before < ALLOWED


async def test_a_device_that_never_reads_again_is_dropped_and_resumes_later(database: Database, sql: Any) -> None:
    async with serving(database, write_deadline=1.0) as server:
        user, cursor = await away_and_behind(server.url, sql)
        reader, writer = await _raw_hello(server.port, user, cursor)
        loop = asyncio.get_running_loop()
        # Its socket is reset while it reads nothing: what tells is an error when it sends.
        async with asyncio.timeout(20):
            with contextlib.suppress(OSError):
                while not reader.at_eof() and reader.exception() is None:
                    writer.write(b"\x8a\x80\x00\x00\x00\x00")  # a pong, masked, empty
                    await writer.drain()
                    await asyncio.sleep(0.05)
        writer.transport.abort()
        assert loop.is_running()
        async with peer(server.url) as device:
            welcome = await device.greet(user, cursor)
            assert welcome.mode == "resumed"
            assert len(await device.rows_until_live()) == CHANGES


async def _raw_hello(port: int, user: UUID, cursor: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Say hello on a connection with small buffers that nobody reads from."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    sock.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    writer.write(
        b"GET /sync HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads and writes
    payload = MSGPACK.encode(Hello(token=token(user), client_id=uuid4(), cursor=cursor))
    # A masked frame with a mask of zeros.
    writer.write(b"\x82" + bytes([0x80 | 126]) + len(payload).to_bytes(2, "big") + bytes(4) + payload)
    return reader, writer


async def test_a_slow_device_in_the_middle_of_a_snapshot_gets_all_of_it(database: Database, sql: Any) -> None:
    user = await add_user(sql)
    for i in range(60):
        conversation = await add_conversation(sql, user, f"conversation {i}")
        await sql.execute(
            "INSERT INTO messages (conversation_id, role, content) SELECT $1, 'user', repeat('y', 2000) "
            "FROM generate_series(1, 50)",
            conversation,
        )
    async with serving(database) as server, peer(server.url, max_queue=1) as slow:
        await slow.say(Hello(token=token(user), client_id=uuid4()))
        # What is committed while it does not read comes after the snapshot.
        late = await add_message(sql, conversation, "late")
        frames = await slow.hear_until(Live)
        snapshot = [row for frame in frames if isinstance(frame, Snapshot) for row in frame.rows]
        changes = [row for frame in frames if isinstance(frame, Changes) for row in frame.rows]
        held = {row[ID] for row in snapshot}
        assert len(held - {late}) == 1 + 50 + 50 * 50 - (late in {row[ID] for row in snapshot})
        assert late in {row[ID] for row in (*snapshot, *changes)}


async def test_a_peer_that_floods_pings_and_reads_no_pongs_is_not_listened_to(database: Database, sql: Any) -> None:
    user = await add_user(sql)
    async with serving(database, write_deadline=1.0) as server:
        reader, writer = await _raw_hello(server.port, user, b"")
        ping = b"\x82\x88\x00\x00\x00\x00\x81\xa1t\xa4ping"
        async with asyncio.timeout(20):
            with contextlib.suppress(OSError, ConnectionClosed):
                while reader.exception() is None:
                    writer.write(ping * 1_000)
                    await writer.drain()
        writer.transport.abort()

        async def gone() -> bool:
            async with peer(server.url) as other:
                await other.greet(user)
                return True

        assert await eventually(gone)
