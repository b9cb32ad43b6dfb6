"""Cached responses: one caller computes, the others wait or are told; none is returned beyond its end; hits are counted
exactly; and `/v1/responses` refuses what makes no sense with a sentence."""

import asyncio
import os
import random
import re
import shutil
import textwrap
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import asyncpg
import httpx
import pytest
from starlette.applications import Starlette
from structlog.testing import capture_logs

from server import library, metrics
from server.edge.responses import Responses
from server.edge.service import ServiceTokens
from server.exceptions import UnavailableError
from server.library import open_cache
from server.responses import cache as caching
from server.responses import question
from server.responses.cache import BusyError, Computed, Hit, Layer, ResponseCache
from server.responses.ports import Busy, Lease
from server.responses.question import EVERYBODY, Key, key
from tests.support.cluster import Database
from tests.support.proxy import postgres_behind_proxy
from tests.support.redis import needs_redis, running_redis
from tests.support.serving import Running, ServerProcess, serving
from tests.support.waiting import LIMIT, eventually

pytestmark = pytest.mark.shared_database(every_postgres=True)

TOKEN: Final = "a token of the tests, of a backend"
ON: Final[dict[str, Any]] = {"responses": True, "service_token": TOKEN}
README: Final = (Path(__file__).parents[2] / "server" / "README.md").read_text()
HITS: Final = "SELECT hit_count FROM sync.response_cache WHERE query_hash = $1 AND tier = $2"


def a_key() -> Key:
    """Of a question that nobody has asked."""
    return key(f"question {uuid4()}", model="model-1", tier="core", scope=EVERYBODY)


@pytest.fixture
async def cache(database: Database) -> AsyncIterator[ResponseCache]:
    async with open_cache(database.server_url) as opened:
        yield opened


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of a second is enough for a lease and for a response."""
    monkeypatch.setattr(question, "LEASE_SECONDS", (0.05, 600.0))
    monkeypatch.setattr(question, "TTL_SECONDS", (0.05, 3_600.0))


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process keeps nothing: every look goes to Postgres."""
    monkeypatch.setattr(caching, "MEMORY_SECONDS", 0.0)


async def leased(cache: ResponseCache, wanted: Key, seconds: float = 60.0) -> Lease:
    taken = await cache.take(wanted, lease=seconds)
    assert isinstance(taken, Lease)
    return taken


class Model:
    """Computes responses when it is let."""

    def __init__(self) -> None:
        self.asked = 0
        self.may = asyncio.Event()

    async def answer(self) -> str:
        self.asked += 1
        await self.may.wait()
        return f"answer {self.asked}"


# ---- One computes ---------------------------------------------------------------------------------------------------


async def test_a_thousand_equal_questions_at_once_are_computed_once(database: Database) -> None:
    model, wanted = Model(), a_key()
    async with open_cache(database.server_url) as one, open_cache(database.server_url) as other:
        calls = [cache.get_or_compute(wanted, model.answer, ttl=60) for cache in (one, other) for _ in range(500)]
        asking = [asyncio.ensure_future(call) for call in calls]
        await eventually(lambda: model.asked)
        model.may.set()
        assert set(await asyncio.gather(*asking)) == {"answer 1"}
    assert model.asked == 1


async def test_who_does_not_wait_is_told_that_another_computes(cache: ResponseCache) -> None:
    wanted = a_key()
    await leased(cache, wanted, 30.0)
    taken = await cache.take(wanted, lease=60.0)
    assert isinstance(taken, Busy)
    assert 0 < taken.seconds <= 30
    with pytest.raises(BusyError):
        await cache.get_or_compute(wanted, Model().answer, ttl=60, wait=0.01)
    assert await cache.get(wanted) is None


async def test_when_the_one_that_computes_fails_the_next_that_waits_computes(cache: ResponseCache) -> None:
    wanted, model = a_key(), Model()

    async def fail() -> str:
        await model.may.wait()
        raise ValueError("the model is down")

    failing = asyncio.ensure_future(cache.get_or_compute(wanted, fail, ttl=60))
    await eventually(lambda: cache._granted)
    waiting = [asyncio.ensure_future(cache.get_or_compute(wanted, model.answer, ttl=60)) for _ in range(3)]
    model.may.set()
    with pytest.raises(ValueError, match="the model is down"):
        await failing
    assert await asyncio.gather(*waiting) == ["answer 1"] * 3


