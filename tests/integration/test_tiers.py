"""SPEC.md 7.9: who does not pay works locally, and learns of it first; any other tier is but a row."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from protocol.frames import ID, Changes, Error, Live, Pong, Row, Snapshot, ToClient
from tests.support.peer import Peer, peer
from tests.support.people import add_conversation, add_message, add_user
from tests.support.rows import Conversation, ConversationDeleted, Profile, ProfileDeleted
from tests.support.serving import Running

pytestmark = pytest.mark.shared_database


async def set_tier(sql: Any, user: UUID, tier: str) -> None:
    await sql.execute("UPDATE profiles SET subscription_tier = $2 WHERE id = $1", user, tier)


async def last_words(one: Peer) -> list[ToClient]:
    """All that is said until the end, which is that of local_only."""
    frames: list[ToClient] = [await one.hear()]
    while not isinstance(frames[-1], Error):
        frames.append(await one.hear())
    *before, error = frames
    assert isinstance(error, Error)
    assert (error.code, error.retryable) == ("local_only", False)
    assert await one.closed() == (4301, None)
    return before


def changed(frames: list[ToClient]) -> list[Row]:
    assert all(isinstance(frame, Changes | Live) for frame in frames)
    return [row for frame in frames if isinstance(frame, Changes) for row in frame.rows]


async def is_local_only(server: Running, user: UUID, cursor: bytes | None = None) -> None:
    async with peer(server.url) as one:
        await one.say_hello(user, cursor)
        assert await last_words(one) == []


async def syncs(server: Running, user: UUID, cursor: bytes | None = None) -> list[Row]:
    """The rows that it gets."""
    async with peer(server.url) as one:
        await one.greet(user, cursor)
        return await one.rows_until_live()


async def cursor_of(server: Running, user: UUID) -> bytes:
    async with peer(server.url) as one:
        await one.greet(user)
        return (await one.hear_a(Live)).cursor


# ---- At the door ---------------------------------------------------------------------------------------------------


async def test_a_free_user_works_locally_only(server: Running, sql: Any) -> None:
    user = await add_user(sql, "free")
    await add_conversation(sql, user)
    await is_local_only(server, user)


async def test_a_user_without_a_profile_works_locally_only(server: Running) -> None:
    await is_local_only(server, uuid4())


@pytest.mark.parametrize("tier", ["core", "studio"])
async def test_a_paying_user_syncs_and_is_told_the_tier(server: Running, sql: Any, tier: str) -> None:
    user = await add_user(sql, tier)
    async with peer(server.url) as one:
        assert (await one.greet(user)).tier == tier
        (profile,) = await one.rows_until_live()
        assert isinstance(profile, Profile)
        assert (profile.id, profile.tier) == (user, tier)
        cursor = one.cursor
    async with peer(server.url) as one:
        assert (await one.greet(user, cursor)).tier == tier


async def test_a_good_cursor_does_not_make_a_free_user_sync(server: Running, sql: Any) -> None:
    user = await add_user(sql)
    cursor = await cursor_of(server, user)
    await set_tier(sql, user, "free")
    await is_local_only(server, user, cursor)


async def test_a_good_cursor_does_not_make_a_user_sync_whose_profile_is_gone(server: Running, sql: Any) -> None:
    user = await add_user(sql)
    cursor = await cursor_of(server, user)
    await sql.execute("DELETE FROM profiles WHERE id = $1", user)
    await is_local_only(server, user, cursor)


async def test_a_bad_cursor_does_not_make_a_free_user_sync(server: Running, sql: Any) -> None:
    await is_local_only(server, await add_user(sql, "free"), b"no cursor at all")


async def test_after_an_upgrade_the_user_syncs_from_where_the_device_was(server: Running, sql: Any) -> None:
    user = await add_user(sql)
    cursor = await cursor_of(server, user)
    await set_tier(sql, user, "free")
    await is_local_only(server, user, cursor)
    conversation = await add_conversation(sql, user, "made while free")
    await set_tier(sql, user, "core")
    rows = await syncs(server, user, cursor)
    assert {row[ID] for row in rows} == {user, conversation}


async def test_a_free_user_who_upgrades_gets_a_snapshot(server: Running, sql: Any) -> None:
    user = await add_user(sql, "free")
    conversation = await add_conversation(sql, user)
    await is_local_only(server, user)
    await set_tier(sql, user, "studio")
    assert {row[ID] for row in await syncs(server, user)} == {user, conversation}


async def test_a_user_who_gets_a_profile_syncs(server: Running, sql: Any) -> None:
    user = uuid4()
    await is_local_only(server, user)
    await add_user(sql, user=user)
    assert [row[ID] for row in await syncs(server, user)] == [user]


async def test_a_refused_connection_does_not_count_against_the_user(server: Running, sql: Any) -> None:
    user = await add_user(sql, "free")
    for _ in range(25):  # more than a user may have open
        await is_local_only(server, user)
    await set_tier(sql, user, "core")
    await syncs(server, user)


# ---- While connected -----------------------------------------------------------------------------------------------


async def test_a_downgrade_is_sent_as_a_row_before_the_end(server: Running, sql: Any) -> None:
    user = await add_user(sql)
    async with peer(server.url) as one, peer(server.url) as other:
        for device in (one, other):
            await device.greet(user)
            await device.hear_a(Live)
        await set_tier(sql, user, "free")
        for device in (one, other):
            (row,) = changed(await last_words(device))
            assert isinstance(row, Profile)
            assert (row.id, row.tier) == (user, "free")


async def test_a_change_committed_before_the_downgrade_is_sent_with_it(server: Running, sql: Any) -> None:
    user = await add_user(sql)
    async with peer(server.url) as one:
        await one.greet(user)
        await one.hear_a(Live)
        async with sql.transaction():
            conversation = await add_conversation(sql, user)
            message = await add_message(sql, conversation)
            await set_tier(sql, user, "free")
        assert {row[ID] for row in changed(await last_words(one))} == {user, conversation, message}


async def test_a_downgrade_is_sent_before_the_end_even_behind_many_other_changes(server: Running, sql: Any) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    async with peer(server.url) as one:
        await one.greet(user)
        await one.hear_a(Live)
        async with sql.transaction():
            await sql.execute(
                "INSERT INTO messages (conversation_id, role, content)"
                " SELECT $1, 'user', 'x' FROM generate_series(1, 1200)",
                conversation,
            )
            await set_tier(sql, user, "free")
        rows = changed(await last_words(one))
    assert [row.tier for row in rows if isinstance(row, Profile)] == ["free"]


async def test_a_downgrade_during_a_snapshot_is_sent_before_the_end(server: Running, sql: Any) -> None:
    user = await add_user(sql)
    await add_message(sql, await add_conversation(sql, user))
    async with peer(server.url) as one:
        async with sql.transaction():
            await sql.execute("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")  # the snapshot cannot be finished
            await one.greet(user)
            await one.hear_a(Snapshot)
            await set_tier(sql, user, "free")
        frames = await last_words(one)
    profiles = [row for frame in frames if isinstance(frame, Changes) for row in frame.rows if isinstance(row, Profile)]
    assert [profile.tier for profile in profiles] == ["free"]


async def test_a_deleted_profile_is_sent_as_a_row_before_the_end(server: Running, sql: Any) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    async with peer(server.url) as one:
        await one.greet(user)
        await one.hear_a(Live)
        await sql.execute("DELETE FROM profiles WHERE id = $1", user)
        rows = changed(await last_words(one))
    assert {(type(row), row[ID]) for row in rows} == {(ProfileDeleted, user), (ConversationDeleted, conversation)}


async def test_a_downgrade_and_an_upgrade_in_one_transaction_are_no_downgrade(server: Running, sql: Any) -> None:
    user = await add_user(sql)
    async with peer(server.url) as one:
        await one.greet(user)
        await one.hear_a(Live)
        async with sql.transaction():
            await set_tier(sql, user, "free")
            await set_tier(sql, user, "studio")
        (row,) = (await one.hear_a(Changes)).rows
        assert isinstance(row, Profile)
        assert row.tier == "studio"
        await add_conversation(sql, user)
        await one.hear_a(Changes)


async def test_a_change_between_paid_tiers_is_a_row_and_nothing_else(server: Running, sql: Any) -> None:
    user = await add_user(sql, "core")
    async with peer(server.url) as one:
        await one.greet(user)
        await one.hear_a(Live)
        for tier in ("studio", "core", "studio"):
            await set_tier(sql, user, tier)
            (row,) = (await one.hear_a(Changes)).rows
            assert isinstance(row, Profile)
            assert (row.id, row.tier) == (user, tier)
        await add_conversation(sql, user)
        (row,) = (await one.hear_a(Changes)).rows
        assert isinstance(row, Conversation)


async def test_a_change_of_the_status_is_a_row(server: Running, sql: Any) -> None:
    user = await add_user(sql)
    async with peer(server.url) as one:
        await one.greet(user)
        await one.hear_a(Live)
        await sql.execute("UPDATE profiles SET subscription_status = 'past_due' WHERE id = $1", user)
        (row,) = (await one.hear_a(Changes)).rows
        assert isinstance(row, Profile)
        assert row.status == "past_due"


async def test_a_change_of_other_columns_of_a_profile_is_not_sent(server: Running, sql: Any) -> None:
    user = await add_user(sql)
    async with peer(server.url) as one:
        await one.greet(user)
        await one.hear_a(Live)
        await sql.execute(
            "UPDATE profiles SET usage_stats = '{\"n\": 1}', email = $2 WHERE id = $1", user, f"{user}@x.org"
        )
        conversation = await add_conversation(sql, user)
        assert [row[ID] for row in (await one.hear_a(Changes)).rows] == [conversation]


async def test_the_downgrade_of_one_user_is_nothing_to_another(server: Running, sql: Any) -> None:
    one_user, other_user = await add_user(sql), await add_user(sql)
    async with peer(server.url) as one, peer(server.url) as other:
        for device, user in ((one, one_user), (other, other_user)):
            await device.greet(user)
            await device.hear_a(Live)
        await set_tier(sql, one_user, "free")
        await last_words(one)
        conversation = await add_conversation(sql, other_user)
        frame = await other.hear()
        while isinstance(frame, Live | Pong):
            frame = await other.hear()
        assert isinstance(frame, Changes)
        assert [row[ID] for row in frame.rows] == [conversation]
