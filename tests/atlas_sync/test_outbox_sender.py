"""A device sends its outbox, one push at a time, whatever happens to its connections."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from atlas_sync import clock
from atlas_sync.chat import create_message, delete_conversation, delete_message, edit_message, rename_conversation
from atlas_sync.checks import ProtocolError
from atlas_sync.codec import Encoding
from atlas_sync.device import Device, Status, StayAway
from atlas_sync.mutation import Insert, Update
from atlas_sync.outbox import EntryState, Outbox
from atlas_sync.replica import Replica
from atlas_sync.session import Acknowledged, Batch, Event, SchemaArrived
from atlas_sync.storage import MemoryStorage, SqliteStorage
from atlas_sync.view import Certainty, build_view
from tests.atlas_sync import second_schema
from tests.support.fake_server import (
    CHAT,
    K0,
    K1,
    NOW,
    SECOND,
    USER,
    Always,
    FakeServer,
    ServerEnd,
    Watched,
    running,
    soon,
    until,
)

pytestmark = pytest.mark.usefixtures("no_task_is_left")

A = UUID(int=2)


def named(n: int) -> Update:
    return rename_conversation(A, f"title {n}", n)


def array(n: int) -> list[object]:
    return ["~", "c", A.bytes, {"title": f"title {n}"}, n]


def known() -> Outbox:
    """One that has had a `welcome`: what waits in it keeps its instants."""
    outbox = Outbox(MemoryStorage(), CHAT)
    outbox.keep_time(0, NOW)
    return outbox


@asynccontextmanager
async def writer(server: FakeServer, count: int = 0, **options: Any) -> AsyncIterator[tuple[Watched, Outbox]]:
    outbox = options.pop("outbox", None) or known()
    for n in range(count):
        outbox.add(named(n))
    async with running(server.url, client_id=outbox.client_id, outbox=outbox, **options) as watched:
        yield watched, outbox


async def silent(peer: ServerEnd, seconds: float = 0.05) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await peer.socket.recv()


async def test_offline_writes_are_sent_after_the_welcome_and_not_before(server: FakeServer) -> None:
    async with writer(server, 2) as (_, outbox):
        peer = await server.next()
        hello = await peer.receive()
        assert hello["client_id"] == outbox.client_id.bytes
        await silent(peer)
        await peer.send("error", code="unavailable", message="m", retryable=True, answers="hello")
        await silent(peer)
        await welcome(peer)
        assert await peer.receive() == {"t": "push", "n": 1, "mutations": [array(0), array(1)], "held": 1}


@pytest.mark.parametrize("wrong", [3_600 * SECOND, 5 * 31_536_000 * SECOND, -16 * 31_536_000 * SECOND])
async def test_what_a_wrong_clock_dated_before_the_first_welcome_gets_the_servers_instants(
    server: FakeServer, wrong: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = NOW + wrong
    monkeypatch.setattr(clock, "now", lambda: here)
    monkeypatch.setattr(time, "time_ns", lambda: here * 1000)
    storage = SqliteStorage(tmp_path / "outbox.db", USER)
    outbox = Outbox(storage, CHAT)
    message = UUID(int=9)
    made = [here - (4 - n) * SECOND for n in range(4)]
    outbox.add(create_message(message, A, "user", "a", made[0]))
    outbox.add(edit_message(message, made[0], "b", made[1]))
    outbox.add(edit_message(UUID(int=10), 5 * SECOND, "of the server's", made[2]))
    outbox.add(delete_message(message, made[0]))
    async with running(server.url, client_id=outbox.client_id, outbox=outbox) as watched:
        peer = await server.next()
        limits = {"frame_bytes": 262_144, "page_rows": 100, "pages_in_flight": 1, "mutations": 10}
        await peer.welcome(limits=limits)
        pushed = (await peer.receive())["mutations"]
        true = [NOW - (4 - n) * SECOND for n in range(4)]
        assert [each[0] for each in pushed] == ["+", "~", "~", "-"]
        slack = SECOND  # the greeting's duration
        assert abs(pushed[0][4] - true[0]) < slack
        assert pushed[1][2] == [message.bytes, pushed[0][4]] == pushed[3][2]
        assert abs(pushed[1][4] - true[1]) < slack
        assert pushed[2][2] == [UUID(int=10).bytes, 5 * SECOND]
        assert abs(watched.device.now() - NOW) < slack
        outbox.add(named(NOW + 1))
        held = outbox.entries
    assert Outbox(storage, CHAT).entries == held
    # After a restart without a connection the clock is still corrected, and another correction moves nothing.
    device = Device(
        server.url, user=USER, token=str, client_id=outbox.client_id, outbox=outbox, on_batch=lambda batch: None
    )
    assert abs(device.now() - NOW) < slack
    outbox.keep_time(7, NOW)
    assert outbox.entries == held
    storage.close()


async def welcome(peer: ServerEnd) -> None:
    """As ServerEnd.welcome, after hello was received."""
    limits = {"frame_bytes": 262_144, "page_rows": 1000, "pages_in_flight": 2, "mutations": 3}
    times = {"time": NOW, "expires": NOW + 3600 * SECOND, "keepalive": 25_000}
    await peer.send("welcome", session="s", epoch="e", schema=CHAT.hash, mode="resumed", limits=limits, **times)


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
async def test_a_write_is_sent_at_once_and_writes_during_a_push_travel_in_the_next_one(
    server: FakeServer, encoding: Encoding
) -> None:
    async with writer(server, encoding=encoding) as (watched, outbox):
        device = watched.device
        peer = await server.next()
        await peer.welcome()
        await silent(peer)
        assert device.write(named(0)).n == 1
        assert (await peer.receive())["n"] == 1
        for n in (1, 2):
            device.write(named(n))
        outbox.add(named(3))
        await silent(peer)
        await peer.ack(["applied", 1, 9])
        push = await peer.receive()
        assert (push["n"], len(push["mutations"])) == (2, 3)
        await peer.ack(["applied", 2, 9], ["rejected", 3, "refused", "no"], ["applied", 4, 9])
        await until(
            lambda: (
                [entry.state for entry in outbox.entries]
                == [EntryState.ACKED, EntryState.ACKED, EntryState.REJECTED, EntryState.ACKED]
            )
        )
        await silent(peer)


async def test_a_push_whose_answer_was_lost_is_sent_again_on_the_next_connection(server: FakeServer) -> None:
    async with writer(server, 2) as (watched, outbox):
        peer = await server.next()
        await peer.welcome()
        first = await peer.receive()
        peer.cut()
        peer = await server.next()
        await peer.welcome()
        assert await peer.receive() == first
        watched.device.write(named(2))
        await peer.ack(["repeated", 1, 5], ["repeated", 2, 5])
        assert (await peer.receive())["n"] == 3
        await peer.ack(["applied", 3, 6])
        await peer.live(K0, 6)
        await until(lambda: outbox.entries == ())


async def test_an_own_write_is_shown_from_the_outbox_until_the_synced_rows_have_it(server: FakeServer) -> None:
    """The write may arrive through the feed before the ack or after it; on_event sees the outbox as it is then."""
    replica, standings = Replica(CHAT), list[Certainty]()

    def store(batch: Batch) -> None:
        replica.apply(batch.rows)

    def on_event(event: Event) -> None:
        if A in (shown := build_view(replica, outbox.entries).rows["conversation"]):
            assert (shown[A].row.title or "").startswith("title")
            standings.append(shown[A].certainty)

    outbox = Outbox(MemoryStorage(), CHAT)
    async with writer(server, outbox=outbox, on_batch=store, on_event=on_event) as (watched, _):
        peer = await server.next()
        await peer.welcome()
        await peer.changes(K0, K0, ["c", 1, A.bytes, "title", 1, 1], seq=1)
        await until(lambda: standings)
        for order in ("ack first", "echo first"):
            watched.device.write(named(7))
            push = await peer.receive()
            if order == "ack first":
                await peer.ack(["applied", push["n"], 8])
                await peer.changes(K0, K0, ["c", 8, A.bytes, "title 7", 1, 7], seq=8)
            else:
                await peer.changes(K0, K0, ["c", 9, A.bytes, "title 7", 1, 7], seq=9)
                await peer.ack(["applied", push["n"], 9])
            await until(lambda: outbox.entries == ())
    S, P, K = Certainty.SYNCED, Certainty.PENDING, Certainty.ACKED  # noqa: N806
    assert standings == [S, K, S, P, S]


async def test_the_position_confirms_a_write_only_after_the_batch_is_stored(server: FakeServer) -> None:
    stored, begun = asyncio.Event(), asyncio.Event()

    async def store(batch: Batch) -> None:
        begun.set()
        await stored.wait()

    async with writer(server, 1, on_batch=store) as (_, outbox):
        peer = await server.next()
        await peer.welcome()
        await peer.receive()
        await peer.ack(["applied", 1, 8])
        await peer.changes(K0, K1, seq=8)
        await soon(begun.wait())
        assert [entry.state for entry in outbox.entries] == [EntryState.ACKED]
        stored.set()
        await until(lambda: outbox.entries == ())


async def test_a_device_writes_during_a_snapshot(server: FakeServer) -> None:
    async with writer(server, 1, cursor=None) as (_, outbox):
        peer = await server.next()
        await peer.welcome()
        assert (await peer.receive())["t"] == "push"
        await peer.send("snapshot", as_of=9, rows=[])
        await peer.ack(["applied", 1, 8])
        await peer.send("snapshot", as_of=9, rows=[], cursor=K1)
        await until(lambda: outbox.entries and outbox.entries[0].state is EntryState.ACKED)
        await peer.live(K1, 9)
        await until(lambda: outbox.entries == ())


async def test_a_push_answered_with_an_error_is_sent_again_after_the_advised_delay(server: FakeServer) -> None:
    loop = asyncio.get_running_loop()
    async with writer(server, 1) as (watched, _):
        peer = await server.next()
        await peer.welcome()
        first = await peer.receive()
        await peer.error("slow_down", answers="push", id=1, retry_after=150)
        told = loop.time()
        await until(lambda: watched.device.last_error)
        watched.device.write(named(1))  # which is no reason to hurry
        again = await peer.receive()
        assert loop.time() - told > 0.13
        assert (again["n"], again["mutations"]) == (1, [*first["mutations"], array(1)])
        assert server.peers.empty()


async def test_after_a_gap_the_device_continues_with_the_expected_number(server: FakeServer) -> None:
    async with writer(server, 1) as (watched, _):
        peer = await server.next()
        await peer.welcome()
        await peer.receive()
        await peer.live(K0, 5)
        await peer.ack(["applied", 1, 5])
        watched.device.write(named(1))
        assert (await peer.receive())["n"] == 2
        await peer.error("gap", answers="push", id=2, expected=1)
        assert await peer.receive() == {"t": "push", "n": 1, "mutations": [array(1)], "held": 1}


async def test_a_device_whose_numbers_were_consumed_for_others_pushes_all_that_it_holds_above_them(
    server: FakeServer,
) -> None:
    async with writer(server, 2) as (watched, outbox):
        peer = await server.next()
        await peer.welcome()
        await peer.receive()
        await peer.ack(["applied", 1, 5], ["applied", 2, 5])
        watched.device.write(named(2))
        assert (await peer.receive())["n"] == 3
        await peer.error("gap", answers="push", id=3, expected=9)
        push = {"t": "push", "n": 9, "mutations": [array(0), array(1), array(2)], "held": 9}
        assert await peer.receive() == push
        await peer.ack(["applied", 9, 6], ["applied", 10, 6], ["applied", 11, 6])
        await peer.live(K0, 6)
        await until(lambda: outbox.entries == ())
        assert watched.device.write(named(3)).n == 12


@pytest.mark.parametrize(
    "answer",
    [
        {"t": "ack", "results": []},
        {"t": "ack", "results": [["postponed", 1, 5]]},
        {"t": "error", "code": "gap", "message": "m", "retryable": True, "answers": "push", "id": 1, "expected": 1},
    ],
    ids=str,
)
async def test_a_wrong_answer_to_a_push_closes_with_4000_and_loses_nothing(
    server: FakeServer, answer: dict[str, object]
) -> None:
    async with writer(server, 1) as (watched, _):
        peer = await server.next()
        await peer.welcome()
        first = await peer.receive()
        await peer.send(**answer)  # type: ignore[arg-type]
        assert await peer.closed() == 4000
        assert isinstance(watched.device.last_error, ProtocolError)
        peer = await server.next()
        await peer.welcome()
        assert await peer.receive() == first


async def test_an_ack_without_a_push_closes_with_4000(server: FakeServer) -> None:
    async with writer(server):
        peer = await server.next()
        await peer.welcome()
        await peer.ack(["applied", 1, 5])
        assert await peer.closed() == 4000


async def test_a_device_that_lost_its_cursor_keeps_its_writes(server: FakeServer) -> None:
    async with writer(server, 1):
        peer = await server.next()
        await peer.welcome()
        first = await peer.receive()
        await peer.error("position_lost", 4200)
        peer = await server.next()
        assert (await peer.welcome())["cursor"] is None
        assert await peer.receive() == first


async def test_a_replaced_device_stays_away_and_its_writes_stay_for_the_next_start(
    server: FakeServer, tmp_path: Path
) -> None:
    storage = SqliteStorage(tmp_path / "outbox.db", USER)
    outbox = Outbox(storage, CHAT)
    outbox.add(named(0))
    watched = Watched(server.url, client_id=outbox.client_id, outbox=outbox)
    run = asyncio.create_task(watched.device.run())
    peer = await server.next()
    await peer.welcome()
    await peer.receive()
    await peer.error("replaced", 4302, answers="push", id=1, retryable=False)
    with pytest.raises(StayAway) as raised:
        await soon(run)
    assert raised.value.code == 4302
    storage.close()
    storage = SqliteStorage(tmp_path / "outbox.db", USER)
    assert [entry.n for entry in Outbox(storage, CHAT).entries] == [1]
    storage.close()


async def test_an_exception_of_the_storage_ends_the_run(server: FakeServer) -> None:
    class Failing(MemoryStorage):
        def commit(self, head: Any, put: Any, drop: Any) -> None:
            if put and put[0].state is not EntryState.PENDING:
                raise OSError("the disk is full")
            super().commit(head, put, drop)

    outbox = Outbox(Failing(), CHAT)
    outbox.add(named(0))
    watched = Watched(server.url, client_id=outbox.client_id, outbox=outbox)
    run = asyncio.create_task(watched.device.run())
    peer = await server.next()
    await peer.welcome()
    await peer.receive()
    await peer.ack(["applied", 1, 5])
    with pytest.raises(OSError, match="disk"):
        await soon(run)
    assert [entry.state for entry in outbox.entries] == [EntryState.PENDING]
    assert watched.events == [event for event in watched.events if not isinstance(event, Acknowledged)]
    assert await peer.closed() == 1000


async def test_many_writes_keep_their_order_over_broken_connections(server: FakeServer) -> None:
    """The server consumes each number once, answers one push in three, and ends the connection at the others."""
    taken: list[int] = []
    async with writer(server, 20, rng=Always(0.0)) as (watched, outbox):
        turn, written = 0, 20
        while outbox.entries:
            peer = await server.next()
            await peer.welcome()
            await peer.live(K0, 7)
            while True:
                push = await peer.receive()
                results = []
                for n, mutation in enumerate(push["mutations"], push["n"]):
                    results.append(["applied" if n > len(taken) else "repeated", n, 7])
                    if n > len(taken):
                        taken.append(mutation[4])
                if written < 40:
                    watched.device.write(named(written))
                    written += 1
                turn += 1
                if turn % 3:
                    peer.cut()
                    break
                await peer.ack(*results)
                if push["n"] + len(results) > 40:
                    await until(lambda: outbox.entries == ())
                    break
    assert taken == list(range(40))


async def test_a_device_writes_only_with_its_own_outbox() -> None:
    with pytest.raises(ValueError):
        Watched("ws://127.0.0.1:9/", outbox=Outbox(MemoryStorage(), CHAT))
    with pytest.raises(RuntimeError):
        Watched("ws://127.0.0.1:9/").device.write(delete_conversation(A))


async def test_now_is_the_servers_time_once_its_clock_is_known(server: FakeServer) -> None:
    async with writer(server) as (watched, _):
        device: Device = watched.device
        assert device.now() > NOW + 3600 * SECOND  # the device's own, which runs ahead in this test
        await (await server.next()).welcome()
        await until(lambda: device.status is Status.CATCHING_UP)
        assert NOW <= device.now() < NOW + 60 * SECOND


async def test_an_acknowledged_mutation_is_pushed_again_on_the_next_connection_before_a_position_confirms_it(
    server: FakeServer,
) -> None:
    """The database may be another one. The device cannot know: without a cursor the snapshot's reason is only `new`."""
    async with writer(server, 2) as (watched, outbox):
        peer = await server.next()
        await peer.welcome()
        await peer.receive()
        await peer.ack(["applied", 1, 9], ["applied", 2, 9])
        await peer.socket.close(4200)
        peer = await server.next()
        await peer.welcome(mode="snapshot", why="new")
        assert await peer.receive() == {"t": "push", "n": 1, "mutations": [array(0), array(1)], "held": 1}
        await peer.send("snapshot", as_of=99, rows=[], cursor=K1)
        await peer.live(K1, 99)
        await soon(watched.device.wait_live(5))
        assert len(outbox.entries) == 2
        await peer.ack(["repeated", 1, 99], ["applied", 2, 100])
        await until(lambda: [entry.n for entry in outbox.entries] == [2])
        await peer.live(K1, 100)
        await until(lambda: outbox.entries == ())


