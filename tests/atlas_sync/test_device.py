"""A device against a fake server: connecting, resuming, tokens, pages, stopping."""

import asyncio
import socket
import ssl
import time
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, closing
from itertools import chain, repeat
from pathlib import Path
from typing import Any
from uuid import UUID

import msgpack
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.frames import Close, Frame, Opcode

from atlas_sync import connection, websocket
from atlas_sync import device as device_module
from atlas_sync.checks import ProtocolError
from atlas_sync.comeback import next_step
from atlas_sync.connection import PageError
from atlas_sync.device import Device, Status, StayAway
from atlas_sync.outbox import Outbox
from atlas_sync.reason import Reason, SilentError, reason_of
from atlas_sync.session import Batch, ErrorAnswer, Refreshed
from atlas_sync.storage import SqliteStorage
from tests.atlas_sync.chat_rows import message_row
from tests.support.fake_server import (
    CHAT,
    CONVERSATION,
    DEVICE,
    K0,
    K1,
    K2,
    MESSAGE,
    NOW,
    SECOND,
    USER,
    Always,
    FakeServer,
    ServerEnd,
    Watched,
    running,
    soon,
    token_of,
    until,
)

pytestmark = pytest.mark.usefixtures("no_task_is_left")


async def ends(device: Device) -> None:
    """Wait until the device ends by itself."""
    await soon(device.run())


# ---- Staying in step -----------------------------------------------------------------------------------------------


async def test_a_device_catches_up_and_reports_that_it_is_live(server: FakeServer) -> None:
    async with running(server.url) as watched:
        device = watched.device
        assert device.status is Status.OFFLINE
        peer = await server.next()
        hello = await peer.welcome()
        assert (hello["client_id"], hello["cursor"], hello["token"]) == (DEVICE.bytes, K0, token_of("token 1"))
        row = ["m", 7, MESSAGE.bytes, CONVERSATION.bytes, "user", "é", 1, 2]
        await peer.changes(K0, K1, row)
        await peer.live(K1)
        await soon(device.wait_live(5))
        assert watched.batches == [
            Batch((message_row(7, MESSAGE, CONVERSATION, "user", "é", 1, 2),), K1, replaces=False, partial=False)
        ]
        assert device.cursor == K1
    assert watched.statuses == [Status.CONNECTING, Status.CATCHING_UP, Status.LIVE, Status.OFFLINE]
    assert await peer.closed() == 1000


async def test_a_device_may_use_json(server: FakeServer) -> None:
    async with running(server.url, encoding="json", cursor=None) as watched:
        peer = await server.next()
        assert peer.json
        await peer.welcome()
        await peer.send("snapshot", as_of=1, rows=[], cursor="azE=")
        await peer.live("azE=")
        await watched.device.wait_live(5)
        assert watched.device.cursor == K1


@pytest.mark.parametrize("how", ["cut", "closed", "closed with a code never seen"])
async def test_a_device_resumes_with_its_cursor(server: FakeServer, how: str) -> None:
    async with running(server.url) as watched:
        peer = await server.next()
        await peer.welcome()
        await peer.changes(K0, K1)
        await until(lambda: watched.device.cursor == K1)
        if how == "cut":
            peer.cut()
        else:
            await peer.socket.close(1012 if how == "closed" else 4099)
        peer = await server.next()
        assert (await peer.welcome())["cursor"] == K1
        await peer.changes(K1, K2)
        await until(lambda: watched.device.cursor == K2)
    assert [batch.cursor for batch in watched.batches] == [K1, K2]


async def test_a_batch_right_before_the_close_is_neither_lost_nor_repeated(server: FakeServer) -> None:
    async with running(server.url) as watched:
        peer = await server.next()
        await peer.welcome()
        await peer.changes(K0, K1)
        await peer.changes(K1, K2)
        await peer.error("going_away", 4000)
        assert (await (await server.next()).welcome())["cursor"] == K2
    assert [batch.cursor for batch in watched.batches] == [K1, K2]


async def test_the_cursor_moves_only_when_the_batch_is_stored(server: FakeServer) -> None:
    stored, begun = asyncio.Event(), asyncio.Event()

    async def store(batch: Batch) -> None:
        begun.set()
        await stored.wait()

    async with running(server.url, on_batch=store) as watched:
        peer = await server.next()
        await peer.welcome()
        await peer.changes(K0, K1)
        await soon(begun.wait())
        assert watched.device.cursor == K0
        peer.cut()
        stored.set()
        assert (await (await server.next()).welcome())["cursor"] == K1


