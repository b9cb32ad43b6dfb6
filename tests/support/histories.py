"""PostgreSQL servers whose histories diverge: promoted replicas, images of a disk, backups, dumps.

A test's machines are copies of one prepared data folder. A copy takes 0.1 s, initdb most of a second.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
import psutil
import pytest

from server.demo.embedded import EmbeddedPostgresError
from tests.support.audit import keep_audit
from tests.support.cluster import Cluster, Database, binaries
from tests.support.waiting import eventually

DATABASE: Final = "atlas"
"""The database that servers and devices use, on every machine."""
SETTINGS: Final = {
    "max_connections": "100",
    "shared_buffers": "16MB",
    # Some tests count transaction ids, and autovacuum uses some.
    "autovacuum": "off",
}


def tool(version: str, name: str) -> Path:
    """One of PostgreSQL's programs for clients. Skips the test where it is missing."""
    path = binaries(version) / name
    if not path.exists():
        pytest.skip(f"there is no {name} in {path.parent}")
    return path


def prepare(version: str, folder: Path) -> None:
    """Make the data folders that `Machines` copies: `full`, with an audited, migrated database, and `empty`, another
    cluster with the same logins."""
    for name in ("full", "empty"):
        made = Machine(version, folder / name)
        made.start()
        try:
            asyncio.run(_furnish(made, empty=name == "empty"))
        finally:
            made.postgres.stop()


async def _furnish(made: "Machine", *, empty: bool) -> None:
    if not empty:
        await made.query(f"CREATE DATABASE {DATABASE} TEMPLATE template_atlas")
        sql = await made.database.connect()
        await keep_audit(sql)
        await sql.close()
    await made.query("DROP DATABASE template_atlas")


class Machine(Cluster):
    """A PostgreSQL in a folder of its own. `postgres` starts, stops and kills it (from the test's own thread)."""

    def __init__(self, version: str, folder: Path, **settings: str) -> None:
        super().__init__(version, folder, {**SETTINGS, **settings})
        self.folder = folder
        self.pgdata = folder / "pg"
        self.database = Database(self, DATABASE)

    async def query(self, statement: str, *arguments: object, database: str = "postgres") -> Any:
        """As administrator, on a connection of its own: the first value."""
        sql = await asyncpg.connect(self.postgres.url(database))
        try:
            return await sql.fetchval(statement, *arguments)
        finally:
            await sql.close()

    def run(self, program: str, *arguments: str | Path, may_fail: bool = False) -> str:
        """Run one of PostgreSQL's programs; returns its stderr."""
        done = subprocess.run(
            [tool(self.version, program), *arguments], capture_output=True, text=True, check=False, timeout=60
        )
        assert may_fail or done.returncode == 0, done.stderr
        return done.stderr

    # ---- Replicas --------------------------------------------------------------------------------------------------

    async def has_all_of(self, primary: "Machine") -> None:
        """Wait until this replica has replayed every commit of its primary."""
        end = await primary.query("SELECT pg_logical_emit_message(true, '', 'up to here')")
        await eventually(lambda: self.query("SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn", end))

    async def stop_following(self) -> None:
        """Receive nothing more from the primary, which does not notice: the replica lags from here on.

        Pausing the replay is not enough: a promotion replays everything received.
        """
        await self.query("ALTER SYSTEM SET primary_conninfo = ''")
        await self.query("SELECT pg_reload_conf()")
        await eventually(lambda: self.query("SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)"))

    async def promote(self) -> None:
        assert await self.query("SELECT pg_promote()")

    # ---- Silence ---------------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Stop every process where it is: connections to it stay open, new ones are taken, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on, as if no time had passed."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        postmaster = psutil.Process(self.postgres.pid)
        for process in (postmaster, *postmaster.children()):
            with contextlib.suppress(psutil.NoSuchProcess):  # a backend may end meanwhile
                process.send_signal(number)

    # ---- The disk --------------------------------------------------------------------------------------------------

    def image(self) -> Path:
        """A copy of the disk, while Postgres is stopped or killed."""
        image = self.folder.with_name(f"{self.folder.name}-image")
        _copy(self.pgdata, image)
        return image

    def put_back(self, image: Path) -> None:
        """Restore the disk from an image, while Postgres is stopped."""
        shutil.rmtree(self.pgdata)
        _copy(image, self.pgdata)

    # ---- Dumps -----------------------------------------------------------------------------------------------------

    def dump(self) -> Path:
        """A dump of the database as it is now."""
        path = self.folder.with_name(f"{self.folder.name}.dump")
        self.run("pg_dump", "--format=custom", f"--file={path}", self.postgres.url(DATABASE))
        return path

    async def restore(self, dump: Path, database: str = DATABASE) -> None:
        """Into a new, empty database."""
        await self.query(f"CREATE DATABASE {database} TEMPLATE template0")
        self.run("pg_restore", "--single-transaction", f"--dbname={self.postgres.url(database)}", dump)

    def restore_over(self, dump: Path) -> None:
        """Into the existing database: everything is dropped and made again."""
        options = ("--clean", "--if-exists", f"--dbname={self.postgres.url(DATABASE)}")
        complaints = self.run("pg_restore", *options, dump, may_fail=True)
        # It drops the keys of partitions, which go with their parents' and not before; nothing depends on that.
        errors = [line for line in complaints.splitlines() if "ERROR" in line]
        assert all("cannot drop inherited constraint" in error for error in errors), complaints


