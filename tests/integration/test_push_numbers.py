"""P4: a number means one mutation, whatever other histories gave it to (SPEC.md 8.5)."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest

from protocol.codec import MSGPACK
from protocol.frames import Ack, Error, Live, Rejected, Result
from tests.support.audit import audit
from tests.support.device import UNLIMITED, PushingDevice, encoded, now, raw
from tests.support.peer import peer
from tests.support.people import add_user
from tests.support.rows import CreateConversation, CreateMessage, DeleteConversation, Mutation, RenameConversation
from tests.support.serving import Running, token

Said = Mutation | None
"""None: an empty array, for what is held no more."""
NUMBERS = "SELECT last_mutation FROM sync.clients WHERE client_id = $1"

pytestmark = [pytest.mark.shared_database(audited=True), pytest.mark.settings(**UNLIMITED, push_batch=500)]


class Installation:
    """One that says what it holds. Each visit is a connection of its own."""

    def __init__(self, url: str, user: UUID) -> None:
        self.url = url
        self.user = user
        self.client_id = uuid4()
        self.conversation = uuid4()
        self._generation = 0
        self._named = 0

    def create(self) -> Mutation:
        return CreateConversation(self.conversation, "created", now())

    def rename(self, times: int = 1) -> list[Mutation]:
        first = self._named
        self._named += times
        return [RenameConversation(self.conversation, str(n), now()) for n in range(first, self._named)]

    @contextlib.asynccontextmanager
    async def visit(self, *, says: bool = True) -> AsyncIterator["Visit"]:
        """`says`: it is of a version that says what it holds."""
        self._generation += 1
        async with peer(self.url) as one:
            device = PushingDevice(one.socket, MSGPACK, self.user, self.client_id, 1)
            hello = {"t": "hello", "token": token(self.user), "client_id": self.client_id}
            await device.say_raw(encoded({**hello, "generation": self._generation} if says else hello))
            await device.hear_a(Live)
            yield Visit(device, says)


class Visit:
    def __init__(self, device: PushingDevice, says: bool) -> None:
        self._device = device
        self._says = says

    async def answer(self, n: int, mutations: Sequence[Said], held: int | None = None) -> Ack | Error:
        data: list[Any] = [[] if each is None else raw(each.array) for each in mutations]
        push: dict[str, Any] = {"t": "push", "n": n, "mutations": data}
        if self._says:
            push["held"] = n if held is None else held
        await self._device.say_raw(encoded(push))
        return await self._device.answer()

    async def push(self, n: int, mutations: Sequence[Said], held: int | None = None) -> list[str]:
        """What became of each."""
        answer = await self.answer(n, mutations, held)
        assert isinstance(answer, Ack), answer
        return [_told(result) for result in answer.results]

    async def gap(self, n: int, mutations: Sequence[Said], held: int | None = None) -> int | None:
        """What is expected."""
        answer = await self.answer(n, mutations, held)
        assert isinstance(answer, Error), answer
        assert answer.code == "gap"
        return answer.expected


def _told(result: Result) -> str:
    return result.code if isinstance(result, Rejected) else type(result).__name__.lower()


@pytest.fixture
async def here(server: Running, sql: Any) -> Installation:
    return Installation(server.url, await add_user(sql))


async def texts(sql: Any, device: Installation) -> list[str]:
    return [said for _, _, said in await audit(sql, device.conversation)]


# ---- What other histories gave numbers to ----------------------------------------------------------------------------


@pytest.mark.parametrize("further", [0, 4], ids=["just behind", "further on"])
async def test_a_mutation_that_comes_again_under_a_higher_number_is_not_applied_again(
    here: Installation, sql: Any, further: int
) -> None:
    """Another history, in which the device was meanwhile, had consumed more numbers."""
    mutations = [here.create(), *here.rename(3)]
    async with here.visit() as visit:
        assert await visit.push(1, mutations) == ["applied"] * 4
    again = [*mutations[2:], *here.rename(2)]
    n = 5 + further
    async with here.visit() as visit:
        if further:
            assert await visit.gap(n, again) == 5
        assert await visit.push(5, again) == ["applied"] * 4
    assert await texts(sql, here) == ["created", "0", "1", "2", "3", "4"]


@pytest.mark.parametrize("by", ["our rules", "the database"])
@pytest.mark.parametrize("later", [0, 1])
async def test_a_number_that_was_rejected_is_not_taken_for_another_mutation(
    here: Installation, sql: Any, by: str, later: int
) -> None:
    bad: dict[str, Mutation] = {
        "our rules": RenameConversation(here.conversation, "x" * 100_000, now()),
        "the database": CreateMessage(uuid4(), uuid4(), "user", "nowhere", now()),
    }
    async with here.visit() as visit:
        assert await visit.push(1, [here.create(), bad[by]]) in (
            ["applied", "too_long"],
            ["applied", "unknown_parent"],
        )
        for n in range(3, 3 + later):
            assert await visit.push(n, here.rename()) == ["applied"]
    other = here.rename()
    async with here.visit() as visit:
        assert await visit.gap(2, other) == 3 + later
        assert await visit.push(3 + later, other) == ["applied"]
    assert await texts(sql, here) == ["created", *map(str, range(1 + later))]


async def test_a_number_whose_mutation_is_held_no_more_keeps_its_meaning(here: Installation, sql: Any) -> None:
    mutations = [here.create(), *here.rename(3)]
    async with here.visit() as visit:
        await visit.push(1, mutations)
    async with here.visit() as visit:
        assert await visit.push(2, [mutations[1], None, mutations[3]]) == ["repeated"] * 3
    other = here.rename()
    async with here.visit() as visit:
        assert await visit.gap(3, other) == 5
        assert await visit.push(5, other) == ["applied"]
    assert await texts(sql, here) == ["created", "0", "1", "2", "3"]


async def test_a_rejected_mutation_that_is_tried_again_after_a_gap_is_applied(here: Installation, sql: Any) -> None:
    early = here.rename()
    async with here.visit() as visit:
        assert await visit.push(1, early) == ["unknown_row"]
        assert await visit.push(2, [here.create()], held=1) == ["applied"]
        assert await visit.push(3, here.rename(), held=2) == ["applied"]
    async with here.visit() as visit:
        assert await visit.gap(3, early) == 4
        assert await visit.push(4, early) == ["applied"]
    assert await texts(sql, here) == ["created", "1", "0"]


async def test_a_mutation_behind_a_large_conversation_is_still_recognised_when_the_push_goes_on(
    here: Installation, sql: Any
) -> None:
    kept = [here.create(), *here.rename(3)]
    large = uuid4()
    async with here.visit() as visit:
        await visit.push(1, kept)
    await sql.execute("INSERT INTO conversations (id, user_id, title) VALUES ($1, $2, 'large')", large, here.user)
    await sql.execute(
        """INSERT INTO messages (id, conversation_id, role, content)
           SELECT gen_random_uuid(), $1, 'user', 'x' FROM generate_series(1, 3 * sync.portion())""",
        large,
    )
    async with here.visit() as visit:
        assert await visit.gap(2, here.rename()) == 5
        assert await visit.push(5, [DeleteConversation(large), *kept[2:]]) == ["applied"] * 3
    assert await texts(sql, here) == ["created", "0", "1", "2"]


# ---- What nobody knew that it is held --------------------------------------------------------------------------------


async def test_a_device_that_did_not_say_what_it_holds_may_begin_to(here: Installation, sql: Any) -> None:
    mutations = [here.create(), *here.rename(400)]
    async with here.visit(says=False) as visit:
        for n in range(1, 402, 100):
            await visit.push(n, mutations[n - 1 : n + 99])
    async with here.visit() as visit:
        assert await visit.push(2, mutations[1:]) == ["repeated"] * 400
        assert await visit.push(402, here.rename(), held=2) == ["applied"]
    assert await texts(sql, here) == ["created", *map(str, range(401))]


async def test_a_device_whose_pushes_were_not_compared_may_push_them_again(here: Installation, sql: Any) -> None:
    """They were pushed before the database kept digests, and not settled."""
    mutations = [here.create(), *here.rename(4)]
    async with here.visit(says=False) as visit:
        await visit.push(1, mutations[:4])
        await sql.execute("UPDATE sync.clients SET digests = NULL WHERE client_id = $1", here.client_id)
        await visit.push(5, mutations[4:])
    async with here.visit() as visit:
        assert await visit.push(3, mutations[2:]) == ["repeated"] * 3
    assert await texts(sql, here) == ["created", *map(str, range(4))]


async def test_a_device_that_holds_more_than_is_compared_may_push_it_all_again(here: Installation, sql: Any) -> None:
    mutations = [here.create(), *here.rename(10_499)]
    async with here.visit() as visit:
        for n in range(1, len(mutations), 500):
            await visit.push(n, mutations[n - 1 : n + 499], held=1)
    async with here.visit() as visit:
        for n in range(1, len(mutations), 500):
            assert await visit.push(n, mutations[n - 1 : n + 499], held=1) == ["repeated"] * 500
        assert await visit.push(10_501, here.rename(), held=1) == ["applied"]
    assert await sql.fetchval(NUMBERS, here.client_id) == 10_501
