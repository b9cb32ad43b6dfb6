"""A login in Postgres gets no rights, no rows and no power over others through what is ours."""

import contextlib
import itertools
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest

from server.postgres.migrate import migrate
from tests.support.cluster import Cluster, Database, administrator
from tests.support.earlier import migrate_to
from tests.support.people import add_conversation, add_message, add_user

_numbers = itertools.count()


@contextlib.asynccontextmanager
async def a_login(database: Database, sql: Any, *roles: str, inherits: bool = True) -> AsyncIterator[tuple[str, Any]]:
    """A login that is a member of `roles` and has nothing else; its name, and a connection of its own."""
    name = f"mallory_{database.name}_{next(_numbers)}"
    await sql.execute(f"CREATE ROLE {name} LOGIN {'INHERIT' if inherits else 'NOINHERIT'}")
    for role in roles:
        await sql.execute(f"GRANT {role} TO {name}")
    connection = await asyncpg.connect(database.cluster.postgres.url(database.name, name))
    try:
        yield name, connection
    finally:
        await connection.close()
        await sql.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.fixture
async def sql(every_database: Database) -> AsyncIterator[Any]:
    async with administrator(every_database) as connection:
        yield connection


# ---- Our functions -------------------------------------------------------------------------------------------------


async def test_every_function_of_ours_searches_postgres_own_names_first_and_temporary_ones_last(sql: Any) -> None:
    others = await sql.fetch(
        "SELECT oid::regprocedure::text, proconfig FROM pg_proc"
        " WHERE pronamespace IN ('sync'::regnamespace, 'auth'::regnamespace)"
        " AND NOT coalesce(proconfig, '{}') @> '{\"search_path=pg_catalog, pg_temp\"}'"
    )
    # sync.apply, sync.push and sync.settle_stream, which call these, have set the path; they run with their callers'
    # rights.
    assert {row["oid"].partition("(")[0] for row in others} == {
        *("sync.write", "sync.write_conversation", "sync.write_message", "sync.admitted", "sync.tier"),
        "sync.settle",
    }
    assert await sql.fetchval("SELECT count(*) FROM pg_proc WHERE pronamespace = 'sync'::regnamespace") > 20


async def test_only_the_server_may_call_functions_of_ours_and_only_some(sql: Any) -> None:
    """Trigger functions included: a role that may call one may attach it to a table of its own."""
    callable_by_all = await sql.fetch(
        "SELECT p.oid::regprocedure::text FROM pg_proc p"
        " LEFT JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a ON true"
        " WHERE p.pronamespace = 'sync'::regnamespace AND a.grantee = 0"
    )
    assert callable_by_all == []


TEMPORARY_TYPES = """
    CREATE FUNCTION pg_temp.seize(value {type}) RETURNS boolean LANGUAGE plpgsql AS
        $$ BEGIN EXECUTE 'ALTER ROLE {name} SUPERUSER'; RETURN true; EXCEPTION WHEN OTHERS THEN RETURN true; END $$;
    CREATE DOMAIN pg_temp.{domain} AS {type} CHECK (pg_temp.seize(VALUE));
"""
TYPES = {"uuid": "uuid", "text": "text", "bigint": "int8", "boolean": "bool", "jsonb": "jsonb", "xid8": "xid8"}


async def plant(connection: Any, name: str) -> None:
    """Temporary domains under the names of Postgres' own types. Whoever is made to use one runs their owner's code."""
    for type_, domain in TYPES.items():
        await connection.execute(TEMPORARY_TYPES.format(type=f"pg_catalog.{domain}", domain=domain, name=name))
        if type_ != domain:
            await connection.execute(f'CREATE DOMAIN pg_temp."{type_}" AS pg_temp.{domain}')


