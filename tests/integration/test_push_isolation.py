"""P1, P4: no user writes another user's rows: not by pushing and not through SQL. Nor does the server's own login."""

import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest

from protocol.frames import Applied, Changes, Error, Ping, Pong, Rejected, Result
from tests.support.cluster import Database, administrator
from tests.support.device import UNLIMITED, PushingDevice, live_device, now
from tests.support.faults import seeded
from tests.support.oracle import select_everything
from tests.support.people import add_conversation, add_message, add_user
from tests.support.rows import (
    CreateConversation,
    CreateMessage,
    DeleteConversation,
    DeleteMessage,
    EditMessage,
    Mutation,
    RenameConversation,
)
from tests.support.serving import serving

# ---- By pushing ----------------------------------------------------------------------------------------------------


@dataclass
class Rows:
    """What somebody has: a conversation with two messages, and their instant."""

    conversation: UUID
    messages: list[UUID]
    at: int

    @classmethod
    def make(cls) -> "Rows":
        return cls(uuid4(), [uuid4(), uuid4()], now())

    def creations(self, text: str) -> list[Mutation]:
        return [
            CreateConversation(self.conversation, text, self.at),
            *(CreateMessage(message, self.conversation, "user", text, self.at) for message in self.messages),
        ]


def an_attempt(rng: random.Random, target: Rows, own: Rows) -> Mutation:
    """Something that would touch the target's rows, if it could."""
    conversation, message = target.conversation, rng.choice(target.messages)
    at = rng.choice([target.at, target.at, target.at + 1, own.at])
    ident = rng.choice([conversation, message, message])
    attempts: list[Mutation] = [
        RenameConversation(conversation, rng.choice(["bert", None]), now()),
        RenameConversation(message, "bert", now()),
        DeleteConversation(ident),
        DeleteMessage(ident, at),
        EditMessage(ident, at, "bert", now()),
        CreateMessage(uuid4(), conversation, "user", "bert", at),
        CreateMessage(rng.choice(own.messages), conversation, "user", "bert", own.at + rng.choice([1, 2])),
    ]
    return rng.choice(attempts)


def a_taking(rng: random.Random, target: Rows, own: Rows) -> Mutation:
    """A creation under an id that the target has."""
    message, at = rng.choice(target.messages), rng.choice([target.at, target.at, target.at + 1])
    takings: list[Mutation] = [
        CreateConversation(target.conversation, "bert", at),
        CreateMessage(message, own.conversation, "user", "bert", target.at),
        CreateMessage(message, target.conversation, "user", "bert", target.at),
    ]
    return rng.choice(takings)


def told(result: Result) -> tuple[str, ...]:
    """All that an answer says, but for its number and its seq."""
    return ("rejected", result.code, result.message) if isinstance(result, Rejected) else (type(result).__name__,)


async def all_of(sql: Any, user: UUID) -> list[Any]:
    """Every row of a user, wherever it is, to the last column."""
    of_conversations = (
        "SELECT * FROM messages WHERE conversation_id IN (SELECT id FROM conversations WHERE user_id = $1)"
    )
    return [
        await sql.fetch("SELECT * FROM profiles WHERE id = $1", user),
        await sql.fetch("SELECT * FROM conversations WHERE user_id = $1 ORDER BY id", user),
        await sql.fetch(f"{of_conversations} ORDER BY id, created_at", user),
        await sql.fetch("SELECT * FROM sync.feeds WHERE user_id = $1", user),
        await sql.fetch("SELECT * FROM sync.log WHERE user_id = $1 ORDER BY seq, n", user),
        await sql.fetch("SELECT * FROM sync.clients WHERE user_id = $1 ORDER BY client_id", user),
    ]


@dataclass
class Duel:
    """Anne has rows and a live device; Bert has a device that is after them."""

    sql: Any
    anne: PushingDevice
    bert: PushingDevice
    annes: Rows
    berts: Rows


