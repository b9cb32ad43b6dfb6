"""`atlas-sync init` drafts a file that is edited; `atlas-sync schema` prints what devices know."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from protocol.schema import Schema
from server.cli import cli
from server.declaration.chat import CHAT
from server.declaration.check import load
from server.exceptions import ConfigError, UnfitError
from server.postgres.tables import facts
from server.terminal import declaration as terminal
from tests.support.cluster import Cluster, Database, administrator
from tests.support.waiting import LIMIT


async def test_a_draft_is_one_of_the_database(database: Database) -> None:
    async with administrator(database) as sql:
        found = await facts(sql)
    text = await terminal.drafted(database.url, [])
    assert [kind.name for kind in load(text, found, "").kinds] == ["profile", "conversation", "message"]
    some = await terminal.drafted(database.url, ["conversations"])
    assert [kind.name for kind in load(some, found, "").kinds] == ["conversation"]


def test_a_file_that_exists_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    terminal.save("a = 1\n", None)
    assert capsys.readouterr().out == "a = 1\n"
    path = tmp_path / "sync.toml"
    terminal.save("a = 1\n", path)
    assert path.read_text() == "a = 1\n"
    with pytest.raises(ConfigError, match=r"sync.toml exists\."):
        terminal.save("a = 2\n", path)
    assert path.read_text() == "a = 1\n"
    with pytest.raises(ConfigError, match="cannot be written"):
        terminal.save("a = 2\n", tmp_path / "none" / "sync.toml")


async def test_a_database_without_declaration_is_told_what_to_run(postgres_18: Cluster) -> None:
    database = await postgres_18.create("template1")
    with pytest.raises(UnfitError, match="atlas-sync init"):
        await terminal.known(database.url)
    await database.drop()


async def test_the_schema_is_that_of_the_declaration_in_the_database(database: Database) -> None:
    schema = await terminal.known(database.url)
    assert schema == CHAT.schema
    assert msgspec.json.decode(terminal.as_json(schema), type=Schema) == schema
    # jsonb has an order of keys of its own, and it is the same text.
    assert terminal.as_typescript(schema) == terminal.as_typescript(CHAT.schema)


def test_the_commands_say_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    for command in ("init", "schema"):
        assert "DATABASE_URL" in str(CliRunner().invoke(cli, [command]).exception)


async def test_a_person_drafts_a_file_and_an_app_gets_its_types(database: Database, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "server", *arguments],
            env={**os.environ, "DATABASE_URL": database.url},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )

    path = tmp_path / "sync.toml"
    drafted = await asyncio.to_thread(run, "init", "--table", "messages", "--out", str(path))
    assert (drafted.returncode, drafted.stderr) == (0, "")
    assert "[kind.message]" in path.read_text()
    assert "[kind.profile]" not in path.read_text()
    printed = await asyncio.to_thread(run, "schema", "--typescript")
    assert (printed.returncode, printed.stdout) == (0, terminal.as_typescript(CHAT.schema))
