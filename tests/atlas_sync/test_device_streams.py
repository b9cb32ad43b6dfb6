"""A device that asks for streams, and stops them, against a fake server."""

import asyncio
from uuid import UUID

import pytest

from atlas_sync import Live, Replica, StreamGrew, StreamsNamed, WriteError, build_view
from atlas_sync import stop_sender as stop_sender_module
from atlas_sync.session import STOPS
from tests.support.fake_server import CHAT, CONVERSATION, K0, K1, MESSAGE, FakeServer, ServerEnd, running, soon, until

pytestmark = pytest.mark.usefixtures("no_task_is_left")

STREAM = UUID(int=0x51)


async def grow(peer: ServerEnd, offset: int, text: str, state: str = "open") -> None:
    place = {"kind": "m", "id": MESSAGE.bytes, "column": "content", "since": 20}
    await peer.send("stream", stream=STREAM.bytes, **place, offset=offset, text=text, state=state)


def message(seq: int, content: str) -> list[object]:
    return ["m", seq, MESSAGE.bytes, CONVERSATION.bytes, "assistant", content, 5, 5]


async def test_a_device_that_asks_for_streams_shows_them_until_the_row_has_arrived(server: FakeServer) -> None:
    replica = Replica(CHAT)
    shown: list[tuple[str, str | None, bool]] = []

    def see(*_: object) -> None:
        messages = build_view(replica, [], replica.streams).rows["message"].values()
        shown.extend((each.row.content, each.state, each.streaming) for each in messages)

    async with running(server.url, on_batch=replica.receive, on_stream=replica.receive, on_event=see):
        peer = await server.next()
        assert (await peer.welcome())["extras"] == ["streams"]
        await peer.changes(K0, K1, message(20, ""), seq=20)
        await peer.live(K1, 20)
        await peer.send("streams", open=[STREAM.bytes])
        await grow(peer, 0, "Hel")
        await grow(peer, 3, "lo", "done")
        await peer.changes(K1, b"k2", message(30, "Hello"), seq=30)
        await until(lambda: len(shown) == 6)
    assert shown == [
        ("", None, False),
        ("", None, False),
        ("", None, False),
        ("Hel", "open", True),
        ("Hello", "done", False),
        ("Hello", None, False),
    ]


async def test_a_device_that_does_not_ask_sends_no_extras(server: FakeServer) -> None:
    async with running(server.url):
        assert "extras" not in await (await server.next()).welcome()


async def test_what_changes_streams_is_given_in_order_and_nothing_arrives_meanwhile(server: FakeServer) -> None:
    given: list[object] = []
    release = asyncio.Event()

    async def slowly(event: object) -> None:
        given.append(event)
        await release.wait()

    async with running(server.url, on_stream=slowly):
        peer = await server.next()
        await peer.welcome()
        await peer.live(K0, 20)
        await grow(peer, 0, "Hel")
        await peer.send("streams", open=[STREAM.bytes])
        await until(lambda: given)
        assert given == [Live(K0, 20)]
        release.set()
        await until(lambda: len(given) == 3)
    assert given[1:] == [
        StreamGrew(STREAM, "message", MESSAGE, "content", 20, 0, "Hel", "open"),
        StreamsNamed(frozenset([STREAM])),
    ]


async def test_a_part_behind_the_end_of_what_this_connection_brought_breaks_the_protocol(server: FakeServer) -> None:
    async with running(server.url, on_stream=lambda event: None):
        peer = await server.next()
        await peer.welcome()
        await grow(peer, 0, "a🙂")
        await grow(peer, 3, "x")
        assert await peer.closed() == 4000
        again = await server.next()
        await again.welcome()
        await grow(again, 2, "x")
        assert await again.closed() == 4000


@pytest.mark.parametrize("found", [True, False])
async def test_a_stop_returns_what_the_server_answers(server: FakeServer, found: bool) -> None:
    async with running(server.url, on_stream=lambda event: None) as watched:
        peer = await server.next()
        await peer.welcome()
        await peer.live(K0, 20)
        stop = asyncio.create_task(watched.device.stop_stream("message", MESSAGE))
        frame = await peer.receive()
        assert (frame["t"], frame["kind"], frame["id"], "column" in frame) == ("stop", "m", MESSAGE.bytes, False)
        await peer.send("stopped", n=frame["n"], found=found)
        assert await soon(stop) is found


async def test_a_stop_of_a_column_names_it(server: FakeServer) -> None:
    async with running(server.url) as watched:
        peer = await server.next()
        await peer.welcome()
        stop = asyncio.create_task(watched.device.stop_stream("message", MESSAGE, "content"))
        frame = await peer.receive()
        assert frame["column"] == "content"
        await peer.send("stopped", n=frame["n"], found=True)
        assert await soon(stop)