async def test_when_the_one_that_computes_is_cancelled_the_next_computes(cache: ResponseCache) -> None:
    wanted, model = a_key(), Model()
    first = asyncio.ensure_future(cache.get_or_compute(wanted, model.answer, ttl=60))
    await eventually(lambda: model.asked)
    second = asyncio.ensure_future(cache.get_or_compute(wanted, model.answer, ttl=60))
    await asyncio.sleep(0)
    first.cancel()
    model.may.set()
    assert await second == "answer 2"


async def test_who_is_cancelled_at_the_moment_when_it_gets_a_lease_does_not_keep_it(
    cache: ResponseCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, give = a_key(), ResponseCache._give

    def give_and_cancel(flight: Any, lease: Lease) -> bool:
        given = give(flight, lease)
        asking.cancel()
        return given

    with monkeypatch.context() as patched:
        patched.setattr(ResponseCache, "_give", staticmethod(give_and_cancel))
        asking = asyncio.ensure_future(cache.take(wanted, lease=60.0))
        await asyncio.wait([asking])
    assert asking.cancelled()
    assert isinstance(await cache.take(wanted, lease=60.0, wait=LIMIT), Lease)


async def test_who_comes_while_a_late_response_is_being_stored_gets_it_and_no_lease(
    every_database: Database, every_sql: Any
) -> None:
    wanted = a_key()

    async def waits_for_it() -> bool:
        return bool(await every_sql.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

    async with open_cache(every_database.server_url) as cache:
        lease = await leased(cache, wanted)
        await every_sql.execute("UPDATE sync.response_leases SET until = now() WHERE query_hash = $1", wanted.hash)
        async with every_sql.transaction():
            await every_sql.execute("SELECT sync.put_response($1, $2, 'late', 60, 0, 0, $3)", *wanted, lease.fence)
            asking = asyncio.ensure_future(cache.take(wanted, lease=60.0))
            await eventually(waits_for_it)
        taken = await asking
    assert isinstance(taken, Hit)
    assert taken.response.text == "late"


@pytest.mark.usefixtures("short")
async def test_a_lease_ends_by_time_and_its_late_response_is_refused(database: Database) -> None:
    wanted = a_key()
    async with open_cache(database.server_url) as dead, open_cache(database.server_url) as other:
        lost = await leased(dead, wanted, 0.05)
        taken = await other.take(wanted, lease=60.0, wait=LIMIT)
        assert isinstance(taken, Lease)
        assert taken.fence > lost.fence
        assert await dead.put(wanted, "late", ttl=60, lease=lost.fence) is None
        await dead.release(wanted, lost.fence)
        assert await other.put(wanted, "right", ttl=60, lease=taken.fence) is not None
        assert await dead.put(wanted, "later", ttl=60, lease=lost.fence) is None
        found = await dead.get(wanted)
        assert found is not None
        assert found.response.text == "right"


async def test_a_late_response_is_stored_if_nobody_took_the_lease_over(cache: ResponseCache, sql: Any) -> None:
    wanted = a_key()
    lease = await leased(cache, wanted)
    await sql.execute("UPDATE sync.response_leases SET until = now() WHERE query_hash = $1", wanted.hash)
    assert await cache.put(wanted, "late", ttl=60, lease=lease.fence) is not None


async def test_a_response_that_is_stored_twice_under_its_lease_is_stored_once(cache: ResponseCache) -> None:
    wanted = a_key()
    lease = await leased(cache, wanted)
    first = await cache.put(wanted, "answer", ttl=60, lease=lease.fence)
    second = await cache.put(wanted, "answer", ttl=60, lease=lease.fence)
    assert first == second is not None


async def test_a_response_that_was_deleted_while_it_was_computed_is_not_stored(cache: ResponseCache) -> None:
    wanted = a_key()
    lease = await leased(cache, wanted)
    await cache.delete(wanted)
    assert await cache.put(wanted, "of deleted data", ttl=60, lease=lease.fence) is None
    assert await cache.get(wanted) is None


async def test_a_response_without_a_lease_replaces_any_other_and_reaches_those_that_wait(cache: ResponseCache) -> None:
    wanted = a_key()
    lease = await leased(cache, wanted)
    waiting = asyncio.ensure_future(cache.take(wanted, lease=60.0, wait=LIMIT))
    await eventually(lambda: cache._flights)
    first = await cache.put(wanted, "first", ttl=60)
    taken = await waiting
    assert isinstance(taken, Hit)
    assert (taken.response.text, taken.layer) == ("first", Layer.WAITED)
    second = await cache.put(wanted, "second", ttl=60)
    assert first is not None
    assert second is not None
    assert second.version > first.version
    assert await cache.put(wanted, "of a lease that was overtaken", ttl=60, lease=lease.fence) is None
    assert await cache.get_or_compute(wanted, Model().answer, ttl=60) == "second"


async def test_a_response_that_cannot_be_kept_is_returned_and_the_lease_given_back(cache: ResponseCache) -> None:
    wanted = a_key()

    async def too_long() -> str:
        return "x" * (question.RESPONSE_BYTES + 1)

    assert len(await cache.get_or_compute(wanted, too_long, ttl=60)) == question.RESPONSE_BYTES + 1
    assert isinstance(await cache.take(wanted, lease=60.0, wait=LIMIT), Lease)


@pytest.mark.usefixtures("short", "forgetful")
async def test_whatever_callers_do_one_computes_at_a_time_and_each_gets_a_response_to_its_question(
    every_database: Database,
) -> None:
    """Callers of three processes ask, fail, are cancelled, and come back; responses end soon."""
    chance = random.Random(3)
    keys = [a_key() for _ in range(3)]
    computing = dict.fromkeys(keys, 0)
    computed: dict[Key, set[str]] = {wanted: set() for wanted in keys}

    async def compute(wanted: Key) -> str:
        computing[wanted] += 1
        try:
            assert computing[wanted] == 1
            await asyncio.sleep(chance.uniform(0, 0.01))
            if chance.random() < 0.3:
                raise ConnectionError("the model is down")
            text = f"answer {len(computed[wanted])} to {wanted.hash}"
            computed[wanted].add(text)
            return text
        finally:
            computing[wanted] -= 1

    async def caller(cache: ResponseCache) -> None:
        while min(map(len, computed.values())) < 3:
            wanted = chance.choice(keys)
            asking = asyncio.ensure_future(cache.get_or_compute(wanted, partial(compute, wanted), ttl=0.05))
            if chance.random() < 0.2:
                await asyncio.sleep(chance.uniform(0, 0.01))
                asking.cancel()
            await asyncio.wait([asking])
            if not asking.cancelled() and not isinstance(asking.exception(), ConnectionError):
                assert asking.result() in computed[wanted]

    async with AsyncExitStack() as stack:
        caches = [await stack.enter_async_context(open_cache(every_database.server_url)) for _ in range(3)]
        async with asyncio.timeout(LIMIT):
            await asyncio.gather(*(caller(cache) for cache in caches for _ in range(8)))


# ---- Ends and replacements -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("redis", ["without Redis", pytest.param("with Redis", marks=needs_redis)])
async def test_no_response_is_returned_beyond_its_end(database: Database, sql: Any, redis: str) -> None:
    async with AsyncExitStack() as stack:
        url = None if redis == "without Redis" else (await stack.enter_async_context(running_redis())).url
        writer = await stack.enter_async_context(open_cache(database.server_url, url))
        reader = await stack.enter_async_context(open_cache(database.server_url, url))
        wanted, ttl = a_key(), 0.1
        hits = {writer: 0, reader: 0}
        while not all(hits.values()):  # on a busy machine it may end before the first look
            ttl *= 2
            stored = await writer.put(wanted, "answer", ttl=ttl)
            assert stored is not None
            ended: set[ResponseCache] = set()
            while len(ended) < 2:
                for cache in hits:
                    asked_at = await sql.fetchval("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
                    if await cache.get(wanted) is None:
                        ended.add(cache)
                    else:
                        hits[cache] += 1
                        assert asked_at < stored.expires_at
        assert isinstance(await reader.take(wanted, lease=60.0), Lease)


async def test_another_process_sees_a_new_response_at_once_and_a_replaced_or_deleted_one_for_a_bounded_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "MEMORY_SECONDS", 0.05)
    wanted = a_key()
    async with open_cache(database.server_url) as one, open_cache(database.server_url) as other:
        assert await other.get(wanted) is None

        async def told() -> str | None:
            found = await other.get(wanted)
            return None if found is None else found.response.text

        async def told_is(text: str | None) -> bool:
            return await told() == text

        await one.put(wanted, "first", ttl=60)
        assert await told() == "first"
        await one.put(wanted, "second", ttl=60)
        await eventually(lambda: told_is("second"))
        await one.delete(wanted)
        assert await one.get(wanted) is None
        await eventually(lambda: told_is(None))


# ---- Counting -------------------------------------------------------------------------------------------------------


async def test_hits_are_counted_in_groups_and_exactly(database: Database, sql: Any) -> None:
    wanted, never = a_key(), a_key()
    async with open_cache(database.server_url) as cache:
        await cache.put(wanted, "answer", ttl=60, tokens=10, cost=Decimal("0.5"))
        for _ in range(250):
            await cache.get(wanted)
        await cache.get(never)
        assert await sql.fetchval(HITS, *wanted) == 0
        await cache.flush()
        assert await sql.fetchval(HITS, *wanted) == 250
        await cache.get_or_compute(wanted, Model().answer, ttl=60)
    assert await sql.fetchval(HITS, *wanted) == 251, "the last are counted at the end"


async def test_hits_whose_answer_was_lost_are_counted_once(database: Database, sql: Any) -> None:
    wanted = a_key()
    async with postgres_behind_proxy(database.server_url) as (proxy, url), open_cache(url) as cache:
        await cache.put(wanted, "answer", ttl=60)
        await cache.get(wanted)
        await cache.flush()
        for _ in range(7):
            await cache.get(wanted)
        # Only the group names the key; its statement is prepared already.
        proxy.cut_at_answer(re.compile(wanted.hash.encode()))
        with pytest.raises(UnavailableError):
            await cache.flush()
        assert await sql.fetchval(HITS, *wanted) == 8
        await cache.get(wanted)
        await cache.flush()
        assert await sql.fetchval(HITS, *wanted) == 9


async def test_groups_of_two_processes_do_not_wait_for_each_other_for_ever(database: Database, sql: Any) -> None:
    keys = [a_key() for _ in range(50)]
    async with open_cache(database.server_url) as one, open_cache(database.server_url) as other:
        for wanted in keys:
            await one.put(wanted, "answer", ttl=60)
        for _ in range(5):
            for wanted, opposite in zip(keys, reversed(keys), strict=True):
                await one.get(wanted)
                await other.get(opposite)
            await asyncio.gather(one.flush(), other.flush())
    assert {await sql.fetchval(HITS, *wanted) for wanted in keys} == {10}


async def test_the_figures_say_where_responses_were_found_and_what_that_saved(cache: ResponseCache) -> None:
    def figure(name: str, **labels: str) -> float:
        metrics.flush()
        return metrics.REGISTRY.get_sample_value(f"atlas_responses_{name}total", labels) or 0.0

    def figures() -> dict[str, float]:
        outcomes = ("process", "redis", "postgres", "waited", "computes", "busy", "missed")
        return {
            **{outcome: figure("", outcome=outcome) for outcome in outcomes},
            **{result: figure("stored_", result=result) for result in ("stored", "refused")},
            "cost": figure("saved_cost_"),
            "tokens": figure("saved_tokens_"),
        }

    before, wanted = figures(), a_key()
    await cache.get(wanted)
    lease = await leased(cache, wanted)
    await cache.take(wanted, lease=60.0)
    waiting = asyncio.ensure_future(cache.take(wanted, lease=60.0, wait=LIMIT))
    await eventually(lambda: any(waiter.waited for flight in cache._flights.values() for waiter in flight.waiters))
    await cache.put(wanted, "answer", ttl=60, tokens=100, cost=Decimal("0.25"), lease=lease.fence)
    await waiting
    await cache.put(wanted, "late", ttl=60, lease=1)
    for _ in range(2):
        await cache.get(wanted)
    assert {name: value - before[name] for name, value in figures().items()} == {
        "process": 2,
        "redis": 0,
        "postgres": 0,
        "waited": 1,
        "computes": 1,
        "busy": 1,
        "missed": 1,
        "stored": 1,
        "refused": 1,
        "cost": 0.75,
        "tokens": 300,
    }


# ---- Postgres is away -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["refusing", "silent"])
async def test_without_postgres_one_caller_of_a_process_computes_and_hits_go_on(
    database: Database, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, known, model = a_key(), a_key(), Model()
    async with postgres_behind_proxy(database.server_url) as (proxy, url), open_cache(url) as cache:
        await cache.put(known, "known", ttl=60)
        for limit in ("LOOK_SECONDS", "WRITE_SECONDS", "LAST_SECONDS", "AWAY_SECONDS"):
            monkeypatch.setattr(caching, limit, 0.1)
        if how == "refusing":
            proxy.refusing = True
            proxy.cut()
        else:
            proxy.silent = True
        asking = [asyncio.ensure_future(cache.get_or_compute(wanted, model.answer, ttl=60)) for _ in range(100)]
        await eventually(lambda: model.asked)
        assert isinstance(await cache.take(wanted, lease=60.0), Busy)
        model.may.set()
        assert set(await asyncio.gather(*asking)) == {"answer 1"}
        assert await cache.get_or_compute(known, model.answer, ttl=60) == "known"
        with pytest.raises(UnavailableError):
            await cache.put(wanted, "answer", ttl=60)
        with pytest.raises(UnavailableError):
            await cache.delete(known)
        proxy.refusing = proxy.silent = False
        monkeypatch.undo()

        async def put_again() -> Any:
            try:
                return await cache.put(wanted, "answer", ttl=60, lease=0)
            except UnavailableError:
                return None

        stored = await eventually(put_again)
        assert stored.text == "answer"


async def test_a_lease_that_postgres_gave_counts_while_postgres_is_away(database: Database) -> None:
    wanted = a_key()
    async with postgres_behind_proxy(database.server_url) as (proxy, url), open_cache(url) as cache:
        await leased(cache, wanted)
        proxy.refusing = True
        proxy.cut()
        with capture_logs() as logs:
            for _ in range(3):
                assert isinstance(await cache.take(wanted, lease=60.0), Busy)
        assert [line["event"] for line in logs] == ["responses are not looked up in postgres"]
        proxy.refusing = False


async def test_a_lease_that_was_given_while_postgres_was_away_counts_when_it_is_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "AWAY_SECONDS", 0.0)
    wanted = a_key()
    async with postgres_behind_proxy(database.server_url) as (proxy, url), open_cache(url) as cache:

        async def back() -> bool:
            await cache.get(a_key())
            return not cache._away

        proxy.refusing = True
        proxy.cut()
        lease = await leased(cache, wanted)
        proxy.refusing = False
        await eventually(back)
        assert isinstance(await cache.take(wanted, lease=60.0), Busy)
        waiting = asyncio.ensure_future(cache.take(wanted, lease=60.0, wait=LIMIT))
        await cache.put(wanted, "answer", ttl=60, lease=lease.fence)
        assert isinstance(await waiting, Hit)


# ---- Rights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["response_cache", "response_leases", "response_flushes"])
@pytest.mark.parametrize("statement", ["SELECT FROM {}", "DELETE FROM {}"])
async def test_the_servers_login_reaches_the_tables_only_through_the_functions(
    database: Database, table: str, statement: str
) -> None:
    connection = await asyncpg.connect(database.server_url)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement.format(f"sync.{table}"))
    finally:
        await connection.close()


# ---- HTTP -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def backend(url: str, token: str = TOKEN) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {token}"}
    several = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=url, headers=headers, trust_env=False, timeout=LIMIT, limits=several
    ) as client:
        yield client


