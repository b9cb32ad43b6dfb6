"""A small app that is no chat: folders and notes, with text keys, which `migrate` only gives triggers."""

import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any, Final

from server.postgres.migrate import migrate
from tests.support.cluster import Cluster, Database, administrator

TABLES: Final = """
    CREATE TABLE people (id uuid PRIMARY KEY, plan text);
    CREATE TABLE folders (id text PRIMARY KEY, owner text, name text NOT NULL, "order" int);
    CREATE TABLE notes (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        folder text NOT NULL REFERENCES folders ON DELETE CASCADE,
        said text,
        parts jsonb,
        "editedAt" timestamp,
        secret text
    );
    CREATE INDEX ON notes (folder);
"""
GATE: Final = '[gate]\ntable = "people"\ncolumn = "plan"\nsyncs = ["paid"]\n'
PERSON: Final = '[kind.person]\ntable = "people"\nowner = "id"\ncolumns = ["plan"]\n'
FOLDER: Final = '[kind.folder]\ntable = "folders"\nowner = "owner"\ncolumns = ["name"]\n'
NOTE: Final = (
    '[kind.note]\ntable = "notes"\nparent = { kind = "folder", column = "folder" }\ncolumns = ["said"]\n'
    'devices = { update = ["said"] }\nlimits = { said = "1000 bytes" }\n'
)
DECLARATION: Final = FOLDER + NOTE

_numbers = itertools.count(1)


@contextlib.asynccontextmanager
async def notes(cluster: Cluster, declaration: str | None = DECLARATION) -> AsyncIterator[tuple[Database, Any]]:
    """Its database, which follows the declaration if there is one, and an administrator's connection to it."""
    database = await cluster.create("template0")
    try:
        async with administrator(database) as sql:
            await sql.execute(TABLES)
            if declaration is not None:
                assert await migrate(database.url, text=declaration) == []
            yield database, sql
    finally:
        await database.drop()


async def add_folder(sql: Any, owner: object, name: str = "a folder") -> str:
    """`owner`: a user's id, or a text that is none."""
    key = f"f{next(_numbers)}"
    held = None if owner is None else str(owner)
    await sql.execute("INSERT INTO folders (id, owner, name) VALUES ($1, $2, $3)", key, held, name)
    return key


async def add_note(sql: Any, folder: str, said: str = "a note") -> int:
    return int(await sql.fetchval("INSERT INTO notes (folder, said) VALUES ($1, $2) RETURNING id", folder, said))
