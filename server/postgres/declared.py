"""The declaration that a database has, and how it gets another one."""

from dataclasses import dataclass
from typing import Any, Final

import msgspec
import orjson

from server.declaration.changes import Change, Need, changes, evidence
from server.declaration.chat import CHAT
from server.declaration.model import Declaration, Table
from server.declaration.sql import recording, rights, streaming
from server.declaration.sql.generated import Generated, drop_function, functions, generate
from server.declaration.sql.pieces import literal, quoted, table
from server.operations.catalog import Step
from server.postgres.lock_retry import past_autovacuum, retry_locks
from server.postgres.steps import LONG, PATIENCE, Progress

DECLARING: Final = Step("declare what is synced", "ACCESS EXCLUSIVE on the tables whose triggers change", ())
LOOKING: Final = Step("look for rows that devices lack", "none", (), "scan")
LOCK_SECONDS: Final = 0.2
"""For so long the locks of all tables together are waited for. Meanwhile writers of the first of them wait too."""
SHORTEST_LOCK: Final = 0.02
"""Seconds for the lock of one table, however many there are."""
FORMER_FUNCTIONS: Final = """
    DROP FUNCTION IF EXISTS sync.profile_changed(), sync.conversation_changed(), sync.message_changed();
"""
"""Those of databases from before the declaration."""
UNREADABLE: Final = """
    SELECT array_agg(name) FROM unnest($1::text[]) AS name JOIN pg_class c ON c.oid = to_regclass(name)
    WHERE c.relrowsecurity
      AND NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'atlas_sync_reads')
"""
"""Tables with row level security that the server's role cannot read yet."""
TRIGGERS: Final = """
    SELECT t AS of, g.tgname::text AS name, format('%I.%I', n.nspname, c.relname) AS tab
    FROM unnest($1::text[]) AS t CROSS JOIN LATERAL (
        SELECT to_regclass(t) AS relid
        UNION SELECT p.relid FROM pg_partition_tree(to_regclass(t)) p WHERE t = ANY ($2::text[])
    ) AS of
    JOIN pg_trigger g ON g.tgrelid = of.relid AND g.tgparentid = 0 AND g.tgname = ANY ($3::text[])
    JOIN pg_class c ON c.oid = g.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
"""
"""Our triggers of tables, and of the partitions of some of them. Triggers of statements are each partition's own."""
STALE_VIEWS: Final = """
    SELECT format('sync.%I', c.relname) FROM pg_class c
    WHERE c.relnamespace = 'sync'::regnamespace AND c.relkind = 'v' AND c.relname LIKE 'all\\_%'
      AND NOT EXISTS (
          SELECT FROM jsonb_each($1::text::jsonb) AS w (rel, names)
          WHERE w.rel = c.relname AND w.names = (
              SELECT jsonb_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0))
"""
"""Views over archives whose columns, or which, are not needed any more."""
EXCESS: Final = """
    SELECT w.tab, array_agg(quote_ident(a.attname)) AS names
    FROM jsonb_each($1::text::jsonb) AS w (tab, names)
    JOIN pg_attribute a ON a.attrelid = to_regclass(w.tab) AND NOT w.names ? a.attname::text
    CROSS JOIN LATERAL aclexplode(a.attacl) r
    WHERE r.grantee = 'atlas_sync'::regrole AND NOT a.attisdropped
    GROUP BY w.tab
"""
"""Columns that the server's role may read, and need not. In PostgreSQL 15 one that was dropped keeps its rights."""
HISTORY: Final = "SELECT set_config('atlas_sync.epoch', sync.epoch(), true)"
"""Whatever began a history before is noticed now, and not taken for a consequence of the new triggers."""
IDENTITY: Final = """
    UPDATE sync.histories SET identity = '' WHERE epoch = current_setting('atlas_sync.epoch');
    UPDATE sync.histories SET identity = (SELECT identity FROM sync.identity())
    WHERE epoch = current_setting('atlas_sync.epoch')
"""
"""Other triggers are no other history. The identity depends on the transaction that wrote the first row of this table,
which the first update makes this one."""
BEGIN_HISTORY: Final = """
    LOCK TABLE sync.histories IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO sync.histories (epoch, identity, system, timeline, why)
    SELECT substr(replace(gen_random_uuid()::text, '-', ''), 17), i.identity, i.system, i.timeline, 'schema'
    FROM sync.identity() i
"""
"""Because of another schema: every device gets a snapshot for that reason."""


@dataclass(frozen=True, slots=True)
class Following:
    """A declaration that the database is to follow, and what devices notice of it."""

    declaration: Declaration
    generated: Generated
    changes: list[Change]
    """Against the declaration in force."""
    needs: list[bool]
    """Of each, whether devices need a snapshot, as far as the rows show that were there when this was found."""

    @property
    def snapshot(self) -> bool:
        return any(self.needs)