async def test_a_failing_on_batch_ends_the_run_and_the_cursor_stays(server: FakeServer) -> None:
    # Also of types that the network raises: the device must not take them for its own.
    for failure in (ValueError("disk"), TimeoutError("disk"), ConnectionClosedError(None, None), ProtocolError("app")):

        def store(batch: Batch, failure: Exception = failure) -> None:
            raise failure

        watched = Watched(server.url, on_batch=store)
        run = asyncio.create_task(watched.device.run())
        peer = await server.next()
        await peer.welcome()
        await peer.changes(K0, K1)
        with pytest.raises(type(failure)) as raised:
            await soon(run)
        assert raised.value is failure
        assert (watched.device.cursor, watched.device.status) == (K0, Status.OFFLINE)
        assert await peer.closed() == 1000


async def test_an_interrupted_snapshot_starts_over_without_a_cursor(server: FakeServer) -> None:
    async with running(server.url) as watched:
        peer = await server.next()
        await peer.welcome(mode="snapshot", why="too_old")
        await peer.send("snapshot", as_of=1, rows=[])
        await until(lambda: watched.batches)
        peer.cut()
        peer = await server.next()
        assert (await peer.welcome())["cursor"] is None
        await peer.send("snapshot", as_of=2, rows=[])
        await peer.send("snapshot", as_of=2, rows=[], cursor=K1)
        await until(lambda: watched.device.cursor == K1)
    assert [(batch.replaces, batch.cursor) for batch in watched.batches] == [(True, None), (True, None), (False, K1)]


async def test_a_slow_app_holds_the_server_back(server: FakeServer) -> None:
    stored = asyncio.Event()
    async with running(server.url, on_batch=lambda batch: stored.wait()) as watched:
        peer = await server.next()
        await peer.welcome()
        sent = 0

        async def send_much() -> None:
            nonlocal sent
            for _ in range(100):
                await peer.changes(K0, K0, ["m", 1, MESSAGE.bytes, CONVERSATION.bytes, "user", "x" * 250_000, 1, 2])
                sent += 1

        sending = asyncio.create_task(send_much())
        unchanged, last = 0, -1
        while unchanged < 20:  # it stands still
            unchanged, last = (unchanged + 1, last) if sent == last else (0, sent)
            await asyncio.sleep(0.01)
        assert sent < 60  # of 25 MB the kernel holds some, and the device little
        assert len(watched.batches) == 0
        stored.set()
        await soon(sending)


# ---- Obeying -------------------------------------------------------------------------------------------------------


async def test_a_device_waits_for_the_delay_that_the_server_advised(server: FakeServer) -> None:
    loop = asyncio.get_running_loop()
    async with running(server.url):
        peer = await server.next()
        await peer.welcome()
        await peer.error("going_away", 4000, retry_after=150)
        closed = loop.time()
        await server.next()
        assert loop.time() - closed > 0.13


async def test_the_delay_of_an_error_without_a_close_does_not_delay_reconnecting(server: FakeServer) -> None:
    async with running(server.url):
        peer = await server.next()
        await peer.error("unavailable", answers="hello", retry_after=60_000)
        peer.cut()
        peer = await server.next()
        await peer.welcome()
        await peer.error("going_away", retry_after=60_000)
        await peer.send("pong")  # it stayed after all
        peer.cut()
        await server.next()


