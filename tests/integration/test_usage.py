"""Usage: what the backend was told is durable is there, once; and each device that caught up left one event."""

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import orjson
import pytest

from protocol.frames import Changes, Live
from server.usage import recorder
from tests.support.cluster import Database, administrator
from tests.support.device import live_device
from tests.support.peer import peer
from tests.support.people import add_conversation, add_message, add_user
from tests.support.proxy import postgres_behind_proxy
from tests.support.serving import ServerProcess, serving
from tests.support.waiting import LIMIT, eventually

TOKEN: Final = "the token of a backend, of at least 32 characters"
USAGE: Final[dict[str, Any]] = {"usage": True, "service_token": TOKEN}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "OWN_SECONDS", 0.01)
    monkeypatch.setattr(recorder, "AWAY_SECONDS", 0.05)


@contextlib.asynccontextmanager
async def backend(port: int, token: str = TOKEN) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {token}"}
    base = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=False, timeout=LIMIT) as client:
        yield client


def request(key: str, *users: UUID, **data: Any) -> dict[str, Any]:
    """One event of each user."""
    return {"idempotency_key": key, "events": [{"user_id": str(user), "event": "x", "data": data} for user in users]}


async def logged(sql: Any, user: UUID) -> list[dict[str, Any]]:
    rows = await sql.fetch("SELECT event, data FROM sync.usage_logs WHERE user_id = $1 ORDER BY id", user)
    return [{"event": row["event"], **orjson.loads(row["data"])} for row in rows]


# ---- The endpoint ---------------------------------------------------------------------------------------------------


async def test_events_are_durable_when_they_are_accepted_and_a_repeat_adds_nothing(
    database: Database, sql: Any
) -> None:
    user = uuid4()
    async with serving(database, **USAGE) as server, backend(server.port) as client:
        sent = request("a", user, user, model="m", input_tokens=1)
        answer = await client.post("/v1/usage", json=sent)
        assert (answer.status_code, answer.json()) == (202, {"events": 2, "repeated": False})
        assert await logged(sql, user) == [{"event": "x", "model": "m", "input_tokens": 1}] * 2
        answer = await client.post("/v1/usage", json=sent)
        assert (answer.status_code, answer.json()) == (202, {"events": 2, "repeated": True})
        answers = await asyncio.gather(*(client.post("/v1/usage", json=request("b", user)) for _ in range(10)))
        assert sorted(answer.json()["repeated"] for answer in answers) == [False, *[True] * 9]
        assert len(await logged(sql, user)) == 3
        other = await client.post("/v1/usage", json=request("a", user))
        assert other.status_code == 409
        assert "under this key" in other.text


async def test_a_wrong_request_gets_a_sentence_and_nothing_of_it_is_written(database: Database, sql: Any) -> None:
    user = uuid4()
    async with serving(database, **USAGE) as server, backend(server.port) as client:
        bad = request("a", *[user] * 150)
        bad["events"][120]["data"] = {"input_tokens": -1}
        answer = await client.post("/v1/usage", json=bad)
        assert (answer.status_code, answer.text) == (
            422, "events[120].data.input_tokens: expected `int` >= 0.\n",
        )  # fmt: skip
        late = request("a", user)
        late["events"][0]["timestamp"] = "2020-01-01T00:00:00Z"
        assert "ATLAS_USAGE_DAYS" in (await client.post("/v1/usage", json=late)).text
        assert (await client.post("/v1/usage", json=[])).status_code == 422
        assert (await client.get("/v1/usage")).status_code == 405
    assert await logged(sql, user) == []


async def test_what_postgres_refuses_is_refused_alone(database: Database, sql: Any) -> None:
    good, bad = uuid4(), uuid4()
    await sql.execute(f"ALTER TABLE sync.usage_logs ADD CHECK (user_id <> '{bad}')")
    async with serving(database, **USAGE) as server, backend(server.port) as client:
        sent = [request(f"{user} {n}", user) for n in range(5) for user in (good, bad)]
        answers = await asyncio.gather(*(client.post("/v1/usage", json=each) for each in sent))
    assert [answer.status_code for answer in answers] == [202, 422] * 5
    assert answers[1].text == "Postgres refuses a value of these events.\n"
    assert len(await logged(sql, good)) == 5


@pytest.mark.parametrize("given", [{}, {"usage": True}, {"service_token": TOKEN}])
async def test_without_both_settings_there_is_no_endpoint(database: Database, given: dict[str, Any]) -> None:
    async with serving(database, **given) as server, backend(server.port) as client:
        assert (await client.post("/v1/usage", json=request("a", uuid4()))).status_code == 404


async def test_without_the_token_nothing_is_accepted(database: Database, sql: Any) -> None:
    user = uuid4()
    async with serving(database, **USAGE) as server, backend(server.port, "another token") as client:
        assert (await client.post("/v1/usage", json=request("a", user))).status_code == 401
    assert await logged(sql, user) == []


# ---- Faults ---------------------------------------------------------------------------------------------------------


async def test_while_postgres_is_away_the_backend_is_told_to_keep_its_events(database: Database, sql: Any) -> None:
    user = uuid4()
    async with (
        postgres_behind_proxy(database.server_url) as (proxy, url),
        serving(url, **USAGE) as server,
        backend(server.port) as client,
    ):
        proxy.refusing = True
        proxy.cut()
        answer = await client.post("/v1/usage", json=request("a", user))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "Keep the events" in answer.text
        proxy.refusing = False

        async def accepted() -> bool:
            return (await client.post("/v1/usage", json=request("a", user))).status_code == 202

        await eventually(accepted)
    assert len(await logged(sql, user)) == 1


