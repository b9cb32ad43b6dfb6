"""Copies of responses in Redis: right or not there, whatever happens to Redis. Postgres decides."""

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

import pytest

from server.exceptions import CacheError
from server.library import open_cache
from server.redis.link import Link
from server.redis.responses import FORM, RedisResponses
from server.responses import cache as caching
from server.responses.cache import Layer, ResponseCache
from server.responses.ports import Lease, Response
from server.responses.question import EVERYBODY, Key, key
from tests.support.cluster import Cluster, Database, administrator
from tests.support.redis import RedisProcess, needs_redis, running_redis
from tests.support.waiting import eventually

pytestmark = needs_redis

ROUNDS: Final = 400


@pytest.fixture(autouse=True)
def only_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process keeps nothing itself, and a busy machine does not make Redis count as away."""
    monkeypatch.setattr(caching, "MEMORY_SECONDS", 0.0)
    monkeypatch.setattr(Link.command, "__kwdefaults__", {"patience": 0.3})


async def opened(stack: AsyncExitStack, database: Database, redis: RedisProcess) -> ResponseCache:
    return await stack.enter_async_context(open_cache(database.server_url, redis.url))


@pytest.fixture
async def caches(shared_database: Database, redis: RedisProcess) -> AsyncIterator[tuple[ResponseCache, ResponseCache]]:
    """Of two processes."""
    async with AsyncExitStack() as stack:
        yield (await opened(stack, shared_database, redis), await opened(stack, shared_database, redis))


def a_key() -> Key:
    return key(f"question {uuid4()}", model="model-1", tier="core", scope=EVERYBODY)


async def found(cache: ResponseCache, wanted: Key) -> tuple[str, Layer] | None:
    hit = await cache.get(wanted)
    return None if hit is None else (hit.response.text, hit.layer)


async def only_name(redis: RedisProcess) -> str:
    (name,) = await redis.command("KEYS", "*")
    return str(name.decode())


Caches = tuple[ResponseCache, ResponseCache]


async def test_what_one_process_stores_another_finds_in_redis(caches: Caches) -> None:
    one, other = caches
    wanted = a_key()
    await one.put(wanted, "first", ttl=60, tokens=5, cost=Decimal("0.25"))
    hit = await other.get(wanted)
    assert hit is not None
    assert (hit.layer, hit.response.text, hit.response.tokens, hit.response.cost) == (
        Layer.REDIS,
        "first",
        5,
        Decimal("0.25"),
    )
    await one.put(wanted, "second", ttl=60)
    assert await found(other, wanted) == ("second", Layer.REDIS)
    await one.delete(wanted)
    assert await found(other, wanted) is None


@pytest.mark.parametrize("how", ["killed", "hangs"])
async def test_without_redis_postgres_answers_and_nothing_fails(caches: Caches, redis: RedisProcess, how: str) -> None:
    one, other = caches
    wanted = a_key()
    await one.put(wanted, "answer", ttl=60)
    if how == "killed":
        redis.kill()
    else:
        redis.stall()
    assert await found(other, wanted) == ("answer", Layer.POSTGRES)
    new = a_key()
    lease = await other.take(new, lease=60.0)
    assert isinstance(lease, Lease)
    await other.put(new, "new", ttl=60, lease=lease.fence)
    assert await found(one, new) == ("new", Layer.POSTGRES)
    with pytest.raises(CacheError, match="Delete it again"):
        await one.delete(wanted)
    assert await found(other, wanted) is None
    if how == "killed":
        await redis.start()
    else:
        redis.go_on()

    async def copied() -> bool:
        return await found(one, new) == ("new", Layer.REDIS)

    await eventually(copied)


async def test_a_deletion_that_redis_missed_is_repeated_until_it_is_there_too(
    caches: Caches, redis: RedisProcess
) -> None:
    one, other = caches
    wanted = a_key()
    await one.put(wanted, "answer", ttl=60)
    redis.stall()
    with pytest.raises(CacheError):
        await one.delete(wanted)
    redis.go_on()

    async def deleted() -> bool:
        try:
            await one.delete(wanted)
        except CacheError:
            return False
        return True

    await eventually(deleted)
    assert await found(other, wanted) is None


async def test_a_flushed_redis_is_filled_again(caches: Caches, redis: RedisProcess) -> None:
    one, other = caches
    wanted = a_key()
    await one.put(wanted, "answer", ttl=60)
    await redis.command("FLUSHALL")
    assert await found(other, wanted) == ("answer", Layer.POSTGRES)
    assert await found(one, wanted) == ("answer", Layer.REDIS)


async def test_in_a_full_redis_a_replaced_response_is_gone(caches: Caches, redis: RedisProcess) -> None:
    one, other = caches
    wanted = a_key()
    await one.put(wanted, "first", ttl=60)
    assert await found(other, wanted) == ("first", Layer.REDIS)
    await redis.command("CONFIG", "SET", "maxmemory", 1)
    await one.put(wanted, "second", ttl=60)
    assert await found(other, wanted) == ("second", Layer.POSTGRES)
    await one.delete(wanted)
    assert await found(other, wanted) is None


async def test_a_redis_that_evicts_loses_copies_and_no_response(shared_database: Database) -> None:
    async with (
        running_redis("--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru") as redis,
        AsyncExitStack() as stack,
    ):
        cache = await opened(stack, shared_database, redis)
        keys = [a_key() for _ in range(40)]
        for number, wanted in enumerate(keys):
            await cache.put(wanted, f"{number}".ljust(100_000), ttl=60)
        told = [await found(cache, wanted) for wanted in keys]
        assert [hit[0].strip() for hit in told if hit is not None] == [f"{number}" for number in range(40)]
        assert {hit[1] for hit in told if hit is not None} >= {Layer.POSTGRES}


@pytest.mark.parametrize("poison", ["another key's value", "another form", "cut off", "text", "a list", "a later form"])
async def test_what_another_version_left_under_the_name_counts_as_nothing(
    caches: Caches, redis: RedisProcess, poison: str
) -> None:
    one, other = caches
    wanted = a_key()
    await one.put(wanted, "the neighbour's", ttl=60)
    neighbours = await redis.command("GET", await only_name(redis))
    await redis.command("FLUSHALL")
    wanted = a_key()
    await one.put(wanted, "answer", ttl=60)
    name = await only_name(redis)
    right = await redis.command("GET", name)
    if poison == "a list":
        await redis.command("DEL", name)
        await redis.command("RPUSH", name, "x")
    else:
        values = {
            "another key's value": neighbours,
            "another form": right.replace(FORM, b"atlas-response-0 "),
            "cut off": right[:-3],
            "text": b"answer of somebody else",
            "a later form": right + b"\x01",
        }
        await redis.command("SET", name, values[poison])
    assert await found(other, wanted) == ("answer", Layer.POSTGRES)
    # Postgres' answer replaced it.
    assert await found(other, wanted) == ("answer", Layer.REDIS)


async def test_an_earlier_response_comes_neither_over_a_later_one_nor_over_a_deletion(redis: RedisProcess) -> None:
    wanted = a_key()
    async with Link(redis.url) as link:
        copies = RedisResponses(link, lambda: "epoch")

        def response(version: int) -> Response:
            return Response(f"{version}", 0, Decimal(0), 0, 0, version)

        await copies.set(wanted, response(5), 60.0)
        await copies.set(wanted, response(4), 60.0)
        assert await copies.get(wanted) == response(5)
        await copies.set(wanted, response(999_999_999_999_999), 60.0)
        await copies.set(wanted, response(1_000_000_000_000_000), 60.0)
        assert await copies.get(wanted) == response(1_000_000_000_000_000)
        await copies.drop(wanted, 1_000_000_000_000_001)
        await copies.set(wanted, response(1_000_000_000_000_000), 60.0)
        assert await copies.get(wanted) is None
        await copies.set(wanted, response(1_000_000_000_000_002), 60.0)
        assert await copies.get(wanted) == response(1_000_000_000_000_002)


async def test_a_copy_that_redis_keeps_for_too_long_is_not_returned(
    shared_database: Database, redis: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        cache = await opened(stack, shared_database, redis)
        wanted = a_key()
        await cache.put(wanted, "answer", ttl=60)
        await redis.command("PERSIST", await only_name(redis))
        assert await found(cache, wanted) == ("answer", Layer.REDIS)
        now = cache._clock
        monkeypatch.setattr(cache, "_clock", lambda: now() + 60)
        assert await cache._look_into_redis(wanted) is None


async def test_databases_that_share_a_redis_share_no_response(
    shared_database: Database, redis: RedisProcess, postgres_18: Cluster
) -> None:
    another = await postgres_18.create()
    try:
        async with administrator(another) as sql:
            await sql.execute("UPDATE sync.meta SET history = gen_random_uuid()")
        wanted = a_key()
        async with AsyncExitStack() as stack:
            one = await opened(stack, shared_database, redis)
            other = await opened(stack, another, redis)
            await one.put(wanted, "of the one", ttl=60)
            assert await found(other, wanted) is None
    finally:
        await another.drop()


async def test_whatever_redis_loses_every_process_returns_what_postgres_has(
    caches: Caches, redis: RedisProcess
) -> None:
    """Random puts, deletions and looks of two processes, while Redis forgets and fills up again."""
    chance = random.Random(7)
    keys = [a_key() for _ in range(4)]
    right: dict[Key, str] = {}
    layers: set[Any] = set()
    async with Link(redis.url) as link:
        for number in range(ROUNDS):
            cache, wanted = chance.choice(caches), chance.choice(keys)
            match chance.choice(["put", "delete", "look", "look", "look", "look", "flush"]):
                case "put":
                    right[wanted] = f"answer {number}"
                    await cache.put(wanted, right[wanted], ttl=60)
                case "delete":
                    right.pop(wanted, None)
                    await cache.delete(wanted)
                case "flush":
                    await link.command("FLUSHALL")
                case "look":
                    told = await found(cache, wanted)
                    assert (None if told is None else told[0]) == right.get(wanted)
                    layers.add(None if told is None else told[1])
    assert layers == {None, Layer.REDIS, Layer.POSTGRES}
