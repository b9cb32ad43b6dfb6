"""`atlas_sync.Stream` and devices against the real server: what is written is seen, whatever is killed meanwhile."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from functools import partial
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest

from atlas_sync import Device, Ended, Replica, Schema, Stopped, Stream, build_view
from tests.integration.test_streams import SERVICE, content, placeholder, watching
from tests.support.client_device import Impatient
from tests.support.cluster import Database
from tests.support.people import add_user
from tests.support.serving import Running, ServerProcess, serving, token
from tests.support.waiting import eventually

SCHEMA = Schema.chat()
WORDS = ["one ", "zwei ", "三", "🙂 ", "e\u0301 ", "\n", ""]


class Watcher:
    """A device that shows streams. `seen` are the texts of each message in order, `states` those of its streams."""

    def __init__(self, url: str, user: UUID) -> None:
        self.replica = Replica(SCHEMA)
        self.seen: dict[Any, list[str]] = {}
        self.states: dict[Any, list[str | None]] = {}
        self.device = Device(
            url,
            user=user,
            token=lambda: token(user),
            client_id=uuid4(),
            schema=SCHEMA,
            on_batch=self.replica.receive,
            on_stream=self.replica.receive,
            on_event=self._see,
            rng=Impatient(),
        )

    def _see(self, *_: object) -> None:
        for key, message in build_view(self.replica, [], self.replica.streams).rows["message"].items():
            texts, states = self.seen.setdefault(key, [""]), self.states.setdefault(key, [None])
            if texts[-1] != message.row.content:
                texts.append(message.row.content)
            if states[-1] != message.state:
                states.append(message.state)

    def text(self, message: UUID) -> str:
        return self.seen.get(message, [""])[-1]

    def has(self, message: UUID, text: str) -> bool:
        return self.text(message) == text

    def settled(self, message: UUID, text: str) -> bool:
        """Whether the row shows this text, and no stream."""
        return self.text(message) == text and self.states[message][-1] is None

    def pictures(self, message: UUID) -> int:
        return len(self.seen.get(message, ()))


@contextlib.asynccontextmanager
async def device_of(url: str, user: UUID) -> AsyncIterator[Watcher]:
    watcher = Watcher(url, user)
    running = asyncio.create_task(watcher.device.run())
    try:
        await watcher.device.wait_live(30)
        yield watcher
    finally:
        await watcher.device.stop()
        await running


@pytest.fixture
async def server(database: Database) -> AsyncIterator[Running]:
    async with serving(database, service_token=SERVICE) as running:
        yield running


def words(n: int, seed: int = 1) -> list[str]:
    return random.Random(seed).choices(WORDS, k=n)


def each_is_a_beginning_of_the_next(texts: list[str]) -> bool:
    return all(b.startswith(a) for a, b in pairwise(texts))


async def test_each_device_sees_the_answer_grow_and_the_row_take_its_place(
    server: Running, sql: Any, user: UUID
) -> None:
    message, said = await placeholder(sql, user), words(60)
    async with device_of(server.url, user) as phone, device_of(server.url, user) as laptop:
        async with Stream(server.http, SERVICE, user, "message", message, "content") as out:
            for word in said:
                await out.write(word)
                await eventually(partial(phone.has, message, out.text))
            await out.finish(write=True)
        whole = "".join(said)
        assert out.text == whole
        for watcher in (phone, laptop):
            await eventually(partial(watcher.settled, message, whole))
            assert each_is_a_beginning_of_the_next(watcher.seen[message])
            assert watcher.states[message] in ([None, "open", "done", None], [None, "open", None])
            assert all(stream.over for stream in watcher.replica.streams)
    assert await content(sql, message) == whole


async def test_the_app_s_own_commit_is_swapped_in_without_a_flicker(server: Running, sql: Any, user: UUID) -> None:
    message = await placeholder(sql, user)
    async with device_of(server.url, user) as phone:
        async with Stream(server.http, SERVICE, user, "message", message, "content") as out:
            for n in range(20):
                await out.write(f"{n} ")
                if n == 10:  # a checkpoint
                    await sql.execute("UPDATE messages SET content = $1 WHERE id = $2", out.text, message)
        await sql.execute("UPDATE messages SET content = $1 WHERE id = $2", out.text, message)
        await eventually(partial(phone.settled, message, out.text))
        assert each_is_a_beginning_of_the_next(phone.seen[message])


async def test_a_stop_from_any_device_ends_the_writer_and_keeps_what_was_said(
    server: Running, sql: Any, user: UUID
) -> None:
    message = await placeholder(sql, user)
    out = Stream(server.http, SERVICE, user, "message", message, "content")

    async def answer() -> None:
        async with out:
            while True:
                await out.write("word ")
                await asyncio.sleep(0.005)

    async with device_of(server.url, user) as phone, device_of(server.url, user) as laptop:
        answering = asyncio.create_task(answer())
        await eventually(lambda: laptop.text(message))
        assert await phone.device.stop_stream("message", message)
        with pytest.raises(Stopped):
            await answering
        for watcher in (phone, laptop):
            await eventually(partial(lambda states: states[-1] == "stopped", watcher.states[message]))
            assert watcher.text(message) == out.text
        assert await phone.device.stop_stream("message", message) is False
    assert (out.state, len(out.text)) == ("stopped", out.offset)


async def test_a_stop_is_known_at_once_while_the_model_is_silent(server: Running, sql: Any, user: UUID) -> None:
    message = await placeholder(sql, user)
    async with device_of(server.url, user) as phone:
        out = Stream(server.http, SERVICE, user, "message", message, "content")
        with contextlib.suppress(Stopped):
            async with out:
                waiting = asyncio.create_task(out.stopped())
                await eventually(lambda: phone.states.get(message, [None])[-1] == "open")
                assert await phone.device.stop_stream("message", message, "content")
                assert await waiting
        assert out.state == "stopped"


async def test_a_repeated_job_goes_on_and_a_finished_one_is_not_repeated(server: Running, sql: Any, user: UUID) -> None:
    message = await placeholder(sql, user)
    first = Stream(server.http, SERVICE, user, "message", message, "content")
    await first.__aenter__()
    await first.write("It was ")
    await eventually(lambda: first.offset == 7)  # then its process is killed
    async with Stream(server.http, SERVICE, user, "message", message, "content") as again:
        assert (again.text, again.stream) == ("It was ", first.stream)
        await again.write("a bright cold day")
        await again.finish(write=True)
    with contextlib.suppress(Ended):
        await first.__aexit__(None, None, None)
    with pytest.raises(Ended, match="done"):
        await Stream(server.http, SERVICE, user, "message", message, "content").__aenter__()
    written = "SELECT content = 'It was a bright cold day' FROM messages WHERE id = $1"
    await eventually(lambda: sql.fetchval(written, message))


async def test_an_exception_fails_the_stream_and_its_text_stays(server: Running, sql: Any, user: UUID) -> None:
    message = await placeholder(sql, user)
    async with device_of(server.url, user) as phone:
        with pytest.raises(ZeroDivisionError):
            async with Stream(server.http, SERVICE, user, "message", message, "content") as out:
                await out.write("half an ans")
                raise ZeroDivisionError
        await eventually(lambda: phone.states[message][-1] == "failed")
        assert phone.text(message) == "half an ans"


async def writes(url: str, user: UUID, message: UUID, enough: asyncio.Event) -> str:
    """Write until there is enough, and return all of it."""
    rng = random.Random(message.int)
    async with Stream(url, SERVICE, user, "message", message, "content") as out:
        while not enough.is_set():
            await out.write(rng.choice(WORDS))
            await asyncio.sleep(0.01)
        await out.finish(write=True)
    return out.text


async def test_the_server_is_killed_in_the_middle_and_nothing_is_lost_or_doubled(
    database: Database, sql: Any, user: UUID
) -> None:
    messages, enough = [await placeholder(sql, user) for _ in range(3)], asyncio.Event()
    async with (
        ServerProcess(database.server_url, ATLAS_SERVICE_TOKEN=SERVICE) as server,
        device_of(server.url, user) as phone,
    ):
        writing = asyncio.gather(*(writes(server.http, user, message, enough) for message in messages))
        for least in (4, 8):
            await eventually(partial(lambda least: min(map(phone.pictures, messages)) >= least, least))
            await server.kill()
            await server.start()
        await eventually(lambda: min(map(phone.pictures, messages)) >= 12)
        enough.set()
        for message, whole in zip(messages, await writing, strict=True):
            await eventually(partial(phone.settled, message, whole))
            assert each_is_a_beginning_of_the_next(phone.seen[message])
            assert await content(sql, message) == whole


async def test_two_processes_on_one_port_serve_writers_and_devices_also_when_one_is_killed(
    database: Database, sql: Any
) -> None:
    users, enough = [await add_user(sql) for _ in range(4)], asyncio.Event()
    owners = {await placeholder(sql, user): user for user in users for _ in range(5)}
    async with (
        ServerProcess(database.server_url, WEB_CONCURRENCY="2", ATLAS_SERVICE_TOKEN=SERVICE) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        devices = [(user, await stack.enter_async_context(device_of(server.url, user))) for user in [*users, *users]]
        writing = asyncio.gather(*(writes(server.http, user, message, enough) for message, user in owners.items()))

        def all_see(least: int) -> bool:
            return all(each.pictures(m) >= least for user, each in devices for m in owners if owners[m] == user)

        await eventually(lambda: all_see(4))
        assert server.process is not None
        psutil.Process(server.process.pid).children()[0].kill()
        await eventually(lambda: all_see(8))
        enough.set()
        texts = dict(zip(owners, await writing, strict=True))
        for user, watcher in devices:
            own = [message for message in owners if owners[message] == user]
            for message in own:
                await eventually(partial(watcher.settled, message, texts[message]))
                assert each_is_a_beginning_of_the_next(watcher.seen[message])
            assert watcher.seen.keys() == set(own)


async def test_a_frame_reader_agrees_with_what_the_writer_wrote(server: Running, sql: Any, user: UUID) -> None:
    """The device above is of the same package as the writer: this one is not."""
    message = await placeholder(sql, user)
    async with watching(server.url, user) as device:
        async with Stream(server.http, SERVICE, user, "message", message, "content") as out:
            for word in words(40):
                await out.write(word)
            await out.finish(write=True)
        await device.until(out.stream, out.text, "done")
        await device.settled(out.stream)
