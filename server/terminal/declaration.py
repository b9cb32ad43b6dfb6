"""`atlas-sync init` and `atlas-sync schema`: a declaration drafted for a database, and what devices know of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import typer

from protocol.schema import Schema
from server.declaration import typescript
from server.declaration.draft import draft
from server.exceptions import ConfigError, UnfitError
from server.postgres.connection import connect_to_primary
from server.postgres.declared import declared
from server.postgres.errors import UNMIGRATED, translated
from server.postgres.tables import facts
from server.terminal.output import say

NOTHING: Final = "This database has no declaration. Run `atlas-sync init`, and `atlas-sync migrate`."

as_typescript = typescript.module


async def drafted(url: str, tables: Sequence[str]) -> str:
    """The text of a file. Raises UnavailableError, UnfitError, ConfigError."""
    # No prepared statements, so that this works through a pooler too.
    connection = await connect_to_primary(url, statement_cache_size=0)
    try:
        with translated():
            found = await facts(connection)
    finally:
        connection.terminate()
    return draft(found, tables)


async def known(url: str) -> Schema:
    """What devices know of the declaration. Raises UnavailableError, UnfitError."""
    connection = await connect_to_primary(url, statement_cache_size=0)
    try:
        with translated():
            try:
                found = await declared(connection)
            except UNMIGRATED:
                found = None
    finally:
        connection.terminate()
    if found is None:
        raise UnfitError(NOTHING)
    return found.schema


def as_json(schema: Schema) -> str:
    return msgspec.json.format(msgspec.json.encode(schema, order="deterministic"), indent=2).decode() + "\n"


def save(text: str, path: Path | None) -> None:
    """Write a new file, or print the text. Raises ConfigError."""
    if path is None:
        typer.echo(text, nl=False)
        return
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path} exists. Name another file, or remove it first.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}). Name another file.") from None
    say(f"{path} is drafted. Edit it: its comments say what to decide.")