@pytest.mark.parametrize("with_an_outbox", [True, False])
async def test_each_connection_has_a_larger_generation(server: FakeServer, with_an_outbox: bool) -> None:
    storage, generations = MemoryStorage(), list[int]()
    outbox = Outbox(storage, CHAT)
    options: dict[str, Any] = {"outbox": outbox, "client_id": outbox.client_id} if with_an_outbox else {}
    async with running(server.url, **options):
        for _ in range(3):
            peer = await server.next()
            generations.append((await peer.welcome())["generation"])
            peer.cut()
        await (await server.next()).welcome()
    if with_an_outbox:
        async with writer(server, outbox=Outbox(storage, CHAT)):
            generations.append((await (await server.next()).welcome())["generation"])
    assert generations == sorted(set(generations))
    assert 0 < generations[0] <= generations[-1] <= 2**53


async def test_without_a_schema_a_device_takes_the_server_s_and_its_outbox_keeps_it(server: FakeServer) -> None:
    storage, replica = MemoryStorage(), Replica()

    def on_event(event: Event) -> None:
        if isinstance(event, SchemaArrived):
            replica.adopt(event.schema)

    def store(batch: Batch) -> None:
        replica.apply(batch.rows)

    outbox, theirs = Outbox(storage), second_schema.SECOND
    async with writer(server, outbox=outbox, schema=None, on_batch=store, on_event=on_event) as (watched, _):
        peer = await server.next()
        assert (await peer.welcome(schema=theirs.hash))["schema"] == ""
        await silent(peer)
        with pytest.raises(RuntimeError):
            watched.device.write(Insert("topic", "a", {"name": "n"}, 5))
        await peer.send("schema", **theirs.plain())
        await peer.changes(K0, K1, ["t", 1, "a", "n", True, 5], seq=1)
        await until(lambda: watched.device.cursor == K1)
        assert (watched.device.schema, replica.rows["topic"]["a"].name) == (theirs, "n")
        watched.device.write(Update("topic", "a", {"name": "m"}, 6))
        assert (await peer.receive())["mutations"] == [["~", "t", "a", {"name": "m"}, 6]]
    again = Outbox(storage)
    again.add(Insert("topic", "b", {}, 7))
    assert (again.schema, len(again.entries)) == (theirs, 2)
