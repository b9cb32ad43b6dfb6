"""How Atlas Sync is taken out of a database: the steps that give the app its tables back. Pure."""

from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from server.declaration.sql import publication
from server.declaration.sql.pieces import quoted
from server.exceptions import UnfitError
from server.operations import publications
from server.operations.catalog import (
    CASCADE,
    CLOSED,
    INSTANTS,
    OLD,
    UPDATED,
    Constraint,
    Facts,
    Grant,
    Step,
    foreign_keys,
    of,
    parked,
    primary_key,
)
from server.operations.swap import enabling, grant, own_indexes, policies_elsewhere, revoke, views

KEY: Final = "atlas_undo_pkey"
ASIDE: Final = "atlas_undo"
"""A schema that holds the partitioned table for a moment, while both tables have one name."""
TABLES: Final = ("profiles", "conversations", "messages")
OURS: Final = "atlas_sync"
"""The server's role. What it may do, only Atlas Sync has granted."""
ROLES: Final = ("authenticated", OURS)
"""Roles to which migrations grant rights."""
CHAT: Final = ("public.profiles", "public.conversations", "public.messages", "public.messages_archive")
WRITE_STREAMS: Final = (
    "DO $$ BEGIN IF to_regprocedure('sync.close_streams(jsonb)') IS NOT NULL THEN "
    "PERFORM sync.close_streams('{}'); END IF; END $$"
)
"""What is streamed goes into its rows. Earlier versions had no streams."""
UNPLANNED: Final = (
    "DO $$ BEGIN IF EXISTS (SELECT FROM sync.partitions WHERE parent LIKE 'messages%' "
    "AND partition::text LIKE 'sync.%') THEN "
    "RAISE EXCEPTION 'A partition of messages was created meanwhile. Undo again.'; END IF; END $$"
)
"""A partition of messages that an earlier version made in schema sync would be dropped with it."""
DROP_AUTH: Final = (
    "DO $$ BEGIN DROP FUNCTION auth.uid(); DROP SCHEMA auth; "
    "EXCEPTION WHEN dependent_objects_still_exist THEN NULL; END $$"
)
"""Unless the app has come to use it."""


class Partition(Struct, frozen=True):
    """A partition of messages or of messages_archive."""

    parent: str
    name: str
    rows: int
    """As estimated by Postgres."""
    bounds: str


class OurPolicy(Struct, frozen=True):
    name: str
    table: str = field(name="tab")


class Other(Struct, frozen=True):
    """A table that Atlas Sync only gave these."""

    table: str = field(name="tab")
    triggers: tuple[str, ...] = ()
    policy: bool = False
    granted: bool = False
    """Rights of the server's role."""


class Installed(Struct, frozen=True):
    """What Atlas Sync has put into a database besides the structure of the app's tables: the answer of sql/undo.sql."""

    adopted: bool
    """The app's own messages is a partition; else the tables were created, or partitioned, before adoption."""
    original: Facts | None = None
    """The app's tables before the first migration; None if a version migrated them that did not record that."""
    columns: tuple[str, ...] = ()
    """Of messages, without generated ones."""
    partitions: tuple[Partition, ...] = ()
    guards: tuple[str, ...] = ()
    """Our triggers of the old table that it does not inherit from its parent."""
    policies: tuple[OurPolicy, ...] = ()
    indexes: dict[str, bool] = {}
    """Of the old table: whether each is valid."""
    keys: dict[str, bool] = {}
    """Foreign keys of the old table: whether each is validated."""
    publications: tuple[str, ...] = ()
    """Those that name the old table, and whose owner's rights this login has."""
    usage: tuple[str, ...] = ()
    """Roles that have USAGE on schema public."""
    partitioned: bool = True
    """messages is partitioned, and has an archive."""
    others: tuple[Other, ...] = ()
    """Tables that are declared, without the chat schema if that is partitioned."""
    schemas: tuple[str, ...] = ()
    """Schemas of the app that the server's role may use."""
    published: bool = False
    """There is a publication of ours."""