@contextlib.asynccontextmanager
async def a_duel(database: Database, *, same_client: bool = False) -> AsyncIterator[Duel]:
    async with administrator(database) as sql, serving(database, **UNLIMITED) as server:
        users, annes, berts = [await add_user(sql), await add_user(sql)], Rows.make(), Rows.make()
        async with live_device(server.url, users[0]) as device:
            await device.push(*annes.creations("anne"))
        async with (
            live_device(server.url, users[0], device.client_id, n=4) as anne,
            live_device(server.url, users[1], device.client_id if same_client else None) as bert,
        ):
            await bert.apply(*berts.creations("bert"))
            before = await all_of(sql, anne.user)
            assert all(before), "there is something to touch"
            yield Duel(sql, anne, bert, annes, berts)
            assert await all_of(sql, anne.user) == before, "a row of Anne's was touched"
            await anne.say(Ping())
            await anne.hear_a(Pong)
            assert anne.rows == [], "Anne's device heard of it"
            conversation = await add_conversation(sql, anne.user, "anne")
            await anne.hear_a(Changes)
            assert [row.id for row in anne.rows] == [conversation]
            assert not [row for row in bert.rows if "anne" in str(row)], "Bert's device got something of hers"


@pytest.mark.parametrize("same_client", [False, True], ids=["client_id of his own", "client_id of hers"])
async def test_no_push_touches_what_is_somebody_elses(every_database: Database, same_client: bool) -> None:
    """And the answers about another user's rows are those about rows that exist nowhere."""
    rng = seeded()
    async with a_duel(every_database, same_client=same_client) as duel:
        nowhere = Rows.make()
        for _ in range(25):
            replay, length = rng.randrange(1 << 32), rng.randint(1, 8)
            about_hers, about_nothing = (
                [an_attempt(one, target, duel.berts) for one in [random.Random(replay)] for _ in range(length)]
                for target in (duel.annes, nowhere)
            )
            assert [type(one) for one in about_hers] == [type(one) for one in about_nothing]
            results = [
                [told(result) for result in await duel.bert.push(*mutations)]
                for mutations in (about_hers, about_nothing)
            ]
            assert results[0] == results[1], about_hers
            for mutation in (a_taking(rng, duel.annes, duel.berts) for _ in range(3)):
                rejection = await duel.bert.rejection(mutation)
                foreign = isinstance(mutation, CreateMessage) and mutation.conversation_id == duel.annes.conversation
                assert rejection.code in (("bad_id", "unknown_parent") if foreign else ("bad_id",)), mutation
        found = await select_everything(duel.sql, duel.bert.user)
        assert set(found) == {("p", duel.bert.user), ("c", duel.berts.conversation)} | {
            ("m", message) for message in duel.berts.messages
        }


async def test_a_message_with_another_users_id_at_another_instant_leaves_that_users_message_alone(
    every_database: Database,
) -> None:
    """The instant is part of the table's key, so both messages may exist: the other user's stays as it is."""
    async with a_duel(every_database) as duel:
        message, own = duel.annes.messages[0], duel.berts.conversation
        await duel.bert.push(
            CreateMessage(message, own, "user", "bert", duel.annes.at + 1),
            CreateMessage(message, own, "user", "bert", duel.annes.at - 400 * 86_400 * 1_000_000),
        )
        await duel.bert.push(
            EditMessage(message, duel.annes.at + 1, "bert again", now()), DeleteMessage(message, duel.annes.at + 1)
        )


async def test_no_order_of_mutations_in_one_push_reaches_another_users_rows(every_database: Database) -> None:
    """Deleting what is not there, and making it anew under its id."""
    async with a_duel(every_database) as duel:
        hers, message = duel.annes.conversation, duel.annes.messages[0]
        results = await duel.bert.push(
            DeleteConversation(hers),
            CreateConversation(hers, "bert", now()),
            CreateMessage(uuid4(), hers, "user", "bert", now()),
            DeleteMessage(message, duel.annes.at),
            CreateMessage(message, duel.berts.conversation, "user", "bert", duel.annes.at),
            EditMessage(message, duel.annes.at, "bert", now()),
            DeleteConversation(duel.berts.conversation),
        )
        codes = [result.code if isinstance(result, Rejected) else "applied" for result in results]
        assert codes == ["applied", "bad_id", "unknown_parent", "applied", "bad_id", "unknown_row", "applied"]


