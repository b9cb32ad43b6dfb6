"""Where each device was last is in Postgres, whatever server it was on, for the price of a statement every 15 s."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from protocol.frames import Changes
from server import metrics
from server.declaration.chat import CHAT
from server.declaration.synced import Synced
from server.exceptions import UnavailableError
from server.feed import presence
from server.feed.ports import DeviceState, DeviceStatus
from server.postgres.store import PostgresStore
from tests.support.cluster import Database
from tests.support.device import live_device
from tests.support.people import add_conversation, add_user
from tests.support.pools import pool_of_one
from tests.support.proxy import postgres_behind_proxy
from tests.support.serving import serving
from tests.support.waiting import eventually

A, B = "host/1/aaaaaa", "host/2/bbbbbb"
"""Two servers."""


@pytest.fixture
async def store(database: Database) -> AsyncIterator[PostgresStore]:
    """A presence store, with the rights of the server."""
    async for made in _store(database):
        yield made


async def _store(database: Database) -> AsyncIterator[PostgresStore]:
    pool = pool_of_one(database)
    yield PostgresStore(pool, Synced(CHAT))
    pool.terminate()


@pytest.fixture
def quick_presence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "EVERY", 0.05)


class Devices:
    """One device of one user, as servers record it."""

    def __init__(self, store: PostgresStore, sql: Any) -> None:
        self.store = store
        self.sql = sql
        self.user = str(uuid4())
        self.client_id = uuid4()

    async def record(
        self, server: str, session: str, seq: int | None, state: str = "live", code: int | None = None
    ) -> None:
        await self.store.record(
            server,
            [
                DeviceStatus(
                    self.user, self.client_id, session, seq, DeviceState(state), code, {"one": 1, "two": 2}[session]
                )
            ],
        )

    async def held(self) -> tuple[str, str, int | None, str, int | None]:
        """Server, session, position, state and close code."""
        row = await self.sql.fetchrow("SELECT * FROM sync.devices WHERE client_id = $1", self.client_id)
        return row["server"], row["session"], row["seq"], row["state"], row["close_code"]


@pytest.fixture
def devices(store: PostgresStore, sql: Any) -> Devices:
    return Devices(store, sql)


# ---- What is noted --------------------------------------------------------------------------------------------------


async def test_a_note_takes_the_place_of_the_last_one_on_every_postgres(
    every_database: Database, every_sql: Any
) -> None:
    sql = every_sql
    async for store in _store(every_database):
        devices = Devices(store, sql)
        await devices.record(A, "one", 1, "catching_up")
        connected = "SELECT connected_at FROM sync.devices"
        first = await sql.fetchval(connected)
        await devices.record(A, "one", 2)
        assert await devices.held() == (A, "one", 2, "live", None)
        assert await sql.fetchval(connected) == first
        await devices.record(A, "one", 2, "closed", 1006)
        assert await devices.held() == (A, "one", 2, "closed", 1006)
        await devices.record(B, "two", 3)
        assert await devices.held() == (B, "two", 3, "live", None)
        assert await sql.fetchval(connected) > first


async def test_the_last_position_stays_noted_in_the_middle_of_a_snapshot(devices: Devices) -> None:
    await devices.record(A, "one", 5)
    await devices.record(A, "two", None, "snapshot")
    assert await devices.held() == (A, "two", 5, "snapshot", None)


async def test_the_end_of_an_older_connection_does_not_hide_a_newer_one(devices: Devices) -> None:
    await devices.record(A, "one", 5)
    await devices.record(B, "two", 7)
    await devices.record(A, "one", 5, "closed", 1006)
    assert await devices.held() == (B, "two", 7, "live", None)


async def test_an_older_connection_that_nobody_missed_yet_does_not_hide_a_newer_one(devices: Devices) -> None:
    # The line of the first was cut, which its server notices within a minute; until then it writes to it.
    await devices.record(A, "one", 5)
    await devices.record(B, "two", 7)
    await devices.record(A, "one", 7)
    await devices.record(A, "one", 7, "closed", 1006)
    assert await devices.held() == (B, "two", 7, "live", None)


async def test_every_server_says_that_it_lives_also_without_a_device(store: PostgresStore, sql: Any) -> None:
    seen = "SELECT seen_at FROM sync.servers WHERE server = $1"
    await store.record(A, [])
    await store.record(B, [])
    first, other = await sql.fetchval(seen, A), await sql.fetchval(seen, B)
    await store.record(A, [])
    assert await sql.fetchval(seen, A) > first
    assert await sql.fetchval(seen, B) == other
    assert await sql.fetchval("SELECT count(*) FROM sync.devices") == 0


async def test_a_crowd_fits_into_a_statement(store: PostgresStore, sql: Any) -> None:
    users = [str(uuid4()) for _ in range(presence.AT_ONCE)]
    crowd = [DeviceStatus(user, uuid4(), "a session", 1, DeviceState.LIVE, None, 1) for user in users]
    await asyncio.gather(store.record(A, crowd), store.record(A, list(reversed(crowd))))
    assert await sql.fetchval("SELECT count(*) FROM sync.devices") == presence.AT_ONCE


async def test_a_statement_with_two_notes_of_one_device_is_refused(devices: Devices) -> None:
    status = DeviceStatus(devices.user, devices.client_id, "one", 1, DeviceState.LIVE, None, 1)
    with pytest.raises(UnavailableError):
        await devices.store.record(A, [status, status])


# ---- Real devices on real servers -----------------------------------------------------------------------------------


async def state_of(sql: Any, client_id: UUID) -> tuple[str, int | None, int | None] | None:
    """State, close code and position."""
    row = await sql.fetchrow("SELECT state, close_code, seq FROM sync.devices WHERE client_id = $1", client_id)
    return None if row is None else (row["state"], row["close_code"], row["seq"])


async def becomes(sql: Any, client_id: UUID, *expected: object) -> None:
    async def is_so() -> bool:
        return await state_of(sql, client_id) == expected

    await eventually(is_so)


async def test_a_device_is_noted_where_it_is_and_how_it_left(
    quick_presence: None, database: Database, sql: Any, user: UUID
) -> None:
    async with serving(database) as server:
        async with live_device(server.url, user) as device:
            await becomes(sql, device.client_id, "live", None, device.position)
            await add_conversation(sql, user)
            await device.hear_a(Changes)
            await becomes(sql, device.client_id, "live", None, device.position)
        await becomes(sql, device.client_id, "closed", 1000, device.position)
        async with live_device(server.url, user, device.client_id) as again:
            await becomes(sql, device.client_id, "live", None, again.position)
            again.socket.transport.abort()
            await becomes(sql, device.client_id, "closed", 1006, again.position)


async def test_a_device_that_was_replaced_is_where_its_newer_connection_is(
    quick_presence: None, database: Database, sql: Any, user: UUID
) -> None:
    async with serving(database) as server, live_device(server.url, user) as older:
        await becomes(sql, older.client_id, "live", None, older.position)
        async with live_device(server.url, user, older.client_id) as newer:
            assert (await older.closed())[0] == 4302
            assert newer.welcome is not None

            async def is_newer() -> bool:
                session = await sql.fetchval("SELECT session FROM sync.devices WHERE state = 'live'")
                return bool(newer.welcome and session == newer.welcome.session)

            await eventually(is_newer)


async def test_a_shutdown_notes_whom_it_sent_away(database: Database, sql: Any, user: UUID) -> None:
    async with serving(database) as server, live_device(server.url, user) as device:
        server.app.stop()
        assert (await device.closed())[0] == 4000
        await becomes(sql, device.client_id, "closed", 4000, device.position)


async def test_a_device_that_was_here_between_two_looks_is_noted(database: Database, sql: Any, user: UUID) -> None:
    async with serving(database) as server, live_device(server.url, user) as device:
        pass
    await becomes(sql, device.client_id, "closed", 1000, device.position)
    conversation = await add_conversation(sql, user)
    async with serving(database) as server, live_device(server.url, user, device.client_id) as again:
        assert conversation in {key[1] for key in again.state()}
    # Both servers noted everything when they stopped.
    assert await state_of(sql, device.client_id) == ("closed", 1000, again.position)


async def test_devices_are_noted_by_the_server_that_they_are_on(
    quick_presence: None, database: Database, sql: Any, user: UUID
) -> None:
    async with (
        serving(database) as one,
        serving(database) as other,
        live_device(one.url, user) as here,
        live_device(other.url, user) as there,
    ):
        await becomes(sql, here.client_id, "live", None, here.position)
        await becomes(sql, there.client_id, "live", None, there.position)
        servers = await sql.fetch("SELECT DISTINCT server FROM sync.devices JOIN sync.servers USING (server)")
        assert len(servers) == 2
        # From one to the other, without waiting for the end of the first.
        async with live_device(other.url, user, here.client_id) as moved:
            await eventually(
                lambda: sql.fetchval("SELECT count(DISTINCT server) = 1 FROM sync.devices WHERE state = 'live'")
            )
            assert moved.welcome is not None


async def test_a_note_of_the_time_without_postgres_is_written_when_it_is_back(
    quick_presence: None, database: Database, sql: Any, user: UUID
) -> None:
    async with (
        postgres_behind_proxy(database.server_url) as (proxy, url),
        serving(url) as server,
        live_device(server.url, user) as leaves,
        live_device(server.url, user) as stays,
    ):
        await becomes(sql, leaves.client_id, "live", None, leaves.position)
        await becomes(sql, stays.client_id, "live", None, stays.position)
        proxy.refusing = True
        proxy.cut()
        await leaves.socket.close()
        assert (await state_of(sql, leaves.client_id) or "")[0] == "live"
        proxy.refusing = False
        await becomes(sql, leaves.client_id, "closed", 1000, leaves.position)
        await becomes(sql, stays.client_id, "live", None, stays.position)


def statements() -> dict[str, float]:
    """How many statements of each name this process has run."""
    metrics.flush()
    return {
        sample.labels["name"]: sample.value
        for metric in metrics.REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "atlas_statement_seconds_count"
    }


async def test_devices_that_stand_still_cost_one_statement_every_fifteen_seconds_and_no_row(
    database: Database, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert presence.EVERY == 15.0
    monkeypatch.setattr(presence, "EVERY", 0.05)
    users = [await add_user(sql) for _ in range(3)]
    async with (
        serving(database, sweep=3_600.0) as server,
        live_device(server.url, users[0]),
        live_device(server.url, users[1]),
        live_device(server.url, users[2]),
    ):
        await eventually(lambda: sql.fetchval("SELECT count(*) = 3 FROM sync.devices WHERE state = 'live'"))
        # The first sweep, which comes with the first doorbells, is over.
        async with httpx.AsyncClient() as client:
            await eventually(partial(is_ready, client, server.http))
        before, noted = statements(), await rows(sql)
        await eventually(lambda: statements().get("record_devices", 0) >= before.get("record_devices", 0) + 10)
        after = statements()
        assert {name for name in after if after[name] != before.get(name, 0)} == {"record_devices"}
        assert await rows(sql) == noted


async def is_ready(client: httpx.AsyncClient, http: str) -> bool:
    return (await client.get(f"{http}/readyz")).status_code == 200


async def rows(sql: Any) -> Sequence[object]:
    """The devices, and which transaction wrote each."""
    return [tuple(row) for row in await sql.fetch("SELECT xmin::text, * FROM sync.devices ORDER BY client_id")]
