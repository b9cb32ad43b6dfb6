"""Of several hosts the one with the newest history is used, and no connection to the others stays open."""

import asyncio
from typing import Any

import pytest

from server.feed.history import History, HistoryReport
from server.feed.hub import Hub
from server.postgres import route as module
from server.postgres.route import OpenConnection, Route

TWO_HOSTS = "postgresql://one,two/db"


async def test_a_survey_that_is_cancelled_closes_the_connections_that_are_open_already(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = asyncio.Event()
    closed: list[object] = []

    async def open_one(self: Route, url: str, **options: Any) -> OpenConnection:
        if "two" in url:
            await asyncio.Event().wait()
        opened.set()
        return OpenConnection(url, "the connection to one", HistoryReport("0" * 16, (), 1, 1, 0, 0), 0)

    async def give_up(connection: object) -> None:
        closed.append(connection)

    async def inspect(_: OpenConnection) -> None:
        raise AssertionError("one of the hosts has not answered")

    monkeypatch.setattr(Route, "_open", open_one)
    monkeypatch.setattr(module, "give_up", give_up)
    survey = asyncio.create_task(Route(TWO_HOSTS, History(Hub(lambda _: None))).survey(inspect))
    await opened.wait()
    await asyncio.sleep(0)
    survey.cancel()
    with pytest.raises(asyncio.CancelledError):
        await survey
    assert closed == ["the connection to one"]
