"""Requests that pretend: an upgrade has its whole answer, on a connection of its own, by the standard."""

import asyncio
from typing import Any

import pytest
from websockets.frames import Opcode

from protocol.codec import JSON
from protocol.frames import Hello
from tests.support.people import add_user
from tests.support.raw import framed, handshake, parsed, raw
from tests.support.serving import Running, token
from tests.support.waiting import LIMIT, eventually

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_the_answer_to_a_request_before_never_comes_within_the_websocket(server: Running) -> None:
    for before in (HEALTH, HEALTH * 3):
        async with raw(server) as one:
            await one.say(before + handshake() + framed(Opcode.PING, b""))
            said = await one.everything()
            assert said.startswith(b"HTTP/1.1 200 ")
            assert b" 101 " not in said
            assert not said.partition(b"\r\n\r\n")[2].replace(b"ok\n", b"")


async def test_an_upgrade_after_an_answered_request_is_served(server: Running) -> None:
    async with raw(server) as one:
        await one.say(HEALTH)
        await one.reader.readuntil(b"ok\n")
        await one.say(handshake())
        assert (await one.head()).startswith(b"HTTP/1.1 101 ")


async def test_frames_in_the_packet_of_the_handshake_are_heard(server: Running, sql: Any) -> None:
    user = await add_user(sql)
    hello = framed(Opcode.TEXT, JSON.encode(Hello(token=token(user), client_id=user)))
    async with raw(server) as one:
        await one.say(handshake() + hello)
        async with asyncio.timeout(LIMIT):
            await one.reader.readuntil(b'"live"')
    # As many as come: in slices, like what comes later.
    async with raw(server) as one:
        await one.say(handshake() + hello + framed(Opcode.PING, b"") * 2_000)
        assert (await one.head()).startswith(b"HTTP/1.1 101 ")
        assert parsed(await one.everything())[0] == 4004


@pytest.mark.parametrize("size", [9_600, 60_000])
async def test_headers_of_up_to_64_kib_are_served(server: Running, size: int) -> None:
    async with raw(server) as one:
        await one.say(handshake(Cookie=b"c" * size))
        assert (await one.head()).startswith(b"HTTP/1.1 101 ")


async def test_larger_headers_are_answered_and_the_log_says_why(
    server: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    async with raw(server) as one:
        await one.say(handshake(Cookie=b"c" * 200_000))
        assert (await one.everything()).startswith(b"HTTP/1.1 431 ")
    said: list[str] = []

    def logged() -> bool:
        said.append(capsys.readouterr().out)
        return any("64 KiB" in text for text in said)

    await eventually(logged)
    assert "ccc" not in "".join(said)


@pytest.mark.parametrize("version", [b"12", b"8", b"0", b"13, 8", b"x"])
async def test_another_version_of_websocket_is_told_which_one_is_spoken(server: Running, version: bytes) -> None:
    async with raw(server) as one:
        await one.say(handshake(Sec_WebSocket_Version=version))
        head = (await one.head()).lower()
        assert head.startswith(b"http/1.1 426 ")
        assert b"\r\nsec-websocket-version: 13\r\n" in head


@pytest.mark.parametrize("request_", ["upgrade", "health"])
@pytest.mark.parametrize("hosts", [0, 2])
async def test_a_request_names_its_host_once(server: Running, request_: str, hosts: int) -> None:
    lines = b"Host: a\r\n" * hosts
    upgrade = handshake(Host=None).replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\n" + lines)
    async with raw(server) as one:
        await one.say(upgrade if request_ == "upgrade" else b"GET /healthz HTTP/1.1\r\n" + lines + b"\r\n")
        assert (await one.everything()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("host", [b"Host: x\r\n", b""])
async def test_http_1_0_has_health_checks_and_no_websockets(server: Running, host: bytes) -> None:
    async with raw(server) as one:
        await one.say(b"GET /healthz HTTP/1.0\r\n" + host + b"\r\n")
        assert (await one.everything()).startswith(b"HTTP/1.1 200 ")
    async with raw(server) as one:
        await one.say(handshake(Host=None).replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\n" + host))
        answer = await one.everything()
        assert answer.split(b" ")[1] in (b"400", b"505")


async def test_requests_without_end_on_one_connection_are_refused(server: Running) -> None:
    async with raw(server) as one:
        await one.say(HEALTH * 500)
        said = await one.everything()
        assert said.count(b"HTTP/1.1 200 ") <= 10
    async with raw(server) as one:  # one after the other is no flood
        for _ in range(50):
            await one.say(HEALTH)
            async with asyncio.timeout(LIMIT):
                await one.reader.readuntil(b"ok\n")
