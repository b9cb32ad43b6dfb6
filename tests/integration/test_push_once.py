"""P4: exactly once: repeats, gaps, numbers, and who may push (SPEC.md 8.2, 8.5, 8.7, 7.9)."""

import contextlib
from typing import Any
from uuid import UUID, uuid4

import pytest
from websockets.exceptions import ConnectionClosed

from protocol.codec import Codec
from protocol.frames import Ack, Applied, Error, Rejected, Repeated, Welcome
from tests.support.audit import audit, keep_audit
from tests.support.cluster import Database, administrator
from tests.support.device import (
    NOBODYS,
    UNLIMITED,
    PushingDevice,
    greeting_device,
    live_device,
    now,
    results_without_seq,
)
from tests.support.oracle import select_everything
from tests.support.peer import both_codecs
from tests.support.people import add_user
from tests.support.proxy import postgres_behind_proxy
from tests.support.rows import CreateConversation, Mutation, RenameConversation
from tests.support.serving import Running, ServerProcess, serving

pytestmark = [pytest.mark.shared_database(audited=True), pytest.mark.settings(**UNLIMITED)]
PROCESS = {"ATLAS_PUSH_RATE": "1000000", "ATLAS_PUSH_BURST": "1000000"}


async def audited(database: Database) -> None:
    async with administrator(database) as sql:
        await keep_audit(sql)


def rename(conversation: UUID, *titles: int) -> list[RenameConversation]:
    return [RenameConversation(conversation, str(title), now()) for title in titles]


async def renamed(sql: Any, conversation: UUID) -> list[int]:
    """The titles that it ever had, in order."""
    return [int(said) for _, _, said in await audit(sql, conversation)]


async def a_conversation(device: PushingDevice) -> UUID:
    """Its title is 0; it was mutation 1."""
    conversation = uuid4()
    await device.apply(CreateConversation(conversation, "0", now()))
    return conversation


async def answered_by_a_close(device: PushingDevice) -> int | None:
    """How the connection ends that pushed; None if it got an `ack` instead."""
    with contextlib.suppress(ConnectionClosed):
        while not isinstance(await device.hear(), Ack):
            pass
        return None
    return (await device.closed())[0]


# ---- Repeats -------------------------------------------------------------------------------------------------------


@both_codecs
async def test_a_repeated_push_is_answered_and_not_applied(every_database: Database, codec: Codec) -> None:
    await audited(every_database)
    async with (
        administrator(every_database) as sql,
        serving(every_database, **UNLIMITED) as server,
        live_device(server.url, await add_user(sql), codec=codec) as device,
    ):
        conversation = uuid4()
        mutations: list[Mutation] = [
            CreateConversation(conversation, "0", now()),
            RenameConversation(NOBODYS, "lost", now()),
            *rename(conversation, 1, 2),
        ]
        first = await device.push(*mutations)
        assert [type(result) for result in first] == [Applied, Rejected, Applied, Applied]
        for _ in range(2):
            again = await device.push(*mutations, n=1)
            assert [type(result) for result in again] == [Repeated, Rejected, Repeated, Repeated]
            assert again[1] == first[1]
            for result in again:
                if not isinstance(result, Rejected):
                    state = await device.reach(result.seq)
                    assert state["c", conversation][0] == "2"
        assert await renamed(sql, conversation) == [0, 1, 2]


async def test_a_partly_repeated_push_is_applied_from_where_it_is_new(device: PushingDevice, sql: Any) -> None:
    conversation = await a_conversation(device)
    await device.apply(*rename(conversation, 1, 2))
    results = await device.push(*rename(conversation, 1, 2, 3, 4), n=2)
    assert results_without_seq(results) == [("Repeated", 2), ("Repeated", 3), ("Applied", 4), ("Applied", 5)]
    assert await renamed(sql, conversation) == [0, 1, 2, 3, 4]


async def test_a_rejected_mutation_stays_rejected_even_if_it_would_be_good_by_now(
    device: PushingDevice, sql: Any
) -> None:
    conversation = uuid4()
    too_early, create = RenameConversation(conversation, "1", now()), CreateConversation(conversation, "0", now())
    rejected, *_ = await device.push(too_early, create)
    assert isinstance(rejected, Rejected)
    results = await device.push(too_early, create, too_early, n=1)
    assert results[0] == rejected
    assert results_without_seq(results) == [("Rejected", 1), ("Repeated", 2), ("Applied", 3)]
    assert await renamed(sql, conversation) == [0, 1]


