"""A row takes the place of its stream in one step: neither before the row is there, nor long after."""

import asyncio
from functools import partial
from typing import Any, Final
from uuid import UUID

import pytest

from protocol.frames import Hello, Live
from server.feed.pump import Pump
from server.feed.readers import Readers
from tests.integration.test_stream_writer import device_of
from tests.integration.test_streams import SERVICE, Watcher, placeholder, watching, writing
from tests.support.cluster import Database
from tests.support.peer import peer
from tests.support.serving import ServerProcess, serving, token
from tests.support.waiting import eventually

NEVER: Final = 3_600.0
SHOWS_WHAT_IT_NEVER_WRITES: Final = """
import asyncio
from server.postgres import streams
append = streams.PostgresStreams.append
async def hangs(self, parts):
    if any("lost" in part.text for part in parts):
        await asyncio.sleep(3600)
    return await append(self, parts)
streams.PostgresStreams.append = hangs
"""


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers hear of no change of rows: neither doorbells nor the WAL bring one."""
    monkeypatch.setattr(Readers, "ring", lambda *_, **__: None)
    monkeypatch.setattr(Pump, "carry", lambda *_: False)


def row(device: Watcher, message: UUID) -> Any:
    return device.device.replica.rows["message"][message].values["content"]


async def hears_live(device: Watcher) -> None:
    while not isinstance(await device.hear(), Live):
        pass


@pytest.mark.parametrize("by", ["app", "server"])
@pytest.mark.usefixtures("deaf")
async def test_no_live_comes_between_the_end_of_a_stream_and_its_row(
    database: Database, sql: Any, user: UUID, by: str
) -> None:
    message = await placeholder(sql, user)
    quick = partial(serving, database, service_token=SERVICE, keepalive=0.1, sweep=NEVER)  # heartbeats all the time
    async with (
        quick() as here,
        quick() as there,
        writing(here) as writer,
        watching(here.url, user) as near,
        watching(there.url, user) as far,
    ):
        devices = near, far
        stream = (await writer.open(user, message))["stream"]
        await writer.append(stream, 0, "the answer")
        for device in devices:
            await hears_live(device)
            await device.until(stream, "the answer")
        if by == "app":
            await sql.execute("UPDATE messages SET content = 'the answer' WHERE id = $1", message)
        await writer.end(stream, "done", write=by == "server")
        for device in devices:
            await device.settled(stream)
            await hears_live(device)
            assert row(device, message) == "the answer"


async def test_a_device_that_comes_back_shows_the_row_of_what_was_settled_meanwhile_at_once(
    database: Database, sql: Any, user: UUID
) -> None:
    message = await placeholder(sql, user)
    async with serving(database, service_token=SERVICE, keepalive=NEVER) as server, writing(server) as writer:
        stream = (await writer.open(user, message))["stream"]
        await writer.append(stream, 0, "the answer")
        async with watching(server.url, user) as device:
            await device.until(stream, "the answer")
            await hears_live(device)
            cursor = device.device.cursor
        await writer.end(stream, "done", write=True)
        await eventually(lambda: sql.fetchval("SELECT bool_and(settled_at IS NOT NULL) FROM sync.streams"))
        async with peer(server.url) as again:
            await again.say(Hello(token=token(user), client_id=user, cursor=cursor, extras=["streams"]))
            back = Watcher(again)
            while back.open != []:
                await back.hear()
            await hears_live(back)
            assert row(back, message) == "the answer"


async def test_what_a_killed_server_showed_and_never_wrote_gives_way_to_the_row(
    database: Database, sql: Any, user: UUID
) -> None:
    message = await placeholder(sql, user)
    settings = {"ATLAS_SERVICE_TOKEN": SERVICE, "ATLAS_KEEPALIVE_SECONDS": str(int(NEVER))}
    async with (
        ServerProcess(database.server_url, SHOWS_WHAT_IT_NEVER_WRITES, **settings) as killed,
        serving(database, service_token=SERVICE) as other,
        writing(killed) as writer,
        writing(other) as another,
        device_of(killed.url, user) as phone,
    ):
        stream = (await writer.open(user, message))["stream"]
        await writer.append(stream, 0, "what there is")
        losing = asyncio.create_task(writer.append(stream, 13, " is lost"))
        await eventually(partial(phone.has, message, "what there is is lost"))
        await killed.kill()
        await asyncio.wait([losing])
        await another.end(stream, "failed", write=True)
        await eventually(lambda: sql.fetchval("SELECT bool_and(settled_at IS NOT NULL) FROM sync.streams"))
        await killed.start()
        await eventually(partial(phone.settled, message, "what there is"))
        assert phone.seen[message] == ["", "what there is", "what there is is lost", "what there is"]
        assert losing.exception() is not None