async def declared(connection: Any) -> Declaration | None:
    """The declaration in force; None if there is none."""
    found = await connection.fetchval("SELECT declared::text FROM sync.declaration")
    return None if found is None else msgspec.json.decode(found, type=Declaration)


async def is_declared(connection: Any, declaration: Declaration) -> bool:
    """Whether the database has this declaration, and what this version makes of it."""
    found = await connection.fetchrow("SELECT digest, checksum FROM sync.declaration WHERE former IS NULL")
    return found is not None and tuple(found) == (declaration.digest, generate(declaration).checksum)


async def following(connection: Any, declaration: Declaration) -> Following:
    """What follows from this declaration. Reads tables beside their writers, whole ones if a column is new."""
    noticed = changes(await _before(connection), declaration)
    needs = [change.need is Need.YES or await _is_true(connection, declaration, change) for change in noticed]
    return Following(declaration, generate(declaration), noticed, needs)


async def _before(connection: Any) -> Declaration | None:
    if not await connection.fetchval("SELECT to_regclass('sync.declaration') IS NOT NULL"):
        return None
    found = await declared(connection)
    if found is None and await connection.fetchval("SELECT EXISTS (SELECT FROM sync.kinds)"):
        return CHAT  # a version migrated it that knew nothing else
    return found


async def _is_true(connection: Any, declaration: Declaration, change: Change) -> bool:
    if change.archive is not None and not await connection.fetchval("SELECT to_regclass($1)", table(change.archive)):
        return True  # it was dropped, with rows that devices may hold
    condition = evidence(declaration, change)
    return condition is not None and bool(await connection.fetchval(f"SELECT {condition}", timeout=LONG))


async def declare(connection: Any, declaration: Declaration, progress: Progress) -> None:
    """Make the database follow the declaration: functions, triggers, rights. Tables that are no longer declared lose
    their triggers. If devices then lack rows or columns, a new history begins, and they get a snapshot.

    It runs in one transaction, in which only tables whose triggers change are locked; writers wait for these locks no
    longer than LOCK_SECONDS. A column that was NULL everywhere is looked at again afterwards: no trigger watched it
    before. Interrupted there, the next call does that. Raises UnfitError if the locks cannot be acquired.
    """
    await _settle(connection, progress)
    if await is_declared(connection, declaration):
        return
    progress.begins(DECLARING)
    wanted = await following(connection, declaration)

    async def at_once() -> None:
        tables = await _changed(connection, wanted.generated)
        async with past_autovacuum(connection, "sync.declaration", "sync.streams", *tables):
            await _declare(connection, wanted, await _changed(connection, wanted.generated))

    await retry_locks(at_once, PATIENCE, lambda why: progress.waits(DECLARING, why))
    progress.ends(DECLARING)
    await _settle(connection, progress)


async def _settle(connection: Any, progress: Progress) -> None:
    """Look for values that were written into new columns before triggers watched them."""
    found = await connection.fetchrow(
        "SELECT declared::text, former::text FROM sync.declaration WHERE former IS NOT NULL"
    )
    if found is None:
        return
    now, former = (msgspec.json.decode(each, type=Declaration) for each in found)
    progress.begins(LOOKING)
    missed = [
        change
        for change in changes(former, now)
        if change.need is Need.IF_VALUES and await _is_true(connection, now, change)
    ]

    async def at_once() -> None:
        async with past_autovacuum(connection, "sync.declaration"):
            if missed:
                await connection.execute(BEGIN_HISTORY)
            await connection.execute("UPDATE sync.declaration SET former = NULL")

    await retry_locks(at_once, PATIENCE, lambda why: progress.waits(LOOKING, why))
    progress.ends(LOOKING)


async def changed_tables(connection: Any, declaration: Declaration) -> list[str]:
    """The tables whose triggers change if this is declared, as SQL has them."""
    if await connection.fetchval("SELECT to_regclass('sync.kinds') IS NOT NULL"):
        return await _changed(connection, generate(declaration))
    return list(generate(declaration).triggers_by_name)


async def _changed(connection: Any, generated: Generated) -> list[str]:
    """The tables whose triggers change, as SQL has them: declared ones, and those that were."""
    before = {
        Table(row["nsp"], row["rel"]): row["triggers"]
        for row in await connection.fetch("SELECT nsp, rel, triggers FROM sync.kinds")
    }
    now = generated.trigger_checksums
    changed = [of for of in {**before, **now} if before.get(of) != now.get(of)]
    there = await connection.fetch(
        "SELECT n.nspname, c.relname FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = c.relnamespace JOIN unnest($1::text[], $2::text[]) AS w (nsp, rel) "
        "ON (n.nspname, c.relname) = (w.nsp, w.rel)",
        [of.schema for of in changed],
        [of.name for of in changed],
    )
    return [table(Table(*row)) for row in there]