async def test_a_rejection_is_repeated_after_later_pushes_that_began_with_its_mutation(device: PushingDevice) -> None:
    """It has no result yet as far as the device knows, so every push begins with it (SPEC.md 8.2)."""
    bad = RenameConversation(NOBODYS, None, now())
    rejected = await device.rejection(bad)
    later = [CreateConversation(uuid4(), "0", now()) for _ in range(5)]
    for number in range(1, 6):
        results = await device.push(bad, *later[:number], n=1)
        assert results[0] == rejected
        assert isinstance(results[-1], Applied)


async def test_the_first_mutation_of_a_number_counts(device: PushingDevice, sql: Any) -> None:
    """A number says which mutation it is; the rest of a repeat is not looked at."""
    conversation = await a_conversation(device)
    results = await device.push(*rename(conversation, 7), n=1)
    assert results_without_seq(results) == [("Repeated", 1)]
    assert await renamed(sql, conversation) == [0]


async def test_repeats_outlive_a_restart(database: Database, user: UUID, sql: Any) -> None:
    client_id, conversation = uuid4(), uuid4()
    mutations: list[Mutation] = [
        RenameConversation(NOBODYS, None, now()),
        CreateConversation(conversation, "0", now()),
    ]
    async with serving(database, **UNLIMITED) as server, live_device(server.url, user, client_id) as device:
        first = await device.push(*mutations)
    async with serving(database, **UNLIMITED) as server, live_device(server.url, user, client_id) as device:
        again = await device.push(*mutations, *rename(conversation, 1))
        assert again[0] == first[0]
        assert results_without_seq(again) == [("Rejected", 1), ("Repeated", 2), ("Applied", 3)]
    assert await renamed(sql, conversation) == [0, 1]


async def test_many_rejections_of_one_push_are_all_repeated(device: PushingDevice) -> None:
    mutations = [RenameConversation(uuid4(), "x" * (i % 2 * 1_100), now()) for i in range(250)]
    first = await device.push(*mutations)
    assert {result.code for result in first if isinstance(result, Rejected)} == {"unknown_row", "too_long"}
    assert await device.push(*mutations, n=1) == first


# ---- Gaps ----------------------------------------------------------------------------------------------------------


@both_codecs
async def test_a_gap_is_answered_with_what_is_expected_and_nothing_is_applied(
    server: Running, user: UUID, sql: Any, codec: Codec
) -> None:
    async with live_device(server.url, user, codec=codec) as device:
        conversation = uuid4()
        create = CreateConversation(conversation, "0", now())
        error = await device.refused_push(create, n=2)
        assert (error.code, error.expected, error.retryable) == ("gap", 1, True)
        assert await renamed(sql, conversation) == []
        await device.apply(create, *rename(conversation, 1), n=1)
        error = await device.refused_push(*rename(conversation, 9, 10), n=5)
        assert (error.code, error.expected) == ("gap", 3)
        await device.apply(*rename(conversation, 2, 3), n=3)
        assert await renamed(sql, conversation) == [0, 1, 2, 3]


async def test_an_outbox_that_begins_beyond_what_the_database_remembers_gets_new_numbers(
    every_database: Database,
) -> None:
    """The database lost its tail (SPEC.md 8.5)."""
    await audited(every_database)
    async with administrator(every_database) as sql, serving(every_database, **UNLIMITED) as server:
        async with live_device(server.url, await add_user(sql)) as device:
            conversation = await a_conversation(device)
            await device.apply(*rename(conversation, 1, 2, 3))
            await sql.execute("UPDATE sync.clients SET last_mutation = 2 WHERE client_id = $1", device.client_id)
        async with live_device(server.url, device.user, device.client_id) as device:
            error = await device.refused_push(*rename(conversation, 4, 5), n=5)
            assert (error.code, error.expected) == ("gap", 3)
            await device.apply(*rename(conversation, 4, 5), n=3)
            assert await renamed(sql, conversation) == [0, 1, 2, 3, 4, 5]


async def test_an_empty_push_beyond_the_end_applies_nothing(device: PushingDevice, sql: Any) -> None:
    conversation = await a_conversation(device)
    await device.say_push(n=17)
    answer = await device.answer()
    if isinstance(answer, Error):
        assert (answer.code, answer.expected) == ("gap", 2)
    await device.apply(*rename(conversation, 1), n=2)
    assert await renamed(sql, conversation) == [0, 1]


# ---- Whose numbers -------------------------------------------------------------------------------------------------


async def test_each_client_id_of_a_user_has_numbers_of_its_own(server: Running, user: UUID, sql: Any) -> None:
    async with live_device(server.url, user) as one, live_device(server.url, user) as other:
        conversation = await a_conversation(one)
        await one.apply(*rename(conversation, 1, 2))
        await other.apply(*rename(conversation, 3), n=1)
        assert (await other.refused_push(*rename(conversation, 9), n=4)).expected == 2
        await one.apply(*rename(conversation, 4))
        assert await renamed(sql, conversation) == [0, 1, 2, 3, 4]


