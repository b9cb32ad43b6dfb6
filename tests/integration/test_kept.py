"""Snapshots and pages from Redis: they cost Postgres nothing, and the feed says what has changed since."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from protocol.frames import ID, Error
from server import metrics
from server.metrics.catalogue import REGISTRY
from tests.support.cluster import Database
from tests.support.device import greeting_device, live_device
from tests.support.oracle import select_everything
from tests.support.people import add_conversation, add_message, add_user
from tests.support.redis import RedisProcess, needs_redis, running_redis
from tests.support.rows import Conversation
from tests.support.serving import Running, serving
from tests.support.waiting import eventually

pytestmark = needs_redis
READS = tuple(f"{form}_{kind}" for form in ("list", "lists") for kind in ("profile", "conversation", "message"))


@pytest.fixture
async def redis() -> AsyncIterator[RedisProcess]:
    async with running_redis() as process:
        yield process


@pytest.fixture
async def server(database: Database, redis: RedisProcess) -> AsyncIterator[Running]:
    async with serving(database, redis_url=redis.url) as running:
        yield running


@pytest.fixture
async def user(sql: Any) -> UUID:
    user = await add_user(sql)
    for number in range(3):
        conversation = await add_conversation(sql, user, f"conversation {number}")
        for _ in range(5):
            await add_message(sql, conversation, "hello")
    return user


def reads() -> float:
    metrics.flush()
    name = "atlas_statement_seconds_count"
    return sum(REGISTRY.get_sample_value(name, {"name": statement}) or 0.0 for statement in READS)


async def comes_new(server: Running, user: UUID) -> Any:
    async with live_device(server.url, user) as device:
        return device.state()


async def is_kept(redis: RedisProcess, keys: int) -> None:
    async def enough() -> bool:
        return len(await redis.command("KEYS", "atlas:*")) >= keys

    await eventually(enough)


async def test_the_next_device_costs_no_read_of_rows_and_has_all_that_was_written_since(
    server: Running, redis: RedisProcess, user: UUID, sql: Any
) -> None:
    assert await comes_new(server, user) == await select_everything(sql, user)
    await is_kept(redis, 2)
    conversation = await add_conversation(sql, user, "one more")
    await add_message(sql, conversation, "hello")
    await sql.execute("DELETE FROM conversations WHERE user_id = $1 AND title = 'conversation 1'", user)
    before = reads()
    assert await comes_new(server, user) == await select_everything(sql, user)
    assert reads() == before


async def test_another_server_finds_what_this_one_has_kept(
    server: Running, redis: RedisProcess, database: Database, user: UUID, sql: Any
) -> None:
    await comes_new(server, user)
    await is_kept(redis, 2)
    before = reads()
    async with serving(database, redis_url=redis.url) as other:
        assert await comes_new(other, user) == await select_everything(sql, user)
    assert reads() == before


async def test_a_page_is_read_again_only_after_its_conversation_has_changed(
    server: Running, redis: RedisProcess, user: UUID, sql: Any
) -> None:
    async with live_device(server.url, user) as device:
        one: Any
        other: Any
        one, other = list(device.replica.rows["conversation"])[:2]
        first = await device.page(one, None, 3)
        await is_kept(redis, 3)
        await add_message(sql, other, "somewhere else")
        await device.hear()
        before = reads()
        again = await device.page(one, None, 3)
        assert reads() == before
        assert (again.as_of, [row[ID] for row in again.rows]) == (device.position, [row[ID] for row in first.rows])
        await add_message(sql, one, "here")
        await device.hear()
        assert [row[ID] for row in (await device.page(one, None, 3)).rows][1:] == [row[ID] for row in first.rows][:2]
        assert reads() == before + 1
        await sql.execute("DELETE FROM messages WHERE id = $1", first.rows[0][ID])
        await device.hear()
        assert first.rows[0][ID] not in [row[ID] for row in (await device.page(one, None, 3)).rows]


async def test_a_user_who_no_longer_syncs_is_told_so_by_the_feed(
    server: Running, redis: RedisProcess, user: UUID, sql: Any
) -> None:
    await comes_new(server, user)
    await is_kept(redis, 2)
    await sql.execute("UPDATE profiles SET subscription_tier = 'free' WHERE id = $1", user)
    async with greeting_device(server.url, user) as device:
        error = await device.hear_a(Error)
        assert error.code == "local_only"


async def test_a_redis_that_hangs_delays_a_device_once_and_is_logged_once(
    server: Running, redis: RedisProcess, user: UUID, sql: Any
) -> None:
    await comes_new(server, user)
    redis.stall()
    try:
        with capture_logs() as logs:
            for _ in range(3):
                assert await comes_new(server, user) == await select_everything(sql, user)
            async with live_device(server.url, user) as device:
                page = await device.page(None, None, 10)
                assert len([row for row in page.rows if isinstance(row, Conversation)]) == 3
        assert [line["event"] for line in logs if "redis" in line["event"]] == ["redis is away, going on without it"]
    finally:
        redis.go_on()


async def test_without_redis_at_the_start_the_server_serves(database: Database, user: UUID, sql: Any) -> None:
    async with running_redis() as gone:
        gone.kill()
        async with serving(database, redis_url=gone.url) as server:
            assert await comes_new(server, user) == await select_everything(sql, user)
