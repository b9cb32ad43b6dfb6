"""The declaration that a database has, and how it gets another one."""

from typing import Any, Final

import msgspec

from server.declaration import recording
from server.declaration.generated import Generated, drop_function, functions, generate
from server.declaration.model import Declaration, Table
from server.declaration.rights import readable
from server.declaration.sql import literal, table
from server.operations.catalog import Step
from server.postgres.lock_retry import past_autovacuum, retry_locks
from server.postgres.steps import PATIENCE, Progress

DECLARING: Final = Step("declare what is synced", "ACCESS EXCLUSIVE on the tables whose triggers change", ())
FORMER_FUNCTIONS: Final = """
    DROP FUNCTION IF EXISTS sync.profile_changed(), sync.conversation_changed(), sync.message_changed();
"""
"""Those of databases from before the declaration."""
UNREADABLE: Final = """
    SELECT array_agg(name) FROM unnest($1::text[]) AS name JOIN pg_class c ON c.oid = name::regclass
    WHERE c.relrowsecurity
      AND NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'atlas_sync_reads')
"""
"""Tables with row level security that the server's role cannot read yet."""
IDENTITY: Final = """
    UPDATE sync.histories SET identity = '' WHERE epoch = '{0}';
    UPDATE sync.histories SET identity = (SELECT identity FROM sync.identity()) WHERE epoch = '{0}'
"""
"""Other triggers are no other history. The identity depends on the transaction that wrote the first row of this table,
which the first update makes this one."""


async def declared(connection: Any) -> Declaration | None:
    """The declaration in force; None if there is none."""
    found = await connection.fetchval("SELECT declared::text FROM sync.declaration")
    return None if found is None else msgspec.json.decode(found, type=Declaration)


async def is_declared(connection: Any, declaration: Declaration) -> bool:
    """Whether the database has this declaration, and what this version makes of it."""
    found = await connection.fetchrow("SELECT digest, checksum FROM sync.declaration")
    return found is not None and tuple(found) == (declaration.digest, generate(declaration).checksum)


async def declare(connection: Any, declaration: Declaration, progress: Progress) -> None:
    """Make the database follow the declaration: functions, triggers, rights. Tables that are no longer declared lose
    their triggers.

    It runs in one transaction, in which only tables whose triggers change are locked. Raises UnfitError if their locks
    cannot be acquired.
    """
    if await is_declared(connection, declaration):
        return
    generated = generate(declaration)
    progress.begins(DECLARING)
    changed = await _changed(connection, generated)

    async def at_once() -> None:
        async with past_autovacuum(connection, "sync.declaration", *changed):
            await _declare(connection, declaration, generated, await _changed(connection, generated))

    await retry_locks(at_once, PATIENCE, lambda why: progress.waits(DECLARING, why))
    progress.ends(DECLARING)


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


async def _declare(connection: Any, declaration: Declaration, generated: Generated, changed: list[str]) -> None:
    # Whatever began a history before is noticed now, and not taken for a consequence of the new triggers.
    epoch = await connection.fetchval("SELECT sync.epoch()")
    await connection.execute("SET LOCAL check_function_bodies = off")
    await connection.execute(generated.definitions)
    for name in changed:
        for trigger in recording.TRIGGERS:
            await connection.execute(f"DROP TRIGGER IF EXISTS {trigger} ON {name}")
    for name, text in generated.triggers_by_name.items():
        if name in changed:
            await connection.execute(text)
    for name in await connection.fetchval(UNREADABLE, list(generated.triggers_by_name)) or ():
        await connection.execute(readable(name))
    gone = await connection.fetchval(
        "SELECT array_agg(proname::text) FROM pg_proc WHERE pronamespace = 'sync'::regnamespace "
        "AND proname ~ '^(record|write)_' AND proname::text <> ALL ($1)",
        list(functions(declaration)),
    )
    await connection.execute("\n".join([FORMER_FUNCTIONS, *map(drop_function, gone or ()), _record(declaration)]))
    await connection.execute(IDENTITY.format(epoch))


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
    return f"{generate(declaration)}\n{_record(declaration)}"