@pytest.fixture
async def served(server: Running) -> AsyncIterator[httpx.AsyncClient]:
    """Asks the real server."""
    async with backend(server.http) as made:
        yield made


@pytest.fixture
async def client(cache: ResponseCache) -> AsyncIterator[httpx.AsyncClient]:
    """Asks the endpoint, without a network."""
    transport = httpx.ASGITransport(Starlette(routes=[Responses(cache).route(ServiceTokens([TOKEN]))]))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://here", headers=headers) as made:
        yield made


def asked(**more: object) -> dict[str, Any]:
    return {"question": f"question {uuid4()}", "model": "model-1", "tier": "core", "scope": EVERYBODY, **more}


PATH: Final = "/v1/responses"


@pytest.mark.settings(responses=True, service_token=TOKEN)
async def test_a_miss_a_put_and_a_hit(served: httpx.AsyncClient) -> None:
    wanted = asked()
    missed = await served.get(PATH, params=wanted)
    assert missed.status_code == 404
    assert 59 < missed.json()["seconds"] <= 60
    busy = await served.get(PATH, params=wanted)
    assert (busy.status_code, busy.headers["retry-after"]) == (202, "1")
    waiting = asyncio.ensure_future(served.get(PATH, params={**wanted, "wait": 20}))
    body = {**wanted, "response": "«answer»", "ttl": 3600, "tokens": 812, "cost": "0.0125"}
    put = await served.put(PATH, json={**body, "lease": missed.json()["lease"]})
    assert put.status_code == 200
    spelled = {**wanted, "question": f"  {wanted['question'].upper()}\n"}
    for answer in (await waiting, await served.get(PATH, params=spelled)):
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        found = answer.json()
        assert (found["response"], found["tokens"], Decimal(found["cost"])) == ("«answer»", 812, Decimal("0.0125"))
        assert found["expires_at"] == put.json()["expires_at"]
    assert found["from"] == "process"
    again = await served.put(PATH, json={**body, "lease": "1"})
    assert (again.status_code, "lease is over" in again.text) == (409, True)
    assert (await served.request("DELETE", PATH, json=wanted)).status_code == 204
    assert (await served.get(PATH, params={**wanted, "lease": 0})).json() == {"lease": None}