def plan(installed: Installed, facts: Facts) -> list[Step]:
    """The steps that are left, in order. Raises UnfitError."""
    original = _without_ours(installed.original or Facts(now=facts.now))
    if not installed.partitioned:
        return [_take_away(installed)]
    if not installed.adopted:
        return [_leave(installed, facts, original)]
    _check(facts)
    return [*_prepare(installed, original), _restore(installed, facts, original)]


def _without_ours(original: Facts) -> Facts:
    """Tables that are partitioned later had been declared before."""
    return replace(
        original,
        grants=tuple(entry for entry in original.grants if entry.role != OURS),
        column_grants=tuple(entry for entry in original.column_grants if entry.role != OURS),
        usage=tuple(role for role in original.usage if role != OURS),
    )


def _lock(tables: Iterable[str]) -> str:
    return f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE"


def _lock_all(installed: Installed) -> str:
    return _lock((*CHAT, *(other.table for other in installed.others)))


def _take_away(installed: Installed) -> Step:
    """Nothing of the app's was changed: what was added goes."""
    statements = [
        *([_lock(other.table for other in installed.others)] if installed.others else []),
        WRITE_STREAMS,
        *_unpublish(installed),
        *_others(installed),
        *(f"REVOKE USAGE ON SCHEMA {schema} FROM {OURS}" for schema in installed.schemas),
        "DROP SCHEMA sync CASCADE",
    ]
    names = ", ".join(other.table for other in installed.others)
    return Step(
        f"drop our triggers, policies and rights{f' of {names}' if names else ''}, and schema sync",
        "ACCESS EXCLUSIVE on these tables" if names else "none",
        tuple(statements),
    )


def _unpublish(installed: Installed) -> tuple[str, ...]:
    return publication.DROP if installed.published else ()


def _others(installed: Installed) -> Iterator[str]:
    """Take away what tables have that are only declared."""
    for other in installed.others:
        for trigger in other.triggers:
            yield f"DROP TRIGGER {trigger} ON {other.table}"
        if other.policy:
            yield f"DROP POLICY atlas_sync_reads ON {other.table}"
        if other.granted:
            yield f"REVOKE ALL ON {other.table} FROM {OURS}"


def _check(facts: Facts) -> None:
    """Raises UnfitError for objects that depend on the partitioned messages."""
    dependents = [
        *facts.referenced_by,
        *facts.functions,
        *facts.row_functions,
        *(view.name for view in facts.views if view.kind != "v"),
    ]
    if dependents:
        raise UnfitError(
            f"These depend on public.messages: {', '.join(dependents)}. Drop them, undo, create them again."
        )


def _prepare(installed: Installed, original: Facts) -> Iterator[Step]:
    """The steps that take long, so that the old table can stand alone again."""
    beside = "SHARE UPDATE EXCLUSIVE on the old messages, beside readers and writers"
    primary = primary_key(original)
    if primary is not None:
        valid = installed.indexes.get(KEY)
        if valid is False:
            drop = f"DROP INDEX CONCURRENTLY public.{KEY}"
            yield Step(f"drop the unfinished index {KEY}", beside, (drop,), "index")
        if not valid:
            columns = primary.definition.removeprefix("PRIMARY KEY ")
            build = f"CREATE UNIQUE INDEX CONCURRENTLY {KEY} ON {OLD} {columns}"
            yield Step("build the old primary key", beside, (build,), "index")
    foreign = _original_foreign_key(original)
    if foreign is not None and not foreign.cascades:
        validated = installed.keys.get(foreign.name)
        if validated is None:
            # A version whose search path included public recorded the definition without that schema.
            definition = foreign.definition.replace("REFERENCES conversations(", "REFERENCES public.conversations(")
            add = f"ALTER TABLE {OLD} ADD CONSTRAINT {foreign.name} {definition} NOT VALID"
            yield Step("add the old foreign key", "SHARE ROW EXCLUSIVE on messages and conversations", (add,))
        if not validated:
            validate = f"ALTER TABLE {OLD} VALIDATE CONSTRAINT {foreign.name}"
            yield Step("validate the foreign key: read messages", beside, (validate,), "scan")


