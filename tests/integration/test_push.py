"""P4: what a device pushes is in the database, and comes back through the feed to all its user's devices."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest

from protocol.codec import MSGPACK, Codec
from protocol.frames import Applied, Live, Push, Welcome
from server.declaration.chat import CHAT_TOML
from server.postgres.migrate import migrate
from tests.support.cluster import Database, administrator
from tests.support.device import UNLIMITED, PushingDevice, greeting_device, live_device, now
from tests.support.oracle import State, select_everything
from tests.support.peer import both_codecs, peer
from tests.support.people import add_user
from tests.support.rows import (
    Conversation,
    ConversationDeleted,
    CreateConversation,
    CreateMessage,
    DeleteConversation,
    DeleteMessage,
    EditMessage,
    MessageDeleted,
    Mutation,
    RenameConversation,
)
from tests.support.serving import Running, serving
from tests.support.waiting import eventually

pytestmark = pytest.mark.shared_database(every_postgres=True)

SECOND = 1_000_000


@dataclass
class Home:
    """One user's two devices, live: one that writes, and one that watches."""

    server: Running
    sql: Any
    user: UUID
    writer: PushingDevice
    watcher: PushingDevice

    async def select(self) -> State:
        return await select_everything(self.sql, self.user)

    async def apply(self, *mutations: Mutation) -> State:
        """Push them; when both devices have reached the seq of the `ack` they hold what the database holds."""
        seq = await self.writer.apply(*mutations)
        found = await self.select()
        assert await self.writer.reach(seq) == found
        assert await self.watcher.reach(seq) == found
        return found

    async def changes_nothing(self, *mutations: Mutation) -> None:
        """They are applied, no device gets a row of it, and the feed does not move."""
        before, feed = await self.select(), await self.feed()
        rows = [len(device.rows) for device in (self.writer, self.watcher)]
        assert await self.apply(*mutations) == before
        assert [len(device.rows) for device in (self.writer, self.watcher)] == rows
        assert await self.feed() == feed

    async def feed(self) -> int:
        return int(await self.sql.fetchval("SELECT seq FROM sync.feeds WHERE user_id = $1", self.user))


ROLES = ("assistant", "system", "user")


@contextlib.asynccontextmanager
async def a_home(database: Database, codec: Codec = MSGPACK) -> AsyncIterator[Home]:
    """Devices may write every role."""
    await migrate(database.url, text=CHAT_TOML.replace('role = ["user"]', f"role = {list(ROLES)}"))
    async with administrator(database) as sql, serving(database, **UNLIMITED) as server:
        user = await add_user(sql)
        async with (
            live_device(server.url, user, codec=codec) as writer,
            live_device(server.url, user, codec=codec) as watcher,
        ):
            yield Home(server, sql, user, writer, watcher)


@pytest.fixture
async def home(database: Database) -> AsyncIterator[Home]:
    async with a_home(database) as made:
        yield made


@pytest.fixture
async def every_home(every_database: Database) -> AsyncIterator[Home]:
    async with a_home(every_database) as made:
        yield made


# ---- Each kind -----------------------------------------------------------------------------------------------------


@both_codecs
async def test_every_kind_of_mutation_does_what_it_says(every_database: Database, codec: Codec) -> None:
    async with a_home(every_database, codec) as home:
        conversation, message, at = uuid4(), uuid4(), now()
        key_c, key_m = ("c", conversation), ("m", message)

        held = await home.apply(CreateConversation(conversation, "Grüße 👋", at))
        assert held[key_c] == ("Grüße 👋", at, at)

        held = await home.apply(RenameConversation(conversation, "other", at + 1))
        assert held[key_c] == ("other", at, at + 1)

        held = await home.apply(CreateMessage(message, conversation, "assistant", "Hallo\n«Welt»", at + 2))
        assert held[key_m] == (conversation, "assistant", "Hallo\n«Welt»", at + 2, at + 2)
        assert held[key_c] == ("other", at, at + 2)

        held = await home.apply(EditMessage(message, at + 2, "", at + 3))
        assert held[key_m] == (conversation, "assistant", "", at + 2, at + 3)

        held = await home.apply(DeleteMessage(message, at + 2))
        assert key_m not in held
        assert [row.id for row in home.watcher.rows if isinstance(row, MessageDeleted)] == [message]

        held = await home.apply(CreateMessage(uuid4(), conversation, "system", "x", at + 4))
        assert len(held) == 3
        held = await home.apply(DeleteConversation(conversation))
        assert list(held) == [("p", home.user)]
        assert [row.id for row in home.watcher.rows if isinstance(row, ConversationDeleted)] == [conversation]


