"""Users take turns, no matter how much each of them requests."""

import asyncio
import contextlib

from hypothesis import given
from hypothesis import strategies as st

from server.turns import FairQueue, Turns
from tests.support.waiting import eventually


def test_a_user_with_one_item_waits_for_one_item_of_each_other_user() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(1_000):
        queue.put("greedy", f"greedy {number}")
    queue.put("modest", "modest")
    assert [queue.take(), queue.take()] == ["greedy 0", "modest"]
    assert len(queue) == 999


@given(st.lists(st.one_of(st.sampled_from("abc"), st.none()), max_size=60))
def test_every_item_is_taken_once_in_its_users_order_and_users_take_turns(
    steps: list[str | None],
) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    put: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    taken: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    waits: dict[str, set[str]] = {}
    for number, user in enumerate(steps):
        if user is not None:
            queue.put(user, (user, number))
            put[user].append(number)
            waits.setdefault(user, set())
        elif len(queue):
            who, which = queue.take()
            taken[who].append(which)
            for other, served in waits.items():
                if other != who:
                    assert who not in served, "twice, while another one waited"
                    served.add(who)
            del waits[who]
            if len(taken[who]) < len(put[who]):
                waits[who] = set()
    assert len(queue) == sum(len(put[user]) - len(taken[user]) for user in put)
    assert all(taken[user] == put[user][: len(taken[user])] for user in put)


async def test_a_limited_number_of_users_have_a_turn_at_a_time_and_each_user_one() -> None:
    turns = Turns(2)
    having: list[str] = []
    go_on = asyncio.Event()

    async def take(user: str) -> None:
        async with turns.of(user):
            having.append(user)
            try:
                await go_on.wait()
            finally:
                having.remove(user)

    tasks = [asyncio.create_task(take(user)) for user in ["a"] * 20 + ["b", "c"]]
    await eventually(lambda: having == ["a", "b"])
    tasks[0].cancel()
    await eventually(lambda: having == ["b", "c"])
    go_on.set()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks)
    await asyncio.wait(tasks)
    async with turns.of("a"), turns.of("b"):
        pass
    assert not turns._users, "nobody is remembered"


async def test_a_cancelled_waiter_takes_no_turn() -> None:
    turns = Turns(1)
    async with turns.of("a"):
        waiting = [asyncio.create_task(turns.of(user).__aenter__()) for user in ("a", "b", "b")]
        await asyncio.sleep(0)
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
    async with turns.of("b"):
        pass
