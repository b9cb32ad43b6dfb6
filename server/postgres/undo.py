"""Takes away what `migrate` brought, and leaves the app's data: its tables are as they were before."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import asyncpg
import orjson

from server.errors import UnfitError
from server.operations.catalog import ENABLING, INSTANTS, OLD, Facts, Step
from server.operations.swap import grant, policies_elsewhere, views
from server.postgres.adopt import Listener, facts_of, take, turn
from server.postgres.connection import connect_as_owner, statement
from server.postgres.errors import translated
from server.postgres.patience import LOCK

KEY: Final = "atlas_undo_pkey"
ASIDE: Final = "atlas_undo"
"""A schema for the moment in which both tables are there under one name."""
TRIGGERS: Final = ("atlas_sync_record", "atlas_sync_record_update", "atlas_sync_refuse_truncate")
TABLES: Final = ("profiles", "conversations", "messages")


async def look(url: str) -> list[Step]:
    """What would be done. Changes nothing. Raises UnavailableError, UnfitError."""
    connection = await connect_as_owner(url)
    try:
        with translated():
            return await _steps(connection)
    finally:
        connection.terminate()


async def undo(url: str, listener: Listener) -> None:
    """Do it. Interrupted anywhere, it goes on where it was. Raises UnavailableError, UnfitError."""
    connection = await connect_as_owner(url)
    try:
        await turn(connection, LOCK, listener)
        while steps := await _steps(connection):
            await take(connection, url, steps[0], listener, _steps)
    except asyncpg.UniqueViolationError as error:
        raise UnfitError(
            "One message id is there more than once, at different instants, which the old primary key cannot hold. "
            "Find such by SELECT id FROM sync.all_messages GROUP BY id HAVING count(*) > 1, delete all but one, then "
            "undo again."
        ) from error
    except asyncpg.PostgresError as error:
        # Without its DETAIL, which may quote a row.
        raise UnfitError(f"It stopped: {error.args[0]}") from error
    finally:
        await connection.close(timeout=5)


async def _steps(connection: Any) -> list[Step]:
    if not await connection.fetchval("SELECT to_regclass('sync.migrations') IS NOT NULL"):
        if await connection.fetchval("SELECT to_regclass('sync.original') IS NOT NULL") and await connection.fetchval(
            "SELECT EXISTS (SELECT FROM sync.original)"
        ):
            raise UnfitError(
                "A migration of this database was interrupted. Let `atlas-sync migrate` end it, then undo."
            )
        return []
    ours = orjson.loads(await connection.fetchval(statement("undo")))
    facts = await facts_of(connection)
    original = ours["original"] or {"tables": None}
    if not ours["adopted"]:
        return [_leave(ours, facts, original)]
    _check(facts)
    return [*_prepare(ours, original), _restore(ours, facts, original)]


def _check(facts: Facts) -> None:
    """Raises UnfitError for what came to depend on the partitioned messages."""
    bound = [
        *(facts["referenced_by"] or ()),
        *(facts["functions"] or ()),
        *(facts["row_functions"] or ()),
        *(view["name"] for view in facts["views"] or () if view["kind"] != "v"),
    ]
    if bound:
        raise UnfitError(f"These depend on public.messages: {', '.join(bound)}. Drop them, undo, make them again.")


def _prepare(ours: Mapping[str, Any], original: Facts) -> Iterator[Step]:
    """What needs long, for the old table to stand by itself again."""
    beside = "SHARE UPDATE EXCLUSIVE on the old messages, beside readers and writers"
    primary = _original_key(original, "p")
    if primary is not None:
        known = (ours["indexes"] or {}).get(KEY)
        if known is False:
            yield Step(f"drop what is left of {KEY}", beside, (f"DROP INDEX CONCURRENTLY sync.{KEY}",), "index")
        if not known:
            columns = primary["def"].removeprefix("PRIMARY KEY ")
            build = f"CREATE UNIQUE INDEX CONCURRENTLY {KEY} ON {OLD} {columns}"
            yield Step("build the old primary key", beside, (build,), "index")
    foreign = _original_key(original, "f")
    if foreign is not None and not foreign["cascades"]:
        known = (ours["keys"] or {}).get(foreign["name"])
        if known is None:
            # A version whose search path had public remembered it without that.
            leads = foreign["def"].replace("REFERENCES conversations(", "REFERENCES public.conversations(")
            add = f"ALTER TABLE {OLD} ADD CONSTRAINT {foreign['name']} {leads} NOT VALID"
            yield Step("add the old foreign key", "SHARE ROW EXCLUSIVE on messages and conversations", (add,))
        if not known:
            validate = f"ALTER TABLE {OLD} VALIDATE CONSTRAINT {foreign['name']}"
            yield Step("validate it: read messages", beside, (validate,), "scan")


def _restore(ours: Mapping[str, Any], facts: Facts, original: Facts) -> Step:
    """The old table takes up what was written since, and its place."""
    columns = ", ".join(ours["columns"])
    others = [part for part in ours["partitions"] if part["name"] != OLD]
    since = sum(part["rows"] for part in others)
    primary = _original_key(original, "p")
    foreign = _original_key(original, "f")
    triggers = [trigger for trigger in facts["triggers"] or () if trigger["name"] not in TRIGGERS]
    statements = [
        "LOCK TABLE public.profiles, public.conversations, public.messages, public.messages_archive "
        "IN ACCESS EXCLUSIVE MODE",
        "DROP VIEW sync.all_messages",
        f"DROP TRIGGER IF EXISTS atlas_sync_refuse_truncate ON {OLD}",
        f"ALTER TABLE public.{_parent(ours)} DETACH PARTITION {OLD}",
        f"INSERT INTO {OLD} ({columns}) SELECT {columns} FROM public.messages",
        f"INSERT INTO {OLD} ({columns}) SELECT {columns} FROM public.messages_archive",
        f"CREATE SCHEMA {ASIDE}",
        *(f"ALTER SEQUENCE public.{sequence['name']} OWNED BY NONE" for sequence in facts["sequences"] or ()),
        f"ALTER TABLE public.messages SET SCHEMA {ASIDE}",
        f"ALTER TABLE {OLD} SET SCHEMA public",
        "ALTER TABLE public.messages_v1 RENAME TO messages",
        "ALTER TABLE public.messages DROP CONSTRAINT messages_v1_pkey",
        *(
            [f"ALTER TABLE public.messages ADD CONSTRAINT {primary['name']} PRIMARY KEY USING INDEX {KEY}"]
            if primary is not None
            else []
        ),
        *(
            [f"ALTER TABLE public.messages REPLICA IDENTITY USING INDEX {primary['name']}"]
            if primary is not None and original["tables"]["messages"].get("told_by_key")
            else []
        ),
        *(
            f"ALTER SEQUENCE public.{sequence['name']} OWNED BY public.messages.{sequence['column']}"
            for sequence in facts["sequences"] or ()
        ),
        *(["ALTER TABLE public.messages DROP CONSTRAINT atlas_messages_v1_conversation"] if not _kept(foreign) else []),
        "DROP INDEX public.atlas_messages_v1_newest",
        *views(facts),
        *policies_elsewhere(facts),
        f"DROP TABLE {ASIDE}.messages",
        f"DROP SCHEMA {ASIDE}",
        *(trigger["def"] for trigger in triggers),
        *(
            f"ALTER TABLE public.messages {ENABLING[trigger['enabled']]} TRIGGER {trigger['name']}"
            for trigger in triggers
            if trigger["enabled"] != "O"
        ),
        *_columns(original),
        *_close_doors(ours, facts, original),
        "DROP TABLE public.messages_archive",
        *_end(original),
    ]
    return Step(
        f"put the old messages back, with the rows that were written since (some {since}), and drop schema sync",
        "ACCESS EXCLUSIVE on the three tables, while those rows are copied",
        tuple(statements),
    )


def _leave(ours: Mapping[str, Any], facts: Facts, original: Facts) -> Step:
    """`messages` was partitioned before us, or came with us: it stays so, and its partitions move out of our schema."""
    statements = [
        "LOCK TABLE public.profiles, public.conversations, public.messages, public.messages_archive "
        "IN ACCESS EXCLUSIVE MODE"
    ]
    statements.append("DROP VIEW sync.all_messages")
    for part in ours["partitions"] or ():
        if part["parent"] == "messages_archive":
            statements += [
                f"ALTER TABLE public.messages_archive DETACH PARTITION {part['name']}",
                f"ALTER TABLE public.messages ATTACH PARTITION {part['name']} {part['bounds']}",
            ]
        if part["name"].startswith("sync."):
            statements.append(f"ALTER TABLE {part['name']} SET SCHEMA public")
    statements += _columns(original)
    statements += _close_doors(ours, facts, original)
    statements.append("DROP TABLE public.messages_archive")
    statements += _end(original)
    return Step(
        "take triggers and policies away, move the partitions of messages to schema public, and drop schema sync",
        "ACCESS EXCLUSIVE on the three tables",
        tuple(statements),
    )


def _columns(original: Facts) -> Iterator[str]:
    """Defaults, NOT NULL and the column that came with us."""
    if original["tables"] is None or "messages" not in original["tables"]:
        return
    before = original["columns"]
    for column in INSTANTS:
        table, name = column.split(".")
        if column in before and not before[column]["required"]:
            yield f"ALTER TABLE public.{table} ALTER COLUMN {name} DROP NOT NULL"
        if column in before and before[column]["default"] is None:
            yield f"ALTER TABLE public.{table} ALTER COLUMN {name} DROP DEFAULT"
    if "messages.updated_at" not in before:
        yield "ALTER TABLE public.messages DROP COLUMN updated_at"


def _close_doors(ours: Mapping[str, Any], facts: Facts, original: Facts) -> Iterator[str]:
    """Policies, rights and indexes that came with us."""
    for policy in ours["policies"] or ():
        # The old messages never had ours: those went with the partitioned one.
        if not (ours["adopted"] and policy["tab"] == "public.messages"):
            yield f"DROP POLICY {policy['name']} ON {policy['tab']}"
    before = original["tables"] or {}
    for table in TABLES:
        if table in before and not before[table]["secured"] and not (ours["adopted"] and table == "messages"):
            yield f"ALTER TABLE public.{table} DISABLE ROW LEVEL SECURITY"
    granted = {
        grant(entry): entry
        for kind in ("grants", "column_grants")
        for entry in facts[kind] or ()
        if not (ours["adopted"] and entry["tab"] == "messages")
    }
    kept = {grant(entry) for kind in ("grants", "column_grants") for entry in original.get(kind) or ()}
    for text, entry in granted.items():
        if text not in kept and entry["to"] in ("authenticated", "atlas_sync"):
            yield text.replace("GRANT ", "REVOKE ", 1).replace(" TO ", " FROM ").removesuffix(" WITH GRANT OPTION")
    for role in ("authenticated", "atlas_sync"):
        if role in (ours["usage"] or ()) and role not in (original.get("usage") or ()):
            yield f"REVOKE USAGE ON SCHEMA public FROM {role}"
    known = {index["name"] for index in original.get("indexes") or ()}
    for name, table in (("conversations_newest", "conversations"), ("messages_newest", "messages")):
        if name not in known and table in before and not (ours["adopted"] and table == "messages"):
            yield f"DROP INDEX IF EXISTS public.{name}"


def _end(original: Facts) -> Iterator[str]:
    # What is left of messages in there would be dropped with it.
    yield (
        "DO $$ BEGIN IF EXISTS (SELECT FROM sync.partitions WHERE parent LIKE 'messages%' "
        "AND partition::text LIKE 'sync.%') THEN "
        "RAISE EXCEPTION 'There is a partition of messages that was not looked at. Undo again.'; END IF; END $$"
    )
    yield "DROP SCHEMA sync CASCADE"
    if original.get("auth") is False:
        # Unless the app has come to use it.
        yield (
            "DO $$ BEGIN DROP FUNCTION auth.uid(); DROP SCHEMA auth; "
            "EXCEPTION WHEN dependent_objects_still_exist THEN NULL; END $$"
        )


def _parent(ours: Mapping[str, Any]) -> str:
    return next(str(part["parent"]) for part in ours["partitions"] if part["name"] == OLD)


def _original_key(original: Facts, kind: str) -> Mapping[str, Any] | None:
    """The old primary key, or the old foreign key to conversations."""
    return next(
        (
            k
            for k in original.get("constraints") or ()
            if k["tab"] == "messages" and k["kind"] == kind and (kind == "p" or k["columns"] == ["conversation_id"])
        ),
        None,
    )


def _kept(foreign: Mapping[str, Any] | None) -> bool:
    """The app's own foreign key did what ours does."""
    return foreign is not None and bool(foreign["cascades"])