async def test_the_life_of_a_connection_counts_from_its_opening_not_from_its_welcome(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []

    def spy(code: int | None, words: ErrorAnswer | None, attempt: int, lasted: float, rnd: float) -> Any:
        told.append(lasted)
        return next_step(code, words, attempt, lasted, rnd)

    monkeypatch.setattr(device_module, "next_step", spy)
    async with running(server.url):
        peer = await server.next()
        await asyncio.sleep(0.1)
        peer.cut()
        await server.next()
    assert 0.09 < told[0] < 5


async def test_delays_grow_while_attempts_fail(server: FakeServer) -> None:
    loop = asyncio.get_running_loop()
    async with running(server.url, rng=Always(0.05)):
        peer = await server.next()
        for failed in (1, 2, 3):
            await peer.socket.close(4001)
            closed = loop.time()
            peer = await server.next()
            assert loop.time() - closed > 0.9 * 0.05 * 0.5 * 2**failed - 0.01


async def test_a_refused_token_is_replaced_and_the_cursor_kept(server: FakeServer) -> None:
    async with running(server.url) as watched:
        peer = await server.next()
        assert (await peer.receive())["token"] == token_of("token 1")
        await peer.error("token_refused", 4101, answers="hello")
        peer = await server.next()
        hello = await peer.welcome()
        assert (hello["token"], hello["cursor"]) == (token_of("token 2"), K0)
        await peer.error("token_expired", 4100)
        assert (await (await server.next()).welcome())["token"] == token_of("token 3")
        assert len(watched.tokens) == 3


async def test_a_refused_token_is_not_sent_again(server: FakeServer) -> None:
    given = iter(map(token_of, ["old", "old", "old", "new"]))

    async def token() -> str:
        return next(given)

    async with running(server.url, token=token) as watched:
        await (await server.next()).error("token_refused", 4101, answers="hello")
        peer = await server.next()
        assert (await peer.welcome())["token"] == token_of("new")
        assert isinstance(watched.device.last_error, ConnectionError)


async def test_a_lost_position_drops_the_cursor(server: FakeServer) -> None:
    async with running(server.url) as watched:
        peer = await server.next()
        await peer.welcome()
        await peer.error("position_lost", 4200)
        assert (await (await server.next()).receive())["cursor"] is None
        assert watched.device.cursor is None


@pytest.mark.parametrize("end", ["cut", "closed by a proxy"])
async def test_a_device_stays_away_although_the_announced_close_was_cut_off(server: FakeServer, end: str) -> None:
    watched = Watched(server.url)
    run = asyncio.create_task(watched.device.run())
    peer = await server.next()
    await peer.error("local_only", retryable=False)
    await until(lambda: watched.device.last_error is not None)
    if end == "cut":
        peer.cut()
    else:
        await peer.socket.close(1012)
    with pytest.raises(StayAway) as raised:
        await soon(run)
    assert (raised.value.code, raised.value.message) == (4301, "about local_only")
    assert server.peers.empty()


async def test_local_only_ends_the_run_with_stay_away(server: FakeServer) -> None:
    watched = Watched(server.url)
    run = asyncio.create_task(watched.device.run())
    peer = await server.next()
    waiting = asyncio.create_task(watched.device.wait_live(10))
    await peer.error("local_only", 4301, retryable=False)
    with pytest.raises(StayAway) as raised:
        await soon(run)
    assert (raised.value.code, raised.value.message) == (4301, "about local_only")
    assert watched.device.last_error == ErrorAnswer("local_only", "about local_only", False)
    assert (watched.device.status, watched.device.cursor) == (Status.OFFLINE, K0)
    with pytest.raises(ConnectionError):
        await waiting
    assert server.peers.empty()


@pytest.mark.parametrize(
    "frame",
    [
        {"t": "changes", "from": K2, "to": K1, "rows": []},
        {"t": "live", "cursor": K2, "seq": 1},
        {"t": "live"},
        {"t": "welcome"},
        ["live"],
    ],
    ids=repr,
)
async def test_a_broken_chain_and_a_malformed_frame_close_with_4000(server: FakeServer, frame: object) -> None:
    async with running(server.url) as watched:
        peer = await server.next()
        await peer.welcome()
        await peer.socket.send(msgpack.packb(frame))
        assert await peer.closed() == 4000
        assert isinstance(watched.device.last_error, ProtocolError)
        assert (await (await server.next()).welcome())["cursor"] == K0
    assert watched.batches == []


async def test_a_device_waits_for_a_server_that_is_not_there_yet() -> None:
    fake = FakeServer()
    await fake.start()
    port = int(fake.url.split(":")[2].split("/")[0])
    await fake.stop()
    async with running(fake.url) as watched:
        await until(lambda: isinstance(watched.device.last_error, OSError))
        await fake.start(port)
        await (await fake.next()).welcome()
        await until(lambda: watched.device.status is Status.CATCHING_UP)
    await fake.stop()


async def test_a_server_that_answers_with_http_is_tried_again(server: FakeServer) -> None:
    answers = Counter[str]()

    def unavailable(connection: ServerConnection, request: Any) -> Any:
        answers[request.path] += 1
        return connection.respond(503, "not yet")

    refusing = await serve(server.handle, "127.0.0.1", 0, process_request=unavailable)
    port = next(iter(refusing.sockets)).getsockname()[1]
    async with running(f"ws://127.0.0.1:{port}/sync"):
        await until(lambda: answers["/sync"] >= 3)
    refusing.close()
    await refusing.wait_closed()


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (404, "http_404", "answered 404: check the path, which is /sync"),
        (403, "http_403", "answered 403: look at the server's ATLAS_ALLOWED_ORIGINS"),
        (502, "http_502", "answered 502: it is tried again"),
        (401, "http_401", "answered 401, not as Atlas Sync does: check the address"),
    ],
)
async def test_a_server_that_opens_no_websocket_is_a_reason_with_what_to_do(
    server: FakeServer, status: int, code: str, says: str
) -> None:
    refusing = await serve(
        server.handle, "127.0.0.1", 0, process_request=lambda connection, _: connection.respond(status, "")
    )
    port = next(iter(refusing.sockets)).getsockname()[1]
    async with running(f"ws://127.0.0.1:{port}/wrong?key=secret", rng=Always(1.0)) as watched:
        await until(lambda: watched.device.reason is not None and watched.device.retry_at is not None)
        where = f"ws://127.0.0.1:{port}/wrong"
        assert watched.device.reason is not None
        assert watched.device.reason.code == code
        assert watched.device.reason.message.startswith(f"the server at {where} {says}")
        assert watched.device.retry_at is not None
        assert abs(watched.device.retry_at - time.time()) < 60
        assert watched.statuses == [Status.CONNECTING, Status.OFFLINE]
    refusing.close()
    await refusing.wait_closed()