def _restore(installed: Installed, facts: Facts, original: Facts) -> Step:
    """The old table receives the rows that were written since adoption, and its name."""
    columns = ", ".join(installed.columns)
    (old,) = (part for part in installed.partitions if part.name.endswith(".messages_v1"))
    since = sum(part.rows for part in installed.partitions if part is not old)
    primary = primary_key(original)
    foreign = _original_foreign_key(original)
    triggers = [trigger for trigger in facts.triggers if not trigger.ours]
    key_again = []
    if primary is not None:
        add = f"ALTER TABLE public.messages ADD CONSTRAINT {primary.name} PRIMARY KEY USING INDEX {KEY}"
        key_again.append(add)
        if original.tables["messages"].identified_by_index:
            key_again.append(f"ALTER TABLE public.messages REPLICA IDENTITY USING INDEX {primary.name}")
    cascade = [] if foreign is not None and foreign.cascades else [CASCADE]
    statements = [
        _lock_all(installed),
        WRITE_STREAMS,
        *_unpublish(installed),
        "DROP VIEW sync.all_messages",
        *(f"DROP TRIGGER {guard} ON {OLD}" for guard in installed.guards),
        f"ALTER TABLE public.{old.parent} DETACH PARTITION {OLD}",
        # Subscribers have the rows that are copied.
        *publications.forget_old(installed.publications),
        f"INSERT INTO {OLD} ({columns}) SELECT {columns} FROM public.messages",
        f"INSERT INTO {OLD} ({columns}) SELECT {columns} FROM public.messages_archive",
        f"CREATE SCHEMA {ASIDE}",
        *(f"ALTER SEQUENCE public.{sequence.name} OWNED BY NONE" for sequence in facts.sequences),
        f"ALTER TABLE public.messages SET SCHEMA {ASIDE}",
        f"ALTER TABLE {OLD} RENAME TO messages",
        *_index_names(installed, original),
        "ALTER TABLE public.messages DROP CONSTRAINT messages_v1_pkey",
        *key_again,
        *(
            f"ALTER SEQUENCE public.{sequence.name} OWNED BY public.messages.{sequence.column}"
            for sequence in facts.sequences
        ),
        *(f"ALTER TABLE public.messages DROP CONSTRAINT {name}" for name in cascade),
        "DROP INDEX public.atlas_messages_v1_newest",
        *views(facts),
        *policies_elsewhere(facts),
        f"DROP TABLE {ASIDE}.messages",
        f"DROP SCHEMA {ASIDE}",
        *_open(original),
        *publications.restore(facts, original),
        *(trigger.definition for trigger in triggers),
        *enabling(triggers),
        *_columns(original),
        *_take_access_back(installed, facts, original),
        *_others(installed),
        "DROP TABLE public.messages_archive",
        *_end(original),
    ]
    return Step(
        f"put the old messages back, with the rows written since (about {since}), and drop schema sync",
        "ACCESS EXCLUSIVE on the three tables, while those rows are copied",
        tuple(statements),
    )


def _index_names(installed: Installed, original: Facts) -> Iterator[str]:
    """Give the app's indexes the names again that those of the partitioned table had meanwhile."""
    there = {quoted(name) for name in installed.indexes}
    for index in own_indexes(original):
        if (name := parked(index.name)) in there:
            yield f"ALTER INDEX public.{name} RENAME TO {index.name}"


def _open(original: Facts) -> Iterator[str]:
    """Give the old table its rights again, and the row level security that it had."""
    yield f"DROP POLICY IF EXISTS {CLOSED} ON public.messages"
    if not original.tables["messages"].secured:
        yield "ALTER TABLE public.messages DISABLE ROW LEVEL SECURITY"
    yield from map(_grant_as_before, of((*original.grants, *original.column_grants), "messages"))