async def _declare(connection: Any, wanted: Following, changed: list[str]) -> None:
    for text in await declaring(connection, wanted.declaration, changed):
        await connection.execute(text)
    # Now, because the tables whose triggers changed are locked.
    snapshot = wanted.snapshot or any(
        [
            await _is_true(connection, wanted.declaration, each)
            for each in wanted.changes
            if each.need in (Need.IF_ROWS, Need.IF_ARCHIVED)
        ]
    )
    for text in await recording_it(connection, wanted, snapshot=snapshot):
        await connection.execute(text)


async def declaring(connection: Any, declaration: Declaration, changed: list[str]) -> list[str]:
    """The statements that make the database follow the declaration: functions, triggers, rights. The triggers of the
    tables `changed` are replaced, which are locked from there on."""
    generated = generate(declaration)
    views = {f"all_{kind.table.name}": rights.columns(kind) for kind in declaration.kinds if kind.archive is not None}
    known = {table(of): names for of, names in rights.wanted(declaration).items()}
    stale, excess = [], []
    is_migrated = await _is_migrated(connection)
    if is_migrated:
        stale = await connection.fetch(STALE_VIEWS, orjson.dumps(views).decode())
        excess = await connection.fetch(EXCESS, orjson.dumps(known).decode())
    hidden = await connection.fetchval(UNREADABLE, list(generated.triggers_by_name))
    return [
        HISTORY,
        *([streaming.close(await declared(connection), declaration)] if is_migrated else []),
        *(f"DROP VIEW {view}" for (view,) in stale),
        "SET LOCAL check_function_bodies = off",
        generated.definitions,
        *await _replacing_triggers(connection, generated, changed),
        *map(rights.readable, hidden or ()),
        *(f"REVOKE SELECT ({', '.join(names)}) ON {tab} FROM atlas_sync" for tab, names in excess),
    ]


async def recording_it(connection: Any, wanted: Following, *, snapshot: bool) -> list[str]:
    """The statements that come after these: they record what is declared, and begin a history if devices need a
    snapshot."""
    # A new history answers the question of new columns, too.
    unsettled = not snapshot and any(each.need is Need.IF_VALUES for each in wanted.changes)
    gone: list[str] | None = None
    former: str | None = None
    if await _is_migrated(connection):
        gone = await connection.fetchval(
            "SELECT array_agg(proname::text) FROM pg_proc WHERE pronamespace = 'sync'::regnamespace "
            "AND proname ~ '^(record|write)_' AND proname::text <> ALL ($1)",
            list(functions(wanted.declaration)),
        )
        former = await connection.fetchval("SELECT declared::text FROM sync.declaration") if unsettled else None
    return [
        "\n".join([FORMER_FUNCTIONS, *map(drop_function, gone or ()), _record(wanted.declaration)]),
        f"UPDATE sync.declaration SET former = {'NULL' if former is None else literal(former)}",
        BEGIN_HISTORY if snapshot else IDENTITY,
    ]


async def _is_migrated(connection: Any) -> bool:
    return bool(await connection.fetchval("SELECT to_regclass('sync.declaration') IS NOT NULL"))


async def _replacing_triggers(connection: Any, generated: Generated, changed: list[str]) -> list[str]:
    """The statements that replace the triggers of these tables, which are locked until the transaction ends."""
    now = generated.triggers_by_name
    undeclared = [name for name in changed if name not in now]
    stale = await connection.fetch(TRIGGERS, changed, undeclared, list(recording.TRIGGERS))
    had = {row["of"] for row in stale}
    found: list[str] = []
    # Together, before any of them is altered: no table is locked while another one's lock is waited for in vain.
    if changed:
        patience = max(LOCK_SECONDS / len(changed), SHORTEST_LOCK)
        found.append(f"SET LOCAL lock_timeout = '{patience * 1000:.0f}ms'")
        for name in changed:
            mode = "ACCESS EXCLUSIVE" if name in had else "SHARE ROW EXCLUSIVE"
            found.append(f"LOCK TABLE {name} IN {mode} MODE")
    found += [f"DROP TRIGGER IF EXISTS {quoted(trigger)} ON {tab}" for _, trigger, tab in stale]
    return [*found, *(now[name] if name in now else rights.unreadable(name) for name in changed)]


def _record(declaration: Declaration) -> str:
    """The statements that record what is declared."""
    generated = generate(declaration)
    values = (
        declaration.digest,
        declaration.schema.hash,
        generated.checksum,
        msgspec.json.encode(declaration).decode(),
    )
    return (
        f"DELETE FROM sync.kinds;\n{generated.kinds}DELETE FROM sync.declaration;\n"
        "INSERT INTO sync.declaration (digest, hash, checksum, declared)\n"
        f"VALUES ({', '.join(map(literal, values))});\n"
    )


def as_script(declaration: Declaration) -> str:
    """The SQL that declares it in a database that has no declaration, for review."""
    return f"{HISTORY};\n{generate(declaration)}\n{_record(declaration)}{IDENTITY};\n"