async def test_a_port_at_which_nothing_listens_is_a_reason_and_a_connection_ends_it() -> None:
    fake = FakeServer()
    await fake.start()
    port = int(fake.url.split(":")[2].split("/")[0])
    await fake.stop()
    async with running(fake.url) as watched:
        await until(lambda: watched.device.reason is not None)
        says = f"nothing listens at {fake.url}: start the server, or check the port"
        assert watched.device.reason == Reason("unreachable", says)
        await fake.start(port)
        await (await fake.next()).welcome()
        await until(lambda: watched.device.status is Status.CATCHING_UP)
        now: tuple[object, object] = (watched.device.reason, watched.device.retry_at)
        assert now == (None, None)
    await fake.stop()


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ErrorAnswer("token_refused", "m", True, "hello"), "token_refused", "token() must return one that"),
        (ErrorAnswer("new_code", "Said by the server.", True), "new_code", "Said by the server."),
        (ProtocolError("from: not ours"), "ProtocolError", "the server broke the protocol (from: not ours)"),
        (ConnectionClosed(None, None), "cut", "the connection was cut: it is tried again"),
        (ConnectionClosed(Close(4099, ""), None), "closed", "(4099): it is tried again"),
        (ConnectionClosed(Close(4199, ""), None), "closed", "another token (4199)"),
        (ConnectionClosed(Close(4299, ""), None), "closed", "fetches everything anew"),
        (ConnectionClosed(Close(4399, ""), None), "closed", "stay away (4399)"),
        (SilentError(), "silent", "a new connection is made"),
        (TimeoutError(), "unreachable", "nothing answers at ws://here/sync: check the address and firewalls"),
        (socket.gaierror(-2, "?"), "unreachable", "there is no such host at ws://here/sync"),
        (ssl.SSLError(1, "WRONG_VERSION_NUMBER"), "tls", "mend the server's certificate"),
        (OSError(113, "No route"), "unreachable", "cannot be reached ([Errno 113] No route): check the address"),
    ],
)
def test_each_trouble_is_one_sentence(error: ErrorAnswer | Exception, code: str, says: str) -> None:
    reason = reason_of(error, "ws://me:secret@here/sync?key=secret")
    assert reason is not None
    assert reason.code == code
    assert says in reason.message
    assert "secret" not in reason.message


@pytest.mark.parametrize("frame", ["push", "page", "stop"])
def test_what_is_put_off_is_no_reason_to_be_without_a_connection(frame: str) -> None:
    assert reason_of(ErrorAnswer("slow_down", "m", True, frame), "ws://here/sync") is None


# ---- Silence -------------------------------------------------------------------------------------------------------


async def test_silence_for_twice_the_keepalive_ends_the_connection(server: FakeServer) -> None:
    loop = asyncio.get_running_loop()
    async with running(server.url) as watched:
        peer = await server.next()
        await peer.welcome(keepalive=50)
        await peer.live(K0)
        spoke = loop.time()
        again = await server.next()
        assert 0.09 < loop.time() - spoke < 0.8
        assert await peer.closed() == 1006  # cut: there is nobody to close with
        assert isinstance(watched.device.last_error, TimeoutError)
        assert (await again.welcome())["cursor"] == K0


