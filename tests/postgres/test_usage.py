"""Every event of usage is counted once, whoever writes it, whenever it is committed, wherever counting is stopped."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest

from server.operations.maintenance_plan import Policy
from server.postgres import costs
from tests.support.cluster import NEWEST, Database, administrator
from tests.support.maintenance import Maintenance, at_rest, left, maintained
from tests.support.people import add_user
from tests.support.waiting import LIMIT, eventually

POLICY: Final = Policy(log_days=90, forget_days=400, usage_days=90)
DAY: Final = "2026-11-02T10:00:00Z"
INSERT: Final = 'INSERT INTO sync.usage_logs (user_id, event, data, "timestamp") VALUES ($1, $2, $3, $4)'
WRITE: Final = "SELECT unnest(sync.log_usage($1, $2, $3))"


@pytest.fixture
async def sql(every_database: Database) -> AsyncIterator[Any]:
    """An administrator's connection to `every_database`."""
    async with administrator(every_database) as connection:
        yield connection


def event(user: UUID, at: str = DAY, **data: Any) -> dict[str, Any]:
    return {"user_id": str(user), "event": "answered", "data": data, "timestamp": at}


async def write(sql: Any, *events: dict[str, Any], key: UUID | None = None, digest: UUID | None = None) -> str:
    """As the server does."""
    return str(await sql.fetchval(WRITE, [key], [digest], [orjson.dumps(events).decode()]))


async def priced(sql: Any, model: str = "m", given: int = 2, got: int = 8, since: date = date(2000, 1, 1)) -> None:
    await sql.execute("INSERT INTO sync.model_prices VALUES ($1, $2, $3, $4)", model, given, got, since)


async def usage(sql: Any, user: UUID) -> list[tuple[Any, ...]]:
    rows = await sql.fetch(
        "SELECT date, conversations_count, total_tokens_used, api_cost_estimate, tier FROM sync.daily_usage "
        "WHERE user_id = $1 ORDER BY date",
        user,
    )
    return [tuple(row) for row in rows]


# ---- Who may do what ------------------------------------------------------------------------------------------------


