"""A replica answers only what it can answer as the primary would, and its lag is known without its help."""

from collections.abc import Sequence
from typing import cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.cursor import Position
from server.declaration.chat import CHAT
from server.declaration.model import Kind
from server.declaration.synced import Synced
from server.exceptions import UnavailableError
from server.feed.change import Reading
from server.feed.ports import ANYWHERE, Answer, Asked, ReadKey, Store, Want
from server.feed.replicas import Lag, Replicas

USER = str(UUID(int=1))
WANT = [Want(UUID(int=2), None, 10)]


class FakeStore:
    def __init__(self, name: str, at: Position, tier: str = "core") -> None:
        self.name = name
        self.at = at
        self.tier = tier

    async def read_feed(self, keys: Sequence[ReadKey], rows: int, content_bytes: int) -> list[Reading]:
        return [Reading(self.at.seq, self.name, []) for _ in keys]

    async def rows(self, *_: object) -> Answer:
        return Answer(self.at, self.tier, [], cut=self.name == "primary")

    async def rows_of(self, kind: Kind, asked: Sequence[Asked], content_bytes: int) -> list[Answer]:
        return [await self.rows() for _ in asked]


class FakeReplica:
    def __init__(self, at: Position, tier: str = "core") -> None:
        self.store = cast(Store, FakeStore("replica", at, tier))
        self.usable = True
        self.promoted = False
        self.asked = 0

    async def check(self) -> None:
        self.asked += 1
        if self.promoted:
            raise UnavailableError("It follows no primary.")

    def leave(self, why: str) -> None:
        self.usable = False


HEAD = Position(100, 0, 7)


def beside(*replicas: FakeReplica) -> Replicas:
    return Replicas(cast(Store, FakeStore("primary", HEAD)), replicas, Synced(CHAT), lambda: None)


async def by_primary(replicas: Replicas, since: Position | None) -> bool:
    alone = await replicas.rows(CHAT.kind["message"], USER, WANT, 1_000, since)
    (together,) = await replicas.rows_of(CHAT.kind["message"], [Asked(USER, WANT, since)], 1_000)
    assert alone == together
    return alone.cut


@pytest.mark.parametrize(
    ("at", "since", "answers"),
    [
        (Position(100, 0, 7), Position(100, 0, 7), True),
        (Position(100, 0, 7), Position(90, 0, 6), True),
        (Position(90, 0, 6), ANYWHERE, True),
        (Position(90, 0, 6), Position(100, 0, 7), False),  # it lags
        (Position(100, 0, 8), Position(100, 0, 7), False),  # another transaction has this seq there
        (Position(100, 0, 7), None, False),  # nobody knows what the device has
    ],
)
async def test_a_replica_answers_a_device_that_is_not_ahead_of_it(
    at: Position, since: Position | None, answers: bool
) -> None:
    assert await by_primary(beside(FakeReplica(at)), since) is not answers


async def test_of_many_devices_a_replica_answers_those_that_are_not_ahead_of_it() -> None:
    positions = [ANYWHERE, Position(100, 0, 7), None, Position(90, 0, 6), Position(80, 0, 5)]
    asked = [Asked(USER, WANT, since) for since in positions]
    for replicas, by_primary in (
        (beside(FakeReplica(Position(90, 0, 6))), [False, True, True, False, False]),
        (beside(), [True] * 5),
    ):
        answers = await replicas.rows_of(CHAT.kind["message"], asked, 1_000)
        assert [answer.cut for answer in answers] == by_primary


async def test_that_a_user_does_not_sync_only_the_primary_says() -> None:
    replicas = beside(FakeReplica(Position(90), tier="free"))
    assert await by_primary(replicas, ANYWHERE)


async def test_what_was_read_around_a_promotion_is_thrown_away_and_the_replica_is_left() -> None:
    replica = FakeReplica(HEAD)
    replicas = beside(replica)
    replica.promoted = True
    assert await by_primary(replicas, ANYWHERE)
    assert not replica.usable
    assert await replicas.catch_up([ReadKey(USER, HEAD)], 10, 1_000) is None


async def test_replicas_take_turns_and_those_that_are_left_get_none() -> None:
    one, two, left = FakeReplica(HEAD), FakeReplica(HEAD), FakeReplica(HEAD)
    left.usable = False
    replicas = beside(one, left, two)
    for _ in range(10):
        assert not await by_primary(replicas, ANYWHERE)
    assert (one.asked, two.asked, left.asked) == (10, 10, 0)


def test_a_replica_that_has_all_lags_by_nothing_however_long_nothing_was_written() -> None:
    lag = Lag()
    assert lag.of(0, 0.0) == 0
    for second in range(200):
        lag.primary_at(5_000, float(second))
    assert lag.of(5_000, 300.0) == 0
    assert lag.of(4_999, 300.0) == float("inf")


def test_a_replica_that_has_more_than_the_primary_is_ahead() -> None:
    lag = Lag()
    assert lag.ahead(0)  # nothing is known of the primary
    for wal, ahead in [(5_000, False), (4_999, True), (5_000, False)]:  # it was restarted without its tail in between
        lag.primary_at(wal, 1.0)
        assert lag.ahead(5_000) is ahead


@given(
    steps=st.lists(st.tuples(st.integers(0, 100), st.floats(0.1, 3)), min_size=1, max_size=40),
    back=st.integers(0, 39),
)
def test_the_lag_is_the_age_of_what_was_replayed(steps: list[tuple[int, float]], back: int) -> None:
    lag, wal, now = Lag(), 0, 0.0
    seen = []
    for size, pause in steps:
        wal, now = wal + size, now + pause
        lag.primary_at(wal, now)
        seen.append((now, wal))
    at, replayed = seen[-1 - back % len(seen)]
    latest = max(when for when, reached in seen if reached <= replayed)
    assert lag.of(replayed, now) == (0 if replayed >= wal else now - latest)
    assert lag.of(replayed, now) <= now - at
