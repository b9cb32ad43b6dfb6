"""P3, P7: a cursor survives whatever happens to the servers, and a device that has one gets exactly what it missed."""

import asyncio
from typing import Any
from uuid import uuid4

from protocol.frames import Changes, Hello, Live, Welcome
from tests.support.cluster import Database
from tests.support.peer import peer
from tests.support.people import add_conversation, add_message, add_user
from tests.support.proxy import postgres_behind_proxy
from tests.support.rows import Message
from tests.support.serving import ServerProcess, serving, token


async def test_a_device_that_was_away_gets_exactly_what_it_missed(database: Database, sql: Any) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    await add_message(sql, conversation, "before")
    async with serving(database) as server:
        async with peer(server.url) as device:
            await device.greet(user)
            await device.hear_a(Live)
            cursor = device.cursor
        missed = [await add_message(sql, conversation, f"missed {i}") for i in range(3)]
        async with peer(server.url) as device:
            welcome = await device.greet(user, cursor)
            assert welcome.mode == "resumed"
            assert [row.id for row in await device.rows_until_live()] == missed


async def test_a_device_with_nothing_missed_gets_no_rows(database: Database, sql: Any) -> None:
    user = await add_user(sql)
    async with serving(database) as server:
        async with peer(server.url) as device:
            await device.greet(user)
            await device.hear_a(Live)
            cursor = device.cursor
        async with peer(server.url) as device:
            assert (await device.greet(user, cursor)).mode == "resumed"
            assert isinstance(await device.hear(), Live)
            assert device.cursor == cursor


async def test_a_cursor_of_one_server_is_good_on_another(database: Database, sql: Any) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    async with serving(database) as one, serving(database) as other:
        async with peer(one.url) as device:
            await device.greet(user)
            await device.hear_a(Live)
        message = await add_message(sql, conversation)
        async with peer(other.url) as elsewhere:
            assert (await elsewhere.greet(user, device.cursor)).mode == "resumed"
            assert [row.id for row in await elsewhere.rows_until_live()] == [message]


async def test_nothing_is_lost_when_the_server_is_killed(database: Database, sql: Any) -> None:
    users = [await add_user(sql) for _ in range(20)]
    conversations = [await add_conversation(sql, user) for user in users]
    cursors = {}
    async with ServerProcess(database.server_url) as server:
        for user in users:
            async with peer(server.url) as device:
                await device.greet(user)
                await device.hear_a(Live)
                cursors[user] = device.cursor
        before = {user: await add_message(sql, c, "before") for user, c in zip(users, conversations, strict=True)}
        await server.kill()
        during = {user: await add_message(sql, c, "during") for user, c in zip(users, conversations, strict=True)}
        await server.start()
        for user in users:
            async with peer(server.url) as device:
                assert (await device.greet(user, cursors[user])).mode == "resumed"
                assert [row.id for row in await device.rows_until_live()] == [before[user], during[user]]


async def test_a_transaction_larger_than_a_page_arrives_in_parts_and_can_be_resumed_between_them(
    database: Database, sql: Any
) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    async with serving(database) as server:
        async with peer(server.url) as device:
            await device.greet(user)
            await device.hear_a(Live)
        await sql.execute(
            "INSERT INTO messages (conversation_id, role, content) SELECT $1, 'user', i::text "
            "FROM generate_series(1, 1300) AS i",
            conversation,
        )
        async with peer(server.url) as first:
            await first.greet(user, device.cursor)
            part = await first.hear_a(Changes)
            assert part.partial
        async with peer(server.url) as second:
            assert (await second.greet(user, part.to)).mode == "resumed"
            rest = await second.rows_until_live()
        contents = [row.content for row in (*part.rows, *rest) if isinstance(row, Message)]
        assert sorted(map(int, contents)) == list(range(1, 1301))


async def test_a_hello_while_postgres_is_away_is_answered_when_it_is_back(database: Database, sql: Any) -> None:
    user = await add_user(sql)
    async with postgres_behind_proxy(database.server_url) as (proxy, url), serving(url) as server:
        async with peer(server.url) as device:
            await device.greet(user)
            await device.hear_a(Live)
        proxy.refusing = True
        proxy.cut()
        async with peer(server.url) as waiting:
            await waiting.say(Hello(token=token(user), client_id=uuid4(), cursor=device.cursor, window={}))
            error: Any = await waiting.hear()
            assert (error.code, error.retryable, error.answers) == ("unavailable", True, "hello")
            proxy.refusing = False
            welcome = await waiting.hear_a(Welcome)
            assert welcome.mode == "resumed"


async def test_a_change_of_the_history_makes_every_connected_device_start_over(database: Database, sql: Any) -> None:
    user = await add_user(sql)
    async with serving(database, sweep=0.1) as server, peer(server.url) as device:
        first = await device.greet(user)
        await device.hear_a(Live)
        await sql.execute("UPDATE sync.meta SET history = gen_random_uuid()")
        code, error = await device.closed()
        assert code == 4200
        assert error is not None
        assert error.code == "position_lost"
        assert error.retry_after is not None
        async with peer(server.url) as again:
            welcome = await again.greet(user, device.cursor)
            assert (welcome.mode, welcome.why) == ("snapshot", "epoch")
            assert welcome.epoch != first.epoch


async def test_many_devices_of_many_users_come_back_at_once(database: Database, sql: Any) -> None:
    users = [await add_user(sql) for _ in range(100)]
    conversations = {user: await add_conversation(sql, user) for user in users}
    async with serving(database) as server:

        async def visit(user: Any, cursor: bytes | None) -> tuple[list[Any], bytes | None]:
            async with peer(server.url) as device:
                await device.greet(user, cursor)
                rows = await device.rows_until_live()
                return [row.id for row in rows], device.cursor

        cursors = {user: (await visit(user, None))[1] for user in users}
        missed = {user: [await add_message(sql, conversations[user]) for _ in range(5)] for user in users}
        visits = await asyncio.gather(*(visit(user, cursors[user]) for user in users))
        assert {user: ids for user, (ids, _) in zip(users, visits, strict=True)} == missed
