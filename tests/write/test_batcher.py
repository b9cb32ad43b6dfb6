"""Pushes are grouped while a transaction is under way, each is answered once, and nobody pays for somebody else."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from uuid import UUID, uuid4

import pytest

from protocol.frames import Ack, Applied, Error, Rejected
from server.exceptions import UnavailableError
from server.rate_limit import TokenBuckets
from server.retry import Retry
from server.write import batcher as module
from server.write.batcher import Batcher
from server.write.ports import Cause, WriteError
from server.write.push import Change, Outcome, OwnedPush, Rejection
from tests.support.waiting import eventually

ANNE, BERT = UUID(int=1), UUID(int=2)


def deletion(id_: UUID) -> Change:
    return Change("c", "-", (str(id_),))


class Writer:
    """A database that commits when the test says so."""

    def __init__(self) -> None:
        self.groups: list[list[OwnedPush]] = []
        self.may_commit = asyncio.Event()
        self.may_commit.set()
        self.away = False
        self.fails: dict[UUID, Cause] = {}
        """Users whose pushes fail, and with them whatever they are in."""
        self.refuses: set[object] = set()
        """Mutations that a rule is against."""
        self.portions: dict[UUID, int] = {}
        """Transactions that a user's push still takes."""

    async def write(self, pushes: Sequence[OwnedPush], seconds: float) -> list[Outcome]:
        self.groups.append(list(pushes))
        await self.may_commit.wait()
        if self.away:
            raise UnavailableError("away")
        for push in pushes:
            if push.user in self.fails:
                raise WriteError(self.fails[push.user], "as the test says")
            if self.refuses & set(push.mutations):
                raise WriteError(Cause.RULE, "as the test says")
        return [self._outcome(push) for push in pushes]

    def _outcome(self, push: OwnedPush) -> Outcome:
        rejected = {push.first + i: each.code for i, each in enumerate(push.mutations) if isinstance(each, Rejection)}
        self.portions[push.user] = left = self.portions.get(push.user, 1) - 1
        return Outcome(push.first - 1, push.last if left <= 0 else push.first - 1, 7, rejected, None)


class Bench:
    def __init__(self, batch: int = 4) -> None:
        self.writer = Writer()
        self.batcher = Batcher(self.writer, TokenBuckets(rate=1e6, burst=1_000_000), batch)
        self.answers: list[tuple[OwnedPush, Ack | Error]] = []

    def push(self, user: UUID = ANNE, mutations: int = 1, client_id: UUID | None = None, size: int = 100) -> OwnedPush:
        client_id = client_id or uuid4()
        some = [deletion(uuid4())] * mutations
        push = OwnedPush(user=user, client_id=client_id, session="s", claims_client_id=True, first=1, mutations=some)
        self.batcher.put(push, size, lambda answer: self.answers.append((push, answer)))
        return push

    async def answered(self, count: int) -> list[Ack | Error]:
        await eventually(lambda: len(self.answers) >= count)
        return [answer for _, answer in self.answers]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    running = asyncio.create_task(made.batcher.run())
    yield made
    running.cancel()


async def under_way(bench: Bench) -> None:
    """A group has been taken, and does not commit yet."""
    bench.writer.may_commit.clear()
    before = len(bench.writer.groups)
    bench.push()
    await eventually(lambda: len(bench.writer.groups) == before + 1)


async def test_a_push_that_finds_nothing_under_way_is_written_at_once(bench: Bench) -> None:
    push = bench.push(mutations=2)
    assert await bench.answered(1) == [Ack(results=[Applied(1, 7), Applied(2, 7)])]
    assert bench.writer.groups == [[push]]


async def test_what_comes_while_a_transaction_is_under_way_is_one_group_in_the_order_of_ids(bench: Bench) -> None:
    await under_way(bench)
    later = [bench.push(BERT), bench.push(ANNE), bench.push(BERT)]
    bench.writer.may_commit.set()
    await bench.answered(4)
    assert bench.writer.groups[1:] == [sorted(later, key=lambda push: (push.user.bytes, push.client_id.bytes))]
    assert [push.user for push in bench.writer.groups[1]] == [ANNE, BERT, BERT]


async def test_a_group_has_at_most_a_batch_of_mutations_and_at_least_one_push(bench: Bench) -> None:
    await under_way(bench)
    for mutations in (3, 1, 1, 9, 2, 2, 1):
        bench.push(mutations=mutations)
    bench.writer.may_commit.set()
    await bench.answered(8)
    sizes = [sorted(len(push.mutations) for push in group) for group in bench.writer.groups[1:]]
    assert sizes == [[1, 3], [1], [9], [2, 2], [1]]


