"""Redis is asked within bounds: away costs one wait and one line in the log, and no answer reaches another command."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from server.exceptions import CacheError, ConfigError
from server.redis.link import EVICT, REFUSES_LOGIN, Link
from tests.support.prometheus import free_port
from tests.support.redis import RedisProcess, needs_redis, running_redis
from tests.support.waiting import eventually

pytestmark = needs_redis


@pytest.fixture
async def link(redis: RedisProcess) -> AsyncIterator[Link]:
    async with Link(redis.url) as link:
        yield link


async def fill(link: Link) -> None:
    for number in range(1_000):
        await link.command("SET", f"key-{number}", bytes(10_000))


async def is_back(link: Link) -> None:
    await eventually(lambda: link.up)


async def test_what_was_set_is_found(link: Link) -> None:
    await link.command("SET", "key", b"\x00value")
    assert await link.command("GET", "key") == b"\x00value"
    assert await link.command("GET", "another") is None


async def test_a_redis_that_is_gone_is_told_at_once_and_logged_once(redis: RedisProcess, link: Link) -> None:
    await link.command("SET", "key", "value")
    redis.kill()
    with capture_logs() as logs:
        for _ in range(100):
            with pytest.raises(CacheError, match="REDIS_URL"):
                await link.command("GET", "key")
        assert [line["event"] for line in logs] == ["redis is away, going on without it"]
        await redis.start()
        await is_back(link)
    assert [line["event"] for line in logs][1:] == ["redis is back"]
    assert await link.command("GET", "key") is None


async def test_a_redis_that_never_ran_is_found_when_it_starts() -> None:
    async with running_redis() as redis:
        redis.kill()
        async with Link(redis.url) as link:
            with pytest.raises(CacheError):
                await link.command("PING")
            assert not link.up
            await redis.start()
            await is_back(link)
            assert await link.command("PING") is True


async def test_a_redis_that_hangs_does_not_answer_a_later_command_with_an_earlier_answer(
    redis: RedisProcess, link: Link
) -> None:
    for number in range(8):
        await link.command("SET", f"key-{number}", f"value-{number}")
    redis.stall()
    try:
        asked = [link.command("GET", f"key-{number}") for number in range(8)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(answer, CacheError) for answer in answers)
    finally:
        redis.go_on()
    await is_back(link)
    for number in range(8):
        assert await link.command("GET", f"key-{number}") == f"value-{number}".encode()


async def test_a_cancelled_command_does_not_give_its_answer_to_the_next(redis: RedisProcess, link: Link) -> None:
    await link.command("SET", "mine", "mine")
    await link.command("SET", "yours", "yours")
    for turns in range(12):
        task = asyncio.ensure_future(link.command("GET", "mine"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert await link.command("GET", "yours") == b"yours"
    assert link.up


async def test_a_process_that_is_busy_does_not_take_redis_for_away(link: Link) -> None:
    with capture_logs() as logs:
        for turns in range(8):
            task = asyncio.ensure_future(link.command("PING"))
            for _ in range(turns):
                await asyncio.sleep(0)
            time.sleep(0.1)  # noqa: ASYNC251  # longer than a command may take
            await asyncio.wait([task])
            task.exception()
            assert link.up
    assert not logs


async def test_a_full_redis_refuses_and_still_answers() -> None:
    async with (
        running_redis("--maxmemory", "2mb", "--maxmemory-policy", "noeviction") as redis,
        Link(redis.url) as link,
    ):
        await link.command("SET", "key", "value")
        with capture_logs() as logs:
            for _ in range(2):
                with pytest.raises(CacheError, match="Redis refuses SET: "):
                    await fill(link)
        assert [line["event"] for line in logs] == ["redis refuses a command, going on without it"]
        assert await link.command("GET", "key") == b"value"


async def test_a_password_that_is_missing_or_wrong_is_told_from_a_redis_that_is_away() -> None:
    async with running_redis("--requirepass", "right") as redis:
        for login in ("", ":wrong@"):
            async with Link(redis.url.replace("//", f"//{login}")) as link:
                assert await link.examine() == (False, REFUSES_LOGIN)


async def test_an_address_where_nobody_listens_is_away() -> None:
    async with Link(f"redis://127.0.0.1:{free_port()}") as link:
        with pytest.raises(CacheError):
            await link.command("PING")


@pytest.mark.parametrize("rest", ["h:none", "h?no_such_parameter=1", "h?protocol=two", "h?protocol=9", ":sec/ret@h"])
def test_a_url_that_makes_no_sense_is_refused_when_it_is_read(rest: str) -> None:
    with pytest.raises(ConfigError, match="REDIS_URL") as refused:
        Link(f"redis://{rest}")
    assert "sec" not in str(refused.value)


async def test_values_are_bytes_whatever_the_url_says(redis: RedisProcess) -> None:
    async with Link(f"{redis.url}?decode_responses=true&encoding=none") as link:
        await link.command("SET", "key", b"\xc1")
        assert await link.command("GET", "key") == b"\xc1"


@pytest.mark.parametrize("host", ["a..b", "a" * 70, "nowhere.invalid"])
async def test_a_host_that_cannot_be_found_is_away(host: str) -> None:
    async with Link(f"redis://{host}:6379") as link:
        assert not link.up


async def test_a_redis_without_a_bound_on_its_memory_is_found_and_one_with_it_is_fit(link: Link) -> None:
    good, says = await link.examine()
    assert (good, EVICT in says) == (False, True)
    async with (
        running_redis("--maxmemory", "8mb", "--maxmemory-policy", "allkeys-lru") as redis,
        Link(redis.url) as other,
    ):
        good, says = await other.examine()
        assert good
        assert "8 MiB" in says
        redis.kill()
        assert (await other.examine())[0] is False