async def test_the_backends_role_may_add_events_and_do_nothing_else(sql: Any) -> None:
    user = uuid4()
    async with sql.transaction():
        await sql.execute("SET LOCAL ROLE service_role")
        await sql.execute(INSERT, user, "answered", "{}", datetime.now(UTC))
        await sql.execute("INSERT INTO sync.usage_logs (user_id, event) VALUES ($1, 'x'), ($1, 'y')", user)
        for statement in (
            "SELECT FROM sync.usage_logs",
            "DELETE FROM sync.usage_logs",
            "UPDATE sync.usage_logs SET event = ''",
            "INSERT INTO sync.usage_logs (user_id, event, batch) VALUES (gen_random_uuid(), 'x', 1)",
            "INSERT INTO sync.usage_logs_default (user_id, event) VALUES (gen_random_uuid(), 'x')",
            "SELECT FROM sync.usage_batches",
            "SELECT FROM sync.daily_usage",
            "SELECT FROM sync.daily_costs",
            "SELECT FROM sync.model_prices",
            "SELECT FROM sync.feeds",
            "SELECT sync.count_usage(1)",
            "SELECT sync.log_usage('{}', '{}', '{}')",
            "SELECT nextval('sync.usage_batches_batch_seq')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with sql.transaction():
                    await sql.execute(statement)
    assert await sql.fetchval("SELECT count(*) FROM sync.usage_logs WHERE user_id = $1", user) == 3


@pytest.mark.parametrize("role", ["authenticated", "anon", "atlas_sync"])
async def test_nobody_else_reaches_usage_or_costs(sql: Any, role: str) -> None:
    tables = ["usage_logs", "usage_batches", "usage_keys", "usage_state", "daily_usage", "daily_costs"]
    async with sql.transaction():
        await sql.execute(f"SET LOCAL ROLE {role}")
        for table in [*tables, "daily_conversations", "model_prices"]:
            for statement in (f"SELECT FROM sync.{table}", f"INSERT INTO sync.{table} DEFAULT VALUES"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    async with sql.transaction():
                        await sql.execute(statement)


@NEWEST
async def test_a_row_that_would_not_be_counted_is_refused(sql: Any) -> None:
    await write(sql, event(uuid4()))
    with pytest.raises(asyncpg.NotNullViolationError):
        await sql.execute("INSERT INTO sync.usage_logs_default (user_id, event) VALUES (gen_random_uuid(), 'x')")


# ---- Counting -------------------------------------------------------------------------------------------------------


async def test_a_day_is_the_sum_of_its_events(sql: Any) -> None:
    user = await add_user(sql, "studio")
    one, other = uuid4(), uuid4()
    await priced(sql)
    await write(
        sql,
        event(user, model="m", input_tokens=100, output_tokens=10, conversation_id=str(one)),
        event(user, model="m", input_tokens=200, output_tokens=20, conversation_id=str(one)),
        event(user, model="m", input_tokens=7, conversation_id=str(other).upper(), tier="core"),
        event(user, "2026-11-02T23:59:59.999999Z", output_tokens=1, model="m"),
        event(user, "2026-11-03T00:00:00Z", input_tokens=5, model="other"),
        event(user, seconds=3),
    )
    await costs.count(sql)
    second, third = date(2026, 11, 2), date(2026, 11, 3)
    assert await usage(sql, user) == [
        (second, 2, 338, Decimal("0.0009"), "studio"),
        (third, 0, 5, Decimal("0.0000"), "studio"),
    ]
    rows = await sql.fetch(
        "SELECT date, tier, model, requests, input_tokens, output_tokens, cost FROM sync.daily_costs"
    )
    assert {tuple(row) for row in rows} == {
        (second, "studio", "m", 3, 300, 31, Decimal("0.000848")),
        (second, "core", "m", 1, 7, 0, Decimal("0.000014")),
        (third, "studio", "other", 1, 5, 0, None),
    }


@NEWEST
async def test_costs_too_small_to_be_seen_add_up(sql: Any) -> None:
    """Each is less than half of the last digit of api_cost_estimate."""
    user = uuid4()
    await priced(sql)
    for _ in range(10):
        await write(sql, event(user, model="m", input_tokens=10))
        await costs.count(sql)
    assert await usage(sql, user) == [(date(2026, 11, 2), 0, 100, Decimal("0.0002"), "unknown")]


@NEWEST
async def test_events_that_come_after_their_day_was_counted_are_added_to_it(sql: Any) -> None:
    user, conversation = uuid4(), str(uuid4())
    await write(sql, event(user, input_tokens=1, conversation_id=conversation, tier="core"))
    await costs.count(sql)
    await write(
        sql,
        event(user, "2026-11-02T09:00:00Z", input_tokens=2, conversation_id=conversation, tier="free"),
        event(user, "2026-11-02T09:30:00Z", conversation_id=str(uuid4()), tier="free"),
    )
    await costs.count(sql)
    assert await usage(sql, user) == [(date(2026, 11, 2), 2, 3, Decimal(0), "core")], "the newest event has the tier"
    await write(sql, event(user, "2026-11-02T11:00:00Z", input_tokens=4, tier="studio"))
    await costs.count(sql)
    assert await usage(sql, user) == [(date(2026, 11, 2), 2, 7, Decimal(0), "studio")]


@NEWEST
async def test_costs_follow_the_price_list(sql: Any) -> None:
    user = uuid4()
    for day in ("2026-11-02", "2026-11-03", "2026-11-04"):
        await write(sql, event(user, f"{day}T12:00:00Z", model="m", input_tokens=1_000_000))
    await costs.count(sql)

    async def cost() -> list[int | None]:
        await costs.count(sql)
        rows = await sql.fetch("SELECT cost FROM sync.daily_costs WHERE user_id = $1 ORDER BY date", user)
        estimated = [estimate for _, _, _, estimate, _ in await usage(sql, user)]
        assert estimated == [row[0] or 0 for row in rows]
        return [row[0] for row in rows]

    assert await cost() == [None, None, None]
    await priced(sql, since=date(2026, 11, 3))
    assert await cost() == [None, 2, 2]
    await priced(sql, given=3, since=date(2026, 11, 4))
    assert await cost() == [None, 2, 3]
    await sql.execute("UPDATE sync.model_prices SET input = 5 WHERE valid_from = '2026-11-03'")
    assert await cost() == [None, 5, 3]
    await sql.execute("DELETE FROM sync.model_prices WHERE valid_from = '2026-11-04'")
    assert await cost() == [None, 5, 5]


NONSENSE: Final = [
    "[]", "1", '"text"', "null", '["input_tokens"]', "{}",
    '{"input_tokens": "many", "model": "m"}', '{"input_tokens": -5}', '{"input_tokens": 1e300, "output_tokens": 1.5}',
    '{"output_tokens": null, "conversation_id": "x"}', '{"conversation_id": 7, "input_tokens": {}}',
    f'{{"input_tokens": 1, "model": "{"m" * 10_000}", "tier": "{"é" * 10_000}"}}',
    '{"input_tokens": 1, "model": {"a": 1}, "tier": ["x"]}', '{"input_tokens": 1, "model": null, "tier": ""}',
]  # fmt: skip


async def test_nonsense_of_the_backend_does_not_stop_the_count(sql: Any) -> None:
    user = uuid4()
    for data in NONSENSE:
        await sql.execute(INSERT, user, "x", data, datetime(2026, 11, 2, tzinfo=UTC))
    await sql.execute(INSERT, user, "x" * 100_000, '{"input_tokens": 1}', datetime(2, 1, 1, tzinfo=UTC))
    await sql.execute(INSERT, user, "", '{"input_tokens": 1}', datetime(9998, 12, 31, tzinfo=UTC))
    with pytest.raises(asyncpg.CheckViolationError):
        await sql.execute("INSERT INTO sync.usage_logs (user_id, event, timestamp) VALUES ($1, 'x', 'infinity')", user)
    await costs.count(sql)
    assert [tokens for _, _, tokens, _, _ in await usage(sql, user)] == [1, 10**9 + 1 + 1 + 1 + 1, 1]
    assert await sql.fetchval("SELECT count(*) FROM sync.usage_batches") == 0


# ---- Exactly once ---------------------------------------------------------------------------------------------------


class Writer:
    """Writes events in transactions of every kind, and knows what was committed."""

    def __init__(self, url: str, rng: random.Random, users: list[UUID]) -> None:
        self._url = url
        self._rng = rng
        self._users = users
        self.tokens: Counter[tuple[UUID, date]] = Counter()
        """By user and day."""
        self.conversations: dict[tuple[UUID, date], set[str]] = {}

    async def run(self, transactions: int) -> None:
        connection = await asyncpg.connect(self._url)
        try:
            for _ in range(transactions):
                await self._transaction(connection)
        finally:
            await connection.close()

    async def _transaction(self, connection: Any) -> None:
        events: list[dict[str, Any]] = []
        transaction = connection.transaction()
        await transaction.start()
        for _ in range(self._rng.randint(1, 3)):
            some = [self._event() for _ in range(self._rng.randint(1, 4))]
            if self._rng.random() < 0.5:
                await write(connection, *some, key=uuid4(), digest=uuid4())
            else:
                for each in some:
                    at = datetime.fromisoformat(each["timestamp"])
                    await connection.execute(
                        INSERT, UUID(each["user_id"]), "x", orjson.dumps(each["data"]).decode(), at
                    )
            events += some
            await asyncio.sleep(self._rng.random() * 0.005)
        if self._rng.random() < 0.2:
            await transaction.rollback()
            return
        await transaction.commit()
        for each in events:
            key = UUID(each["user_id"]), datetime.fromisoformat(each["timestamp"]).date()
            self.tokens[key] += each["data"]["input_tokens"]
            self.conversations.setdefault(key, set()).add(each["data"]["conversation_id"])

    def _event(self) -> dict[str, Any]:
        day = datetime(2026, 11, self._rng.randint(1, 4), self._rng.randint(0, 23), tzinfo=UTC)
        return event(
            self._rng.choice(self._users),
            day.isoformat(),
            model=self._rng.choice("mn"),
            input_tokens=self._rng.randint(1, 1_000),
            conversation_id=str(UUID(int=self._rng.randint(0, 5))),
            tier=self._rng.choice(["core", "studio"]),
        )


async def counts(sql: Any) -> dict[tuple[UUID, date], tuple[int, int]]:
    rows = await sql.fetch("SELECT user_id, date, total_tokens_used, conversations_count FROM sync.daily_usage")
    return {(UUID(str(row[0])), row[1]): (row[2], row[3]) for row in rows}


async def test_events_are_counted_once_however_often_counting_is_cut_off_and_beside_itself(
    every_database: Database, sql: Any
) -> None:
    rng = random.Random(5)
    await priced(sql)
    await priced(sql, "n", 1, 1)
    users = [uuid4() for _ in range(4)]
    writers = [Writer(every_database.url, rng, users) for _ in range(4)]
    writing = asyncio.gather(*(writer.run(40) for writer in writers))
    one_at_a_time = asyncio.Lock()
    cut_off = 0

    async def count_again_and_again() -> None:
        nonlocal cut_off
        while not writing.done() or not cut_off:
            async with administrator(every_database) as connection:
                pid = await connection.fetchval("SELECT pg_backend_pid()")
                for _ in range(20):
                    await write(connection, event(users[0]))  # nothing that is counted, but a batch
                counting = asyncio.create_task(costs.count(connection))
                await asyncio.sleep(rng.random() * 0.004)
                if rng.random() < 0.6:
                    async with one_at_a_time:
                        await sql.execute("SELECT pg_terminate_backend($1)", pid)
                try:
                    await counting
                except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
                    cut_off += 1

    async with asyncio.timeout(LIMIT):
        await asyncio.gather(count_again_and_again(), count_again_and_again())
    await writing
    await costs.count(sql)
    tokens: Counter[tuple[UUID, date]] = Counter()
    conversations: dict[tuple[UUID, date], set[str]] = {}
    for writer in writers:
        tokens += writer.tokens
        for key, some in writer.conversations.items():
            conversations.setdefault(key, set()).update(some)
    assert await counts(sql) == {key: (count, len(conversations[key])) for key, count in tokens.items()}
    (wrong,) = await sql.fetchrow(
        "SELECT count(*) FROM sync.daily_usage u JOIN (SELECT user_id, date, sum(cost) AS cost FROM sync.daily_costs "
        "GROUP BY 1, 2) c USING (user_id, date) WHERE api_cost_estimate <> round(c.cost, 4)"
    )
    assert wrong == 0


@NEWEST
async def test_maintenance_that_is_killed_counts_every_event_once(every_database: Database, sql: Any) -> None:
    user = uuid4()
    expected = 0
    midway = 0
    await maintained(every_database, POLICY)
    for _ in range(2):
        # Many batches, so that it is killed between two transactions or in one.
        await sql.execute(
            "DO $$ BEGIN FOR i IN 1 .. 8000 LOOP INSERT INTO sync.usage_logs (user_id, event, data) VALUES "
            f"('{user}', 'x', '{{\"input_tokens\": 3}}'); END LOOP; END $$"
        )
        expected += 24_000
        waiting = await _waiting(sql)
        maintenance = Maintenance(every_database, "--once")
        await maintenance.start()
        await eventually(lambda waiting=waiting: _fewer(sql, waiting))  # type: ignore[misc]  # a lambda's default has no type
        await maintenance.kill()
        await at_rest(sql)
        midway += bool(await _waiting(sql))
    assert midway, "it was killed in the middle"
    await maintained(every_database, POLICY)
    assert sum(tokens for tokens, _ in (await counts(sql)).values()) == expected


async def _waiting(sql: Any) -> int:
    """Batches that are not counted."""
    return int(await sql.fetchval("SELECT count(*) FROM sync.usage_batches"))


async def _fewer(sql: Any, than: int) -> bool:
    return await _waiting(sql) < than


# ---- Idempotency keys -----------------------------------------------------------------------------------------------


async def test_a_key_is_written_once_and_only_with_its_events(sql: Any) -> None:
    user, key, digest = uuid4(), uuid4(), uuid4()
    one = event(user, input_tokens=1)
    assert await write(sql, one, key=key, digest=digest) == "written"
    assert await write(sql, one, key=key, digest=digest) == "repeated"
    assert await write(sql, one, key=key, digest=uuid4()) == "differs"
    doc = orjson.dumps([one]).decode()
    same = await sql.fetch(WRITE, [None, key, second := uuid4(), second], [None, digest, digest, digest], [doc] * 4)
    assert [row[0] for row in same] == ["written", "repeated", "written", "repeated"]
    assert await sql.fetchval("SELECT count(*) FROM sync.usage_logs WHERE user_id = $1", user) == 3


async def test_the_same_keys_at_the_same_time_are_written_once_whichever_transaction_ends(
    every_database: Database, sql: Any
) -> None:
    user, keys = uuid4(), [uuid4() for _ in range(6)]
    doc = orjson.dumps([event(user)]).decode()

    async def send(shuffled: list[UUID], commit: bool) -> list[str]:
        async with administrator(every_database) as connection:
            transaction = connection.transaction()
            await transaction.start()
            rows = await connection.fetch(WRITE, shuffled, shuffled, [doc] * len(shuffled))
            await (transaction.commit() if commit else transaction.rollback())
            return [row[0] for row in rows] if commit else []

    rng = random.Random(3)
    became = await asyncio.gather(
        *(send(rng.sample(keys, len(keys)), commit) for commit in (False, True, True, False, True, True))
    )
    said = Counter(result for results in became for result in results)
    assert said == {"written": len(keys), "repeated": 3 * len(keys)}
    assert await sql.fetchval("SELECT count(*) FROM sync.usage_logs WHERE user_id = $1", user) == len(keys)


# ---- Maintenance ----------------------------------------------------------------------------------------------------


async def test_weeks_are_made_ahead_and_dropped_when_their_events_are_old_and_counted(
    every_database: Database, sql: Any
) -> None:
    user = uuid4()
    now = datetime.now(UTC)
    ages = [0, 30, 89, 200, 1_000]
    for days in ages:
        await sql.execute(INSERT, user, "x", '{"input_tokens": 1}', now - timedelta(days=days))
    await sql.execute(
        "INSERT INTO sync.usage_keys VALUES (gen_random_uuid(), gen_random_uuid(), now() - interval '8 days')"
    )
    await sql.execute("INSERT INTO sync.daily_conversations VALUES ('2020-01-01', $1, $1)", user)
    await maintained(every_database, POLICY)
    kept = await sql.fetch('SELECT "timestamp", tableoid::regclass::text FROM sync.usage_logs ORDER BY 1 DESC')
    assert [(now - at).days for at, _ in kept] == [0, 30, 89]
    assert all(place != "sync.usage_logs_default" for _, place in kept), "they have partitions of their own"
    assert len(await usage(sql, user)) == len(ages), "all are counted"
    assert await sql.fetchval("SELECT sync.partitions_reach('usage_logs') > now() + interval '80 days'")
    assert await sql.fetchval("SELECT count(*) FROM sync.usage_keys") == 0
    assert await sql.fetchval("SELECT count(*) FROM sync.daily_conversations") == 0
    shorter = Policy(log_days=90, forget_days=400, usage_days=20)
    await maintained(every_database, shorter)
    assert [(now - at).days for (at,) in await sql.fetch('SELECT "timestamp" FROM sync.usage_logs')] == [0]
    assert await left(every_database, shorter) == []


@NEWEST
async def test_an_event_that_comes_while_its_week_is_dropped_is_counted(
    every_database: Database, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, monday = uuid4(), await sql.fetchval("SELECT date_trunc('week', now(), 'UTC') - interval '18 weeks'")
    await sql.execute("SELECT sync.make_partition('usage_logs', $1)", monday)
    await sql.execute(INSERT, user, "x", '{"input_tokens": 1}', monday)
    count = costs.count
    late = [1, 1]

    async def count_before_another_comes(connection: Any) -> None:
        await count(connection)
        if late:
            await sql.execute(INSERT, user, "x", f'{{"input_tokens": {late.pop()}}}', monday)

    monkeypatch.setattr(costs, "count", count_before_another_comes)
    await maintained(every_database, POLICY)
    assert [tokens for _, _, tokens, _, _ in await usage(sql, user)] == [3]
    assert await sql.fetchval("SELECT count(*) FROM sync.usage_logs") == 0


@NEWEST
async def test_events_that_cannot_be_counted_are_not_dropped(every_database: Database, sql: Any) -> None:
    user = uuid4()
    await sql.execute(INSERT, user, "x", '{"input_tokens": 1}', datetime.now(UTC) - timedelta(days=100))
    await sql.execute("ALTER TABLE sync.daily_costs ADD CHECK (requests > 1)")
    with contextlib.suppress(Exception):
        await maintained(every_database, POLICY)
    assert await sql.fetchval("SELECT count(*) FROM sync.usage_logs") == 1
    await sql.execute("ALTER TABLE sync.daily_costs DROP CONSTRAINT daily_costs_requests_check")
    await maintained(every_database, POLICY)
    assert await sql.fetchval("SELECT count(*) FROM sync.usage_logs") == 0
    assert len(await usage(sql, user)) == 1


# ---- Costs ----------------------------------------------------------------------------------------------------------


async def spend(sql: Any, user: UUID, days_ago: int, cost: float, tier: str = "core") -> None:
    """`cost` on one day; a million tokens cost 1."""
    at = datetime.now(UTC) - timedelta(days=days_ago)
    await write(sql, event(user, at.isoformat(), model="m", input_tokens=int(cost * 1_000_000), tier=tier))


@NEWEST
async def test_a_user_and_a_tier_that_leave_their_usual_range_are_found(every_database: Database, sql: Any) -> None:
    steady, dear = uuid4(), uuid4()
    await priced(sql, given=1)
    for days_ago in range(15):
        await spend(sql, steady, days_ago, 100 + days_ago % 3)
        await spend(sql, dear, days_ago, 10)
    await maintained(every_database, POLICY)
    state = "SELECT unusual_users, unusual_tiers, models_without_price, tiers FROM sync.usage_state"
    assert tuple(await sql.fetchrow(state))[:3] == (0, 0, 0)
    await spend(sql, dear, 0, 500)
    await write(sql, event(dear, datetime.now(UTC).isoformat(), model="new", output_tokens=5, tier="core"))
    await maintained(every_database, POLICY)
    unusual_users, unusual_tiers, models, tiers = await sql.fetchrow(state)
    assert (unusual_users, unusual_tiers, models) == (1, 1, 1)
    assert orjson.loads(tiers) == {"core": 610.0}
    found = await costs.ask(every_database.url, 3, 2, 5.0)
    assert [day.whose for day in found.unusual_users] == [str(dear)]
    assert [day.whose for day in found.unusual_tiers] == ["core"]
    assert found.without_price == ["new"]
    assert [(each.key, int(each.cost)) for each in found.sums["user"]] == [(str(dear), 530), (str(steady), 303)]
    assert [each.cost for each in found.sums["day"]] == [112, 111, 610]
    assert [(each.key, each.users, each.output_tokens) for each in found.sums["model"]] == [("m", 2, 0), ("new", 1, 5)]


@NEWEST
async def test_days_far_away_do_not_disturb_the_costs(every_database: Database, sql: Any) -> None:
    await priced(sql)
    for day in ("0001-01-01", "9999-12-31"):
        await write(sql, event(uuid4(), f"{day}T00:00:00Z", model="m", input_tokens=1))
    await sql.execute(
        'INSERT INTO sync.usage_logs (user_id, event, data, "timestamp") '
        "VALUES (gen_random_uuid(), 'x', '{\"input_tokens\": 1}', '200000-01-01'), "
        "(gen_random_uuid(), 'x', '{\"input_tokens\": 1}', '4000-01-01 BC')"
    )
    await maintained(every_database, POLICY)
    found = await costs.ask(every_database.url, 30, 20, 5.0)
    assert not any(found.sums.values())
