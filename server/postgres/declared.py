"""The declaration that a database has, and how it gets another one."""

from typing import Any, Final

import msgspec

from server.declaration import recording
from server.declaration.generated import Generated, drop_function, functions, generate
from server.declaration.model import Declaration, Table
from server.declaration.sql import table
from server.operations.catalog import Step
from server.postgres.lock_retry import past_autovacuum, retry_locks
from server.postgres.steps import PATIENCE, Progress

FORMER_FUNCTIONS: Final = """
    DROP FUNCTION IF EXISTS sync.profile_changed(), sync.conversation_changed(), sync.message_changed();
"""
"""Those of databases from before the declaration."""
IDENTITY: Final = "UPDATE sync.histories SET identity = (SELECT identity FROM sync.identity()) WHERE epoch = $1"
"""Other triggers are no other history."""


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
    step = Step("declare what is synced", "ACCESS EXCLUSIVE on tables whose triggers change", ())
    progress.begins(step)
    changed = await _changed(connection, generated)

    async def at_once() -> None:
        async with past_autovacuum(connection, "sync.declaration", *changed):
            await _declare(connection, declaration, generated, await _changed(connection, generated))

    await retry_locks(at_once, PATIENCE, lambda why: progress.waits(step, why))
    progress.ends(step)


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
    gone = await connection.fetchval(
        "SELECT array_agg(proname::text) FROM pg_proc WHERE pronamespace = 'sync'::regnamespace "
        "AND proname ~ '^(record|write)_' AND proname::text <> ALL ($1)",
        list(functions(declaration)),
    )
    await connection.execute(
        "\n".join([FORMER_FUNCTIONS, *map(drop_function, gone or ()), "DELETE FROM sync.kinds;", generated.kinds])
    )
    await connection.execute(
        "INSERT INTO sync.declaration (digest, hash, checksum, declared) VALUES ($1, $2, $3, $4) "
        "ON CONFLICT (only_one) DO UPDATE SET digest = excluded.digest, hash = excluded.hash, "
        "checksum = excluded.checksum, declared = excluded.declared",
        declaration.digest,
        declaration.schema.hash,
        generated.checksum,
        msgspec.json.encode(declaration).decode(),
    )
    await connection.execute(IDENTITY, epoch)