def _grant_as_before(entry: Grant) -> str:
    """By the role that granted it, if this login may act as that one; else by the owner."""
    if entry.grantor is None:
        return grant(entry)
    return (
        f"DO $$ BEGIN SET LOCAL ROLE {entry.grantor}; {grant(entry)}; RESET ROLE; "
        f"EXCEPTION WHEN insufficient_privilege THEN {grant(entry)}; END $$"
    )


def _leave(installed: Installed, facts: Facts, original: Facts) -> Step:
    """`messages` was partitioned before, or a migration created it: it stays, and its partitions leave our schema."""
    statements = [_lock_all(installed), WRITE_STREAMS, *_unpublish(installed), "DROP VIEW sync.all_messages"]
    for part in installed.partitions:
        if part.parent == "messages_archive":
            statements += [
                f"ALTER TABLE public.messages_archive DETACH PARTITION {part.name}",
                f"ALTER TABLE public.messages ATTACH PARTITION {part.name} {part.bounds}",
            ]
    statements += [
        *_columns(original),
        *_take_access_back(installed, facts, original),
        *_others(installed),
        "DROP TABLE public.messages_archive",
        *_end(original),
    ]
    return Step(
        "drop our triggers and policies, make archived partitions those of messages again, and drop schema sync",
        "ACCESS EXCLUSIVE on the three tables",
        tuple(statements),
    )


def _columns(original: Facts) -> Iterator[str]:
    """Take back defaults, NOT NULL and the column that adoption added."""
    if "messages" not in original.tables:
        return
    for column in INSTANTS:
        table, name = column.split(".")
        if (before := original.columns.get(column)) is not None:
            if not before.required:
                yield f"ALTER TABLE public.{table} ALTER COLUMN {name} DROP NOT NULL"
            if before.default is None:
                yield f"ALTER TABLE public.{table} ALTER COLUMN {name} DROP DEFAULT"
    if UPDATED not in original.columns:
        yield "ALTER TABLE public.messages DROP COLUMN updated_at"


def _take_access_back(installed: Installed, facts: Facts, original: Facts) -> Iterator[str]:
    """Take back the policies, rights and indexes that migrations added."""

    def gone(table: str) -> bool:
        """The partitioned table is dropped; the old one never had any of these."""
        return installed.adopted and table == "messages"

    for policy in installed.policies:
        if not gone(policy.table.removeprefix("public.")):
            yield f"DROP POLICY {policy.name} ON {policy.table}"
    for name in TABLES:
        if name in original.tables and not original.tables[name].secured and not gone(name):
            yield f"ALTER TABLE public.{name} DISABLE ROW LEVEL SECURITY"
    kept = {grant(entry) for entry in (*original.grants, *original.column_grants)}
    for entry in (*facts.grants, *facts.column_grants):
        if entry.role in ROLES and grant(entry) not in kept and not gone(entry.table):
            yield revoke(entry)
    for role in ROLES:
        if role in installed.usage and role not in original.usage:
            yield f"REVOKE USAGE ON SCHEMA public FROM {role}"
    for schema in installed.schemas:
        if schema != "public":
            yield f"REVOKE USAGE ON SCHEMA {schema} FROM {OURS}"
    known = {index.name for index in original.indexes}
    for name, table in (("conversations_newest", "conversations"), ("messages_newest", "messages")):
        if name not in known and table in original.tables and not gone(table):
            yield f"DROP INDEX IF EXISTS public.{name}"


def _end(original: Facts) -> Iterator[str]:
    yield UNPLANNED
    yield "DROP SCHEMA sync CASCADE"
    if original.auth is False:
        yield DROP_AUTH


def _original_foreign_key(original: Facts) -> Constraint | None:
    """That from messages to conversations."""
    return next(iter(foreign_keys(original)), None)