async def test_a_title_may_be_nil_and_become_nil(home: Home) -> None:
    conversation, at = uuid4(), now()
    assert (await home.apply(CreateConversation(conversation, None, at)))["c", conversation][0] is None
    assert (await home.apply(RenameConversation(conversation, "x", at)))["c", conversation][0] == "x"
    assert (await home.apply(RenameConversation(conversation, None, at)))["c", conversation][0] is None


async def test_every_role_that_the_declaration_names_may_be_written(home: Home) -> None:
    conversation = uuid4()
    await home.apply(CreateConversation(conversation, None, now()))
    held = await home.apply(*(CreateMessage(uuid4(), conversation, role, "x", now()) for role in ROLES))
    assert sorted(str(row[1]) for (kind, _), row in held.items() if kind == "m") == list(ROLES)


async def test_an_instant_is_kept_to_the_microsecond(every_home: Home) -> None:
    conversation = uuid4()
    base = now() // SECOND * SECOND - 400 * 86_400 * SECOND  # another partition, and another time zone offset somewhere
    await every_home.apply(CreateConversation(conversation, None, base))
    instants = [base + odd for odd in (0, 1, 999_999, 123_457)]
    held = await every_home.apply(*(CreateMessage(uuid4(), conversation, "user", "x", at) for at in instants))
    assert sorted(int(str(row[3])) for (kind, _), row in held.items() if kind == "m") == sorted(instants)


async def test_a_row_that_the_app_wrote_can_be_renamed_edited_and_deleted(every_home: Home) -> None:
    home = every_home
    conversation = await home.sql.fetchval("INSERT INTO conversations (user_id) VALUES ($1) RETURNING id", home.user)
    message, created = await home.sql.fetchrow(
        "INSERT INTO messages (conversation_id, role, content) VALUES ($1, 'user', 'x')"
        " RETURNING id, sync.seq_at(created_at)",
        conversation,
    )
    held = await home.apply(RenameConversation(conversation, "mine", now()), EditMessage(message, created, "y", now()))
    assert held["c", conversation][0] == "mine"
    assert held["m", message][2] == "y"
    assert list(await home.apply(DeleteMessage(message, created), DeleteConversation(conversation))) == [
        ("p", home.user)
    ]


async def test_a_push_reaches_devices_on_another_server(every_database: Database) -> None:
    async with (
        a_home(every_database) as home,
        serving(every_database) as elsewhere,
        live_device(elsewhere.url, home.user) as far,
    ):
        seq = await home.writer.apply(CreateConversation(uuid4(), "x", now()))
        assert await far.reach(seq) == await home.select()


async def test_a_push_reaches_nobody_else(home: Home) -> None:
    other = await add_user(home.sql)
    async with live_device(home.server.url, other) as stranger:
        await home.apply(CreateConversation(uuid4(), "x", now()))
        seq = await stranger.apply(CreateConversation(uuid4(), "y", now()))
        await stranger.reach(seq)
        assert len(stranger.rows) == 1


# ---- seq -----------------------------------------------------------------------------------------------------------


async def test_the_change_stands_in_the_feed_at_its_seq_or_before(every_home: Home) -> None:
    home = every_home
    for number in range(5):
        conversation = uuid4()
        (result,) = await home.writer.push(CreateConversation(conversation, str(number), now()))
        assert isinstance(result, Applied)
        await home.watcher.reach(result.seq)
        (row,) = [row for row in home.watcher.rows if row.id == conversation]
        assert row.seq <= result.seq


async def test_the_seq_of_an_ack_is_about_now(home: Home) -> None:
    before = now()
    seq = await home.writer.apply(CreateConversation(uuid4(), None, now() - 60 * SECOND))
    assert before - SECOND < seq < now() + SECOND