async def test_another_users_client_id_has_numbers_of_its_own_for_each_user(every_database: Database) -> None:
    async with a_duel(every_database, same_client=True) as duel:
        assert duel.bert.client_id == duel.anne.client_id
        error = await duel.bert.refused_push(CreateConversation(uuid4(), None, now()), n=50)
        assert isinstance(error, Error)
        assert (error.code, error.expected) == ("gap", 4)
        (result,) = await duel.bert.push(DeleteConversation(duel.annes.conversation), n=4)
        assert isinstance(result, Applied)


# ---- Through SQL ---------------------------------------------------------------------------------------------------


@dataclass
class House:
    """Anne and Bert in SQL, Bert as PostgREST would connect, and the rows that Bert aims at."""

    database: Database
    sql: Any
    visitor: Any
    """Bert's connection."""
    anne: UUID
    bert: UUID
    annes: UUID
    berts: UUID
    annes_message: UUID
    berts_message: UUID

    async def attempt(self, statement: str, role: str = "authenticated") -> str:
        """What it came to: its status, or the class of its error. In a transaction of its own, that commits."""
        for name in ("annes_message", "berts_message", "anne", "bert", "annes", "berts"):
            statement = statement.replace(f":{name}:", f"'{getattr(self, name)}'")
        claims = {"sub": str(self.bert), "role": role} if role == "authenticated" else {"role": role}
        try:
            async with self.visitor.transaction():
                await self.visitor.execute(
                    f"SET LOCAL ROLE {role}; SET LOCAL request.jwt.claims = '{orjson.dumps(claims).decode()}'"
                )
                return str(await self.visitor.execute(statement))
        except asyncpg.PostgresError as error:
            return type(error).__name__


@pytest.fixture
async def house(every_database: Database) -> AsyncIterator[House]:
    async with administrator(every_database) as sql, administrator(every_database) as visitor:
        users = [await add_user(sql), await add_user(sql)]
        conversations = [await add_conversation(sql, user, str(user)) for user in users]
        messages = [await add_message(sql, conversation, "x") for conversation in conversations]
        # Her device pushed something once.
        async with serving(every_database) as server, live_device(server.url, users[0]) as device:
            await device.push(
                RenameConversation(uuid4(), "x", now()), RenameConversation(conversations[0], "hers", now())
            )
        yield House(every_database, sql, visitor, *users, *conversations, *messages)


HARMLESS = {"UPDATE 0", "DELETE 0", "INSERT 0 0", "MERGE 0", "SELECT 0"}
REFUSED = {"InsufficientPrivilegeError", "RaiseError", "UniqueViolationError", "ForeignKeyViolationError"}

