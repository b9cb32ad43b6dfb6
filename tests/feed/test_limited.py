"""Reads of several users share statements, of which few run at a time; each gets its own answer, or its own failure."""

import asyncio
from collections.abc import Sequence

import pytest

from protocol.cursor import Position
from server.declaration.chat import CHAT
from server.declaration.model import Kind
from server.exceptions import UnavailableError
from server.feed.limited import AT_ONCE, GROUP, CollectedRows
from server.feed.ports import ANYWHERE, Answer, Asked, Want

CONVERSATION, MESSAGE = CHAT.kind["conversation"], CHAT.kind["message"]
WANTS = [Want(None, None, 10)]


class Database:
    """Answers once it is let, and names the user in the tier."""

    def __init__(self) -> None:
        self.groups: list[tuple[str, list[str]]] = []
        self.open = asyncio.Event()
        self.poison: set[str] = set()
        """Users whose reads fail."""
        self.running = self.most = 0

    async def rows_of(self, kind: Kind, asked: Sequence[Asked], content_bytes: int) -> list[Answer]:
        self.groups.append((kind.name, [each.user for each in asked]))
        self.running += 1
        self.most = max(self.most, self.running)
        await self.open.wait()
        self.running -= 1
        if self.poison & {each.user for each in asked}:
            raise UnavailableError("a poisonous row")
        return [Answer(Position(1), each.user, [], cut=False) for each in asked]


def asked(rows: CollectedRows, user: str, kind: Kind = CONVERSATION) -> asyncio.Task[Answer]:
    return asyncio.create_task(rows.rows(kind, user, WANTS, 1_000, ANYWHERE))


async def test_a_read_that_comes_alone_does_not_wait_for_others() -> None:
    database = Database()
    rows = CollectedRows(database)
    reads = []
    for number in range(AT_ONCE):
        reads.append(asked(rows, str(number)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert database.groups == [("conversation", [str(number)]) for number in range(AT_ONCE)]
    database.open.set()
    assert [answer.tier for answer in await asyncio.gather(*reads)] == ["0", "1"]


async def test_reads_that_come_meanwhile_share_the_next_statements_by_kind() -> None:
    database = Database()
    rows = CollectedRows(database)
    first = [asked(rows, f"first {number}", kind) for number, kind in enumerate((CONVERSATION, MESSAGE))]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    some = [asked(rows, str(number)) for number in range(GROUP + 1)]
    others = [asked(rows, str(number), MESSAGE) for number in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    database.open.set()
    answers = await asyncio.gather(*some, *others)
    await asyncio.gather(*first)
    assert [answer.tier for answer in answers] == [*map(str, range(GROUP + 1)), "0", "1", "2"]
    assert [(kind, len(users)) for kind, users in database.groups[2:]] == [
        ("conversation", GROUP),
        ("conversation", 1),
        ("message", 3),
    ]
    assert database.most == AT_ONCE


async def test_a_read_that_fails_harms_no_other() -> None:
    database = Database()
    database.open.set()
    database.poison = {"3"}
    rows = CollectedRows(database)
    answers = await asyncio.gather(*(asked(rows, str(number)) for number in range(10)), return_exceptions=True)
    for number, answer in enumerate(answers):
        if number == 3:
            assert isinstance(answer, UnavailableError)
        else:
            assert isinstance(answer, Answer)
            assert answer.tier == str(number)


async def test_where_every_read_fails_few_are_tried() -> None:
    database = Database()
    database.open.set()
    database.poison = {str(number) for number in range(10)}
    rows = CollectedRows(database)
    answers = await asyncio.gather(*(asked(rows, str(number)) for number in range(10)), return_exceptions=True)
    assert all(isinstance(answer, UnavailableError) for answer in answers)
    assert len(database.groups) <= AT_ONCE + 3


async def test_a_read_that_is_given_up_is_not_made_and_harms_no_other() -> None:
    database = Database()
    rows = CollectedRows(database)
    reads = [asked(rows, str(number)) for number in range(6)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for number in (0, 3):  # one is under way, the other waits
        reads[number].cancel()
    await asyncio.sleep(0)
    database.open.set()
    assert [(await read).tier for read in reads if not read.cancelled()] == ["1", "2", "4", "5"]
    assert all("3" not in users for _, users in database.groups)


async def test_an_unexpected_error_reaches_all_who_asked() -> None:
    class Broken(Database):
        async def rows_of(self, kind: Kind, asked: Sequence[Asked], content_bytes: int) -> list[Answer]:
            raise RuntimeError("a bug")

    rows = CollectedRows(Broken())
    for read in [asked(rows, "anne"), asked(rows, "ben"), asked(rows, "cleo")]:
        with pytest.raises(RuntimeError):
            await read