async def test_heartbeats_and_a_slow_app_do_not_count_as_silence(server: FakeServer) -> None:
    async def store(batch: Batch) -> None:
        await asyncio.sleep(0.5)  # more than twice what would be silence

    async with running(server.url, on_batch=store) as watched:
        peer = await server.next()
        await peer.welcome(keepalive=100)
        for _ in range(8):
            await peer.live(K0)
            await asyncio.sleep(0.06)
        await peer.changes(K0, K1)
        await until(lambda: watched.device.cursor == K1)
        await peer.live(K1)
        assert server.peers.empty()
        assert watched.device.last_error is None


async def test_a_large_frame_on_a_slow_network_does_not_count_as_silence(server: FakeServer) -> None:
    async with running(server.url) as watched:
        peer = await server.next()
        await peer.welcome(keepalive=100)
        message = ["m", 7, MESSAGE.bytes, CONVERSATION.bytes, "user", "x" * 10_000, 1, 2]
        frame = msgpack.packb({"t": "changes", "from": K0, "to": K1, "rows": [message]})
        data = Frame(Opcode.BINARY, frame).serialize(mask=False)
        for start in range(0, len(data), 1000):
            peer.socket.transport.write(data[start : start + 1000])
            await asyncio.sleep(0.05)
        await until(lambda: watched.device.cursor == K1)
        assert server.peers.empty()


async def test_a_connection_without_a_welcome_is_ended(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "WELCOME_WITHIN", 0.2)
    async with running(server.url) as watched:
        first = await server.next()
        for n in range(6):  # while it says why, or anything at all, it is waited for
            await (first.send("pong") if n % 2 else first.error("unavailable", answers="hello"))
            await asyncio.sleep(0.06)
        assert server.peers.empty()
        await server.next()
        assert isinstance(watched.device.last_error, TimeoutError)


# ---- Tokens --------------------------------------------------------------------------------------------------------


async def test_a_token_is_refreshed_on_the_open_connection_shortly_before_its_end(server: FakeServer) -> None:
    loop = asyncio.get_running_loop()
    async with running(server.url) as watched:
        peer = await server.next()
        await peer.welcome(expires=NOW + SECOND)
        welcomed = loop.time()
        assert await peer.receive() == {"t": "refresh", "token": token_of("token 2")}
        assert 0.75 < loop.time() - welcomed < 1.0
        await peer.send("refreshed", expires=NOW + 3600 * SECOND)
        await until(lambda: Refreshed(NOW + 3600 * SECOND) in watched.events)
        assert len(watched.tokens) == 2


async def test_a_refused_refresh_is_tried_again_with_another_token(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "refresh_after", lambda left: 0.02 if left < 3000 else left)
    monkeypatch.setattr(connection, "REFRESH_AGAIN_AFTER", 0.02)
    given = map(token_of, chain(["a", "a", "b", "b"], repeat("c")))
    async with running(server.url, token=lambda: next(given)):
        peer = await server.next()
        await peer.welcome(expires=NOW + 600 * SECOND)
        assert await peer.receive() == {"t": "refresh", "token": token_of("b")}  # the second "a" is known to the server
        await peer.error("token_refused", answers="refresh")
        assert await peer.receive() == {"t": "refresh", "token": token_of("c")}
        await peer.send("refreshed", expires=NOW + 3600 * SECOND)
        await peer.live(K0)
        assert server.peers.empty()


async def test_a_refresh_waits_for_its_answer_and_the_next_one_for_the_advised_delay(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "refresh_after", lambda left: 0.01)
    monkeypatch.setattr(connection, "REFRESH_AGAIN_AFTER", 0.01)
    loop = asyncio.get_running_loop()
    async with running(server.url) as watched:
        peer = await server.next()
        await peer.welcome()
        assert await peer.receive() == {"t": "refresh", "token": token_of("token 2")}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await peer.socket.recv()
        assert len(watched.tokens) == 2
        await peer.error("token_refused", answers="refresh", retry_after=150)
        told = loop.time()
        assert await peer.receive() == {"t": "refresh", "token": token_of("token 3")}
        assert loop.time() - told > 0.13


