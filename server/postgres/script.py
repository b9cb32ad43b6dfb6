"""What `migrate` would run in a database, as SQL to be read. It changes nothing."""

from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

from server.declaration.chat import CHAT, CHAT_TOML
from server.declaration.model import Declaration
from server.declaration.sql.pieces import comment
from server.operations.catalog import Step
from server.operations.inventory import mending
from server.postgres.adopt import ORIGINAL, remaining_moves, remaining_steps
from server.postgres.connection import SAFE_PATH, connect_as_owner
from server.postgres.declared import (
    DECLARING,
    as_script,
    changed_tables,
    declaring,
    following,
    is_declared,
    recording_it,
)
from server.postgres.errors import translated
from server.postgres.inventory import take_inventory
from server.postgres.migrate import (
    PARTITIONS_AHEAD,
    SCHEMA,
    Wanted,
    find_pending,
    wanted_declaration,
)

HEAD: Final = """\
-- What `atlas-sync migrate` runs in this database, as it is now, in this order. It is for reading: migrate also
-- - requests each lock for 200 ms, gives it up and requests it again, until writers let it in
-- - looks again before each step of a conversion to partitions, and repeats statements with $1 until all rows are done
-- - notes in sync.original what the tables were like, for --undo, before it converts them
-- - looks, after it has declared a new column or kind, for values that came in meanwhile; then every device starts over
"""
LATER: Final = """\
-- What is declared: its SQL follows from the tables as they are after these steps. Migrate computes it then.
"""
NOTHING_TO_RUN: Final = "-- There is nothing to do but partitions of the coming months.\n"


async def script(url: str, *, text: str | None = None, name: str = "the declaration") -> str:
    """Raises UnavailableError, UnfitError."""
    connection = await connect_as_owner(url)
    try:
        with translated():
            wanted = await wanted_declaration(connection, text, name)
            return HEAD + "\n" + "\n".join([part async for part in _parts(connection, wanted)])
    finally:
        connection.terminate()


async def _parts(connection: Any, wanted: Wanted) -> AsyncIterator[str]:
    pending = await find_pending(connection, wanted.partitioned)
    adopting = await remaining_steps(connection) if wanted.partitioned else []
    is_migrated = bool(await connection.fetchval("SELECT to_regclass('sync.declaration') IS NOT NULL"))
    yield f"{SAFE_PATH};\n"
    if not is_migrated:
        yield f"{SCHEMA};\n{ORIGINAL.strip()};\n"
    yield _steps(adopting)
    if pending:
        yield f"-- {pending.step().says}\nBEGIN;\n{''.join(pending.texts())}COMMIT;\n"
    declares = True
    if not pending.chat:
        declaration = await wanted.resolved(connection)
        declares = not (is_migrated and await is_declared(connection, declaration))
        if declares:
            yield await _declaring(connection, declaration)
    elif wanted.text == CHAT_TOML and not adopting:
        yield f"-- {DECLARING.says}\nBEGIN;\n{as_script(CHAT)}COMMIT;\n"
    else:
        yield LATER
    if wanted.partitioned:
        yield _steps(await remaining_moves(connection))
    # An inventory of what another version made, or another declaration, would name what these make anew.
    mends = [] if pending or declares else [each for each in await take_inventory(connection) if each.mend is not None]
    yield _steps(map(mending, mends))
    if not (adopting or pending or declares or mends):
        yield NOTHING_TO_RUN
    yield f"{PARTITIONS_AHEAD};\n"


async def _declaring(connection: Any, declaration: Declaration) -> str:
    found = await following(connection, declaration)
    changed = await changed_tables(connection, declaration)
    statements = [
        *await declaring(connection, declaration, changed),
        *await recording_it(connection, found, snapshot=found.snapshot),
    ]
    return f"-- {DECLARING.says}\n" + _listed(["BEGIN", *statements, "COMMIT"])


def _steps(steps: Iterable[Step]) -> str:
    return "\n".join(f"{comment(step.says)}\n{_listed(step.statements)}" for step in steps)


def _listed(statements: Iterable[str]) -> str:
    return "".join(f"{text.strip().removesuffix(';')};\n" for text in statements)