async def test_two_pushes_of_one_client_are_never_in_one_group(bench: Bench) -> None:
    await under_way(bench)
    client_id = uuid4()
    for _ in range(2):
        bench.push(client_id=client_id)
    bench.push(BERT, client_id=client_id)
    bench.writer.may_commit.set()
    await bench.answered(4)
    assert [len(group) for group in bench.writer.groups] == [1, 1, 2]


async def test_while_postgres_is_away_everybody_is_told_when_to_come_again_and_nothing_is_kept(bench: Bench) -> None:
    await under_way(bench)
    for _ in range(9):
        bench.push()
    bench.writer.away = True
    bench.writer.may_commit.set()
    answers = await bench.answered(10)
    bench.push()
    answers = await bench.answered(11)
    assert len(bench.writer.groups) == 1
    for answer in answers:
        assert isinstance(answer, Error)
        assert (answer.code, answer.retryable, answer.answers, answer.id) == ("unavailable", True, "push", 1)
        assert answer.retry_after is not None
    bench.writer.away = False

    def taken() -> bool:
        bench.push()
        return isinstance(bench.answers[-1][1], Ack)

    await eventually(taken)


async def test_the_next_push_tries_a_postgres_that_answered_somebody_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Retry, "failed", lambda self, error: 600.0)
    bench.writer.away = True
    bench.push()
    await bench.answered(1)
    bench.writer.away = False
    bench.push()
    assert len(await bench.answered(2)) == len(bench.writer.groups) + 1, "the pause goes on"
    bench.batcher.postgres_is_back()
    bench.push()
    assert isinstance((await bench.answered(3))[-1], Ack)


async def test_who_fails_a_group_is_found_and_all_others_are_acknowledged(bench: Bench) -> None:
    bench.writer.fails = {BERT: Cause.STATE}
    await under_way(bench)
    others = [bench.push(UUID(int=number)) for number in range(10, 30)]
    bench.push(BERT)
    bench.writer.may_commit.set()
    await bench.answered(22)
    answers = {push.user: answer for push, answer in bench.answers}
    assert all(isinstance(answers[push.user], Ack) for push in others)
    culprit = answers[BERT]
    assert isinstance(culprit, Error)
    assert (culprit.code, culprit.retryable) == ("unavailable", True)
    assert sum(BERT in {push.user for push in group} for group in bench.writer.groups) == 2, "in a group, then alone"


async def test_who_is_held_back_is_not_even_tried_and_delays_nobody(bench: Bench) -> None:
    bench.writer.fails = {BERT: Cause.STATE}
    device = uuid4()
    bench.push(BERT, client_id=device)
    await bench.answered(1)
    tries = len(bench.writer.groups)
    bench.push(BERT, client_id=device)
    _, again = await bench.answered(2)
    assert isinstance(again, Error)
    assert again.retry_after is not None
    assert len(bench.writer.groups) == tries
    bench.push(ANNE)
    assert isinstance((await bench.answered(3))[-1], Ack)


async def test_another_device_of_who_fails_is_never_in_a_group_with_others(bench: Bench) -> None:
    bench.writer.fails = {BERT: Cause.TIME}
    bench.push(BERT)
    await bench.answered(1)
    await under_way(bench)
    bench.push(BERT)
    bench.push(ANNE)
    bench.push(ANNE)
    bench.writer.may_commit.set()
    await bench.answered(5)
    assert [BERT] in [[push.user for push in group] for group in bench.writer.groups[2:]]
    assert not [group for group in bench.writer.groups if len(group) > 1 and BERT in {push.user for push in group}]


async def test_of_a_push_only_the_mutations_that_a_rule_is_against_are_rejected(bench: Bench) -> None:
    some = [deletion(UUID(int=number)) for number in range(9)]
    bench.writer.refuses = {some[0], some[4], some[8]}
    push = OwnedPush(user=ANNE, client_id=uuid4(), session="s", claims_client_id=True, first=1, mutations=some)
    bench.batcher.put(push, 100, lambda answer: bench.answers.append((push, answer)))
    (answer,) = await bench.answered(1)
    assert isinstance(answer, Ack)
    assert [result.n for result in answer.results] == list(range(1, 10))
    assert [result.n for result in answer.results if isinstance(result, Rejected)] == [1, 5, 9]


async def test_a_push_that_takes_several_transactions_is_answered_once_at_its_end(bench: Bench) -> None:
    bench.writer.portions = {ANNE: 5}
    bench.push(ANNE)
    assert await bench.answered(1) == [Ack(results=[Applied(1, 7)])]
    assert len(bench.writer.groups) == 5


