"""A user may choose the date of a message; no choice of dates slows the reads of others."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.integration.test_archive import history, scrolled
from tests.support.cluster import Database, administrator
from tests.support.maintenance import left, maintained, make_month
from tests.support.peer import peer
from tests.support.people import add_conversation, add_message, add_user
from tests.support.serving import serving

MONTHS = 300


@pytest.fixture
async def sql(every_database: Database) -> AsyncIterator[Any]:
    async with administrator(every_database) as connection:
        yield connection


async def test_messages_of_300_months_make_no_partition_and_are_found_by_paging(
    every_database: Database, sql: Any
) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    await make_month(sql, -14)
    await maintained(every_database)
    await add_message(sql, conversation)
    partitions = "SELECT partition::text FROM sync.partitions ORDER BY 1"
    before = await sql.fetch(partitions)
    async with sql.transaction():
        await sql.execute("SET LOCAL ROLE authenticated")
        await sql.execute("SELECT set_config('request.jwt.claims', $1, true)", json.dumps({"sub": str(user)}))
        await sql.execute(
            "INSERT INTO messages (conversation_id, role, content, created_at) SELECT $1, 'user', 'boom', "
            "now() + make_interval(months => m) FROM generate_series(20 - $2::int, 19) m",
            conversation,
            MONTHS,
        )
    await maintained(every_database)
    assert await left(every_database) == []
    assert await sql.fetch(partitions) == before
    # Before the archive's end, after it, and in the months to come.
    expected = await history(sql, conversation)
    assert len(expected) == MONTHS + 1
    async with serving(every_database) as server, peer(server.url) as device:
        await device.greet(user, window={"conversation": 0, "message": 0})
        assert await scrolled(device, conversation, 50) == expected
