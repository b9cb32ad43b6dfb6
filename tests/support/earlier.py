"""Databases as earlier versions of Atlas Sync made them, with Alembic."""

from pathlib import Path
from typing import Final

from server.postgres.adopt import ORIGINAL
from server.postgres.connection import SAFE_PATH
from tests.support.cluster import Database

SCRIPTS: Final = Path(__file__).parent.parent / "postgres" / "earlier"
"""The numbered migrations up to 0007 as they were: each with its own copy of the functions."""
VERSIONS: Final = sorted(script.stem for script in SCRIPTS.glob("*.sql"))
TABLE: Final = """
    CREATE TABLE sync.migrations (
        version_num varchar(32) NOT NULL,
        CONSTRAINT migrations_pkc PRIMARY KEY (version_num)
    )
"""
PARTITIONS: Final = "SELECT sync.ensure_partitions(now(), now() + interval '3 months')"


async def migrate_to(database: Database, version: str) -> None:
    """Bring an empty database to this earlier version."""
    scripts = [(SCRIPTS / f"{each}.sql").read_text() for each in VERSIONS if each <= version]
    connection = await database.connect()
    try:
        await connection.execute(f"{SAFE_PATH}; CREATE SCHEMA sync; {ORIGINAL}")
        async with connection.transaction():
            for script in [TABLE, *scripts, *([PARTITIONS] if len(scripts) > 1 else [])]:
                await connection.execute(script)
            await connection.execute("INSERT INTO sync.migrations (version_num) VALUES ($1)", version)
    finally:
        await connection.close()
