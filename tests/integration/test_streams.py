"""Streams: devices of the user see the text grow, and the row has it at the end; a stop ends it, whoever writes."""

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import pytest

from protocol.frames import Changes, Hello, Stop, Stopped, Streams, StreamText
from server.operations.trace import tell
from server.postgres import trace_queries
from server.postgres.streams import PostgresStreams
from server.streams.streams import Streams as StreamsDoor
from tests.support.cluster import Database
from tests.support.peer import Peer, both_codecs, peer
from tests.support.people import add_conversation, add_user
from tests.support.rows import encoded_value
from tests.support.serving import Running, ServerProcess, serving, token
from tests.support.waiting import eventually

SERVICE = "a service token of the tests, at least 32 characters"
README: Final = Path(__file__).parents[2] / "server" / "README.md"
PROGRAMS: Final = ("curl", "psql")


class Writer:
    """The app's backend, over HTTP."""

    def __init__(self, server: Running | ServerProcess) -> None:
        self.http = httpx.AsyncClient(
            base_url=f"{server.http}/v1/", headers={"Authorization": f"Bearer {SERVICE}"}, timeout=30
        )

    async def open(self, user: UUID, id_: object, **given: object) -> Any:
        body = {"user": str(user), "kind": "message", "id": str(id_), "column": "content", **given}
        response = await self.http.post("streams", json=body)
        assert response.status_code in (200, 201), response.text
        return response.json()

    async def append(self, stream: str, offset: int, text: str) -> Any:
        response = await self.http.patch(f"streams/{stream}", json={"offset": offset, "text": text})
        return response.status_code, response.json()

    async def end(self, stream: str, how: str, **given: object) -> Any:
        response = await self.http.post(f"streams/{stream}/{how}", json=given)
        return response.status_code, response.json()


@contextlib.asynccontextmanager
async def writing(server: Running | ServerProcess) -> AsyncIterator[Writer]:
    writer = Writer(server)
    async with writer.http:
        yield writer


class Watcher:
    """What a device holds of streams, by the rules of SPEC.md 13."""

    def __init__(self, device: Peer) -> None:
        self.device = device
        self.texts: dict[UUID, str] = {}
        self.states: dict[UUID, str] = {}
        self.open: list[UUID] | None = None

    async def hear(self) -> Any:
        frame = await self.device.hear()
        if isinstance(frame, Streams):
            self.open = frame.open
        elif isinstance(frame, StreamText):
            held = self.texts.get(frame.stream, "")
            assert frame.offset <= len(held), "a gap"
            self.texts[frame.stream] = held[: frame.offset] + frame.text
            self.states[frame.stream] = frame.state
            if self.open is not None and frame.stream not in self.open:
                self.open.append(frame.stream)
        return frame

    async def until(self, stream: str, text: str, state: str = "open") -> None:
        id_ = UUID(stream)
        while (self.texts.get(id_), self.states.get(id_)) != (text, state):
            await self.hear()

    async def settled(self, stream: str) -> None:
        while UUID(stream) not in self.texts or UUID(stream) in (self.open or ()):
            await self.hear()


@contextlib.asynccontextmanager
async def watching(url: str, user: UUID, **given: Any) -> AsyncIterator[Watcher]:
    async with peer(url, **given) as device:
        await device.say(Hello(token=token(user), client_id=uuid4(), extras=["streams"]))
        watcher = Watcher(device)
        while watcher.open is None:
            await watcher.hear()
        yield watcher


async def placeholder(sql: Any, user: UUID, text: str = "") -> UUID:
    conversation = await add_conversation(sql, user)
    insert = "INSERT INTO messages (conversation_id, role, content) VALUES ($1, 'assistant', $2) RETURNING id"
    return UUID(str(await sql.fetchval(insert, conversation, text)))


@pytest.fixture
async def server(database: Database) -> AsyncIterator[Running]:
    async with serving(database, service_token=SERVICE) as running:
        yield running


async def content(sql: Any, message: UUID) -> Any:
    return await sql.fetchval("SELECT content FROM messages WHERE id = $1", message)