ATTEMPTS = [
    "INSERT INTO conversations (id, user_id) VALUES (:annes:, :bert:)",
    "INSERT INTO conversations (id, user_id) VALUES (:annes:, :anne:)",
    "INSERT INTO conversations (id, user_id, title) VALUES (:annes:, :bert:, 'b')"
    " ON CONFLICT (id) DO UPDATE SET title = 'b'",
    "INSERT INTO conversations (id, user_id, title) VALUES (:annes:, :bert:, 'b')"
    " ON CONFLICT (id) DO UPDATE SET user_id = :bert:",
    "INSERT INTO conversations (id, user_id) VALUES (:annes:, :bert:) ON CONFLICT DO NOTHING",
    "UPDATE conversations SET user_id = :bert: WHERE id = :annes:",
    "UPDATE conversations SET id = :annes: WHERE id = :berts:",
    "UPDATE conversations SET id = gen_random_uuid() WHERE id = :annes:",
    "UPDATE conversations SET title = 'b' WHERE user_id = :anne:",
    "UPDATE conversations SET title = 'b' FROM messages m WHERE m.id = :annes_message:",
    "DELETE FROM conversations WHERE id <> :berts:",
    "DELETE FROM conversations USING messages m WHERE m.conversation_id = :annes: AND conversations.id = :annes:",
    "MERGE INTO conversations c USING (VALUES (:annes:::uuid)) v (id) ON c.id = v.id"
    " WHEN MATCHED THEN UPDATE SET title = 'b' WHEN NOT MATCHED THEN DO NOTHING",
    "MERGE INTO conversations c USING (VALUES (:annes:::uuid)) v (id) ON c.id = v.id"
    " WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id, user_id) VALUES (v.id, :bert:)",
    "MERGE INTO messages m USING (VALUES (:annes_message:::uuid)) v (id) ON m.id = v.id"
    " WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN DO NOTHING",
    "MERGE INTO messages m USING (VALUES (:annes_message:::uuid)) v (id) ON m.id = v.id"
    " WHEN NOT MATCHED THEN INSERT (id, conversation_id, role, content) VALUES (v.id, :annes:, 'user', 'b')",
    "INSERT INTO messages (conversation_id, role, content) VALUES (:annes:, 'user', 'b'), (:berts:, 'user', 'b')",
    "INSERT INTO messages (id, conversation_id, role, content, created_at)"
    " VALUES (:annes_message:, :annes:, 'user', 'b', now()) ON CONFLICT (id, created_at) DO UPDATE SET content = 'b'",
    "UPDATE messages SET content = 'b' WHERE id = :annes_message:",
    "UPDATE messages SET conversation_id = :berts: WHERE conversation_id = :annes:",
    "UPDATE messages SET conversation_id = :annes:, created_at = created_at - interval '400 days'",
    "DELETE FROM messages WHERE conversation_id <> :berts:",
    "UPDATE profiles SET id = :bert: WHERE id = :anne:",
    "UPDATE profiles SET subscription_tier = 'free' WHERE id = :anne:",
    "DELETE FROM profiles WHERE id = :anne:",
    "INSERT INTO profiles (id) VALUES (:anne:) ON CONFLICT (id) DO UPDATE SET subscription_tier = 'free'",
    "WITH gone AS (DELETE FROM conversations WHERE id = :annes: RETURNING id)"
    " INSERT INTO conversations (id, user_id) SELECT id, :bert: FROM gone",
]


async def hers(house: House) -> list[Any]:
    return await all_of(house.sql, house.anne)


@pytest.mark.parametrize("role", ["authenticated", "anon"])
async def test_no_statement_of_a_user_touches_what_is_somebody_elses(house: House, role: str) -> None:
    before = await hers(house)
    for statement in ATTEMPTS:
        outcome = await house.attempt(statement, role)
        assert outcome in HARMLESS | REFUSED, (statement, outcome)
        assert await hers(house) == before, statement
    # On Bert's own rows the same statements work.
    if role == "authenticated":
        assert await house.attempt("UPDATE conversations SET title = 'b' WHERE id = :berts:") == "UPDATE 1"
        assert await house.attempt("DELETE FROM conversations WHERE id = :berts:") == "DELETE 1"


async def tables_of_sync(sql: Any) -> list[str]:
    """Partitions too, and those of `messages`."""
    found = await sql.fetch(
        "SELECT oid::regclass::text AS name FROM pg_class"
        " WHERE (relnamespace = 'sync'::regnamespace OR relispartition) AND relkind IN ('r', 'p') ORDER BY 1"
    )
    return [row["name"] for row in found]


@pytest.mark.parametrize("role", ["authenticated", "anon"])
async def test_a_user_has_no_right_on_any_table_of_the_schema_sync(house: House, role: str) -> None:
    names = await tables_of_sync(house.sql)
    assert {"sync.clients", "sync.feeds", "sync.log", "sync.meta", "messages_default"} <= set(names)
    before = await hers(house)
    for name in names:
        column = await house.sql.fetchval(
            "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum = 1", name
        )
        for statement in (
            f"SELECT FROM {name}",
            f"INSERT INTO {name} SELECT * FROM {name}",
            f"INSERT INTO {name} DEFAULT VALUES",
            f"UPDATE {name} SET {column} = {column}",
            f"DELETE FROM {name}",
            f"TRUNCATE {name}",
            f"LOCK TABLE {name}",
        ):
            assert await house.attempt(statement, role) == "InsufficientPrivilegeError", statement
    assert await hers(house) == before