async def test_two_users_with_one_client_id_have_numbers_of_their_own(server: Running, sql: Any) -> None:
    client_id, users = uuid4(), [await add_user(sql), await add_user(sql)]
    async with (
        live_device(server.url, users[0], client_id) as one,
        live_device(server.url, users[1], client_id) as other,
    ):
        mine = await a_conversation(one)
        await one.apply(*rename(mine, 1))
        theirs = await a_conversation(other)
        await one.apply(*rename(mine, 2))
        await other.apply(*rename(theirs, 1))
        assert await renamed(sql, mine) == [0, 1, 2]
        assert await renamed(sql, theirs) == [0, 1]


# ---- One connection a client_id ------------------------------------------------------------------------------------


async def test_a_newer_connection_takes_a_client_id_over(server: Running, user: UUID, sql: Any) -> None:
    async with live_device(server.url, user) as older:
        conversation = await a_conversation(older)
        async with live_device(server.url, user, older.client_id, n=2) as newer:
            code, error = await older.closed()
            assert error is not None
            assert (code, error.code, error.retryable) == (4302, "replaced", False)
            await newer.apply(*rename(conversation, 1))
            async with live_device(server.url, user, older.client_id, n=3) as newest:
                assert (await newer.closed())[0] == 4302
                await newest.apply(*rename(conversation, 2))
    assert await renamed(sql, conversation) == [0, 1, 2]


@pytest.mark.parametrize("first", ["a repeat", "nothing", "a gap"])
async def test_a_connection_whose_first_push_changes_nothing_goes_on(
    server: Running, user: UUID, sql: Any, first: str
) -> None:
    """A lost answer ends like this: the device comes back, repeats, and goes on."""
    async with live_device(server.url, user) as before:
        conversation = await a_conversation(before)
    async with live_device(server.url, user, before.client_id) as again:
        if first == "a repeat":
            results = await again.push(CreateConversation(conversation, "0", now()), n=1)
            assert results_without_seq(results) == [("Repeated", 1)]
        elif first == "nothing":
            await again.push(n=2)
        else:
            assert (await again.refused_push(*rename(conversation, 9), n=3)).expected == 2
        await again.apply(*rename(conversation, 1), n=2)
        await again.apply(*rename(conversation, 2), n=3)
    assert await renamed(sql, conversation) == [0, 1, 2]


async def test_connections_of_other_client_ids_and_users_are_not_replaced(server: Running, sql: Any) -> None:
    users = [await add_user(sql), await add_user(sql)]
    async with (
        live_device(server.url, users[0]) as one,
        live_device(server.url, users[0]) as another,
        live_device(server.url, users[1], one.client_id) as stranger,
    ):
        for device in (one, another, stranger):
            await a_conversation(device)


async def test_a_newer_connection_on_another_server_takes_over_with_its_first_push(every_database: Database) -> None:
    await audited(every_database)
    async with (
        administrator(every_database) as sql,
        ServerProcess(every_database.server_url, **PROCESS) as here,
        ServerProcess(every_database.server_url, **PROCESS) as there,
    ):
        user = await add_user(sql)
        async with live_device(here.url, user) as older, live_device(there.url, user, older.client_id) as newer:
            conversation = await a_conversation(older)
            # The newer one has pushed nothing yet.
            await older.apply(*rename(conversation, 1))
            await newer.apply(*rename(conversation, 2), n=3)
            await older.say_push(*rename(conversation, 66, 67, 68), n=3)
            code, error = await older.closed()
            assert error is not None
            assert (code, error.code, error.retryable) == (4302, "replaced", False)
            await newer.apply(*rename(conversation, 3))
        assert await renamed(sql, conversation) == [0, 1, 2, 3]
        # Who was replaced may come back by hand: then he is the newer one.
        async with live_device(here.url, user, older.client_id, n=5) as again:
            await again.apply(*rename(conversation, 4))
        assert await renamed(sql, conversation) == [0, 1, 2, 3, 4]


async def test_a_client_id_on_two_servers_belongs_to_the_connection_with_the_later_first_push(
    database: Database, user: UUID, sql: Any
) -> None:
    async with (
        serving(database, **UNLIMITED) as here,
        serving(database, **UNLIMITED) as there,
        live_device(here.url, user) as older,
        live_device(there.url, user, older.client_id) as newer,
    ):
        conversation = await a_conversation(newer)
        await older.apply(*rename(conversation, 1), n=2)
        # Numbers that would fit.
        await newer.say_push(*rename(conversation, 66), n=3)
        assert await answered_by_a_close(newer) == 4302
        await older.apply(*rename(conversation, 2))
    assert await renamed(sql, conversation) == [0, 1, 2]


