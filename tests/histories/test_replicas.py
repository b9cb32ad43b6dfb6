"""Read replicas: what a device gets is never older than what it has, whatever the replica does."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, MutableMapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from server import metrics
from server.metrics.catalogue import REGISTRY
from server.postgres import inspector, replicas
from server.postgres.doctor import examine
from server.postgres.replicas import AHEAD, ANOTHER_HISTORY, NOT_FOLLOWING
from tests.support.client_device import ClientDevice
from tests.support.cluster import administrator
from tests.support.device import live_device
from tests.support.histories import Machine, Machines
from tests.support.oracle import select_everything
from tests.support.people import add_conversation, add_message, add_user
from tests.support.rows import Message
from tests.support.serving import Running, serving
from tests.support.waiting import eventually

PATIENT = 60.0
"""Seconds between two sweeps: no test waits for one."""


@pytest.fixture(autouse=True)
def looked_at_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "EVERY", 0.05)
    monkeypatch.setattr(inspector, "EVERY", 0.2)


def figure(name: str, /, **labels: str) -> float:
    metrics.flush()
    return REGISTRY.get_sample_value(name, labels) or 0.0


def reads(by: str) -> float:
    return figure("atlas_reads_total", by=by)


def reasons(logs: Sequence[MutableMapping[str, Any]]) -> list[str]:
    """Why replicas were not used."""
    return [line["why"] for line in logs if line["event"] == "a replica is not used"]


async def is_used(count: int = 1) -> None:
    await eventually(lambda: figure("atlas_replicas", state="used") == count)


async def is_left() -> None:
    await eventually(lambda: figure("atlas_replicas", state="used") == 0)


@contextlib.asynccontextmanager
async def beside(primary: Machine, *copies: Machine, **settings: Any) -> AsyncIterator[Running]:
    """A server of `primary` that reads from these replicas."""
    urls = [machine.database.server_url for machine in copies]
    async with serving(primary.database, replica_urls=urls, sweep=PATIENT, **settings) as server:
        yield server


async def somebody(sql: Any) -> tuple[UUID, UUID]:
    user = await add_user(sql)
    return user, await add_conversation(sql, user, f"{user} begins")


async def comes_back(device: ClientDevice) -> None:
    device.start()
    assert device.device is not None
    await device.device.wait_live(20)


async def a_device_that_left(server: Running, sql: Any, copies: int = 1) -> tuple[ClientDevice, UUID]:
    """It has its conversation, and so many replicas are used by now."""
    user, conversation = await somebody(sql)
    device = ClientDevice(server.url, user)
    await is_used(copies)
    await comes_back(device)
    await device.stop()
    return device, conversation


async def is_up_to_date(sql: Any, device: ClientDevice) -> None:
    """Being live, it has everything: there is nothing to wait for."""
    device.check()
    assert device.state() == await select_everything(sql, device.user)


async def test_a_replica_reads_for_devices_that_come_back_start_and_scroll(every_site: Machines) -> None:
    primary = every_site.primary()
    replica = every_site.replica(primary)
    async with beside(primary, replica) as server, administrator(primary.database) as sql:
        user, conversation = await somebody(sql)
        device = ClientDevice(server.url, user)
        await is_used()
        await replica.has_all_of(primary)
        before = reads("primary")
        await comes_back(device)  # a snapshot
        await device.stop()
        for _ in range(3):
            await add_message(sql, conversation, f"{user} goes on")
        await replica.has_all_of(primary)
        await comes_back(device)  # changes
        await is_up_to_date(sql, device)
        await device.stop()
        async with live_device(server.url, user) as scrolls:
            page = await scrolls.page(conversation, None, 10)
            assert len(page.rows) == 3
        assert reads("primary") == before


async def test_a_device_that_is_live_has_everything_while_the_replay_is_paused(site: Machines) -> None:
    primary = site.primary()
    replica = site.replica(primary)
    async with beside(primary, replica) as server, administrator(primary.database) as sql:
        device, conversation = await a_device_that_left(server, sql)
        await replica.has_all_of(primary)
        await replica.query("SELECT pg_wal_replay_pause()")
        await add_message(sql, conversation, f"{device.user} goes on")
        await comes_back(device)  # the replica is at its position, and has nothing for it
        await is_up_to_date(sql, device)
        late = ClientDevice(server.url, device.user)
        await comes_back(late)  # from the replica's past
        await is_up_to_date(sql, late)
        for each in (device, late):
            await each.stop()
        await replica.query("SELECT pg_wal_replay_resume()")


async def test_a_page_is_not_older_than_what_the_device_has(site: Machines) -> None:
    primary = site.primary()
    replica = site.replica(primary)
    async with beside(primary, replica) as server, administrator(primary.database) as sql:
        user, conversation = await somebody(sql)
        await is_used()
        await replica.has_all_of(primary)
        await replica.query("SELECT pg_wal_replay_pause()")
        async with live_device(server.url, user) as device:
            message = await add_message(sql, conversation, f"{user} goes on")
            await eventually(partial(heard_of, device, message))
            page = await device.page(conversation, None, 10)
            assert [row.id for row in page.rows if isinstance(row, Message)] == [message]
        await replica.query("SELECT pg_wal_replay_resume()")


async def heard_of(device: Any, message: UUID) -> bool:
    await device.hear()
    return any(row.id == message for row in device.rows)


async def test_a_tier_that_the_replica_does_not_know_yet_counts(site: Machines) -> None:
    primary = site.primary()
    replica = site.replica(primary)
    async with beside(primary, replica) as server, administrator(primary.database) as sql:
        user, _ = await somebody(sql)
        await sql.execute("UPDATE profiles SET subscription_tier = 'free' WHERE id = $1", user)
        await is_used()
        await replica.has_all_of(primary)
        await replica.query("SELECT pg_wal_replay_pause()")
        await sql.execute("UPDATE profiles SET subscription_tier = 'core' WHERE id = $1", user)
        device = ClientDevice(server.url, user)
        await comes_back(device)
        await is_up_to_date(sql, device)
        await device.stop()
        await replica.query("SELECT pg_wal_replay_resume()")


async def test_a_replica_that_lags_is_left_until_it_has_caught_up(
    site: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "LAG_SECONDS", 0.2)
    monkeypatch.setattr(replicas, "LAG_SECONDS_BACK", 0.2)
    primary = site.primary()
    replica = site.replica(primary)
    async with beside(primary, replica), administrator(primary.database) as sql:
        await is_used()
        await replica.query("SELECT pg_wal_replay_pause()")
        await somebody(sql)
        await is_left()
        assert figure("atlas_replica_lag_seconds", replica="1") > 0.2
        await replica.query("SELECT pg_wal_replay_resume()")
        await is_used()


async def test_a_replica_that_is_killed_is_left_and_taken_back(site: Machines) -> None:
    primary = site.primary()
    replica = site.replica(primary)
    async with beside(primary, replica) as server, administrator(primary.database) as sql:
        device, conversation = await a_device_that_left(server, sql)
        replica.postgres.stop(immediate=True)
        await add_message(sql, conversation, f"{device.user} goes on")
        await comes_back(device)
        await is_up_to_date(sql, device)
        await device.stop()
        await is_left()
        replica.postgres.start()
        await is_used()
        await add_message(sql, conversation, f"{device.user} goes on")
        await comes_back(device)
        await is_up_to_date(sql, device)
        await device.stop()


async def test_a_replica_that_hangs_delays_one_read_and_is_left(
    site: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.feed.replicas.PATIENCE", 0.2)
    primary = site.primary()
    replica = site.replica(primary)
    async with beside(primary, replica) as server, administrator(primary.database) as sql:
        device, conversation = await a_device_that_left(server, sql)
        await add_message(sql, conversation, f"{device.user} goes on")
        replica.freeze()
        try:
            await comes_back(device)
            await is_up_to_date(sql, device)
            await device.stop()
            await is_left()
        finally:
            replica.thaw()
        await is_used()


async def test_what_is_written_to_a_promoted_replica_reaches_no_device(site: Machines) -> None:
    primary = site.primary()
    replica, other = site.replica(primary), site.replica(primary, "other")
    async with beside(primary, replica, other) as server, administrator(primary.database) as sql:
        device, conversation = await a_device_that_left(server, sql, 2)
        await replica.has_all_of(primary)
        with capture_logs() as logs:
            await replica.promote()
            async with administrator(replica.database) as elsewhere:
                await add_message(elsewhere, conversation, f"{device.user} is somewhere else")
            for _ in range(4):
                await comes_back(device)
                await is_up_to_date(sql, device)
                await device.stop()
            await is_used(1)
        assert reasons(logs) == [NOT_FOLLOWING]
        assert len(device.snapshots) == 1


async def test_a_replica_of_a_restored_backup_is_never_used(site: Machines) -> None:
    primary = site.archiving_primary()
    backup = site.back_up(primary)
    await primary.query("SELECT pg_create_restore_point('there')")
    restored = await site.restored(primary, backup, "there")
    replica = site.replica(restored)
    await restored.query("CHECKPOINT")
    await replica.has_all_of(restored)
    await replica.query("CHECKPOINT")  # writes its timeline down
    with capture_logs() as logs:
        async with beside(primary, replica), administrator(primary.database) as sql:
            await somebody(sql)
            await eventually(lambda: reasons(logs) == [ANOTHER_HISTORY])
        async with serving(restored.database):
            await replica.has_all_of(restored)  # an epoch of its own
        async with beside(primary, replica):
            await eventually(lambda: reasons(logs) == [ANOTHER_HISTORY] * 2)
    assert not [line for line in logs if line["event"] == "a replica is used"]


async def test_a_replica_that_holds_what_the_primary_lost_is_left(site: Machines) -> None:
    primary = site.primary()
    async with administrator(primary.database) as sql, serving(primary.database):
        user, conversation = await somebody(sql)
    primary.postgres.stop()
    image = primary.image()
    primary.postgres.start()
    replica = site.replica(primary)
    with capture_logs() as logs:
        async with beside(primary, replica) as server:
            async with administrator(primary.database) as sql:
                for _ in range(30):
                    await add_message(sql, conversation, f"{user} {random.randbytes(3_000).hex()}")
            await replica.has_all_of(primary)
            await is_used()
            primary.postgres.kill()
            primary.put_back(image)
            primary.postgres.start()
            device = ClientDevice(server.url, user)
            await comes_back(device)
            async with administrator(primary.database) as sql:
                await is_up_to_date(sql, device)
            await device.stop()
            await eventually(lambda: AHEAD in reasons(logs))
            await is_left()


async def test_the_primary_itself_is_no_replica(site: Machines) -> None:
    primary = site.primary()
    with capture_logs() as logs:
        async with beside(primary, primary) as server, administrator(primary.database) as sql:
            user, _ = await somebody(sql)
            await eventually(lambda: reasons(logs) == [NOT_FOLLOWING])
            async with live_device(server.url, user):
                pass
    assert not [line for line in logs if line["event"] == "a replica is used"]


async def test_another_history_on_the_primary_is_waited_for_on_the_replica(site: Machines) -> None:
    primary = site.primary()
    replica = site.replica(primary)
    async with beside(primary, replica) as server, administrator(primary.database) as sql:
        user, _ = await somebody(sql)
        await is_used()
        async with live_device(server.url, user) as device:
            await replica.has_all_of(primary)
            await replica.query("SELECT pg_wal_replay_pause()")
            epoch = await sql.fetchval("SELECT sync.epoch()")
            await sql.fetchval("SELECT sync.begin_history($1)", epoch)
            with contextlib.suppress(Exception):
                while True:
                    await device.hear()  # until it is told
        await is_left()
        async with live_device(server.url, user):
            pass
        await replica.query("SELECT pg_wal_replay_resume()")
        await is_used()


async def test_a_crowd_on_a_replica_is_confirmed_by_few_statements(site: Machines) -> None:
    primary = site.primary()
    replica = site.replica(primary)
    async with beside(primary, replica) as server, administrator(primary.database) as sql:
        users = [await somebody(sql) for _ in range(60)]
        await is_used()
        await replica.has_all_of(primary)
        cursors: dict[UUID, bytes] = {}
        for user, _ in users:
            async with live_device(server.url, user) as device:
                assert device.cursor is not None
                cursors[user] = device.cursor
        before = figure("atlas_statement_seconds_count", name="heads")

        async def back(user: UUID) -> None:
            device = ClientDevice(server.url, user)
            device.cursor = cursors[user]
            await comes_back(device)
            await device.stop()

        await asyncio.gather(*(back(user) for user, _ in users))
        assert figure("atlas_statement_seconds_count", name="heads") - before < 12


async def test_the_doctor_finds_which_replicas_can_be_used(site: Machines) -> None:
    primary = site.primary()
    replica = site.replica(primary)
    gone = site.replica(primary, "gone")
    gone.postgres.stop()
    urls = [machine.database.server_url for machine in (replica, primary, gone)]
    found = {f.what: f async for f in examine(primary.database.server_url, None, urls) if f.what.startswith("replica")}
    assert [finding.good for finding in found.values()] == [True, False, False]
    assert NOT_FOLLOWING.removesuffix(".") in found["replica 2"].says
