"""Missed messages arrive, whatever their number and age. Speed is not tested."""

from uuid import uuid4

import asyncpg
import pytest

from benchmarks.catchup import cases, catchup
from benchmarks.past import past
from benchmarks.stage import Stage, stage
from tests.support.benchmark_runs import figures

# Of every log row of a feed: what its `prev` must be, and whether what it points to is there and is this user's.
CHAIN = """
    SELECT count(*) AS entries,
           count(*) FILTER (WHERE prev IS DISTINCT FROM before) AS broken,
           count(*) FILTER (WHERE kind = 'm' AND owner IS DISTINCT FROM user_id) AS pointless,
           count(*) FILTER (WHERE after IS NULL AND (seq, prev) IS DISTINCT FROM (head, head_prev)) AS headless
    FROM (SELECT l.*, c.user_id AS owner, f.seq AS head, f.prev AS head_prev,
                 lag(l.seq, 1, 0::bigint) OVER feed AS before, lead(l.seq) OVER feed AS after
          FROM sync.log l
          LEFT JOIN sync.feeds f USING (user_id)
          LEFT JOIN messages m ON m.id = l.row_id AND m.created_at = l.row_at
          LEFT JOIN conversations c ON c.id = m.conversation_id
          WHERE l.user_id <> ALL ($1::uuid[])
          WINDOW feed AS (PARTITION BY l.user_id ORDER BY l.seq)) entry
"""


def test_every_missed_message_arrives_once() -> None:
    found = figures("catchup")
    assert found["lost"] == 0
    assert found["messages"] == 3_000
    assert found["rows"] == 500
    assert found["rows_per_second"] > 0
    for case in cases(500):
        assert {
            f"{case.name}_{key}" for key in ("ms", "server_ms", "postgres_ms", "statements", "buffers")
        } <= found.keys()
        assert found[f"{case.name}_statements"] >= 1


async def test_a_message_that_does_not_arrive_is_counted_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    written = Stage.write_many

    async def one_more(self: Stage, user: int, count: int, together: int) -> list[str]:
        return [*await written(self, user, count, together), uuid4().hex]

    monkeypatch.setattr(Stage, "write_many", one_more)
    monkeypatch.setattr("benchmarks.actors.ARRIVAL", 0.1)
    async with stage(len(cases(50))) as made:
        found = await catchup(made, messages=100, rows=50, times=1)
    assert found["lost"] == sum(case.away is None for case in cases(50))


async def test_rows_of_the_past_are_those_that_the_triggers_would_have_written() -> None:
    async with stage(2) as made, past(made) as before:
        await before.fill(2_500)
        _, missed = await before.missed(made.users[0], 20, 80 * 86_400.0)
        connection = await asyncpg.connect(made.postgres.url())
        try:
            entries, *wrong = await connection.fetchrow(CHAIN, [made.users[1]])
            assert wrong == [0, 0, 0]
            assert entries == 2_500 + len(missed) + 1  # the last that the device had seen
            assert not await connection.fetchval("SELECT count(*) FROM sync.log_default")
            assert not await connection.fetchval("SELECT count(*) FROM public.messages_default")
        finally:
            connection.terminate()
