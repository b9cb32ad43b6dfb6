"""Of several hosts the one with the newest history is used, and no connection to the others stays open."""

import asyncio
from typing import Any

import pytest

from server.exceptions import UnavailableError, UnfitError
from server.feed.history import History, HistoryReport
from server.feed.hub import Hub
from server.postgres import route as module
from server.postgres.errors import NotPrimaryError, StandbyError
from server.postgres.route import OpenConnection, Route
from tests.support.waiting import LIMIT, eventually

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


class Hosts:
    """What the hosts of TWO_HOSTS answer: a history, an error, or nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: HistoryReport | Exception | None) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.closed: list[object] = []
        monkeypatch.setattr(Route, "_open", lambda _, url, **options: self._open(url))
        monkeypatch.setattr(module, "give_up", self._give_up)

    async def _open(self, url: str) -> OpenConnection:
        (host,) = (host for host in self.answers if host in url)
        self.asked.append(host)
        answer = self.answers[host]
        if answer is None:
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        assert answer is not None
        return OpenConnection(url, host, answer, 0)

    async def _give_up(self, connection: object) -> None:
        self.closed.append(connection)


def too_late() -> UnavailableError:
    error = UnavailableError("TimeoutError")
    error.__cause__ = TimeoutError()
    return error


async def inspected(_: OpenConnection) -> None:
    pass


OLD = HistoryReport("a" * 16, (), 1, 1, 0, 0)
PROMOTED = HistoryReport("b" * 16, (OLD.epoch,), 1, 2, 0, 0)


@pytest.fixture
def history() -> History:
    made = History(Hub(lambda _: None))
    made.connected(OLD)
    return made


async def test_a_host_that_does_not_answer_keeps_nobody_from_the_next_one(
    monkeypatch: pytest.MonkeyPatch, history: History
) -> None:
    Hosts(monkeypatch, one=None, two=PROMOTED)
    monkeypatch.setattr(module, "NEXT_SECONDS", 0.01)
    route = Route(TWO_HOSTS, history)
    assert (await route.connect()).raw == "two"
    monkeypatch.setattr(module, "NEXT_SECONDS", 600.0)
    assert (await route.connect()).raw == "two", "the one that answered last is asked first"


async def test_a_standby_that_was_passed_over_is_tried_again_when_it_was_promoted(
    monkeypatch: pytest.MonkeyPatch, history: History
) -> None:
    hosts = Hosts(monkeypatch, one=None, two=NotPrimaryError("a standby"))
    monkeypatch.setattr(module, "NEXT_SECONDS", 0.0)
    connecting = asyncio.create_task(Route(TWO_HOSTS, history).connect())
    await eventually(lambda: hosts.asked == ["one", "two"])
    hosts.answers["two"] = PROMOTED
    history.connected(PROMOTED)
    async with asyncio.timeout(LIMIT):
        assert (await connecting).raw == "two"


async def test_of_two_hosts_that_answer_at_the_same_moment_one_is_used_and_the_other_closed(
    monkeypatch: pytest.MonkeyPatch, history: History
) -> None:
    hosts = Hosts(monkeypatch, one=OLD, two=OLD)
    monkeypatch.setattr(module, "NEXT_SECONDS", 0.0)
    used = await Route(TWO_HOSTS, history).connect()
    assert used.raw not in hosts.closed
    assert len(hosts.closed) <= 1


async def test_a_newer_history_counts_before_a_silent_host_is_given_up(
    monkeypatch: pytest.MonkeyPatch, history: History
) -> None:
    Hosts(monkeypatch, one=None, two=PROMOTED)
    monkeypatch.setattr(module, "SILENT_SECONDS", 600.0)
    changed = asyncio.Event()
    history.on_change.append(changed.set)
    survey = asyncio.create_task(Route(TWO_HOSTS, history).survey(inspected))
    async with asyncio.timeout(LIMIT):
        await changed.wait()
    assert not survey.done()
    survey.cancel()
    await asyncio.wait([survey])
    assert history.epoch == PROMOTED.epoch


async def test_a_survey_finds_a_standby_that_is_promoted_while_it_waits_for_a_silent_primary(
    monkeypatch: pytest.MonkeyPatch, history: History
) -> None:
    hosts = Hosts(monkeypatch, one=None, two=NotPrimaryError("a standby"))
    for limit in ("OTHERS_SECONDS", "SILENT_SECONDS"):
        monkeypatch.setattr(module, limit, 0.01)
    survey = asyncio.create_task(Route(TWO_HOSTS, history).survey(inspected))
    await eventually(lambda: hosts.asked.count("two") == 3)
    hosts.answers["two"] = PROMOTED
    async with asyncio.timeout(LIMIT):
        assert not await survey
    assert history.epoch == PROMOTED.epoch
    assert hosts.closed == ["two"]


async def test_a_host_that_was_silent_is_not_waited_for_until_it_answers(
    monkeypatch: pytest.MonkeyPatch, history: History
) -> None:
    hosts = Hosts(monkeypatch, one=too_late(), two=OLD)
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.01)
    route = Route(TWO_HOSTS, history)
    assert not await route.survey(inspected)
    hosts.answers["one"] = None
    async with asyncio.timeout(LIMIT):
        for _ in range(2):
            assert not await route.survey(inspected)
    hosts.answers |= {"one": OLD, "two": PROMOTED}
    assert await route.survey(inspected), "it answers with an earlier history"


async def test_silent_hosts_are_waited_for_if_nobody_else_answers(
    monkeypatch: pytest.MonkeyPatch, history: History
) -> None:
    Hosts(monkeypatch, one=too_late(), two=too_late())
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.0)
    route = Route(TWO_HOSTS, history)
    with pytest.raises(UnavailableError):
        await route.survey(inspected)
    slow = asyncio.Event()

    async def open_slowly(_: Route, url: str, **options: Any) -> OpenConnection:
        await slow.wait()
        return OpenConnection(url, "slow", OLD, 0)

    monkeypatch.setattr(Route, "_open", open_slowly)
    survey = asyncio.create_task(route.survey(inspected))
    asyncio.get_running_loop().call_later(0.05, slow.set)
    assert not await survey


@pytest.mark.parametrize("work", ["connect", "survey"])
async def test_several_standbys_may_be_promoted_and_a_single_one_is_a_mistake(
    monkeypatch: pytest.MonkeyPatch, history: History, work: str
) -> None:
    async def ask(url: str) -> None:
        route = Route(url, history)
        await (route.connect() if work == "connect" else route.survey(inspected))

    hosts = Hosts(monkeypatch, one=StandbyError("a standby"), two=NotPrimaryError("a standby"))
    with pytest.raises(UnavailableError, match="Promote one"):
        await ask(TWO_HOSTS)
    with pytest.raises(UnfitError, match="a standby"):
        await ask("postgresql://one/db")
    for problem in (UnfitError("mend this"), UnavailableError("refused")):
        hosts.answers["two"] = problem
        with pytest.raises(type(problem), match=str(problem)):
            await ask(TWO_HOSTS)
