"""A server that goes says so to every client, with a delay of its own for each, and then is gone."""

import asyncio
import contextlib
from typing import Any

import httpx

from protocol.frames import Live
from tests.support.cluster import Database
from tests.support.peer import Peer, peer
from tests.support.people import add_conversation, add_message, add_user
from tests.support.serving import ServerProcess
from tests.support.streaming import SERVICE


async def test_every_client_is_told_to_come_back_each_with_another_delay(database: Database, sql: Any) -> None:
    users = [await add_user(sql) for _ in range(30)]
    async with ServerProcess(database.server_url) as server, contextlib.AsyncExitStack() as stack:
        devices: list[Peer] = []
        for user in users:
            device = await stack.enter_async_context(peer(server.url))
            await device.greet(user)
            await device.hear_a(Live)
            devices.append(device)
        stopping = asyncio.create_task(server.stop())
        ends = await asyncio.gather(*(device.closed() for device in devices))
        assert await stopping == 0
        assert {code for code, _ in ends} == {4000}
        errors = [error for _, error in ends if error is not None]
        assert {error.code for error in errors} == {"going_away"}
        delays = [error.retry_after for error in errors]
        assert len(set(delays)) > len(users) / 2
        assert not [event for event in server.log if "exception" in event]


async def test_a_writer_that_waits_for_a_stop_does_not_hold_the_server_up(database: Database, sql: Any) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    message = await add_message(sql, conversation, "")
    async with ServerProcess(database.server_url, ATLAS_SERVICE_TOKEN=SERVICE) as server:
        headers = {"Authorization": f"Bearer {SERVICE}"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}/v1", headers=headers) as http:
            body = {"user": str(user), "kind": "message", "id": str(message), "column": "content"}
            stream = (await http.post("/streams", json=body)).json()["stream"]
            waiting = asyncio.create_task(http.get(f"/streams/{stream}/stop", params={"wait": 60}, timeout=60))
            while (await http.get(f"/streams/{stream}/stop", params={"wait": 0})).status_code != 204:
                pass
            assert await server.stop() == 0
            assert (await waiting).status_code == 204
        assert not [event for event in server.log if event["level"] == "error"]


async def test_a_client_that_does_not_answer_the_goodbye_does_not_hold_the_server_up(
    database: Database, sql: Any
) -> None:
    user = await add_user(sql)
    async with ServerProcess(database.server_url, ATLAS_DRAIN_SECONDS="0.5") as server, peer(server.url) as device:
        await device.greet(user)
        device.socket.transport.pause_reading()
        assert await server.stop() == 0
        device.socket.transport.resume_reading()