async def functions_of_sync(sql: Any, role: str) -> dict[str, bool]:
    """Each function of the schema, and whether this role may execute it, could it but reach it."""
    found = await sql.fetch(
        "SELECT oid::regprocedure::text AS name, has_function_privilege($1, oid, 'EXECUTE') AS may FROM pg_proc"
        " WHERE pronamespace = 'sync'::regnamespace AND prorettype <> 'trigger'::regtype",
        role,
    )
    return {row["name"].partition("(")[0]: row["may"] for row in found}


@pytest.mark.parametrize("role", ["authenticated", "anon"])
async def test_a_user_executes_no_function_that_pushes(house: House, role: str) -> None:
    """Not even after a careless GRANT of the schema's usage, as a dashboard may make it."""
    functions = await functions_of_sync(house.sql, role)
    assert {"sync.push", "sync.apply", "sync.record"} <= set(functions)
    for name in ("sync.push", "sync.apply", "sync.record", "sync.ensure_partitions"):
        assert not functions[name], name
    for opened in (False, True):
        if opened:
            await house.sql.execute(f"GRANT USAGE ON SCHEMA sync TO {role}")
        for name in ("push", "apply"):
            arguments = await house.sql.fetchval(
                "SELECT string_agg('NULL::' || format_type(kind, NULL), ', ' ORDER BY place) FROM pg_proc,"
                " unnest(proargtypes) WITH ORDINALITY AS given (kind, place)"
                " WHERE pronamespace = 'sync'::regnamespace AND proname = $1",
                name,
            )
            assert await house.attempt(f"SELECT FROM sync.{name}({arguments})", role) == "InsufficientPrivilegeError"


async def test_a_function_with_its_owners_rights_looks_names_up_only_in_schemas_that_no_other_role_writes(
    every_database: Database,
) -> None:
    """Else a table of the caller's, of the same name, would be taken for the app's."""
    async with administrator(every_database) as sql:
        found = await sql.fetch(
            "SELECT oid::regprocedure::text AS name, proconfig FROM pg_proc"
            " WHERE pronamespace = 'sync'::regnamespace AND prosecdef"
        )
        assert found
        for row in found:
            (path,) = [setting for setting in row["proconfig"] or [] if setting.startswith("search_path=")]
            schemas = [schema.strip().strip('"') for schema in path.removeprefix("search_path=").split(",")]
            assert schemas == [""] or schemas[-1] == "pg_temp", row["name"]


# ---- The server's own login ----------------------------------------------------------------------------------------


async def test_the_servers_login_writes_nothing_but_by_sync_push(house: House) -> None:
    before = await hers(house)
    login = await asyncpg.connect(house.database.server_url)
    try:
        tables = ["profiles", "conversations", "messages", *await tables_of_sync(house.sql)]
        for name in tables:
            column = await house.sql.fetchval(
                "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND attidentity = ''",
                name,
            )
            for statement in (
                f"INSERT INTO {name} DEFAULT VALUES",
                f"UPDATE {name} SET {column} = {column}",
                f"DELETE FROM {name}",
                f"TRUNCATE {name}",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await login.execute(statement)
        for role in ("postgres", "authenticated", "service_role"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await login.execute(f"SET ROLE {role}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await login.execute("CREATE TRIGGER mine AFTER INSERT ON messages EXECUTE FUNCTION sync.message_changed()")
    finally:
        await login.close()
    functions = await functions_of_sync(house.sql, "atlas_server")
    assert functions["sync.push"]
    assert not functions["sync.apply"]
    assert not functions["sync.record"]
    assert not functions["sync.ensure_partitions"]
    assert await hers(house) == before
