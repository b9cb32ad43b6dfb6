"""What follows from two declarations, as it was read and found good: the SQL, and what devices know.

To write the files anew, and then to read their difference:

    ATLAS_WRITE_GOLDEN=1 .venv/bin/pytest -n0 tests/declaration/test_generated.py
"""

import os
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from server.declaration import reading
from server.declaration.chat import CHAT, CHAT_TOML
from server.declaration.check import load
from server.declaration.generated import functions, generate
from server.declaration.model import Declaration
from server.postgres.declared import declare, declared, is_declared
from server.postgres.steps import SILENT
from server.postgres.tables import facts
from tests.support.cluster import Cluster, Database, administrator

HERE: Final = Path(__file__).parent
GOLDEN: Final = HERE / "golden"
WRITE: Final = bool(os.environ.get("ATLAS_WRITE_GOLDEN"))
SECOND_TOML: Final = (HERE / "second.toml").read_text()


def declaration(name: str) -> Declaration:
    if name == "chat":
        return CHAT
    return msgspec.json.decode((GOLDEN / f"{name}.json").read_bytes(), type=Declaration)


def is_golden(name: str, text: str) -> None:
    """Compare the text with the file of this name, or write it."""
    path = GOLDEN / name
    if WRITE:
        path.write_text(text)
    assert path.read_text().splitlines() == text.splitlines(), f"{path.name} has changed"


def pretty(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value)).decode() + "\n"


@pytest.fixture
async def second(postgres_18: Cluster) -> Any:
    """A migrated database with the tables of the second declaration."""
    database: Database = await postgres_18.create()
    async with administrator(database) as sql:
        await sql.execute((HERE / "second.sql").read_text())
        yield sql
    await database.drop()


async def test_the_second_declaration_resolves_to_this(second: Any) -> None:
    resolved = load(SECOND_TOML, await facts(second), "second.toml")
    is_golden("second.json", pretty(resolved))
    assert declaration("second") == resolved


@pytest.mark.parametrize("name", ["chat", "second"])
def test_migrate_makes_this_sql(name: str) -> None:
    generated = generate(declaration(name))
    is_golden(f"{name}.sql", f"{generated}\n{generated.kinds}")


@pytest.mark.parametrize("name", ["chat", "second"])
def test_the_server_reads_with_these_statements(name: str) -> None:
    found = reading.statements(declaration(name))
    is_golden(f"{name}.reading.sql", "\n".join(f"-- {key}\n\n{text}" for key, text in found.items()))


@pytest.mark.parametrize("name", ["chat", "second"])
def test_devices_know_this(name: str) -> None:
    is_golden(f"{name}.schema.json", pretty(declaration(name).schema))


def test_the_file_that_ships_is_the_declaration_of_the_chat_schema() -> None:
    assert 'table = "public.messages"' in CHAT_TOML
    assert [kind.name for kind in CHAT.kinds] == ["profile", "conversation", "message"]


@pytest.mark.parametrize("name", ["chat", "second"])
def test_all_sql_is_made_of_the_declaration_alone(name: str) -> None:
    made = generate(declaration(name))
    again = generate(msgspec.json.decode(msgspec.json.encode(declaration(name)), type=Declaration))
    assert (str(made), made.kinds, made.checksum) == (str(again), again.kinds, again.checksum)
    assert all(f"FUNCTION sync.{function}(" in made.definitions for function in functions(declaration(name)))


async def test_the_database_accepts_all_sql_of_the_second_declaration(second: Any) -> None:
    """And every statement that reads."""
    wanted = declaration("second")
    await declare(second, wanted, SILENT)
    assert await is_declared(second, wanted)
    assert await declared(second) == wanted
    for text in reading.statements(wanted).values():
        await second.prepare(text)