# ---- One push at a time --------------------------------------------------------------------------------------------


async def test_a_second_push_while_the_first_is_unanswered_is_refused_and_loses_nothing(
    device: PushingDevice, sql: Any
) -> None:
    conversation = await a_conversation(device)
    async with sql.transaction():
        await sql.execute("SELECT FROM conversations WHERE id = $1 FOR UPDATE", conversation)
        await device.say_push(*rename(conversation, 1), n=2)
        second = await device.refused_push(*rename(conversation, 2), n=3)
        assert (second.code, second.retryable) == ("too_many_pushes", True)
    answer = await device.answer()
    if isinstance(answer, Error):
        assert (answer.code, answer.id) == ("unavailable", 2)
    device.number = 2
    results = await device.patient_push(*rename(conversation, 1, 2))
    assert all(isinstance(result, Applied | Repeated) for result in results)
    assert await renamed(sql, conversation) == [0, 1, 2]


async def test_a_push_before_welcome_is_refused_and_loses_nothing(database: Database, user: UUID, sql: Any) -> None:
    async with postgres_behind_proxy(database.server_url) as (proxy, url), serving(url, **UNLIMITED) as server:
        proxy.refusing = True
        proxy.cut()
        async with greeting_device(server.url, user) as device:
            conversation = uuid4()
            create = CreateConversation(conversation, "0", now())
            error = await device.refused_push(create)
            assert (error.code, error.retryable) == ("too_many_pushes", True)
            proxy.refusing = False
            await device.hear_a(Welcome)
            await device.apply(create)
    assert await renamed(sql, conversation) == [0]


async def test_a_push_sent_together_with_hello_is_applied_or_refused_and_not_both(
    server: Running, user: UUID, sql: Any
) -> None:
    for _ in range(10):
        async with greeting_device(server.url, user) as device:
            conversation = uuid4()
            create = CreateConversation(conversation, "0", now())
            await device.say_push(create)
            answer = await device.answer()
            if isinstance(answer, Error):
                assert answer.code == "too_many_pushes"
                assert await renamed(sql, conversation) == []
                await device.hear_a(Welcome)
            await device.push(create, n=1)
            assert await renamed(sql, conversation) == [0]


# ---- Those who may not write ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["free", None])
async def test_a_user_who_works_locally_only_pushes_nothing(server: Running, sql: Any, tier: str | None) -> None:
    user = uuid4() if tier is None else await add_user(sql, tier)
    async with greeting_device(server.url, user) as device:
        await device.say_push(CreateConversation(uuid4(), "0", now()))
        code, error = await device.closed()
        assert error is not None
        assert (code, error.code) == (4301, "local_only")
    assert await sql.fetchval("SELECT count(*) FROM conversations WHERE user_id = $1", user) == 0
    assert await sql.fetchval("SELECT count(*) FROM sync.clients WHERE user_id = $1", user) == 0


async def test_a_user_who_became_free_pushes_nothing_more_even_before_the_server_knows(
    every_database: Database,
) -> None:
    async with administrator(every_database) as sql, postgres_behind_proxy(every_database.server_url) as (proxy, url):
        user = await add_user(sql)
        async with (
            serving(every_database, listen_url=url, sweep=600.0, **UNLIMITED) as server,
            live_device(server.url, user) as device,
        ):
            proxy.swallow()  # no doorbell is heard
            await device.apply(CreateConversation(uuid4(), "0", now()))
            await sql.execute("UPDATE profiles SET subscription_tier = 'free' WHERE id = $1", user)
            with contextlib.suppress(Exception):
                await device.push(CreateConversation(uuid4(), "1", now()))
            assert await sql.fetchval("SELECT count(*) FROM conversations WHERE user_id = $1", user) == 1


async def test_a_user_who_was_deleted_pushes_nothing_more(server: Running, user: UUID, sql: Any) -> None:
    async with live_device(server.url, user) as device, live_device(server.url, await add_user(sql)) as other:
        await device.apply(CreateConversation(uuid4(), "0", now()))
        await sql.execute("DELETE FROM profiles WHERE id = $1", user)
        with contextlib.suppress(ConnectionClosed):  # it was told already
            await device.say_push(CreateConversation(uuid4(), "1", now()))
        code, error = await device.closed()
        assert error is not None
        assert (code, error.code) == (4301, "local_only")
        await a_conversation(other)
    assert await select_everything(sql, user) == {}
