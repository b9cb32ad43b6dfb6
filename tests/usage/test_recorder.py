"""The recorder confirms what is durable, refuses what it cannot keep, and drops only what is the server's own."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID, uuid4

import pytest

from server import metrics
from server.exceptions import UnavailableError
from server.metrics import CATALOGUE
from server.usage import events, recorder
from server.usage.events import Group, Written
from server.usage.ports import RefusedError
from server.usage.recorder import Recorder
from tests.support.waiting import LIMIT

USER: Final = str(uuid4())
AWAY: Final = UnavailableError("nobody answers")


class Gate:
    """Holds up who passes while it is closed."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._reached = asyncio.Event()
        self._open.set()

    def close(self) -> None:
        self._open.clear()
        self._reached.clear()

    def open(self) -> None:
        self._open.set()

    async def reached(self) -> None:
        """Wait until somebody is held up."""
        async with asyncio.timeout(LIMIT):
            await self._reached.wait()

    async def passed(self) -> None:
        self._reached.set()
        await self._open.wait()


class FakeStore:
    """Keeps what is written, behind a gate. `trouble` is raised instead; groups with «poison» in them are refused."""

    def __init__(self) -> None:
        self.written: list[list[Group]] = []
        self.gate = Gate()
        self.trouble: Exception | None = None
        self.kept: dict[UUID, UUID | None] = {}

    async def write(self, groups: Sequence[Group], seconds: float) -> list[Written]:
        self.written.append(list(groups))
        await self.gate.passed()
        if self.trouble is not None:
            raise self.trouble
        if any("poison" in group.document for group in groups):
            raise RefusedError("it is poison")
        keys = [group.key for group in groups if group.key is not None]
        assert len(keys) == len(set(keys)), "no two have one key"
        return [self._became(group) for group in groups]

    def _became(self, group: Group) -> Written:
        if group.key is None:
            return Written.WRITTEN
        if group.key in self.kept:
            return Written.REPEATED if self.kept[group.key] == group.digest else Written.DIFFERS
        self.kept[group.key] = group.digest
        return Written.WRITTEN


@asynccontextmanager
async def recording(store: FakeStore) -> AsyncIterator[Recorder]:
    made = Recorder(store)
    running = asyncio.create_task(made.run())
    yield made
    running.cancel()
    await asyncio.wait([running])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "PAUSE", 0.001)
    monkeypatch.setattr(recorder, "OWN_SECONDS", 0.001)


def group(key: str, text: str = "x", count: int = 1) -> Group:
    return events.group([f'{{"event": "{text}"}}'.encode()] * count, count, key)


def own() -> events.Event:
    return events.sync_completed(USER, tier="core", outcome="new", milliseconds=1, rows={}, size=0, at=0)


def counted(source: str, fate: str) -> float:
    """What the figure says."""
    metrics.flush()
    (figure,) = [each for each in CATALOGUE if each.name == "atlas_usage_events_total"]
    return float(figure.metric.labels(source, fate)._value.get())  # type: ignore[attr-defined]  # it has no public way


async def test_groups_that_arrive_during_a_transaction_share_the_next_one() -> None:
    store = FakeStore()
    async with recording(store) as usage:
        store.gate.close()
        first = asyncio.create_task(usage.submit(group("1")))
        await store.gate.reached()
        others = [asyncio.create_task(usage.submit(group(str(n)))) for n in range(2, 12)]
        await asyncio.sleep(0)
        store.gate.open()
        assert set(await asyncio.gather(first, *others)) == {Written.WRITTEN}
    assert [len(groups) for groups in store.written] == [1, 10]


async def test_a_key_that_is_being_written_waits_for_what_becomes_of_it() -> None:
    store = FakeStore()
    async with recording(store) as usage:
        became = await asyncio.gather(
            usage.submit(group("1")), usage.submit(group("1")), usage.submit(group("1", "y")), usage.submit(group("2"))
        )
    assert list(became) == [Written.WRITTEN, Written.REPEATED, Written.DIFFERS, Written.WRITTEN]


async def test_while_postgres_is_away_groups_are_refused_at_once_and_own_events_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = FakeStore()
    store.trouble = AWAY
    dropped, put_off = counted("server", "dropped"), counted("backend", "put_off")
    async with recording(store) as usage:
        for _ in range(3):
            usage.note(own())
        with pytest.raises(UnavailableError, match="Keep the events"):
            await usage.submit(group("1", count=4))
        tries = len(store.written)
        with pytest.raises(UnavailableError):
            await usage.submit(group("1", count=4))
        assert len(store.written) == tries, "Postgres is not tried for each"
        store.trouble = None
        monkeypatch.setattr(recorder, "AWAY_SECONDS", 0.0)
        usage._away_until = 0.0
        assert await usage.submit(group("1", count=4)) is Written.WRITTEN
    assert counted("server", "dropped") - dropped == 3
    assert counted("backend", "put_off") - put_off == 8


async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    one = group("1", "x" * 1_000)
    monkeypatch.setattr(recorder, "MOST_BYTES", 3 * len(one.document))
    monkeypatch.setattr(recorder, "MOST_OWN", 5)
    store = FakeStore()
    dropped = counted("server", "dropped")
    async with recording(store) as usage:
        store.gate.close()
        waiting = [asyncio.create_task(usage.submit(group(str(n), "x" * 1_000))) for n in range(3)]
        await store.gate.reached()
        with pytest.raises(UnavailableError, match="More events arrive than are written"):
            await usage.submit(group("4", "x" * 1_000))
        for _ in range(7):
            usage.note(own())
        assert counted("server", "dropped") - dropped == 2
        store.gate.open()
        assert len(await asyncio.gather(*waiting)) == 3
        assert await usage.submit(group("4", "x" * 1_000)) is Written.WRITTEN


async def test_a_group_that_postgres_refuses_does_not_keep_the_others_from_being_written() -> None:
    store = FakeStore()
    async with recording(store) as usage:
        usage.note(own())
        became = await asyncio.gather(
            usage.submit(group("1")),
            usage.submit(group("2", "poison")),
            usage.submit(group("3")),
            return_exceptions=True,
        )
    assert [became[0], became[2]] == [Written.WRITTEN, Written.WRITTEN]
    assert isinstance(became[1], RefusedError)


async def test_a_transaction_is_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "GROUP_EVENTS", 10)
    store = FakeStore()
    async with recording(store) as usage:
        await asyncio.gather(
            *(usage.submit(group(str(n), count=4)) for n in range(7)), usage.submit(group("x", count=40))
        )
    assert max(sum(each.events for each in groups) for groups in store.written if len(groups) > 1) <= 10
    assert sum(each.events for groups in store.written for each in groups) == 68


async def test_a_caller_that_went_away_costs_no_write() -> None:
    store = FakeStore()
    async with recording(store) as usage:
        store.gate.close()
        first = asyncio.create_task(usage.submit(group("1")))
        await store.gate.reached()
        gone, stays = (asyncio.create_task(usage.submit(group(key))) for key in ("2", "3"))
        await asyncio.sleep(0)
        gone.cancel()
        store.gate.open()
        await asyncio.gather(first, stays)
    assert [len(groups) for groups in store.written] == [1, 1]


async def test_at_the_end_own_events_are_written_and_groups_refused() -> None:
    store = FakeStore()
    usage = Recorder(store)
    usage.note(own())
    waiting = asyncio.create_task(usage.submit(group("1")))
    await asyncio.sleep(0)
    await usage.close()
    with pytest.raises(UnavailableError, match="shutting down"):
        await waiting
    assert [each.events for groups in store.written for each in groups] == [1]