async def test_a_stop_without_a_connection_is_sent_on_the_next_and_unanswered_again(server: FakeServer) -> None:
    async with running(server.url) as watched:
        first = await server.next()
        stop = asyncio.create_task(watched.device.stop_stream("message", MESSAGE))
        await first.welcome()
        before = await first.receive()
        first.cut()
        second = await server.next()
        await second.welcome()
        assert await second.receive() == before
        await second.send("stopped", n=before["n"], found=True)
        assert await soon(stop)


@pytest.mark.parametrize("code", ["unavailable", "slow_down"])
async def test_a_stop_that_cannot_be_answered_now_is_asked_again(server: FakeServer, code: str) -> None:
    async with running(server.url) as watched:
        peer = await server.next()
        await peer.welcome()
        stop = asyncio.create_task(watched.device.stop_stream("message", MESSAGE))
        frame = await peer.receive()
        await peer.error(code, answers="stop", id=frame["n"], retry_after=1)
        assert await peer.receive() == frame
        await peer.send("stopped", n=frame["n"], found=True)
        assert await soon(stop)


async def test_a_server_that_knows_no_stop_has_no_streams(server: FakeServer) -> None:
    async with running(server.url) as watched:
        peer = await server.next()
        await peer.welcome()
        for _ in range(STOPS + 1):
            stop = asyncio.create_task(watched.device.stop_stream("message", MESSAGE))
            await peer.receive()
            await peer.error("unknown_frame")
            assert not await soon(stop)


async def test_at_most_eight_stops_are_unanswered(server: FakeServer) -> None:
    async with running(server.url) as watched:
        peer = await server.next()
        await peer.welcome()
        stops = [asyncio.create_task(watched.device.stop_stream("message", UUID(int=n))) for n in range(20)]
        numbers: list[int] = []
        while len(numbers) < 8:
            numbers.append((await peer.receive())["n"])
        ninth = asyncio.create_task(peer.receive())
        done, _ = await asyncio.wait([ninth], timeout=0.05)
        assert not done
        await peer.send("stopped", n=numbers[0], found=True)
        numbers.append((await soon(ninth))["n"])
        for number in numbers[1:]:
            await peer.send("stopped", n=number, found=True)
        for _ in range(11):
            await peer.send("stopped", n=(await peer.receive())["n"], found=True)
        assert await soon(asyncio.gather(*stops)) == [True] * 20


async def test_an_answer_to_no_stop_breaks_the_protocol(server: FakeServer) -> None:
    async with running(server.url):
        peer = await server.next()
        await peer.welcome()
        await peer.send("stopped", n=5, found=True)
        assert await peer.closed() == 4000


async def test_a_stop_that_was_cancelled_is_not_repeated_and_its_answer_is_dropped(server: FakeServer) -> None:
    async with running(server.url) as watched:
        peer = await server.next()
        await peer.welcome()
        given_up = asyncio.create_task(watched.device.stop_stream("message", MESSAGE))
        frame = await peer.receive()
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        await peer.send("stopped", n=frame["n"], found=True)
        other = asyncio.create_task(watched.device.stop_stream("message", CONVERSATION))
        second = await peer.receive()
        assert second["id"] == CONVERSATION.bytes
        await peer.send("stopped", n=second["n"], found=False)
        assert await soon(other) is False


async def test_a_stop_ends_with_the_device(server: FakeServer) -> None:
    async with running(server.url) as watched:
        stop = asyncio.create_task(watched.device.stop_stream("message", MESSAGE))
        await (await server.next()).welcome()
    with pytest.raises(ConnectionError):
        await stop
    with pytest.raises(ConnectionError):
        await watched.device.stop_stream("message", MESSAGE)


async def test_a_stop_of_no_row_or_of_an_unknown_kind_is_refused_and_does_not_end_the_device(
    server: FakeServer,
) -> None:
    async with running(server.url) as watched:
        await (await server.next()).welcome()
        with pytest.raises(ValueError, match="no kind"):
            await watched.device.stop_stream("letter", MESSAGE)
        for key in (None, 5, str(MESSAGE), (MESSAGE, MESSAGE)):
            with pytest.raises(WriteError, match="id"):
                await watched.device.stop_stream("message", key)  # type: ignore[arg-type]  # a mistake of the app's
        assert not watched.device._over.is_set()


async def test_stops_wait_for_a_second_if_the_server_does_not_say_how_long(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop_sender_module, "AGAIN_AFTER", 0.01)
    async with running(server.url) as watched:
        peer = await server.next()
        await peer.welcome()
        stop = asyncio.create_task(watched.device.stop_stream("message", MESSAGE))
        frame = await peer.receive()
        await peer.error("unavailable", answers="stop", id=frame["n"])
        await peer.receive()
        await peer.send("stopped", n=frame["n"], found=True)
        assert await soon(stop)