@both_codecs
async def test_a_text_grows_on_a_device_and_the_row_settles_it(
    server: Running, sql: Any, user: UUID, codec: Any
) -> None:
    message = await placeholder(sql, user)
    async with writing(server) as writer, watching(server.url, user, codec=codec) as device:
        opened = await writer.open(user, message)
        assert (opened["state"], opened["offset"]) == ("open", 0)
        stream = opened["stream"]
        assert await writer.append(stream, 0, "Hello 🙂") == (200, {"stream": stream, "state": "open", "offset": 7})
        await device.until(stream, "Hello 🙂")
        await writer.append(stream, 7, ", world")
        await device.until(stream, "Hello 🙂, world")
        await sql.execute("UPDATE messages SET content = 'Hello 🙂, world' WHERE id = $1", message)
        assert (await writer.end(stream, "done", offset=14))[0] == 200
        await device.until(stream, "Hello 🙂, world", "done")
        await device.settled(stream)
    assert await content(sql, message) == "Hello 🙂, world"


async def test_a_late_device_gets_the_text_so_far_in_one_frame(server: Running, sql: Any, user: UUID) -> None:
    message = await placeholder(sql, user)
    async with writing(server) as writer:
        stream = (await writer.open(user, message))["stream"]
        for i in range(10):
            await writer.append(stream, i, "x")
        async with watching(server.url, user) as late:
            frame = await late.device.hear_a(StreamText)
            assert (frame.offset, frame.text) == (0, "x" * 10)


async def test_nobody_else_sees_it_and_a_row_of_somebody_else_is_refused(server: Running, sql: Any, user: UUID) -> None:
    other = await add_user(sql)
    message = await placeholder(sql, user)
    async with writing(server) as writer, watching(server.url, other) as stranger, peer(server.url) as unasked:
        await unasked.greet(user)
        refused = await writer.http.post(
            "streams", json={"user": str(other), "kind": "message", "id": str(message), "column": "content"}
        )
        assert (refused.status_code, "no such row" in refused.text) == (404, True)
        stream = (await writer.open(user, message))["stream"]
        await writer.append(stream, 0, "secret")
        await stranger.device.say(Stop(n=1, kind="m", id=encoded_value(message, stranger.device.codec)))
        assert await stranger.device.hear_a(Stopped) == Stopped(n=1, found=False)
        assert stranger.texts == {}
        async with watching(server.url, user) as own:
            await own.until(stream, "secret")
        await sql.execute("UPDATE messages SET content = 'secret!' WHERE id = $1", message)
        frames = await unasked.hear_until(Changes)
        assert not [frame for frame in frames if isinstance(frame, StreamText | Streams)]


async def test_opening_again_finds_what_is_there_and_a_repeated_append_is_harmless(
    server: Running, sql: Any, user: UUID
) -> None:
    message = await placeholder(sql, user)
    async with writing(server) as writer:
        stream = (await writer.open(user, message))["stream"]
        await writer.append(stream, 0, "abc")
        again = await writer.open(user, message)
        assert again == {"stream": stream, "state": "open", "offset": 3, "text": "abc"}
        assert await writer.append(stream, 0, "abcd") == (200, {"stream": stream, "state": "open", "offset": 4})
        status, answer = await writer.append(stream, 1, "bcd")
        assert (status, answer["offset"]) == (200, 4)
        for offset, text in ((5, "x"), (1, "xyz"), (2, "cx")):
            status, answer = await writer.append(stream, offset, text)
            assert (status, answer["state"], answer["offset"]) == (409, "open", 4)
        assert (await writer.http.get(f"streams/{stream}")).json()["text"] == "abcd"
        anew = await writer.open(user, message, restart=True)
        assert anew["stream"] != stream
        assert anew["offset"] == 0
        assert (await writer.http.patch(f"streams/{stream}", json={"offset": 4, "text": "e"})).status_code == 404


@pytest.mark.parametrize("how", ["done", "failed", "stop"])
async def test_the_server_writes_the_row_when_it_is_asked_to(server: Running, sql: Any, user: UUID, how: str) -> None:
    message = await placeholder(sql, user)
    async with writing(server) as writer, watching(server.url, user) as device:
        stream = (await writer.open(user, message))["stream"]
        await writer.append(stream, 0, "all of it")
        assert (await writer.end(stream, how, write=True))[0] == 200
        await device.settled(stream)
    assert await content(sql, message) == "all of it"


