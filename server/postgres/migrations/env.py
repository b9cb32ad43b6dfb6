"""Alembic's entry point: which database, and where it notes what was applied."""

import asyncio
from typing import Any

from alembic import context
from sqlalchemy import Connection

from server.postgres.migrate import run_online

VERSIONS: dict[str, Any] = {"version_table": "migrations", "version_table_schema": "sync"}


def run(connection: Connection) -> None:
    context.configure(connection=connection, **VERSIONS)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    context.configure(dialect_name="postgresql", **VERSIONS)
    with context.begin_transaction():
        context.run_migrations()
else:
    asyncio.run(run_online(context.config.attributes["url"], run))
