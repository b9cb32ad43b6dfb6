"""P4, P9: what a push may contain, and how often: at the limit it is taken, beyond it gets its documented answer."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from protocol.codec import MAX_INBOUND, MSGPACK, Codec
from protocol.frames import Applied, Error, Ping, Pong, Rejected, Result
from server.declaration.chat import CHAT_TOML
from server.declaration.file.keys import LARGEST
from tests.support.cluster import Cluster, Database, administrator, declared
from tests.support.device import UNLIMITED, PushingDevice, Said, live_device, now
from tests.support.peer import both_codecs
from tests.support.people import add_user
from tests.support.rows import CreateConversation, CreateMessage, EditMessage, Mutation, RenameConversation
from tests.support.serving import serving

pytestmark = pytest.mark.shared_database(every_postgres=True)

SECOND = 1_000_000
MINUTE = 60 * SECOND
YEAR_2015 = 1_420_070_400 * SECOND


@contextlib.asynccontextmanager
async def live(database: Database, codec: Codec = MSGPACK, **given: Any) -> AsyncIterator[tuple[Any, PushingDevice]]:
    async with (
        administrator(database) as sql,
        serving(database, **{**UNLIMITED, **given}) as server,
        live_device(server.url, await add_user(sql), codec=codec) as device,
    ):
        yield sql, device


def codes(results: list[Result]) -> list[str]:
    return [result.code if isinstance(result, Rejected) else "applied" for result in results]


def some(number: int) -> list[Mutation]:
    return [CreateConversation(uuid4(), None, now()) for _ in range(number)]


async def rows(sql: Any, user: UUID) -> int:
    return int(await sql.fetchval("SELECT count(*) FROM conversations WHERE user_id = $1", user))


# ---- How often -----------------------------------------------------------------------------------------------------

SLOW: dict[str, Any] = {"push_rate": 2.0, "push_burst": 10}


async def is_slowed_down(device: PushingDevice, *mutations: Said) -> float:
    """Seconds until it may be sent again."""
    error = await device.refused_push(*mutations)
    assert (error.code, error.retryable) == ("slow_down", True)
    assert error.retry_after is not None
    assert 0 < error.retry_after <= len(mutations) / SLOW["push_rate"] * 1_000 + 100
    return error.retry_after / 1_000


async def test_a_push_beyond_the_burst_is_slowed_down_and_accepted_at_the_time_that_was_named(
    database: Database,
) -> None:
    async with live(database, **SLOW) as (sql, device):
        await device.apply(*some(10))
        more = some(4)
        wait = await is_slowed_down(device, *more)
        assert await rows(sql, device.user) == 10
        await asyncio.sleep(wait)
        await device.apply(*more)
        assert await rows(sql, device.user) == 14
        # And the next one has to wait again.
        await is_slowed_down(device, *some(4))


async def test_a_push_that_is_repeated_too_early_costs_nothing(database: Database) -> None:
    async with live(database, **SLOW) as (_, device):
        await device.apply(*some(10))
        more = some(4)
        first = await is_slowed_down(device, *more)
        began = asyncio.get_running_loop().time()
        for _ in range(20):
            wait = await is_slowed_down(device, *more)
        await device.say(Ping())
        await device.hear_a(Pong)
        await asyncio.sleep(wait)
        await device.apply(*more)
        assert asyncio.get_running_loop().time() - began < first + 1


async def test_the_rate_is_one_users_over_all_connections_and_nobody_elses(database: Database) -> None:
    async with administrator(database) as sql, serving(database, **SLOW) as server:
        user = await add_user(sql)
        async with (
            live_device(server.url, user) as one,
            live_device(server.url, user) as another,
            live_device(server.url, await add_user(sql)) as stranger,
        ):
            await one.apply(*some(10))
            await is_slowed_down(another, *some(6))
            await stranger.apply(*some(10))
        async with live_device(server.url, user, one.client_id, n=11) as again:
            await is_slowed_down(again, *some(6))
        async with live_device(server.url, user) as fresh:
            await is_slowed_down(fresh, *some(6))


async def test_closing_every_connection_does_not_reset_the_rate(database: Database) -> None:
    async with administrator(database) as sql, serving(database, **SLOW) as server:
        user = await add_user(sql)
        async with live_device(server.url, user) as one:
            await one.apply(*some(10))
        async with live_device(server.url, user) as again:
            await is_slowed_down(again, *some(6))


async def test_a_push_as_large_as_welcome_allows_is_taken_sooner_or_later(database: Database) -> None:
    """Even where that is more than the burst."""
    async with live(database, push_rate=20.0, push_burst=10, push_batch=30) as (sql, device):
        assert device.welcome is not None
        most = device.welcome.limits.mutations
        mutations = some(most)
        await device.say_push(*mutations)
        answer = await device.answer()
        if isinstance(answer, Error):
            assert answer.code == "slow_down"
            assert answer.retry_after is not None
            await asyncio.sleep(answer.retry_after / 1_000)
            await device.apply(*mutations)
        assert await rows(sql, device.user) == most


async def test_slowed_down_pushes_lose_nothing_in_the_end(database: Database) -> None:
    async with live(database, push_rate=40.0, push_burst=20) as (sql, device):
        mutations = some(60)
        for begin in range(0, 60, 10):
            results = await device.patient_push(*mutations[begin : begin + 10])
            assert codes(results) == ["applied"] * 10
        assert await rows(sql, device.user) == 60


# ---- How much ------------------------------------------------------------------------------------------------------


@both_codecs
async def test_a_push_has_as_many_mutations_as_welcome_says(database: Database, codec: Codec) -> None:
    async with live(database, codec, push_batch=5) as (sql, device):
        assert device.welcome is not None
        assert device.welcome.limits.mutations == 5
        await device.apply(*some(5))
        await device.say_push(*some(6))
        code, error = await device.closed()
        assert error is not None
        assert (code, error.code, error.retryable) == (4300, "bad_frame", False)
        assert await rows(sql, device.user) == 5


@both_codecs
async def test_texts_have_as_many_bytes_as_the_declaration_says(every_postgres: Cluster, codec: Codec) -> None:
    text = CHAT_TOML.replace('"1000 bytes"', '"12 bytes"').replace('"100000 bytes"', '"24 bytes"')
    async with declared(every_postgres, text) as database, live(database, codec) as (sql, device):
        conversation, message, at = uuid4(), uuid4(), now()
        await device.apply(
            CreateConversation(conversation, "", at), CreateMessage(message, conversation, "user", "", at)
        )
        for letter in ("x", "ä", "€", "👋", "\x01"):  # of one to four bytes
            fits = len(letter.encode())
            title, content = letter * (12 // fits), letter * (24 // fits)
            good: list[Mutation] = [
                CreateConversation(uuid4(), title, at),
                RenameConversation(conversation, title, at),
                CreateMessage(uuid4(), conversation, "user", content, at),
                EditMessage(message, at, content, at),
            ]
            bad: list[Mutation] = [
                CreateConversation(uuid4(), f"{title}x", at),
                RenameConversation(conversation, f"{title}x", at),
                CreateMessage(uuid4(), conversation, "user", f"x{content}", at),
                EditMessage(message, at, f"{content}{letter}", at),
            ]
            results = await device.push(*(mutation for pair in zip(good, bad, strict=True) for mutation in pair))
            assert codes(results) == ["applied", "too_long"] * 4
            columns = [result.column for result in results if isinstance(result, Rejected)]
            assert columns == ["title", "title", "content", "content"]
            assert await sql.fetchval("SELECT title FROM conversations WHERE id = $1", conversation) == title
            assert await sql.fetchval("SELECT content FROM messages WHERE id = $1", message) == content


async def test_the_largest_content_of_all_declarations_comes_back_whole(postgres_18: Cluster) -> None:
    text = CHAT_TOML.replace('"100000 bytes"', f'"{LARGEST} bytes"')
    async with declared(postgres_18, text) as database, live(database) as (_, device):
        conversation, message, at = uuid4(), uuid4(), now()
        content = "ä" * (LARGEST // 2)
        seq = await device.apply(
            CreateConversation(conversation, None, at), CreateMessage(message, conversation, "user", content, at)
        )
        assert (await device.reach(seq))["m", message][2] == content


async def test_a_text_that_is_too_long_is_rejected_however_long_it_is(database: Database) -> None:
    async with live(database) as (_, device):
        conversation, at = uuid4(), now()
        results = await device.push(
            CreateConversation(conversation, None, at),
            CreateMessage(uuid4(), conversation, "user", "x" * 250_000, at),
            CreateConversation(uuid4(), None, at),
        )
        assert codes(results) == ["applied", "too_long", "applied"]
        results = await device.push(RenameConversation(conversation, "x" * 250_000, at))
        assert codes(results) == ["too_long"]


async def test_a_push_larger_than_a_frame_may_be_ends_the_connection(database: Database) -> None:
    async with live(database) as (sql, device):
        assert device.welcome is not None
        assert device.welcome.limits.frame_bytes == MAX_INBOUND
        conversation = uuid4()
        await device.say_push(*(RenameConversation(conversation, "x" * 100_000, now()) for _ in range(3)))
        assert (await device.closed())[0] == 1009
        assert await rows(sql, device.user) == 0


# ---- When ----------------------------------------------------------------------------------------------------------


@both_codecs
async def test_instants_have_their_bounds_to_the_microsecond(every_database: Database, codec: Codec) -> None:
    async with live(every_database, codec) as (sql, device):
        conversation, message, at = uuid4(), uuid4(), now()
        await device.apply(
            CreateConversation(conversation, "", at), CreateMessage(message, conversation, "user", "", at)
        )

        def at_every_kind(instant: int) -> list[Mutation]:
            return [
                CreateConversation(uuid4(), None, instant),
                RenameConversation(conversation, "x", instant),
                CreateMessage(uuid4(), conversation, "user", "x", instant),
                EditMessage(message, at, "x", instant),
            ]

        for instant in (YEAR_2015, YEAR_2015 + 1, now(), now() + 4 * MINUTE):
            assert codes(await device.push(*at_every_kind(instant))) == ["applied"] * 4, instant
        for instant in (YEAR_2015 - 1, 0, -1, now() + 6 * MINUTE, now() + 24 * 60 * MINUTE):
            assert codes(await device.push(*at_every_kind(instant))) == ["bad_time"] * 4, instant
        oldest = await sql.fetchval(
            "SELECT sync.seq_at(min(m.created_at)) FROM messages m WHERE conversation_id = $1", conversation
        )
        assert oldest == YEAR_2015


async def test_a_message_of_long_ago_is_as_good_as_one_of_today(every_database: Database) -> None:
    """Wherever it is kept: it can be edited and deleted, and comes back."""
    async with live(every_database) as (_, device):
        conversation = uuid4()
        await device.apply(CreateConversation(conversation, None, now()))
        for at in (YEAR_2015, now() - 400 * 24 * 60 * MINUTE, now() - 32 * 24 * 60 * MINUTE, now() + 4 * MINUTE):
            message = uuid4()
            create = CreateMessage(message, conversation, "user", "a", at)
            seq = await device.apply(create, EditMessage(message, at, "b", now()))
            assert (await device.reach(seq))["m", message][2] == "b"
            (result,) = await device.push(create)
            assert isinstance(result, Applied)
