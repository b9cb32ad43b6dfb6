"""P4: a mutation that cannot be applied is rejected alone: its number is consumed, and those around it are applied."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from protocol.codec import MSGPACK, Codec
from protocol.frames import FIRST_INSTANT, LAST_INSTANT, Applied, Rejected, Result
from tests.support.cluster import Database, administrator
from tests.support.device import UNLIMITED, PushingDevice, live_device, now
from tests.support.oracle import select_everything
from tests.support.peer import both_codecs
from tests.support.people import add_conversation, add_user
from tests.support.rejections import CONTENT, RULES, between_good_ones, is_fit_to_show
from tests.support.rows import (
    CreateConversation,
    CreateMessage,
    DeleteConversation,
    DeleteMessage,
    EditMessage,
    Mutation,
    RenameConversation,
)
from tests.support.serving import Running, serving

pytestmark = [pytest.mark.shared_database, pytest.mark.settings(**UNLIMITED)]
SECOND = 1_000_000
YEAR = 365 * 86_400 * SECOND


@contextlib.asynccontextmanager
async def live(
    database: Database, codec: Codec = MSGPACK, before: str = "SELECT"
) -> AsyncIterator[tuple[Any, PushingDevice]]:
    """A device, alone on a server of a database in which the app did something before."""
    async with administrator(database) as sql:
        await sql.execute(before)
        async with (
            serving(database, **UNLIMITED) as server,
            live_device(server.url, await add_user(sql), codec=codec) as device,
        ):
            yield sql, device


# ---- Codes ---------------------------------------------------------------------------------------------------------


class Own:
    """Rows of the user, in the database."""

    def __init__(self, conversation: UUID, message: UUID, at: int) -> None:
        self.conversation = conversation
        self.message = message
        self.at = at

    @property
    def mutations(self) -> tuple[Mutation, Mutation]:
        return (
            CreateConversation(self.conversation, CONTENT, self.at),
            CreateMessage(self.message, self.conversation, "user", CONTENT, self.at),
        )

    @classmethod
    async def make(cls, device: PushingDevice) -> "Own":
        own = cls(uuid4(), uuid4(), now())
        await device.apply(*own.mutations)
        return own


def say(own: Own, *, role: str = "user", content: str = CONTENT, at: int | None = None) -> CreateMessage:
    return CreateMessage(uuid4(), own.conversation, role, content, now() if at is None else at)


CODES: dict[str, tuple[str, Callable[[Own], Mutation]]] = {
    "renaming nothing": ("unknown_row", lambda _: RenameConversation(uuid4(), CONTENT, now())),
    "a message in nothing": ("unknown_parent", lambda _: CreateMessage(uuid4(), uuid4(), "user", CONTENT, now())),
    "a message in itself": (
        "unknown_parent",
        lambda own: CreateMessage(own.message, own.message, "user", CONTENT, now()),
    ),
    "editing nothing": ("unknown_row", lambda own: EditMessage(uuid4(), own.at, CONTENT, now())),
    "editing what was created at another instant": (
        "unknown_row",
        lambda own: EditMessage(own.message, own.at + 1, CONTENT, now()),
    ),
    "editing a conversation": ("unknown_row", lambda own: EditMessage(own.conversation, own.at, CONTENT, now())),
    "renaming a message": ("unknown_row", lambda own: RenameConversation(own.message, CONTENT, now())),
    "editing what was created in the year 144683": (
        "bad_value",
        lambda own: EditMessage(own.message, 1 << 62, CONTENT, now()),
    ),
    "editing what was created before Christ": (
        "bad_value",
        lambda own: EditMessage(own.message, -(1 << 62), CONTENT, now()),
    ),
    "the role tool": ("bad_value:role", lambda own: say(own, role="tool")),
    "the role User": ("bad_value:role", lambda own: say(own, role="User")),
    "no role": ("bad_value:role", lambda own: say(own, role="")),
    "a role and a space": ("bad_value:role", lambda own: say(own, role="user ")),
    "a long role": ("bad_value:role", lambda own: say(own, role="user" * 10_000)),
    "the content as a role": ("bad_value:role", lambda own: say(own, role=CONTENT)),
    "U+0000 in a content": ("bad_text:content", lambda own: say(own, content=f"{CONTENT}\x00")),
    "U+0000 alone": ("bad_text:content", lambda own: say(own, content="\x00")),
    "U+0000 in an edit": ("bad_text:content", lambda own: EditMessage(own.message, own.at, f"\x00{CONTENT}", now())),
    "U+0000 in a title": ("bad_text:title", lambda own: CreateConversation(uuid4(), f"{CONTENT}\x00{CONTENT}", now())),
    "U+0000 in a rename": ("bad_text:title", lambda own: RenameConversation(own.conversation, "\x00", now())),
    "a conversation of 1970": ("bad_time", lambda own: CreateConversation(uuid4(), CONTENT, 0)),
    "a conversation before 1970": ("bad_time", lambda own: CreateConversation(uuid4(), CONTENT, -1)),
    "a rename of tomorrow": (
        "bad_time",
        lambda own: RenameConversation(own.conversation, CONTENT, now() + 86_400 * SECOND),
    ),
    "a message in seconds": ("bad_time", lambda own: say(own, at=now() // SECOND)),
    "a message in nanoseconds": ("bad_time", lambda own: say(own, at=now() * 1_000)),
    "a message at the end of time": ("bad_time", lambda own: say(own, at=(1 << 63) - 1)),
    "a message at the beginning of time": ("bad_time", lambda own: say(own, at=-(1 << 63))),
    "an edit in a hundred years": (
        "bad_time",
        lambda own: EditMessage(own.message, own.at, CONTENT, now() + 100 * YEAR),
    ),
}


@both_codecs
async def test_each_code_has_its_cause(every_database: Database, codec: Codec) -> None:
    async with live(every_database, codec) as (sql, device):
        own = await Own.make(device)
        rejections = await between_good_ones(device, sql, *(make(own) for _, make in CODES.values()))
        got = {
            what: f"{rejection.code}:{rejection.column or ''}".rstrip(":")
            for what, rejection in zip(CODES, rejections, strict=True)
        }
        assert got == {what: code for what, (code, _) in CODES.items()}
        assert len({rejection.message for rejection in rejections}) >= len({rejection.code for rejection in rejections})


async def test_a_deletion_of_a_message_at_an_instant_that_no_device_can_hold_deletes_nothing(
    device: PushingDevice,
) -> None:
    own = await Own.make(device)
    await device.apply(*(DeleteMessage(own.message, at) for at in (0, -1, FIRST_INSTANT, LAST_INSTANT)))
    for at in (1 << 62, -(1 << 62), (1 << 63) - 1, -(1 << 63), LAST_INSTANT + 1, FIRST_INSTANT - 1):
        assert (await device.rejection(DeleteMessage(own.message, at))).code == "bad_value"
    await device.apply(EditMessage(own.message, own.at, "still there", now()))


async def test_a_deleted_row_is_unknown(device: PushingDevice) -> None:
    own = await Own.make(device)
    await device.apply(DeleteMessage(own.message, own.at))
    assert (await device.rejection(EditMessage(own.message, own.at, CONTENT, now()))).code == "unknown_row"
    await device.apply(DeleteConversation(own.conversation))
    assert (await device.rejection(say(own))).code == "unknown_parent"
    assert (await device.rejection(RenameConversation(own.conversation, None, now()))).code == "unknown_row"


async def test_a_mutation_that_depends_on_a_rejected_one_is_rejected_too(device: PushingDevice) -> None:
    conversation, message = uuid4(), uuid4()
    results = await device.push(
        CreateConversation(conversation, "\x00", now()),
        CreateMessage(message, conversation, "user", CONTENT, at := now()),
        EditMessage(message, at, CONTENT, now()),
        DeleteMessage(message, at),
        DeleteConversation(conversation),
        CreateConversation(conversation, "corrected", now()),
        RenameConversation(conversation, CONTENT, now()),
    )
    codes = [result.code if isinstance(result, Rejected) else "applied" for result in results]
    assert codes == ["bad_text", "unknown_parent", "unknown_row", *["applied"] * 4]


async def test_the_id_of_another_users_row_cannot_be_used(server: Running, device: PushingDevice, sql: Any) -> None:
    async with live_device(server.url, await add_user(sql)) as stranger:
        theirs, own = await Own.make(stranger), await Own.make(device)
        taken: list[Mutation] = [
            CreateConversation(theirs.conversation, CONTENT, now()),
            CreateConversation(theirs.conversation, CONTENT, theirs.at),
            CreateMessage(theirs.message, own.conversation, "user", CONTENT, theirs.at),
        ]
        rejections = await between_good_ones(device, sql, *taken)
        assert [rejection.code for rejection in rejections] == ["bad_id"] * 3
        assert len(await select_everything(sql, stranger.user)) == 3


# ---- Rules of the database -----------------------------------------------------------------------------------------


def is_refused(result: Result) -> bool:
    if not isinstance(result, Rejected):
        return False
    assert result.code == "refused", result
    is_fit_to_show(result)
    assert "darn" not in result.message
    return True


@pytest.mark.parametrize("rule", RULES)
async def test_a_mutation_against_a_rule_of_the_database_is_refused_alone(every_database: Database, rule: str) -> None:
    async with live(every_database, before=RULES[rule]) as (sql, device):
        own = await Own.make(device)
        one, other, at = uuid4(), uuid4(), now()
        results = await device.push(
            CreateMessage(one, own.conversation, "user", "good", at),
            CreateMessage(other, own.conversation, "user", f"{CONTENT} darn", at),
            RenameConversation(own.conversation, "renamed", at),
            EditMessage(one, at, f"darn {CONTENT}", at),
            EditMessage(one, at, "edited", at),
            EditMessage(other, at, "edited", at),
        )
        assert [is_refused(result) for result in results[:5]] == [False, True, False, True, False], results
        assert isinstance(results[5], Rejected)
        assert results[5].code == "unknown_row"
        found = await select_everything(sql, device.user)
        assert found["m", one][2] == "edited"
        assert found["c", own.conversation][0] == "renamed"
        assert ("m", other) not in found
        (again,) = await device.push(CreateMessage(other, own.conversation, "user", "good", at), n=4)
        assert is_refused(again), "its number was consumed"
        seq = await device.apply(CreateMessage(other, own.conversation, "user", "good", at), n=9)
        assert await device.reach(seq) == await select_everything(sql, device.user)


async def test_a_deletion_that_another_table_forbids_is_refused(every_database: Database) -> None:
    before = "CREATE TABLE public.bookmarks (conversation uuid REFERENCES conversations)"
    async with live(every_database, before=before) as (sql, device):
        marked, other = await add_conversation(sql, device.user), await add_conversation(sql, device.user)
        await sql.execute("INSERT INTO bookmarks VALUES ($1)", marked)
        results = await device.push(DeleteConversation(marked), DeleteConversation(other))
        assert is_refused(results[0])
        assert isinstance(results[1], Applied)
        assert set(await select_everything(sql, device.user)) == {("p", device.user), ("c", marked)}
        await sql.execute("DELETE FROM bookmarks")
        await device.apply(DeleteConversation(marked))


async def test_a_column_of_the_apps_that_must_not_be_null_refuses_every_message(every_database: Database) -> None:
    """And the conversation, which has no such column, is made."""
    async with live(every_database, before="ALTER TABLE messages ADD COLUMN model text NOT NULL") as (sql, device):
        own = Own(uuid4(), uuid4(), now())
        results = await device.push(*own.mutations)
        assert isinstance(results[0], Applied)
        assert is_refused(results[1])
        assert set(await select_everything(sql, device.user)) == {("p", device.user), ("c", own.conversation)}
