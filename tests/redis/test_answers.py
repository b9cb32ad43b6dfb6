"""Answers of the read path are kept in Redis as long as it is there, and nobody waits for it."""

from collections.abc import AsyncIterator

import pytest

from server.redis import answers
from server.redis.answers import RedisAnswers
from server.redis.link import Link
from tests.support.redis import RedisProcess, needs_redis
from tests.support.waiting import eventually

pytestmark = needs_redis


@pytest.fixture
async def kept(redis: RedisProcess) -> AsyncIterator[RedisAnswers]:
    async with Link(redis.url) as link:
        yield RedisAnswers(link)


async def test_what_is_put_is_soon_found_and_forgotten_in_time(redis: RedisProcess, kept: RedisAnswers) -> None:
    kept.put("key", b"\x00answer", 100)
    await eventually(lambda: kept.get("key"))
    assert await kept.get("key") == b"\x00answer"
    assert 90 < await redis.command("TTL", "key") <= 100


async def test_a_redis_that_is_away_finds_nothing_and_takes_nothing(redis: RedisProcess, kept: RedisAnswers) -> None:
    redis.kill()
    assert await kept.get("key") is None
    kept.put("key", b"answer", 100)
    assert not kept._pending


async def test_a_redis_that_does_not_keep_up_gets_no_more(kept: RedisAnswers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "PENDING", 3)
    for number in range(5):
        kept.put(f"key-{number}", b"answer", 100)
    await eventually(lambda: not kept._pending)
    assert [await kept.get(f"key-{number}") is not None for number in range(5)] == [True] * 3 + [False] * 2