async def test_a_stop_of_a_device_ends_it_and_the_writer_learns_it_with_its_next_append(
    server: Running, sql: Any, user: UUID
) -> None:
    message = await placeholder(sql, user)
    async with writing(server) as writer, watching(server.url, user) as phone, watching(server.url, user) as laptop:
        stream = (await writer.open(user, message))["stream"]
        await writer.append(stream, 0, "so far")
        waiting = asyncio.create_task(writer.http.get(f"streams/{stream}/stop", params={"wait": 20}))
        await laptop.until(stream, "so far")
        await phone.device.say(Stop(n=5, kind="m", id=encoded_value(message, phone.device.codec), column="content"))
        assert await phone.device.hear_a(Stopped) == Stopped(n=5, found=True)
        await laptop.until(stream, "so far", "stopped")
        assert (await waiting).json()["state"] == "stopped"
        status, answer = await writer.append(stream, 6, " and more")
        assert (status, answer["state"], answer["offset"]) == (409, "stopped", 6)
        assert (await writer.end(stream, "done"))[0] == 409
        await phone.device.say(Stop(n=6, kind="m", id=encoded_value(message, phone.device.codec)))
        assert await phone.device.hear_a(Stopped) == Stopped(n=6, found=False)


async def test_what_comes_while_a_stop_is_written_is_shown_to_nobody(
    server: Running, sql: Any, user: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending, arrived, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
    end, append = PostgresStreams.end, StreamsDoor.append

    async def slow_end(*given: Any, **named: Any) -> Any:
        ending.set()
        await go_on.wait()
        return await end(*given, **named)

    async def noted_append(*given: Any) -> Any:
        if ending.is_set():
            asyncio.get_running_loop().call_soon(arrived.set)
        return await append(*given)

    monkeypatch.setattr(PostgresStreams, "end", slow_end)
    monkeypatch.setattr(StreamsDoor, "append", noted_append)
    message = await placeholder(sql, user)
    async with writing(server) as writer, watching(server.url, user) as device:
        stream = (await writer.open(user, message))["stream"]
        await writer.append(stream, 0, "Hello")
        await device.until(stream, "Hello")
        await device.device.say(Stop(n=1, kind="m", id=encoded_value(message, device.device.codec)))
        await ending.wait()
        late = asyncio.create_task(writer.append(stream, 5, ", world"))
        await arrived.wait()
        go_on.set()
        while device.states[UUID(stream)] != "stopped":
            await device.hear()
            assert device.texts[UUID(stream)] == "Hello"
        status, answer = await late
        assert (status, answer["state"], answer["offset"]) == (409, "stopped", 5)


async def test_two_servers_serve_one_stream(database: Database, sql: Any, user: UUID) -> None:
    message = await placeholder(sql, user)
    async with (
        serving(database, service_token=SERVICE) as one,
        serving(database, service_token=SERVICE) as two,
        writing(one) as here,
        writing(two) as there,
        watching(one.url, user) as near,
        watching(two.url, user) as far,
    ):
        stream = (await here.open(user, message))["stream"]
        for writer, offset, text in ((here, 0, "one "), (there, 4, "two "), (here, 8, "three")):
            assert (await writer.append(stream, offset, text))[0] == 200
        for device in (near, far):
            await device.until(stream, "one two three")
        waiting = asyncio.create_task(there.http.get(f"streams/{stream}/stop", params={"wait": 20}))
        await far.device.say(Stop(n=1, kind="m", id=encoded_value(message, far.device.codec)))
        for device in (near, far):
            await device.until(stream, "one two three", "stopped")
        assert (await waiting).json()["state"] == "stopped"
        assert (await here.append(stream, 13, "!"))[0] == 409
        await sql.execute("UPDATE messages SET content = 'one two three' WHERE id = $1", message)
        for device in (near, far):
            await device.settled(stream)


async def test_two_servers_write_a_stream_that_no_device_watches(database: Database, sql: Any, user: UUID) -> None:
    message = await placeholder(sql, user)
    async with (
        serving(database, service_token=SERVICE) as one,
        serving(database, service_token=SERVICE) as two,
        writing(one) as here,
        writing(two) as there,
    ):
        stream = (await here.open(user, message))["stream"]
        appends = (
            (here, 0, "one "),
            (there, 4, "two "),
            (here, 4, "two three "),
            (there, 14, "four"),
            (here, 14, "four"),
        )
        for writer, offset, text in appends:
            assert (await writer.append(stream, offset, text))[0] == 200
        assert (await there.http.get(f"streams/{stream}")).json()["text"] == "one two three four"


async def test_many_appends_in_one_request(server: Running, sql: Any, user: UUID) -> None:
    messages = [await placeholder(sql, user) for _ in range(5)]
    async with writing(server) as writer:
        streams = [(await writer.open(user, message))["stream"] for message in messages]
        unknown = str(uuid4())
        body = {"appends": [*([stream, 0, "text"] for stream in streams), [unknown, 0, "text"]]}
        answer = (await writer.http.patch("streams", json=body)).json()
        assert answer == {"answers": [*[[200, "open", 4]] * 5, [404, None, None]]}


async def test_a_row_that_is_deleted_ends_its_stream(server: Running, sql: Any, user: UUID) -> None:
    message = await placeholder(sql, user)
    async with writing(server) as writer, watching(server.url, user) as device:
        stream = (await writer.open(user, message))["stream"]
        await writer.append(stream, 0, "text")
        await device.until(stream, "text")
        await sql.execute("DELETE FROM messages WHERE id = $1", message)
        await device.settled(stream)
        assert (await writer.append(stream, 4, "more"))[0] == 409


async def test_what_the_app_has_written_is_never_overwritten(server: Running, sql: Any, user: UUID) -> None:
    message = await placeholder(sql, user, "the former answer")
    async with writing(server) as writer, watching(server.url, user) as device:
        stream = (await writer.open(user, message))["stream"]
        await writer.append(stream, 0, "raw text")
        await sql.execute("UPDATE messages SET content = 'edited text' WHERE id = $1", message)
        await writer.end(stream, "done", write=True)
        await device.settled(stream)
        assert await content(sql, message) == "edited text"
        stream = (await writer.open(user, message, restart=True))["stream"]
        await writer.append(stream, 0, "again")
        await writer.end(stream, "done", write=True)
        while device.texts.get(UUID(stream)) != "again":
            await device.hear()
        await device.settled(stream)
        assert await content(sql, message) == "again"


async def test_a_server_without_streams_says_that_there_are_none(database: Database, user: UUID) -> None:
    async with serving(database) as without, watching(without.url, user) as device:
        assert device.open == []


async def test_trace_tells_of_a_stream(server: Running, database: Database, sql: Any, user: UUID) -> None:
    message = await placeholder(sql, user)
    async with writing(server) as writer:
        stream = (await writer.open(user, message))["stream"]
        await writer.append(stream, 0, "text")
        facts = await trace_queries.ask(database.server_url, str(message), user)
        (told,) = facts.streams
        assert (told.column, told.state, told.length) == ("content", "open", 4)
        assert "stream of content" in {line.what for line in tell(facts)}


async def test_what_is_no_stream_is_refused_with_a_sentence(server: Running) -> None:
    async with writing(server) as writer:
        for path in ("streams/", "streams/message", f"streams/{uuid4()}/fail"):
            refused = await writer.http.post(path, json={})
            assert (refused.status_code, "named by the UUID" in refused.text) == (404, True)
        unknown = await writer.http.get(f"streams/{uuid4()}")
        assert (unknown.status_code, "never opened" in unknown.text) == (404, True)


@pytest.mark.skipif(None in map(shutil.which, PROGRAMS), reason="there is no curl, or no psql")
async def test_the_example_of_the_readme_works(
    server: Running, database: Database, sql: Any, user: UUID, tmp_path: Path
) -> None:
    section = README.read_text().partition("## Streams")[2].partition("\n## ")[0]
    (script,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    conversation = await add_conversation(sql, user)
    names = {"USER_ID": str(user), "CONVERSATION_ID": str(conversation), "DATABASE_URL": database.url}
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", script),
        cwd=tmp_path,
        env={**os.environ, **names, "ATLAS_SERVICE_TOKEN": SERVICE, "ATLAS": server.http},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate()
    assert process.returncode == 0, error
    assert out.decode().rstrip().endswith('"state":"done","offset":12}')
    text = "SELECT true FROM messages WHERE conversation_id = $1 AND content = 'Hello, world'"
    await eventually(lambda: sql.fetchval(text, conversation))
