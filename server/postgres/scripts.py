"""The SQL files that make the schema: numbered migrations, and the functions and views.

A migration is applied once. A file of functions or views is applied again whenever it changed.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
MIGRATIONS: Final = HERE / "migrations"
PREREQUISITES: Final = "prerequisites"
"""The script that runs ahead of all others."""


def migrations() -> list[str]:
    """The names of the numbered migrations, oldest first."""
    return sorted(script.stem for script in MIGRATIONS.glob("[0-9]*.sql"))


def newest() -> str:
    """The name of the newest migration."""
    return migrations()[-1]


def migration(name: str) -> str:
    """The text of migrations/NAME.sql."""
    return (MIGRATIONS / f"{name}.sql").read_text()


def functions() -> dict[str, str]:
    """The text of each file of functions, by its name, such as `functions/push.sql`."""
    return _texts("functions")


def views() -> dict[str, str]:
    """The text of each file of views, by its name, such as `views/partitions.sql`."""
    return _texts("views")


def _texts(folder: str) -> dict[str, str]:
    return {f"{folder}/{script.name}": script.read_text() for script in sorted((HERE / "sql" / folder).glob("*.sql"))}


def schema() -> dict[str, object]:
    """The row of sync.migrations in a database that this version has migrated."""
    return {"version_num": newest(), "definitions": checksums(functions() | views())}


def checksums(texts: Mapping[str, str]) -> dict[str, str]:
    """The md5 of each text, by its name."""
    return {name: hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() for name, text in texts.items()}