class Machines:
    """The machines of one test, in one folder; they end with it."""

    def __init__(self, version: str, folder: Path, prepared: Path) -> None:
        self._version = version
        self._folder = folder
        self._prepared = prepared
        self._made: list[Machine] = []

    def primary(self, name: str = "primary", **settings: str) -> Machine:
        """A machine with the database."""
        return self._running("full", name, **settings)

    def empty(self, name: str = "empty") -> Machine:
        """A machine of another, younger cluster, without the database."""
        return self._running("empty", name)

    def replica(self, primary: Machine, name: str = "replica") -> Machine:
        """A machine that streams from `primary` until it is promoted."""
        machine = self._machine(name)
        self._back_up(primary, machine.pgdata, "--write-recovery-conf")
        machine.postgres.start()
        return machine

    # ---- A point in time -------------------------------------------------------------------------------------------

    def archiving_primary(self, name: str = "primary") -> Machine:
        """A machine whose past `restored` can restore."""
        archive = self._folder / "archive"
        archive.mkdir()
        archive.chmod(0o777)
        return self.primary(name, archive_mode="on", archive_command=f"cp %p {archive}/%f")

    def back_up(self, primary: Machine) -> Path:
        """A base backup."""
        backup = self._folder / "backup"
        self._back_up(primary, backup)
        return backup

    async def restored(self, primary: Machine, backup: Path, point: str, name: str = "restored") -> Machine:
        """As `primary` was at the restore point of that name (`pg_create_restore_point`)."""
        segment = await primary.query("SELECT pg_walfile_name(pg_switch_wal())")
        archive = self._folder / "archive"
        await eventually((archive / segment).exists)
        target = {"recovery_target_name": point, "recovery_target_action": "promote"}
        machine = self._machine(name, restore_command=f"cp {archive}/%f %p", **target)
        _copy(backup, machine.pgdata)
        (machine.pgdata / "recovery.signal").touch()
        machine.postgres.start()
        await eventually(lambda: machine.query("SELECT NOT pg_is_in_recovery()"))
        return machine

    # ---- Within ----------------------------------------------------------------------------------------------------

    def _running(self, prepared: str, name: str, **settings: str) -> Machine:
        machine = self._machine(name, **settings)
        _copy(self._prepared / prepared / "pg", machine.pgdata)
        machine.postgres.start()
        return machine

    def _machine(self, name: str, **settings: str) -> Machine:
        folder = self._folder / name
        folder.mkdir(mode=0o755)
        machine = Machine(self._version, folder, **settings)
        self._made.append(machine)
        return machine

    def _back_up(self, primary: Machine, to: Path, *options: str) -> None:
        primary.run(
            "pg_basebackup",
            f"--pgdata={to}",
            "--checkpoint=fast",
            "--no-sync",
            f"--dbname={primary.postgres.url()}",
            *options,
        )
        owner = primary.pgdata.stat()
        for path in (to, *to.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)

    def stop(self) -> None:
        for machine in self._made:
            with contextlib.suppress(EmbeddedPostgresError, psutil.NoSuchProcess):  # it does not run
                machine.thaw()
            machine.postgres.stop(immediate=True)


@contextmanager
def machines(version: str, folder: Path, prepared: Path) -> Iterator[Machines]:
    made = Machines(version, folder, prepared)
    try:
        yield made
    finally:
        made.stop()


def _copy(source: Path, to: Path) -> None:
    """With owners and modes."""
    subprocess.run(["cp", "-a", source, to], check=True)
