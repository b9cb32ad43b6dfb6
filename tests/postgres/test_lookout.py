"""What a look finds, and what follows from it."""

from typing import Any

import pytest

from server.clock import Clock
from server.errors import UnavailableError, UnfitError
from server.feed.history import History
from server.feed.hub import Hub
from server.postgres.lookout import Lookout
from server.postgres.route import Route
from tests.support.cluster import Database


async def test_a_history_that_could_not_be_begun_is_begun_before_anybody_is_served_again(
    database: Database, sql: Any
) -> None:
    history = History(Hub(lambda _: None))
    lookout = Lookout(Route(database.server_url, history), Clock(), 0.0)
    await lookout.look()
    before = await sql.fetchval("SELECT sync.epoch()")
    assert (history.epoch, history.blind) == (before, None)
    await sql.execute("ALTER FUNCTION sync.begin_history RENAME TO mislaid")
    with pytest.raises((UnavailableError, UnfitError)):
        await lookout.look()
    assert history.blind is not None
    await sql.execute("ALTER FUNCTION sync.mislaid RENAME TO begin_history")
    for _ in range(2):
        await lookout.look()
    assert history.blind is None
    assert history.epoch == await sql.fetchval("SELECT sync.epoch()") != before