async def test_a_lease_that_is_given_back_is_given_to_the_next(client: httpx.AsyncClient) -> None:
    wanted = asked()
    lease = (await client.get(PATH, params=wanted)).json()["lease"]
    waiting = asyncio.ensure_future(client.get(PATH, params={**wanted, "wait": 20}))
    assert (await client.delete(PATH, params={**wanted, "lease": lease})).status_code == 204
    next_one = await waiting
    assert next_one.status_code == 404
    assert int(next_one.json()["lease"]) > int(lease)


@pytest.mark.settings(responses=True, service_token=TOKEN)
async def test_a_caller_that_has_gone_gets_no_lease(
    server: Running, served: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, left = asyncio.Event(), asyncio.Event()
    join = ResponseCache._join

    async def noticed(self: ResponseCache, wanted: Key, lease: float, wait: float) -> Hit | Lease | Busy:
        try:
            if wait == 20:
                waiting.set()
            return await join(self, wanted, lease, wait)
        except asyncio.CancelledError:
            left.set()
            raise

    monkeypatch.setattr(ResponseCache, "_join", noticed)
    wanted = asked()
    lease = (await served.get(PATH, params=wanted)).json()["lease"]
    async with backend(server.http) as gone:
        first = asyncio.ensure_future(gone.get(PATH, params={**wanted, "wait": 20}))
        await waiting.wait()
        first.cancel()
    async with asyncio.timeout(LIMIT):
        await left.wait()
    assert (await served.delete(PATH, params={**wanted, "lease": lease})).status_code == 204
    assert (await served.get(PATH, params=wanted)).status_code == 404


async def test_a_users_response_is_found_by_nobody_else(client: httpx.AsyncClient) -> None:
    wanted = asked(scope="user 1")
    assert (await client.put(PATH, json={**wanted, "response": "private", "ttl": 60})).status_code == 200
    for other in ({"scope": "user 2"}, {"scope": EVERYBODY}, {"tier": "studio"}, {"model": "model-2"}):
        answer = await client.get(PATH, params={**wanted, **other})
        assert (answer.status_code, "private" in answer.text) == (404, False)
    assert (await client.get(PATH, params=wanted)).json()["response"] == "private"


@pytest.mark.settings(responses=True, service_token=TOKEN)
async def test_the_longest_question_and_response_are_taken_in_the_url_and_in_the_body(
    served: httpx.AsyncClient,
) -> None:
    wanted = asked(question="x" * question.QUESTION_BYTES)
    for text in ("\n" * question.RESPONSE_BYTES, "é" * (question.RESPONSE_BYTES // 2)):
        assert (await served.put(PATH, json={**wanted, "response": text, "ttl": 60})).status_code == 200
        assert (await served.request("GET", PATH, json=wanted)).json()["response"] == text
        assert (await served.get(PATH, params=wanted)).json()["response"] == text


REFUSED: Final[list[tuple[str, dict[str, Any], int, str]]] = [
    ("GET", {"params": {"question": "x", "model": "m", "tier": "t"}}, 400, "scope=everybody"),
    ("GET", {"params": {**asked(), "scope": ""}}, 400, "The scope must be"),
    ("GET", {"params": {**asked(), "question": " "}}, 400, "The question is empty."),
    ("GET", {"params": {**asked(), "wait": "long"}}, 400, "wait"),
    ("GET", {"params": {**asked(), "wait": "61"}}, 400, "wait must be from 0 to 60 seconds."),
    ("GET", {"params": {**asked(), "lease": "nan"}}, 400, "lease must be from 1 to 600 seconds."),
    ("GET", {"params": {**asked(), "scop": "x"}}, 400, "scop"),
    ("GET", {"params": {f"p{i}": "" for i in range(40)}}, 400, "too many"),
    ("GET", {"params": [*asked().items(), ("tier", "free")]}, 400, "twice"),
    ("GET", {"url": f"{PATH}?question=%ff&model=m&tier=t&scope=s"}, 400, "percent-encoded UTF-8"),
    ("GET", {"json": {**asked(), "question": "x" * 40_000}}, 400, "at most 32,768"),
    ("GET", {"json": {**asked(), "question": 5}}, 400, "$.question"),
    ("GET", {"json": [1]}, 400, "array"),
    ("GET", {}, 415, "application/json"),
    ("PUT", {"json": asked()}, 400, "response"),
    ("PUT", {"json": {**asked(), "response": "x", "ttl": 0}}, 400, "ttl must be"),
    ("PUT", {"json": {**asked(), "response": "x", "ttl": "60"}}, 400, "$.ttl"),
    ("PUT", {"url": f"{PATH}?x=1", "json": {**asked(), "response": "x", "ttl": "60"}}, 400, "$.ttl"),
    ("PUT", {"json": {**asked(), "response": "x\0", "ttl": 60}}, 400, "Postgres cannot store"),
    ("PUT", {"json": {**asked(), "response": "x", "ttl": 60, "cost": "much"}}, 400, "decimal"),
    ("PUT", {"json": {**asked(), "response": "x", "ttl": 60, "cost": -1}}, 400, "cost must be"),
    ("PUT", {"json": {**asked(), "response": "x", "ttl": 60, "tokens": 2**40}}, 400, "tokens must be"),
    ("PUT", {"json": {**asked(), "response": "x", "ttl": 60, "lease": "mine"}}, 400, "lease must be the text"),
    ("PUT", {"json": {**asked(), "response": "x" * 300_000, "ttl": 60}}, 400, "at most 262,144"),
    ("DELETE", {"params": {"question": "x", "model": "m", "tier": "t"}}, 400, "scope=everybody"),
    ("POST", {"json": asked()}, 405, "GET, PUT, DELETE"),
]


async def test_what_makes_no_sense_is_refused_with_a_sentence(client: httpx.AsyncClient) -> None:
    for method, given, status, words in REFUSED:
        arguments: dict[str, Any] = {"url": PATH, **given}
        answer = await client.request(method, **arguments)
        assert (answer.status_code, words in answer.text) == (status, True), (method, given, answer.text)
        assert answer.text.endswith(".\n")
    unreadable = await client.put(
        PATH, content=b'{"question": "\\ud800"}', headers={"content-type": "application/json"}
    )
    assert unreadable.status_code == 400


async def test_nobody_without_the_token_reaches_it(client: httpx.AsyncClient) -> None:
    for method in ("GET", "PUT", "DELETE"):
        stranger = {"Authorization": "Bearer another token"}
        assert (await client.request(method, PATH, params=asked(), headers=stranger)).status_code == 401


async def test_it_is_off_by_default(server: Running) -> None:
    async with backend(server.http) as client:
        assert (await client.get(PATH, params=asked())).status_code == 404
        assert "lease" not in (await client.get(PATH, params=asked())).text


async def test_a_shutdown_waits_for_nobody_that_waits(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, joined, join = asked(), asyncio.Event(), ResponseCache._join

    async def noticed(self: ResponseCache, wanted: Key, lease: float, wait: float) -> Hit | Lease | Busy:
        if wait:
            joined.set()
        return await join(self, wanted, lease, wait)

    monkeypatch.setattr(ResponseCache, "_join", noticed)
    async with AsyncExitStack() as stack:
        async with serving(database, **ON) as server:
            client = await stack.enter_async_context(backend(server.http))
            await client.get(PATH, params=wanted)
            waiting = asyncio.ensure_future(client.get(PATH, params={**wanted, "wait": 60}))
            await joined.wait()
        assert (await waiting).status_code == 202


@needs_redis
async def test_a_stampede_on_several_processes_computes_once_and_every_hit_is_counted_at_their_stop(
    database: Database, sql: Any
) -> None:
    wanted = asked()
    async with running_redis() as redis, AsyncExitStack() as stack:
        environment = {"ATLAS_RESPONSES": "true", "ATLAS_SERVICE_TOKEN": TOKEN, "REDIS_URL": redis.url}
        servers = [ServerProcess(database.server_url, **environment) for _ in range(2)]
        await asyncio.gather(*(stack.enter_async_context(server) for server in servers))
        clients = [await stack.enter_async_context(backend(f"http://127.0.0.1:{server.port}")) for server in servers]
        params = {**wanted, "wait": 20}
        asking = [asyncio.ensure_future(clients[i % 2].get(PATH, params=params)) for i in range(80)]
        (first,), _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        lease = first.result().json()["lease"]
        # To the other process than the one that gave the lease, where there is such a one.
        put = await clients[0].put(PATH, json={**wanted, "response": "answer", "ttl": 60, "lease": lease})
        assert put.status_code == 200
        answers = await asyncio.gather(*asking)
        assert sorted(answer.status_code for answer in answers) == [200] * 79 + [404]
        for server in servers:
            assert await server.stop() == 0
    parts = {name: wanted[name] for name in ("model", "tier", "scope")}
    assert await sql.fetchval(HITS, *key(wanted["question"], **parts)) == 79


# ---- The documentation -----------------------------------------------------------------------------------------------


async def test_the_example_of_the_library_works(database: Database) -> None:
    assert library.open_cache.__doc__ is not None
    (example,) = re.findall(r"\n\n((?: {8}.*\n|\n)+)", library.open_cache.__doc__)
    code = "async def main(database_url, redis_url, ask_the_model, print):\n" + textwrap.indent(
        textwrap.dedent(example), "    "
    )
    names: dict[str, Any] = {}
    exec(compile(code, "the example", "exec"), names)
    asked: list[str] = []

    async def model(question: str) -> Computed:
        asked.append(question)
        return Computed("A user's stream of changes.", 6, Decimal("0.001"))

    printed: list[str] = []
    for _ in range(2):
        await names["main"](database.server_url, None, model, printed.append)
    assert printed == ["A user's stream of changes."] * 2
    assert asked == ["What is a feed?"]


@pytest.mark.settings(responses=True, service_token=TOKEN)
@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
async def test_the_examples_of_the_readme_work(server: Running, tmp_path: Path) -> None:
    section = README.partition("## Response cache")[2].partition("\n## ")[0]
    (script,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    environment = {**os.environ, "ATLAS_SERVICE_TOKEN": TOKEN, "ATLAS": server.http}
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euc", script),
        cwd=tmp_path,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate()
    assert process.returncode == 0, error
    said = out.decode()
    assert '"response":"A user\'s stream of changes."' in said
    assert said.rstrip().endswith('{"lease":null}')