async def test_a_device_that_was_away_finds_its_mutation_at_or_before_the_position(home: Home) -> None:
    seq = await home.writer.apply(CreateConversation(uuid4(), "x", now()))
    async with live_device(home.server.url, home.user) as late:
        assert late.position >= seq
        assert late.state() == await home.select()


async def test_a_resumed_device_reaches_the_seq_of_what_it_pushed_before(home: Home) -> None:
    async with live_device(home.server.url, home.user) as device:
        cursor = device.cursor
        seq = await home.writer.apply(CreateConversation(uuid4(), "x", now()))
    async with peer(home.server.url) as again:
        assert (await again.greet(home.user, cursor)).mode == "resumed"
        assert (await again.hear_a(Live)).seq >= seq


# ---- What changes nothing ------------------------------------------------------------------------------------------


NOTHING: dict[str, Callable[[UUID, UUID, int], Mutation]] = {
    "deleting a conversation that never was": lambda *_: DeleteConversation(uuid4()),
    "deleting a message that never was": lambda c, m, at: DeleteMessage(uuid4(), at),
    "deleting a message created at another instant": lambda c, m, at: DeleteMessage(m, at + 1),
    "creating a conversation that is there": lambda c, m, at: CreateConversation(c, "another title", at + 1),
    "creating a conversation that is there, the same": lambda c, m, at: CreateConversation(c, "title", at),
    "creating a message that is there": lambda c, m, at: CreateMessage(m, c, "system", "another", at),
    "creating a message that is there, the same": lambda c, m, at: CreateMessage(m, c, "user", "content", at),
}


@pytest.mark.parametrize("what", NOTHING)
async def test_a_mutation_without_an_effect_is_applied_and_changes_nothing(every_home: Home, what: str) -> None:
    conversation, message, at = uuid4(), uuid4(), now()
    await every_home.apply(
        CreateConversation(conversation, "title", at), CreateMessage(message, conversation, "user", "content", at)
    )
    await every_home.changes_nothing(NOTHING[what](conversation, message, at))


async def test_a_second_deletion_changes_nothing(every_home: Home) -> None:
    conversation, message, at = uuid4(), uuid4(), now()
    await every_home.apply(
        CreateConversation(conversation, "title", at), CreateMessage(message, conversation, "user", "content", at)
    )
    await every_home.apply(DeleteMessage(message, at))
    await every_home.changes_nothing(DeleteMessage(message, at))
    await every_home.apply(DeleteConversation(conversation))
    await every_home.changes_nothing(DeleteConversation(conversation), DeleteMessage(message, at))


async def test_a_device_of_a_new_user_reaches_the_seq_of_a_push_that_changed_nothing(every_home: Home) -> None:
    """Its seq too is one that the device reaches."""
    async with live_device(every_home.server.url, every_home.user) as fresh:
        seq = await fresh.apply(DeleteConversation(uuid4()))
        await fresh.reach(seq)


@both_codecs
async def test_an_empty_push_has_an_empty_ack(database: Database, codec: Codec) -> None:
    async with a_home(database, codec) as home:
        assert await home.writer.push() == []
        await home.apply(CreateConversation(uuid4(), None, now()))
        assert await home.writer.push() == []
        await home.apply(CreateConversation(uuid4(), None, now()))


# ---- updated_at ----------------------------------------------------------------------------------------------------


async def test_no_mutation_moves_updated_at_back(every_home: Home) -> None:
    home = every_home
    conversation, message, at = uuid4(), uuid4(), now() - 60 * SECOND
    await home.apply(CreateConversation(conversation, "title", at))
    held = await home.apply(CreateMessage(message, conversation, "user", "content", at + 10))
    assert held["c", conversation][2] == at + 10

    held = await home.apply(CreateMessage(uuid4(), conversation, "user", "earlier", at + 5))
    assert held["c", conversation][2] == at + 10

    held = await home.apply(RenameConversation(conversation, "by a slow clock", at + 3))
    assert held["c", conversation] == ("by a slow clock", at, at + 10)

    held = await home.apply(EditMessage(message, at + 10, "by a slow clock", at))
    assert held["m", message] == (conversation, "user", "by a slow clock", at + 10, at + 10)

    held = await home.apply(
        RenameConversation(conversation, "later", at + 20), EditMessage(message, at + 10, "", at + 30)
    )
    assert held["c", conversation] == ("later", at, at + 20)
    assert held["m", message][4] == at + 30