async def test_an_app_that_returns_the_old_token_is_asked_again_after_a_pause(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "refresh_after", lambda left: 0.0)
    monkeypatch.setattr(connection, "REFRESH_AGAIN_AFTER", 0.05)
    calls = 0

    def token() -> str:
        nonlocal calls
        calls += 1
        return token_of("old" if calls < 4 else "new")

    async with running(server.url, token=token):
        peer = await server.next()
        await peer.welcome()
        welcomed = asyncio.get_running_loop().time()
        assert (await peer.receive())["token"] == token_of("new")
        assert asyncio.get_running_loop().time() - welcomed > 0.08
        assert calls == 4


async def test_a_token_whose_refresh_closed_the_connection_is_not_used_again(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "refresh_after", lambda left: 0.01)
    given = iter(map(token_of, ["first", "second", "second", "first"]))
    async with running(server.url, token=lambda: next(given)):
        peer = await server.next()
        await peer.welcome()
        assert (await peer.receive())["token"] == token_of("second")
        await peer.error("token_refused", 4101, answers="refresh")
        assert (await (await server.next()).receive())["token"] == token_of("first")
        assert next(given, None) is None


async def test_a_device_without_a_token_for_now_tries_again(server: FakeServer) -> None:
    answers: Iterator[str | Exception] = iter(
        [OSError("no network"), token_of("a"), ConnectionError("no network"), token_of("b")]
    )

    async def token() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with running(server.url, token=token) as watched:
        peer = await server.next()
        assert watched.device.reason == Reason("no_token", "token() failed (no network): it is asked again")
        await peer.welcome(expires=NOW + SECOND // 5)
        await until(lambda: isinstance(watched.device.last_error, ConnectionError))
        await peer.error("token_expired", 4100)
        assert (await (await server.next()).receive())["token"] == token_of("b")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (token_of("another's", sub=str(UUID(int=0xDEF))), "another user's token"),
        (token_of("a UUID in another form", sub=USER.hex), "another user's token"),
        (token_of("no text", sub=1), "cannot be read"),
        (token_of("nobody's", sub=None), "cannot be read"),
        ("opaque", "cannot be read"),
        ("v4.local.opaque", "cannot be read"),
        ("", "cannot be read"),
        (f"header.{urlsafe_b64encode(b'[1]').decode()}.list", "cannot be read"),
        (f"header.{urlsafe_b64encode(b'{}').decode()}.empty", "cannot be read"),
        (f"header.{urlsafe_b64encode(bytes([255])).decode()}.bytes", "cannot be read"),
    ],
)
async def test_a_token_of_another_or_an_unknown_user_is_never_sent(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, wrong: str, words: str
) -> None:
    monkeypatch.setattr(connection, "refresh_after", lambda left: 0.01)
    monkeypatch.setattr(connection, "REFRESH_AGAIN_AFTER", 0.01)
    mine = token_of("a", sub=str(USER).upper())
    given = chain([wrong, wrong, mine, wrong, wrong], repeat(token_of("b")))
    errors: list[str] = []

    def token() -> str:
        errors.append(str(watched.device.last_error))
        return next(given)

    async with running(server.url, token=token) as watched:
        peer = await server.next()
        assert (await peer.welcome())["token"] == mine
        assert await peer.receive() == {"t": "refresh", "token": token_of("b")}
        assert [words in error for error in errors] == [False, True, True, True, True, True]
        assert server.peers.empty()