async def test_groups_that_are_slow_without_a_culprit_get_more_time_and_lose_it_again(bench: Bench) -> None:
    fails, limits = True, []
    write = bench.writer.write

    async def slow_in_groups(pushes: Sequence[OwnedPush], seconds: float) -> list[Outcome]:
        if len(pushes) > 1:
            limits.append(seconds)
            if fails:
                raise WriteError(Cause.TIME, "too slow together")
        return await write(pushes, seconds)

    bench.writer.write = slow_in_groups  # type: ignore[method-assign]
    for round_ in range(80):
        fails = round_ < 8
        answered = len(bench.answers)
        await under_way(bench)
        for number in range(3):
            bench.push(UUID(int=100 * round_ + number + 10))
        bench.writer.may_commit.set()
        await bench.answered(answered + 4)
        assert all(isinstance(answer, Ack) for _, answer in bench.answers)
    assert limits[0] == module.GROUP_SECONDS
    assert limits[:5] == sorted(limits[:5])
    assert max(limits) > 0.8 * module.LONGEST_GROUP_SECONDS
    assert max(limits) <= module.LONGEST_GROUP_SECONDS
    assert limits[9:] == sorted(limits[9:], reverse=True)
    assert limits[-1] == pytest.approx(module.GROUP_SECONDS, abs=0.01)


async def test_what_waits_when_its_connection_ends_is_never_written(bench: Bench) -> None:
    await under_way(bench)
    ended = False
    old = OwnedPush(user=BERT, client_id=uuid4(), session="old", claims_client_id=True, first=1, mutations=[])
    bench.batcher.put(old, 100, lambda answer: bench.answers.append((old, answer)), lambda: ended)
    bench.push(ANNE)
    ended = True
    bench.writer.may_commit.set()
    await bench.answered(2)
    assert old not in [push for group in bench.writer.groups for push in group]
    assert bench.batcher._bytes == 0
    # The same while it waits for a try by itself.
    bench.writer.fails = {BERT: Cause.STATE}
    ended = False
    await under_way(bench)
    bench.batcher.put(old, 100, lambda answer: bench.answers.append((old, answer)), lambda: ended)
    bench.push(ANNE)
    tries = len(bench.writer.groups)
    bench.writer.may_commit.set()
    await eventually(lambda: len(bench.writer.groups) > tries)
    ended = True
    await eventually(lambda: not bench.batcher._isolated)
    assert bench.batcher._bytes == 0


async def test_nothing_is_left_in_the_accounts_of_what_waited_through_an_outage(bench: Bench) -> None:
    bench.writer.fails = {BERT: Cause.TIME}
    bench.push(BERT, size=1_000)
    await bench.answered(1)
    await under_way(bench)
    bench.push(BERT, size=1_000)
    for _ in range(5):
        bench.push(size=1_000)
    bench.writer.away = True
    bench.writer.may_commit.set()
    await bench.answered(8)
    await eventually(lambda: not bench.batcher._isolated)
    assert bench.batcher._bytes == 0


async def test_what_waits_has_a_bound(bench: Bench) -> None:
    await under_way(bench)
    most = module.WAITING_BYTES // 2
    bench.push(size=most)
    bench.push(size=most)
    bench.push(size=1)
    (refused,) = await bench.answered(1)
    assert isinstance(refused, Error)
    assert (refused.code, refused.retryable) == ("unavailable", True)
    bench.writer.may_commit.set()
    await bench.answered(4)
    bench.push(size=most)
    assert isinstance((await bench.answered(5))[-1], Ack)


async def test_who_writes_too_much_is_told_when_there_will_be_room() -> None:
    bench = Bench()
    bench.batcher = Batcher(bench.writer, TokenBuckets(rate=1, burst=3), 4)
    bench.push(mutations=3)
    bench.push(mutations=2)
    (refused,) = await bench.answered(1)
    assert isinstance(refused, Error)
    assert refused.code == "slow_down"
    assert refused.retry_after is not None
    assert 1_500 < refused.retry_after <= 2_001


async def test_what_the_database_lost_while_a_push_was_carried_out_is_not_acknowledged(bench: Bench) -> None:
    """An image of its disk was put back between two transactions of the push."""
    push = OwnedPush(
        user=ANNE,
        client_id=uuid4(),
        session="s",
        claims_client_id=True,
        first=4,
        mutations=[deletion(uuid4())] * 3,
    )
    outcomes = iter([Outcome(3, 4, 7, {}, None), Outcome(3, 5, 7, {}, None), Outcome(1, 1, 7, {}, None)])
    bench.writer._outcome = lambda push: next(outcomes)  # type: ignore[method-assign]
    bench.batcher.put(push, 100, lambda answer: bench.answers.append((push, answer)))
    (answer,) = await bench.answered(1)
    assert isinstance(answer, Error)
    assert (answer.code, answer.expected) == ("gap", 2)