async def is_superuser(sql: Any, name: str) -> bool:
    return bool(await sql.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = $1", name))


async def test_a_temporary_type_in_a_users_session_runs_nothing_as_the_owner(
    every_database: Database, sql: Any
) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    async with a_login(every_database, sql, "authenticated") as (name, mallory):
        await mallory.execute("SELECT set_config('request.jwt.claims', $1, false)", f'{{"sub": "{user}"}}')
        await plant(mallory, name)
        message = await add_message(mallory, conversation)
        await mallory.execute("UPDATE public.messages SET content = 'other' WHERE id = $1", message)
        await mallory.execute("UPDATE public.conversations SET title = 'other' WHERE id = $1", conversation)
        await mallory.execute("DELETE FROM public.messages WHERE id = $1", message)
        await mallory.execute("DELETE FROM public.conversations WHERE id = $1", conversation)
        assert not await is_superuser(sql, name)


PUSH = (
    "SELECT * FROM sync.push($1, $2, '{s}', '{true}', '{1}', '{1}', $3, $4, $5, $6, $7, $8,"
    " '{1}', '{1}', '{7}', (SELECT digest FROM sync.declaration))"
)
PUSH_OTHERS = PUSH.replace("'{1}', '{1}', $3", "$9, '{1}', $3").replace("'{7}'", "'{8}'")
"""A push of the number $9 by a device that holds another mutation as number 1 than what it was consumed for."""

NOTE = "SELECT sync.note('s', $1, $2, '{x}', '{1}', '{live}', '{NULL}', $3)"
CHANNEL = "SELECT channel FROM sync.meta"


def said(conversation: str) -> str:
    """The columns of a message, as the server passes them on."""
    return orjson.dumps({"conversation_id": conversation, "role": "user", "content": "content"}).decode()


async def push_as(connection: Any, user: UUID, client_id: UUID, *columns: Any) -> asyncpg.Record:
    (record,) = await connection.fetch(PUSH, [user], [client_id], *([column] for column in columns))
    return record


async def push(connection: Any, user: UUID, *columns: Any) -> asyncpg.Record:
    """One mutation: tag, what it does, id, created_at in microseconds, columns, at."""
    return await push_as(connection, user, uuid4(), *columns)


async def push_after_another_history(connection: Any, user: UUID, *columns: Any) -> None:
    """The mutation as in `push`, by an installation that gives it a number of another history first."""
    client_id, arrays = uuid4(), [[column] for column in columns]
    await connection.fetch(PUSH, [user], [client_id], *arrays)
    for number, refusal in ((1, "gap"), (2, None), (2, None)):
        (record,) = await connection.fetch(PUSH_OTHERS, [user], [client_id], *arrays, [number])
        assert record["refusal"] == refusal
    (record,) = await connection.fetch(PUSH_OTHERS.replace("'{8}'", "'{7}'"), [user], [client_id], *arrays, [3])
    assert (record["before"], record["after"]) == (2, 3)


async def test_a_temporary_type_in_the_servers_session_runs_nothing_as_the_owner(
    every_database: Database, sql: Any
) -> None:
    user = await add_user(sql)
    # A trigger of the app that asks who writes.
    await sql.execute(
        """
        CREATE FUNCTION public.ask() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM auth.uid(); RETURN NEW; END $$;
        CREATE TRIGGER ask BEFORE INSERT OR UPDATE ON public.conversations FOR EACH ROW EXECUTE FUNCTION public.ask();
        """
    )
    async with a_login(every_database, sql, "atlas_sync") as (name, mallory):
        await plant(mallory, name)
        at, conversation, message = await sql.fetchval("SELECT now()"), str(uuid4()), str(uuid4())
        created = await sql.fetchval("SELECT sync.microseconds($1)", at)
        # As text: asyncpg itself looks types up by their names.
        literal = "SELECT format(replace($1, '?', '%L'), VARIADIC $2::text[])"
        for columns in (
            ("c", "+", conversation, None, '{"title": "title"}', at),
            ("m", "+", message, None, said(conversation), at),
            ("m", "~", message, created, '{"content": "other"}', at),
            ("m", "-", message, created, None, None),
            ("c", "~", conversation, None, '{"title": "other"}', at),
            ("c", "-", conversation, None, None, None),
        ):
            told = [None if each is None else str(each) for each in columns]
            literals = await sql.fetchval(
                "SELECT array_agg(ARRAY[t]::text ORDER BY i) FROM unnest($1::text[]) WITH ORDINALITY AS u (t, i)", told
            )
            arrays = [f"{{{user}}}", f"{{{uuid4()}}}", *literals]
            await mallory.execute(await sql.fetchval(literal, re.sub(r"\$\d", "?", PUSH), arrays))
            for number in (1, 2):
                again = re.sub(r"\$\d+", "?", PUSH_OTHERS.replace("$9", f"'{{{number}}}'"))
                await mallory.execute(await sql.fetchval(literal, again, arrays))
        assert await sql.fetchval("SELECT count(*) FROM sync.clients WHERE rejected = '{}'") == 6
        noted = [f"{{{user}}}", f"{{{uuid4()}}}", f'{{"{at}"}}']
        await mallory.execute(await sql.fetchval(literal, re.sub(r"\$\d", "?", NOTE), noted))
        await mallory.execute("SELECT sync.vitals(), sync.epoch(), sync.seq_at(pg_catalog.now())")
        assert not await is_superuser(sql, name)


async def test_a_better_matching_function_in_public_is_called_by_nothing_of_ours(
    every_database: Database, sql: Any
) -> None:
    """As in a database of PostgreSQL 14 or before, where everybody may create there."""
    user = await add_user(sql)
    await sql.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    async with a_login(every_database, sql) as (name, mallory):
        seize = f"BEGIN EXECUTE 'ALTER ROLE {name} SUPERUSER'; RETURN {{}}; END"
        for function, takes, returns, value in (
            ("format", "text, uuid", "text", "'{}'"),
            ("set_config", "text, text, bool", "text", "''"),
            ("jsonb_build_object", "int8, text", "jsonb", "'{}'"),
            ("cardinality", "uuid[]", "int", "1"),
            ("coalesce_seq", "int8", "int8", "1"),
            ("seq_at", "timestamptz", "int8", "1"),
            ("pg_notify", "text, text", "void", ""),
        ):
            await mallory.execute(
                f"CREATE FUNCTION public.{function}({takes}) RETURNS {returns} LANGUAGE plpgsql AS"
                f" $_$ {seize.format(value)} $_$"
            )
        for operator, left, right, returns, value in (
            ("||", "uuid", "text", "text", "''"),
            ("||", "text", "int8", "text", "''"),
            ("+", "int8", "text", "int8", "1"),
            ("=", "int4", "text", "bool", "true"),
            (">", "int8", "text", "bool", "true"),
        ):
            await mallory.execute(
                f"CREATE FUNCTION public.op_{next(_numbers)}({left}, {right}) RETURNS {returns} LANGUAGE plpgsql AS"
                f" $_$ {seize.format(value)} $_$"
            )
            made = await mallory.fetchval(
                "SELECT max(oid)::regproc::text FROM pg_proc WHERE proname LIKE 'op!_%' ESCAPE '!'"
            )
            await mallory.execute(
                f"CREATE OPERATOR public.{operator} (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = {made})"
            )
        server = await asyncpg.connect(every_database.server_url)
        at = await server.fetchval("SELECT now()")
        conversation = str(uuid4())
        await push(server, user, "c", "+", conversation, None, '{"title": "title"}', at)
        await push(server, user, "m", "+", str(uuid4()), None, said(conversation), at)
        await push(server, user, "m", "+", str(uuid4()), None, said(str(uuid4())), at)
        await push(server, user, "c", "-", conversation, None, None, None)
        await push_after_another_history(server, user, "c", "+", str(uuid4()), None, '{"title": "title"}', at)
        await server.close()
        assert not await is_superuser(sql, name)


# ---- Our tables ----------------------------------------------------------------------------------------------------


async def test_a_role_that_row_level_security_restricts_reads_nothing_through_our_functions(
    every_database: Database, sql: Any
) -> None:
    user = await add_user(sql)
    await add_message(sql, await add_conversation(sql, user))
    async with a_login(every_database, sql, "pg_read_all_data") as (_, reader):
        assert await reader.fetchval("SELECT count(*) FROM public.messages") == 0
        relations = await sql.fetch(
            "SELECT c.oid::regclass::text AS name FROM pg_class c"
            " WHERE c.relnamespace = 'sync'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')"
            " AND c.oid <> 'sync.partitions'::regclass"
        )
        assert {row["name"] for row in relations} >= {"sync.all_messages", "sync.log", "sync.meta", "sync.clients"}
        for row in relations:
            assert await reader.fetch(f"SELECT * FROM {row['name']}") == [], row["name"]


async def test_partitions_that_are_made_later_are_closed_too(every_database: Database, sql: Any) -> None:
    await sql.execute("SELECT sync.ensure_partitions(now(), now() + interval '9 months')")
    opened = await sql.fetch(
        "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'sync'::regnamespace"
        " AND relkind IN ('r', 'p') AND NOT relrowsecurity"
    )
    assert opened == []


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
async def test_end_users_may_not_even_look_into_our_schema(every_database: Database, sql: Any, role: str) -> None:
    async with a_login(every_database, sql, role) as (_, mallory):
        for statement in (
            "SELECT * FROM sync.log",
            "SELECT * FROM sync.all_messages",
            "SELECT sync.epoch()",
            f"SELECT * FROM sync.push({', '.join(['NULL'] * 16)})",
            "SELECT * FROM sync.standing()",
            "SELECT sync.begin_history(NULL)",
            "SELECT * FROM sync.histories",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await mallory.execute(statement)


# ---- Doorbells -----------------------------------------------------------------------------------------------------


async def test_a_role_that_is_not_the_server_can_neither_receive_nor_find_the_doorbells(
    every_database: Database, sql: Any
) -> None:
    channel = await sql.fetchval(CHANNEL)
    assert len(channel) >= len("atlas_sync_") + 32
    user = await add_user(sql)
    async with a_login(every_database, sql, "authenticated", "pg_read_all_data") as (_, mallory):
        heard: list[str] = []
        for guess in ("atlas_sync", "sync", "atlas"):
            await mallory.add_listener(guess, lambda *said: heard.append(said[3]))
        assert await mallory.fetch("SELECT channel FROM sync.meta WHERE true") == []
        sources = await mallory.fetch("SELECT prosrc FROM pg_proc")
        assert not [source for source in sources if channel in (source["prosrc"] or "")]
        await add_conversation(sql, user)
        # What would have been heard is there when a notification sent after it is.
        await sql.execute("NOTIFY sync, 'the end'")
        while not heard:
            await mallory.execute("SELECT 1")
        assert heard == ["the end"]
        await mallory.reset()


async def test_two_databases_have_different_doorbells(every_database: Database, sql: Any) -> None:
    other = await every_database.cluster.create("template0")
    try:
        await migrate(other.url)
        there = await other.connect()
        assert await there.fetchval("SELECT channel FROM sync.meta") != await sql.fetchval(
            "SELECT channel FROM sync.meta"
        )
        await there.close()
    finally:
        await other.drop()


# ---- Rows for free -------------------------------------------------------------------------------------------------


async def test_installations_that_wrote_nothing_leave_no_row(every_database: Database, sql: Any) -> None:
    payer, free = await add_user(sql), await add_user(sql, "free")
    server = await asyncpg.connect(every_database.server_url)
    try:
        for user, first, count in ((payer, 1, 0), (payer, 7, 1), (free, 1, 1)):
            await server.fetch(
                "SELECT * FROM sync.push($1, $2, '{s}', '{true}', $3, $4, $5, $6, $7, $8, $8, $9, '{1}', $3, $10,"
                " (SELECT digest FROM sync.declaration))",
                *([user], [uuid4()], [first], [count], ["c"] * count, ["-"] * count),
                *([str(uuid4())] * count, [None] * count, [None] * count, [7] * count),
            )
        assert await sql.fetchval("SELECT count(*) FROM sync.clients") == 0
    finally:
        await server.close()


async def test_the_installations_and_devices_of_one_user_have_a_bound(every_database: Database, sql: Any) -> None:
    most = await sql.fetchval("SELECT sync.most_devices()")
    user, other = await add_user(sql), await add_user(sql)
    server = await asyncpg.connect(every_database.server_url)
    try:
        at = await server.fetchval("SELECT now()")
        clients = [uuid4() for _ in range(most + 5)]
        for client_id in (uuid4(), *clients):
            who = user if client_id in clients else other
            await push_as(server, who, client_id, "c", "+", str(uuid4()), None, '{"title": "title"}', at)
            await server.execute(NOTE, [who], [client_id], [at])
        for table in ("clients", "devices"):
            kept = {
                row["client_id"]
                for row in await sql.fetch(f"SELECT client_id FROM sync.{table} WHERE user_id = $1", user)
            }
            assert len(kept) == most
            assert clients[-1] in kept
            assert clients[0] not in kept, "the oldest are forgotten first"
            assert await sql.fetchval(f"SELECT count(*) FROM sync.{table} WHERE user_id = $1", other) == 1
    finally:
        await server.close()


# ---- What devices write --------------------------------------------------------------------------------------------


async def test_a_device_cannot_change_a_message_of_the_assistant(every_database: Database, sql: Any) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    said = await add_message(sql, conversation, "said by the model", "assistant")
    at, instant = await sql.fetchrow(
        "SELECT created_at, sync.microseconds(created_at) FROM messages WHERE id = $1", said
    )
    server = await asyncpg.connect(every_database.server_url)
    record = await push(server, user, "m", "~", str(said), instant, '{"content": "forged"}', at)
    await server.close()
    assert record["rejected"] == '{"1": "bad_value"}'
    assert await sql.fetchval("SELECT content FROM messages WHERE id = $1", said) == "said by the model"


# ---- Policies that are copied --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy",
    [
        "NOT denied('messages.read')",
        "role <> 'messages.x' AND NOT denied('it''s messages.read')",
        "EXISTS (SELECT FROM conversations c WHERE c.id = messages.conversation_id AND NOT denied('messages.read'))",
        "NOT denied(E'\\\\messages.read\\n')",
    ],
)
async def test_a_policy_means_in_the_archive_what_it_means_in_messages(every_postgres: Cluster, policy: str) -> None:
    made = await every_postgres.create("template0")
    try:
        await migrate_to(made, "0004_watching")
        sql = await made.connect()
        await sql.execute(
            "CREATE FUNCTION public.denied(text) RETURNS boolean LANGUAGE sql AS"
            " $$ SELECT $1 IN ('messages.read', 'it''s messages.read', E'\\\\messages.read\\n') $$;"
            f"CREATE POLICY theirs ON public.messages AS RESTRICTIVE FOR SELECT TO authenticated USING ({policy})"
        )
        await migrate(made.url)
        expressions = await sql.fetch(
            "SELECT pg_get_expr(polqual, polrelid) AS said FROM pg_policy WHERE polname = 'theirs' ORDER BY polrelid"
        )
        here, there = (row["said"] for row in expressions)
        constants = re.compile(r"'(?:[^']|'')*'")
        assert constants.findall(here) == constants.findall(there)
        assert "messages_archive" not in here
        await sql.close()
    finally:
        await made.drop()