async def test_a_connection_that_ends_before_the_handshake_is_sent_is_tried_again(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that dies between accepting the connection and reading from it."""
    real, closed = vars(websocket)["connect"], [ConnectionClosedError(None, None)] * 2

    async def connect(url: str, **options: Any) -> Any:
        if closed:
            raise closed.pop()
        return await real(url, **options)

    monkeypatch.setattr(websocket, "connect", connect)
    async with running(server.url) as watched:
        await (await server.next()).welcome()
        assert isinstance(watched.device.last_error, ConnectionError)


def test_a_device_refuses_the_outbox_of_another_user(tmp_path: Path) -> None:
    with closing(SqliteStorage(tmp_path / "outbox.db", USER)) as storage:
        outbox = Outbox(storage, CHAT)
        Watched("ws://127.0.0.1:9/", outbox=outbox, client_id=outbox.client_id)
        with pytest.raises(ValueError, match="another user's"):
            Watched("ws://127.0.0.1:9/", outbox=outbox, client_id=outbox.client_id, user=UUID(int=0xDEF))


@pytest.mark.parametrize("call", [1, 2], ids=["before a connection", "on the living one"])
async def test_an_exception_of_the_token_function_ends_the_run(server: FakeServer, call: int) -> None:
    calls = 0

    def token() -> str:
        nonlocal calls
        calls += 1
        if calls == call:
            raise ZeroDivisionError
        return token_of("a")

    watched = Watched(server.url, token=token)
    run = asyncio.create_task(watched.device.run())
    if call == 2:
        peer = await server.next()
        await peer.welcome(expires=NOW + SECOND // 10)
        assert await peer.closed() == 1000
    with pytest.raises(ZeroDivisionError):
        await soon(run)


# ---- Pages ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def live(server: FakeServer, **options: Any) -> AsyncIterator[tuple[Device, ServerEnd]]:
    async with running(server.url, **options) as watched:
        peer = await server.next()
        await peer.welcome()
        await peer.live(K0)
        await watched.device.wait_live(5)
        yield watched.device, peer


def asked(page: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.create_task(page)


async def test_each_caller_gets_its_page_whatever_the_order_of_the_answers(server: FakeServer) -> None:
    async with live(server) as (device, peer):
        one = asked(device.page("conversation"))
        first = await peer.receive()
        two = asked(device.page("message", CONVERSATION, (5, MESSAGE), 7))
        second = await peer.receive()
        assert first == {"t": "page", "id": first["id"], "kind": "conversation", "limit": 50}
        assert (second["kind"], second["parent"], second["before"], second["limit"]) == (
            "message",
            CONVERSATION.bytes,
            [5, MESSAGE.bytes],
            7,
        )
        await peer.send("page", id=second["id"], as_of=9, rows=[], more=False)
        await peer.send("page", id=first["id"], as_of=8, rows=[], more=True)
        assert ((await soon(one)).as_of, (await soon(two)).as_of) == (8, 9)


async def test_a_page_beyond_the_permitted_number_waits_for_an_answer(server: FakeServer) -> None:
    async with live(server) as (device, peer):
        pages = [asked(device.page("conversation")) for _ in range(3)]
        ids = [(await peer.receive())["id"] for _ in range(2)]
        with pytest.raises(TimeoutError):
            await device.page("conversation", timeout=0.05)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await peer.socket.recv()
        await peer.send("page", id=ids[1], as_of=9, rows=[], more=False)
        ids.append((await peer.receive())["id"])
        for page_id in (ids[0], ids[2]):
            await peer.send("page", id=page_id, as_of=9, rows=[], more=False)
        await soon(asyncio.gather(*pages))


async def test_an_error_to_a_page_raises_and_unavailable_does_not(server: FakeServer) -> None:
    async with live(server) as (device, peer):
        page = asked(device.page("conversation"))
        page_id = (await peer.receive())["id"]
        await peer.error("unavailable", answers="page", id=page_id)
        await peer.error("too_many_pages", answers="page", id=page_id, retry_after=5)
        with pytest.raises(PageError) as raised:
            await soon(page)
        refusal = raised.value.answer
        assert (refusal.code, refusal.retryable, refusal.retry_after_ms) == ("too_many_pages", True, 5)


async def test_a_page_raises_when_its_connection_ends(server: FakeServer) -> None:
    async with live(server) as (device, peer):
        page = asked(device.page("conversation"))
        await peer.receive()
        peer.cut()
        with pytest.raises(ConnectionError):
            await soon(page)
        await (await server.next()).welcome()
        await until(lambda: device.status is Status.CATCHING_UP)
    with pytest.raises(ConnectionError):
        await device.page("conversation")


async def test_a_page_after_its_timeout_is_dropped(server: FakeServer) -> None:
    async with live(server) as (device, peer):
        with pytest.raises(TimeoutError):
            await device.page("conversation", timeout=0.05)
        await peer.send("page", id=(await peer.receive())["id"], as_of=9, rows=[], more=False)
        await peer.changes(K0, K1)
        await until(lambda: device.cursor == K1)


async def test_a_page_waits_for_the_end_of_the_snapshot(server: FakeServer) -> None:
    async with running(server.url, cursor=None) as watched:
        peer = await server.next()
        await peer.welcome()
        await until(lambda: watched.device.status is Status.CATCHING_UP)
        page = asked(watched.device.page("conversation"))
        await peer.send("snapshot", as_of=1, rows=[], cursor=K1)
        await peer.send("page", id=(await peer.receive())["id"], as_of=9, rows=[], more=False)
        await soon(page)


# ---- Ending --------------------------------------------------------------------------------------------------------


async def test_stop_ends_every_wait_of_a_device(server: FakeServer) -> None:
    never = asyncio.Event()

    async def hanging_token() -> str:
        await never.wait()
        return ""

    async with running(server.url, token=hanging_token) as watched:
        await until(lambda: watched.device.status is Status.CONNECTING)
    async with running("ws://127.0.0.1:9/", rng=Always(1.0)) as watched:
        await until(lambda: watched.device.last_error)  # now it waits to come back
    async with running(server.url):
        await server.next()  # now it waits for a welcome


async def test_stop_waits_for_the_batch_that_is_being_stored(server: FakeServer) -> None:
    stored, begun = asyncio.Event(), asyncio.Event()

    async def store(batch: Batch) -> None:
        begun.set()
        await stored.wait()

    watched = Watched(server.url, on_batch=store)
    run = asyncio.create_task(watched.device.run())
    peer = await server.next()
    await peer.welcome()
    await peer.changes(K0, K1)
    await soon(begun.wait())
    stop = asyncio.create_task(watched.device.stop())
    await asyncio.sleep(0)
    stored.set()
    await soon(asyncio.gather(stop, run))
    assert watched.device.cursor == K1


async def test_a_device_may_be_stopped_from_within_and_before_it_runs(server: FakeServer) -> None:
    async def store(batch: Batch) -> None:
        await watched.device.stop()

    watched = Watched(server.url, on_batch=store)
    run = asyncio.create_task(watched.device.run())
    peer = await server.next()
    await peer.welcome()
    await peer.changes(K0, K1)
    await soon(run)
    assert watched.device.cursor == K1
    with pytest.raises(RuntimeError):
        await watched.device.run()
    stopped = Watched(server.url)
    await stopped.device.stop()
    await ends(stopped.device)
    assert stopped.tokens == []


async def test_cancelling_the_run_closes_the_connection(server: FakeServer) -> None:
    watched = Watched(server.url)
    run = asyncio.create_task(watched.device.run())
    peer = await server.next()
    await peer.welcome()
    await peer.live(K0)
    await watched.device.wait_live(5)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(run)
    assert await peer.closed() == 1000
    assert watched.device.status is Status.OFFLINE


async def test_a_device_waits_only_briefly_for_the_answer_to_its_close(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(websocket, "CLOSE_WITHIN", 0.3)
    async with live(server) as (device, peer):
        peer.socket.transport.pause_reading()
        began = loop.time()
        stop = asyncio.create_task(device.stop())
        await until(lambda: device.status is Status.OFFLINE)
        assert loop.time() - began < 0.2  # said at once, not when the socket is gone
        await soon(stop)
        assert loop.time() - began < 2
    peer.cut()


async def test_a_device_with_unread_frames_closes_properly_and_at_once(server: FakeServer) -> None:
    loop = asyncio.get_running_loop()
    full = asyncio.Event()

    async def store(batch: Batch) -> None:
        await full.wait()
        raise ValueError("disk")

    watched = Watched(server.url, on_batch=store)
    run = asyncio.create_task(watched.device.run())
    peer = await server.next()
    await peer.welcome()
    for _ in range(3 * websocket.FRAMES_AHEAD):
        await peer.changes(K0, K0, ["m", 1, MESSAGE.bytes, CONVERSATION.bytes, "user", "x" * 100_000, 1, 2])
    began = loop.time()
    full.set()
    with pytest.raises(ValueError):
        await soon(run)
    assert loop.time() - began < websocket.CLOSE_WITHIN / 2
    assert await peer.closed() == 1000


async def test_wait_live_times_out(server: FakeServer) -> None:
    async with running(server.url) as watched:
        with pytest.raises(TimeoutError):
            await watched.device.wait_live(0.01)


def test_a_window_or_a_cursor_out_of_bounds_is_refused_at_once() -> None:
    with pytest.raises(ValueError):
        Watched("ws://127.0.0.1:9/", window={"conversation": 501})
    with pytest.raises(ValueError):
        Watched("ws://127.0.0.1:9/", cursor=bytes(129))


async def test_the_fake_server_sees_frames_that_the_test_did_not_expect(server: FakeServer) -> None:
    """A live device sends nothing but hello without a reason."""
    async with live(server) as (_, peer):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await peer.socket.recv()
    with pytest.raises(ConnectionClosed):
        await peer.socket.recv()