async def test_an_answer_of_postgres_that_is_lost_costs_no_event_and_doubles_none(database: Database, sql: Any) -> None:
    user = uuid4()
    async with (
        postgres_behind_proxy(database.server_url) as (proxy, url),
        serving(url, **USAGE) as server,
        backend(server.port) as client,
    ):
        proxy.cut_at_answer(re.compile(rb'"event":"x"'))
        answer = await client.post("/v1/usage", json=request("first", user))
        assert answer.status_code == 503
        assert await _until_accepted(client, request("first", user)) == {"events": 1, "repeated": True}
    assert len(await logged(sql, user)) == 1


async def _until_accepted(client: httpx.AsyncClient, sent: dict[str, Any]) -> Any:
    """The answer, after as many attempts as it takes."""

    async def accepted() -> Any:
        with contextlib.suppress(httpx.TransportError):
            answer = await client.post("/v1/usage", json=sent)
            assert answer.status_code in (202, 503), answer.text
            return answer.json() if answer.status_code == 202 else None

    return await eventually(accepted)


async def test_a_server_that_is_killed_at_any_moment_loses_and_doubles_nothing(database: Database, sql: Any) -> None:
    rng = random.Random(11)
    user = uuid4()
    stopped = asyncio.Event()

    async def send(number: int) -> int:
        sent = 0
        async with backend(server.port) as client:
            while not stopped.is_set():
                await _until_accepted(client, request(f"{number} {sent}", *[user] * 3, number=number, sent=sent))
                sent += 1
        return sent

    async with ServerProcess(database.server_url, ATLAS_USAGE="true", ATLAS_SERVICE_TOKEN=TOKEN) as server:
        senders = [asyncio.create_task(send(number)) for number in range(6)]
        for _ in range(2):
            before = await _count(sql)
            await eventually(lambda before=before: _more(sql, before + 60))  # type: ignore[misc]  # a lambda's default has no type
            await asyncio.sleep(rng.random() * 0.05)
            await server.kill()
            await server.start()
        stopped.set()
        sent = await asyncio.gather(*senders)
    rows = await sql.fetch(
        "SELECT data ->> 'number', data ->> 'sent', count(*) FROM sync.usage_logs WHERE user_id = $1 GROUP BY 1, 2",
        user,
    )
    assert {(int(row[0]), int(row[1])): row[2] for row in rows} == {
        (number, n): 3 for number, count in enumerate(sent) for n in range(count)
    }


async def _count(sql: Any) -> int:
    return int(await sql.fetchval("SELECT count(*) FROM sync.usage_logs"))


async def _more(sql: Any, than: int) -> bool:
    return await _count(sql) > than


# ---- The server's own events ----------------------------------------------------------------------------------------


async def test_each_device_that_caught_up_leaves_one_event(database: Database, sql: Any) -> None:
    user = await add_user(sql, "studio")
    conversation = await add_conversation(sql, user)
    for _ in range(3):
        await add_message(sql, conversation)
    async with serving(database, **USAGE) as server:
        async with peer(server.url) as device:
            await device.greet(user)
            await device.hear_a(Live)
            # What arrives later belongs to no catch-up.
            await add_message(sql, conversation)
            await device.hear_a(Changes)
            cursor = device.cursor
        for _ in range(2):
            await add_message(sql, conversation)
        async with peer(server.url) as device:
            assert (await device.greet(user, cursor)).mode == "resumed"
            await device.hear_a(Live)
        await eventually(lambda: _has(sql, user, 2))
    snapshot, resumed = await logged(sql, user)
    assert {snapshot["event"], resumed["event"]} == {"sync_completed"}
    assert (snapshot["tier"], snapshot["outcome"]) == ("studio", "new")
    assert snapshot["rows"] == {"profile": 1, "conversation": 1, "message": 3}
    assert snapshot["bytes"] > resumed["bytes"] > 100
    assert resumed["outcome"] == "resumed"
    assert resumed["rows"] == {"message": 2}
    assert snapshot["milliseconds"] > 0 < resumed["milliseconds"]
    (at,) = await sql.fetchrow('SELECT max("timestamp") FROM sync.usage_logs')
    assert abs((datetime.now(UTC) - at).total_seconds()) < 60


async def _has(sql: Any, user: UUID, events: int) -> bool:
    return len(await logged(sql, user)) >= events


async def test_the_events_that_are_left_are_written_when_the_server_ends(
    database: Database, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "OWN_SECONDS", 3_600.0)
    user = await add_user(sql)
    async with serving(database, **USAGE) as server, live_device(server.url, user):
        assert await logged(sql, user) == []
    assert len(await logged(sql, user)) == 1


async def test_devices_are_served_while_events_cannot_be_written(database: Database, sql: Any) -> None:
    user = await add_user(sql)
    async with serving(database, **USAGE) as server, administrator(database) as locking:
        async with locking.transaction():
            await locking.execute("LOCK TABLE sync.usage_logs IN ACCESS EXCLUSIVE MODE")
            async with live_device(server.url, user) as device:
                conversation = await add_conversation(sql, user)
                message = await add_message(sql, conversation)
                while ("m", message) not in device.state():
                    await device.hear()
        await eventually(lambda: _has(sql, user, 1))


async def test_without_the_setting_nothing_is_recorded(database: Database, sql: Any) -> None:
    user = await add_user(sql)
    async with serving(database) as server, live_device(server.url, user):
        pass
    assert await logged(sql, user) == []
