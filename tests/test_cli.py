"""The commands, as a person or a script starts them."""

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import jwt
import psutil
import pytest
from rich.console import Console

from protocol.frames import Changes, Live
from server.config import ServeSettings, load
from server.demo.run import _print_next
from server.demo.seed import Person
from tests.support.cluster import Database, temporary_folder
from tests.support.commands import run_command
from tests.support.peer import peer
from tests.support.people import add_conversation, add_user
from tests.support.serving import SECRET, ServerProcess, token
from tests.support.waiting import LIMIT, eventually

START_LIMIT = 60.0
"""Seconds for a cold start of the demo on a loaded machine; it takes about five."""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=START_LIMIT,
        check=False,
    )


def test_a_missing_setting_ends_the_start_with_one_sentence() -> None:
    done = run("serve", DATABASE_URL="")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("atlas-sync: DATABASE_URL: ")
    assert done.stderr.count("\n") == 1


async def test_a_database_that_was_not_migrated_ends_the_start_with_one_sentence(postgres_18: Any) -> None:
    database: Database = await postgres_18.create("template0")
    done = await asyncio.to_thread(run, "serve", DATABASE_URL=database.url, ATLAS_JWT_SECRET=SECRET, PORT="0")
    assert done.returncode == 2
    assert "atlas-sync migrate" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


async def test_migrate_and_doctor_agree(postgres_18: Any) -> None:
    database: Database = await postgres_18.create("template0")
    sick = await asyncio.to_thread(run, "doctor", DATABASE_URL=database.url)
    assert sick.returncode == 1
    assert "atlas-sync migrate" in sick.stdout
    assert (await asyncio.to_thread(run, "migrate", DATABASE_URL=database.url)).returncode == 0
    url = f"{database.server_url}&connection_limit=1"
    healthy = await asyncio.to_thread(run, "doctor", DATABASE_URL=url, ATLAS_JWT_SECRET=SECRET)
    assert (
        healthy.stderr
        == "! These parameters of DATABASE_URL have no effect here: connection_limit. server/README.md says why.\n"
    )
    # Of what must be mended, only the tests' own fsync = off is there.
    assert [line.split()[1] for line in healthy.stdout.splitlines() if line[0] == "✗"] == ["durability"]
    assert "ATLAS_SERVICE_TOKEN is not set here" in healthy.stdout, "it is the environment of a server"


async def test_several_processes_say_once_what_has_no_effect(postgres_18: Any) -> None:
    database: Database = await postgres_18.create()
    async with ServerProcess(
        f"{database.server_url}&connection_limit=1", WEB_CONCURRENCY="2", ATLAS_METRICS_PORT="tcp://10.0.0.7:9187"
    ) as server:
        await eventually(lambda: [event["event"] for event in server.log].count("serving") == 2)
        assert await server.stop() == 0
    told = [event["why"] for event in server.log if event["event"] == "a setting has no effect"]
    assert [sentence.split()[0] for sentence in told] == ["ATLAS_METRICS_PORT", "These"]
    assert "connection_limit" in told[1]


def test_the_sql_of_the_migration_can_be_printed_without_a_database() -> None:
    done = run("migrate", "--sql", DATABASE_URL="")
    assert done.returncode == 0
    assert "CREATE TABLE sync.log" in done.stdout


def test_a_development_token_is_what_the_server_accepts() -> None:
    user = uuid4()
    done = run("token", str(user), "--hours", "1", ATLAS_JWT_SECRET=SECRET)
    claims = jwt.decode(done.stdout.strip(), SECRET, algorithms=["HS256"], audience="authenticated")
    assert claims["sub"] == str(user)
    assert claims["exp"] - claims["iat"] == 3600


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with temporary_folder() as path:
        yield path


