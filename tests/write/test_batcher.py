"""Pushes are grouped while a transaction is under way, each is answered once, and nobody pays for somebody else."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from uuid import UUID, uuid4

import pytest

from protocol.frames import Ack, Applied, DeleteConversation, Error
from server.errors import UnavailableError
from server.write import batcher as module
from server.write.allowance import Allowance
from server.write.batcher import Batcher
from server.write.mutation import Outcome, Push
from tests.support.waiting import eventually

ANNE, BERT = UUID(int=1), UUID(int=2)


class Writer:
    """A database that commits when the test says so."""

    def __init__(self) -> None:
        self.groups: list[list[Push]] = []
        self.may_commit = asyncio.Event()
        self.may_commit.set()
        self.away = False
        self.locked: set[UUID] = set()

    async def write(self, pushes: Sequence[Push]) -> list[Outcome]:
        self.groups.append(list(pushes))
        await self.may_commit.wait()
        if self.away:
            raise UnavailableError("away")
        return [self._outcome(push) for push in pushes]

    def _outcome(self, push: Push) -> Outcome:
        locked = push.user in self.locked
        after = push.first - 1 if locked else push.last
        return Outcome(push.first - 1, after, 7, {}, None, "55P03" if locked else None)


class Bench:
    def __init__(self, batch: int = 4) -> None:
        self.writer = Writer()
        self.batcher = Batcher(self.writer, Allowance(rate=1e6, burst=1_000_000), batch)
        self.answers: list[tuple[Push, Ack | Error]] = []

    def push(self, user: UUID = ANNE, mutations: int = 1, client_id: UUID | None = None, size: int = 100) -> Push:
        client_id = client_id or uuid4()
        some = [DeleteConversation(uuid4())] * mutations
        push = Push(user=user, client_id=client_id, session="s", takes=True, first=1, mutations=some)
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


async def test_what_comes_while_a_transaction_is_under_way_is_one_group_in_the_order_of_users(bench: Bench) -> None:
    await under_way(bench)
    later = [bench.push(BERT), bench.push(ANNE), bench.push(BERT)]
    bench.writer.may_commit.set()
    await bench.answered(4)
    assert bench.writer.groups[1:] == [[later[1], later[0], later[2]]]


async def test_a_group_has_at_most_a_batch_of_mutations_and_at_least_one_push(bench: Bench) -> None:
    await under_way(bench)
    for mutations in (3, 1, 1, 9, 2, 2, 1):
        bench.push(mutations=mutations)
    bench.writer.may_commit.set()
    await bench.answered(8)
    sizes = [[len(push.mutations) for push in group] for group in bench.writer.groups[1:]]
    assert sizes == [[3, 1], [1], [9], [2, 2], [1]]


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


async def test_a_user_whose_rows_are_locked_is_held_back_longer_each_time_and_others_are_not(bench: Bench) -> None:
    bench.writer.locked = {BERT}
    bench.push(ANNE)
    bench.push(BERT)
    first, second = await bench.answered(2)
    assert isinstance(first, Ack)
    assert isinstance(second, Error)
    assert (second.code, second.retryable) == ("unavailable", True)
    tries = len(bench.writer.groups)
    bench.push(BERT)
    *_, third = await bench.answered(3)
    assert isinstance(third, Error)
    assert len(bench.writer.groups) == tries, "it was not even tried"
    bench.push(ANNE)
    *_, fourth = await bench.answered(4)
    assert isinstance(fourth, Ack)
    pauses = [bench.batcher._hold(BERT) for _ in range(9)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == module.LONGEST_HOLD


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
    bench.batcher = Batcher(bench.writer, Allowance(rate=1, burst=3), 4)
    bench.push(mutations=3)
    bench.push(mutations=2)
    (refused,) = await bench.answered(1)
    assert isinstance(refused, Error)
    assert refused.code == "slow_down"
    assert refused.retry_after is not None
    assert 1_500 < refused.retry_after <= 2_001