async def test_a_rename_and_an_edit_of_the_future_are_not_undone_by_one_of_now(home: Home) -> None:
    """The last write wins, whatever the device's clock says; only updated_at stays."""
    conversation, ahead = uuid4(), now() + 120 * SECOND
    await home.apply(CreateConversation(conversation, "a", now()), RenameConversation(conversation, "b", ahead))
    held = await home.apply(RenameConversation(conversation, "c", now()))
    assert held["c", conversation][0] == "c"
    assert held["c", conversation][2] == ahead


# ---- Order ---------------------------------------------------------------------------------------------------------


async def test_mutations_of_one_push_take_effect_in_their_order(every_home: Home) -> None:
    home = every_home
    kept, gone, message, at = uuid4(), uuid4(), uuid4(), now()
    held = await home.apply(
        CreateConversation(gone, "1", at),
        CreateConversation(kept, "1", at),
        RenameConversation(gone, "2", at),
        RenameConversation(kept, "2", at),
        CreateMessage(message, kept, "user", "1", at),
        RenameConversation(kept, "3", at),
        EditMessage(message, at, "2", at),
        CreateMessage(uuid4(), gone, "user", "1", at),
        EditMessage(message, at, "3", at),
        DeleteConversation(gone),
    )
    assert held == {
        ("p", home.user): ("core", None),
        ("c", kept): ("3", at, at),
        ("m", message): (kept, "user", "3", at, at),
    }


async def test_mutations_of_many_pushes_take_effect_in_their_order(every_home: Home) -> None:
    home = every_home
    conversation, at = uuid4(), now()
    await home.apply(CreateConversation(conversation, "0", at))
    for number in range(1, 21):
        await home.writer.apply(RenameConversation(conversation, str(number), at))
    assert (await home.apply(RenameConversation(conversation, "21", at)))["c", conversation][0] == "21"
    await home.apply(DeleteConversation(conversation))
    for device in (home.writer, home.watcher):
        titles = [int(row.title or "") for row in device.rows if isinstance(row, Conversation)]
        assert titles == sorted(titles)
        assert titles[-1] == 21


async def test_a_large_push_is_applied_whole(every_home: Home) -> None:
    home = every_home
    assert home.writer.welcome is not None
    most = home.writer.welcome.limits.mutations
    conversation, at = uuid4(), now()
    mutations: list[Mutation] = [CreateConversation(conversation, "x", at)]
    mutations += [CreateMessage(uuid4(), conversation, "user", f"{i}", at + i) for i in range(most - 1)]
    held = await home.apply(*mutations)
    assert len(held) == most + 1


async def test_two_devices_of_one_user_that_write_at_once_do_not_mix_up_their_numbers(every_home: Home) -> None:
    home = every_home
    mine, theirs = uuid4(), uuid4()
    for number in range(10):
        conversation_one, conversation_two = uuid4(), uuid4()
        await home.writer.say_push(CreateConversation(conversation_one, f"{mine} {number}", now()))
        await home.watcher.say_push(CreateConversation(conversation_two, f"{theirs} {number}", now()))
        for device in (home.writer, home.watcher):
            answer = await device.answer()
            assert [type(result) for result in getattr(answer, "results", [answer])] == [Applied]
            device.number += 1
    assert len(await home.select()) == 21

    async def both_hold_all() -> bool:
        for device in (home.writer, home.watcher):
            await device.say(Push(n=device.number, mutations=[]))
            await device.answer()
        return home.writer.state() == home.watcher.state() == await home.select()

    await eventually(both_hold_all)


async def test_a_device_may_push_as_soon_as_it_is_welcome(home: Home) -> None:
    async with greeting_device(home.server.url, home.user) as device:
        await device.hear_a(Welcome)
        seq = await device.apply(CreateConversation(uuid4(), "x", now()))
        assert await device.reach(seq) == await home.select()
