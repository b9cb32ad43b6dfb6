"""P3: a doorbell only wakes. Lost, late, made up or silent, it costs a moment and never a change."""

import asyncio
import re
from typing import Any
from unittest.mock import patch
from urllib.request import urlopen

import httpx
import pytest

from protocol.frames import ID, Changes, Live
from server.postgres import inspector, listener
from tests.support.cluster import Database
from tests.support.peer import peer
from tests.support.people import add_conversation, add_message, add_user
from tests.support.pools import statements_given_up_early
from tests.support.proxy import postgres_behind_proxy
from tests.support.serving import serving
from tests.support.waiting import eventually


async def test_a_change_whose_doorbell_is_lost_is_found_by_the_sweep(database: Database, sql: Any) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    # The doorbell rings elsewhere, as if NOTIFY had lost it.
    definition = await sql.fetchval("SELECT pg_get_functiondef('sync.record'::regproc)")
    await sql.execute(definition.replace("pg_notify(doorbell", "pg_notify('nobody'"))
    async with serving(database, sweep=0.1) as server, peer(server.url) as device:
        await device.greet(user)
        await device.hear_a(Live)
        message = await add_message(sql, conversation)
        assert [row[ID] for row in (await device.hear_a(Changes)).rows] == [message]


async def test_a_change_committed_while_listen_was_cut_arrives_when_it_works_again(
    database: Database, sql: Any
) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    async with (
        postgres_behind_proxy(database.server_url) as (proxy, url),
        serving(url, sweep=60) as server,
        peer(server.url) as device,
    ):
        await device.greet(user)
        await device.hear_a(Live)
        proxy.refusing = True
        proxy.cut()
        message = await add_message(sql, conversation)
        proxy.refusing = False
        assert [row[ID] for row in (await device.hear_a(Changes)).rows] == [message]


async def test_a_listen_connection_that_falls_silent_is_replaced(database: Database, sql: Any) -> None:
    """A black hole raises no error: only the notification to ourselves that does not come back tells."""
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    with (
        patch.object(listener, "HEARTBEAT_SECONDS", 0.05),
        patch.object(listener, "ANSWER_SECONDS", 0.3),
        statements_given_up_early(),
    ):
        async with (
            postgres_behind_proxy(database.server_url) as (proxy, url),
            serving(url, sweep=60) as server,
            peer(server.url) as device,
        ):
            await device.greet(user)
            await device.hear_a(Live)
            before = proxy.connections
            # Only what is open falls silent; the way back is free.
            proxy.swallow()
            message = await add_message(sql, conversation)
            assert [row[ID] for row in (await device.hear_a(Changes)).rows] == [message]
            await eventually(lambda: proxy.connections > before)


async def test_readiness_follows_the_doorbells(database: Database) -> None:
    def ready(url: str) -> bool:
        try:
            with urlopen(url, timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    async with postgres_behind_proxy(database.server_url) as (proxy, url), serving(url) as server:

        async def is_ready() -> bool:
            return await asyncio.to_thread(ready, f"{server.http}/readyz")

        async def is_not_ready() -> bool:
            return not await is_ready()

        await eventually(is_ready)
        proxy.refusing = True
        proxy.cut()
        await eventually(is_not_ready)
        assert await asyncio.to_thread(ready, f"{server.http}/healthz")
        proxy.refusing = False
        await eventually(is_ready)


async def test_a_server_that_is_not_ready_says_what_must_be_mended(
    database: Database, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspector, "EVERY", 0.1)
    async with (
        postgres_behind_proxy(database.server_url) as (proxy, url),
        serving(url) as server,
        httpx.AsyncClient(base_url=server.http, trust_env=False) as client,
    ):

        async def says(status: int, what: str) -> bool:
            answer = await client.get("/readyz")
            return answer.status_code == status and what in answer.text

        async def names_the_schema() -> bool:
            """The inventory finds the missing right, or a new connection is refused: whichever comes first."""
            return bool(re.search("schema `?sync", (await client.get("/readyz")).text))

        await eventually(lambda: says(200, "ready"))
        await sql.execute("REVOKE USAGE ON SCHEMA sync FROM atlas_sync")
        await eventually(names_the_schema)
        proxy.cut()
        await sql.execute("GRANT USAGE ON SCHEMA sync TO atlas_sync")
        await eventually(lambda: says(200, "ready"))
        await sql.execute("ALTER POLICY atlas_sync_reads ON public.messages TO CURRENT_USER")
        await eventually(lambda: says(503, "atlas_sync_reads"))
        await sql.execute("ALTER POLICY atlas_sync_reads ON public.messages TO atlas_sync")
        await eventually(lambda: says(200, "ready"))