class Demo:
    """`atlas-sync demo --json` as a process."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._command = [
            sys.executable,
            "-m",
            "server",
            "demo",
            "--json",
            "--port",
            "0",
            "--data",
            str(folder),
            *options,
        ]
        self.process: asyncio.subprocess.Process | None = None
        self.line: dict[str, Any] = {}

    async def __aenter__(self) -> "Demo":
        self.process = await asyncio.create_subprocess_exec(*self._command, stdout=asyncio.subprocess.PIPE)
        assert self.process.stdout is not None
        async with asyncio.timeout(START_LIMIT):
            self.line = json.loads(await self.process.stdout.readline())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.process is not None
        started = psutil.Process(self.process.pid).children(recursive=True)
        assert started, "Postgres is its child"
        self.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(LIMIT):
            assert await self.process.wait() == 0
        gone, alive = await asyncio.to_thread(psutil.wait_procs, started, LIMIT)
        assert gone
        assert not alive, "Ctrl-C ends everything that it started"


async def test_the_demo_starts_from_nothing_and_again_and_shows_what_is_written(folder: Path) -> None:
    folder /= "demo"
    async with Demo(folder, "--users", "2", "--no-replay") as demo:
        assert set(demo.line) == {"url", "http", "database_url", "metrics_token", "service_token", "users"}
        sql = await asyncpg.connect(demo.line["database_url"])
        paying = await sql.fetch(
            "SELECT p.id, count(c.id) FROM profiles p JOIN conversations c ON c.user_id = p.id "
            "WHERE subscription_tier IN ('core', 'studio') GROUP BY p.id"
        )
        assert {str(row["id"]) for row in paying} >= {user["id"] for user in demo.line["users"][:2]}
        first = demo.line["users"][0]
        async with peer(demo.line["url"]) as device:
            await device.greet_with(first["token"])
            rows = await device.rows_until_live()
            assert len(rows) > 10
            await sql.execute("UPDATE conversations SET title = 'seen' WHERE user_id = $1", UUID(first["id"]))
            await device.hear_a(Changes)
            cursor = device.cursor
        await sql.close()
        async with httpx.AsyncClient(trust_env=False) as client:
            url = demo.line["http"] + "/demo.json"
            people = await client.get(url)
            strangers = [
                await client.get(url, headers={"Host": name})
                for name in ("rebound.example.com", "localhost.example.com", "127.0.0.1@example.com", "127.0.0.1/x")
            ]
            page = await client.get(demo.line["http"] + "/")
        assert people.json()["users"] == demo.line["users"]
        assert {answer.status_code for answer in strangers} == {403}
        for answer in (people, page, *strangers):
            assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    metrics_token = demo.line["metrics_token"]
    for secret in ("metrics-token", "jwt-secret"):
        assert (folder / secret).stat().st_mode & 0o777 == 0o600
    # Root's Postgres is another account, which must get through to its own folder.
    assert folder.stat().st_mode & 0o777 == (0o711 if os.geteuid() == 0 else 0o700)
    # The second start finds everything where it was: the data, the secrets, the history.
    async with Demo(folder, "--users", "2", "--speed", "100") as demo, peer(demo.line["url"]) as device:
        assert demo.line["metrics_token"] == metrics_token
        options = ("--once", "--every", "0.1", "--url", f"{demo.line['http']}/metrics", "--token", metrics_token)
        seen = await asyncio.to_thread(run, "top", *options)
        assert seen.returncode == 0
        assert "atlas_connections" in seen.stdout
        welcome = await device.greet_with(first["token"], cursor)
        assert welcome.mode == "resumed"
        # The replay writes without being asked.
        await device.hear_a(Changes)


def test_what_the_demo_prints_to_be_pasted_has_no_token_among_its_arguments(capfd: pytest.CaptureFixture[str]) -> None:
    person, bearer = Person(uuid4(), "core"), token(uuid4())
    settings = load(ServeSettings, database_url="postgres://localhost/app", jwt_secret=SECRET, metrics_token="m" * 32)
    _print_next(Console(stderr=True), settings, 8000, [person], {person.id: bearer}, 1.0)
    commands = [shlex.split(line) for line in capfd.readouterr().err.splitlines() if " --url " in line]
    assert [(command[0], command[2]) for command in commands] == [
        (f"ATLAS_TOKEN={bearer}", "watch"),
        (f"ATLAS_TOKEN={bearer}", "chat"),
        (f"ATLAS_METRICS_TOKEN={'m' * 32}", "top"),
    ]
    for command in commands:
        assert bearer not in " ".join(command[1:])
        assert "m" * 32 not in " ".join(command[1:])


async def test_watch_shows_what_was_missed_and_nothing_twice(database: Database, sql: Any, folder: Path) -> None:
    user = await add_user(sql)
    add = "INSERT INTO conversations (user_id, title) VALUES ($1, $2)"
    async with ServerProcess(database.server_url) as server:

        async def watch_until(word: str) -> str:
            """What it prints up to that word; then Ctrl-C."""
            arguments = ("--url", server.url, "--cursor-file", str(folder / "watch.json"))
            status, printed, _ = await run_command("watch", *arguments, until=word, ATLAS_TOKEN=token(user))
            assert status == 0
            return printed

        await sql.execute(add, user, "first \x1b[31mred")
        seen = await watch_until("first")
        assert "\x1b[31m" not in seen
        await sql.execute(add, user, "second")
        missed = await watch_until("second")
        assert "first" not in missed


async def test_what_is_typed_into_chat_is_saved_once_also_what_was_typed_while_the_server_was_away(
    database: Database, sql: Any, folder: Path
) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user, "Ideas")
    async with ServerProcess(database.server_url) as server:

        async def chat(typed: str, *options: str, until: str, times: int = 1) -> str:
            """What it prints up to that word, so many times; then Ctrl-C."""
            arguments = ("--url", server.url, "--outbox-file", str(folder / "chat.db"), *options)
            status, printed, _ = await run_command(
                "chat", *arguments, typed=typed, until=until, times=times, ATLAS_TOKEN=token(user)
            )
            assert status == 0
            return printed

        async def contents() -> list[str]:
            return [row["content"] for row in await sql.fetch("SELECT content FROM messages ORDER BY created_at")]

        assert "Ideas" in await chat("one\n\n", until="✓ saved")
        assert await contents() == ["one"]
        await server.kill()
        printed = await chat("two\nthree\n", "--conversation", str(conversation), until="… kept", times=2)
        assert "2 not sent yet" in printed
        assert await contents() == ["one"]
        await server.start()
        await chat("four\n", until="✓ saved")
        assert await contents() == ["one", "two", "three", "four"]
        refused = await chat("five\n", "--conversation", str(user), until="✗")
        assert "does not exist" in refused
        assert "not sent" not in await chat("", until="Ideas")


def runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


async def test_two_processes_share_the_port_and_one_that_dies_is_replaced(database: Database, sql: Any) -> None:
    user = await add_user(sql)
    server = ServerProcess(database.server_url, WEB_CONCURRENCY="2", ATLAS_SOCKETS_PER_USER="1000")
    async with server:
        assert server.process is not None
        supervisor = psutil.Process(server.process.pid)
        workers = supervisor.children()
        assert len(workers) == 2
        await eventually(lambda: sum(event["event"] == "serving" for event in server.log) == 2)
        workers[0].kill()
        await asyncio.to_thread(psutil.wait_procs, workers[:1], LIMIT)
        async with peer(server.url) as device:
            await device.greet(user)
            await device.hear_a(Live)
        await eventually(lambda: len(supervisor.children()) == 2)
        assert await server.stop() == 0
        assert not any(map(runs, workers))


async def test_no_worker_outlives_a_supervisor_that_is_killed(database: Database) -> None:
    async with ServerProcess(database.server_url, WEB_CONCURRENCY="2") as server:
        assert server.process is not None
        workers = psutil.Process(server.process.pid).children()
        assert len(workers) == 2
        await server.kill()
        await eventually(lambda: not any(map(runs, workers)))
