"""H1: frames that cost the sender nothing do not cost the others the server; and whoever is closed learns why."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.frames import Opcode

from protocol.codec import JSON, MAX_INBOUND
from protocol.frames import Hello, Live, Ping, Pong
from server.edge.connection import FRAMES_PER_SECOND, STRANGERS_FRAMES
from tests.support.cluster import Database
from tests.support.peer import Peer, peer
from tests.support.people import add_user
from tests.support.raw import Raw, framed, handshake, parsed, raw
from tests.support.serving import Running, serving, token
from tests.support.waiting import LIMIT

CHEAP = {
    "pings": framed(Opcode.PING, b""),
    "pongs": framed(Opcode.PONG, b""),
    "empty fragments": framed(Opcode.CONT, b"", fin=False),
    "fragments": framed(Opcode.CONT, b"x", fin=False),
    "app pings": framed(Opcode.TEXT, JSON.encode(Ping())),
    "unknown frames": framed(Opcode.TEXT, b'{"t":"what"}'),
}
BEGUN = {"empty fragments": framed(Opcode.TEXT, b"", fin=False), "fragments": framed(Opcode.TEXT, b"", fin=False)}


@contextlib.asynccontextmanager
async def upgraded(server: Running, hello: Hello | None) -> AsyncIterator[Raw]:
    async with raw(server) as one:
        await one.say(handshake())
        assert (await one.head()).startswith(b"HTTP/1.1 101 ")
        if hello is not None:
            await one.say(framed(Opcode.TEXT, JSON.encode(hello)))
            async with asyncio.timeout(LIMIT):
                await one.reader.readuntil(b'"live"')
                await one.reader.readuntil(b"}")
        yield one


async def still_there(device: Peer) -> None:
    await device.say(Ping())
    await device.hear_a(Pong)


async def flood(one: Raw, frame: bytes, seconds: float = LIMIT) -> None:
    """Send it again and again until the server ends the connection."""
    wave = frame * max(1, 64 * 1024 // len(frame))
    async with asyncio.timeout(seconds):
        with contextlib.suppress(ConnectionError):
            while not one.reader.at_eof():
                await one.say(wave)
                await one.reader.read(65_536)


@pytest.mark.parametrize("paid", [False, True], ids=["a stranger", "a paid user"])
@pytest.mark.parametrize("kind", CHEAP)
async def test_a_socket_that_floods_is_cut_off_and_others_are_served(
    database: Database, sql: Any, kind: str, paid: bool
) -> None:
    user = await add_user(sql)
    async with serving(database, keepalive=2.0) as server, peer(server.url) as device:
        await device.greet(await add_user(sql))
        await device.hear_a(Live)
        hello = Hello(token=token(user), client_id=user) if paid else None
        async with upgraded(server, hello) as one:
            await one.say(BEGUN.get(kind, b""))
            flooding = asyncio.create_task(flood(one, CHEAP[kind]))
            while not flooding.done():
                await still_there(device)
            await flooding


@pytest.mark.parametrize("paid", [False, True], ids=["a stranger", "a paid user"])
async def test_a_peer_that_is_cut_off_learns_why(database: Database, sql: Any, paid: bool) -> None:
    user = await add_user(sql)
    async with serving(database, keepalive=1.0) as server:
        hello = Hello(token=token(user), client_id=user) if paid else None
        async with upgraded(server, hello) as one:
            await one.say(framed(Opcode.PONG, b"") * 1_000)
            code, said = await one.closed()
    assert code == 4004
    assert (said[-1]["code"], said[-1]["retryable"]) == ("too_many_frames", True)
    assert said[-1]["retry_after"] > 0


async def test_a_peer_within_the_limit_is_not_cut_off(database: Database, sql: Any) -> None:
    """As many frames in a period as a paid user may send, and as many before the hello as anybody may."""
    user = await add_user(sql)
    async with serving(database, keepalive=4.0) as server, upgraded(server, None) as one:
        await one.say(framed(Opcode.PING, b"") * (STRANGERS_FRAMES - 1))
        await one.say(framed(Opcode.TEXT, JSON.encode(Hello(token=token(user), client_id=user))))
        async with asyncio.timeout(LIMIT):
            await one.reader.readuntil(b'"live"')
        await one.say(framed(Opcode.PING, b"") * (int(FRAMES_PER_SECOND * 4.0) - STRANGERS_FRAMES - 1))
        await one.say(framed(Opcode.TEXT, JSON.encode(Ping())))
        async with asyncio.timeout(LIMIT):
            await one.reader.readuntil(b'"pong"')


async def test_a_peer_that_sends_too_many_bytes_is_cut_off(database: Database, sql: Any) -> None:
    """Large frames stay below the number of frames."""
    user = await add_user(sql)
    async with serving(database) as server, upgraded(server, Hello(token=token(user), client_id=user)) as one:
        await flood(one, framed(Opcode.TEXT, JSON.encode(Ping()) + b" " * (MAX_INBOUND - 100)))


# ---- Ends that can be seen -----------------------------------------------------------------------------------------

VIOLATIONS = {
    "a message of 8 MB": (framed(Opcode.TEXT, bytes(8 * 1024 * 1024)), 1009),
    "no mask, and more": (framed(Opcode.TEXT, b"x", masked=False) + bytes(2 * 1024 * 1024), 1002),
    "text that is no UTF-8, and more": (framed(Opcode.TEXT, b"\xff") + framed(Opcode.TEXT, bytes(200_000)) * 10, 1007),
    "no frame of ours, and more": (framed(Opcode.TEXT, b"x") + framed(Opcode.TEXT, bytes(200_000)) * 10, 4300),
}


@pytest.mark.parametrize("what", VIOLATIONS)
async def test_a_peer_that_sends_much_after_a_violation_still_sees_the_close_code(
    database: Database, what: str
) -> None:
    data, expected = VIOLATIONS[what]
    async with serving(database) as server:
        for _ in range(10):
            async with upgraded(server, None) as one:
                await one.say(data)  # and only then look what came
                code, _ = await one.closed()
                assert code == expected


async def test_a_close_is_answered_and_the_connection_ends_from_both_sides(database: Database) -> None:
    async with serving(database) as server, upgraded(server, None) as one:
        await one.say(framed(Opcode.CLOSE, (1000).to_bytes(2, "big")))
        assert parsed(await one.everything())[0] == 1000
