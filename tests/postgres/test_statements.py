"""Statements that are twins differ in one table only. Numbers and names that several statements know are the same."""

import re
from pathlib import Path

import pytest

from server import tiers
from server.postgres import connection, scripts
from server.postgres.connection import statement
from server.postgres.store import ROW_BYTES

FOLDER = Path(connection.__file__).parent / "sql"
NAMES = sorted(script.stem for script in FOLDER.glob("*.sql"))


def code(name: str) -> str:
    """The statement without its comments."""
    return re.sub(r"--[^\n]*\n", "", statement(name))


@pytest.mark.parametrize(
    ("name", "twin", "table", "of_the_twin"),
    [
        ("read_feed", "read_feed_everywhere", "public.messages", "sync.all_messages"),
        ("trace_message", "trace_archived", "FROM public.messages m", "FROM public.messages_archive m"),
    ],
)
def test_a_statement_and_its_twin_differ_only_in_the_table_of_messages(
    name: str, twin: str, table: str, of_the_twin: str
) -> None:
    assert code(name) != code(twin)
    assert code(name).replace(table, of_the_twin) == code(twin)


def test_what_a_row_weighs_beside_its_text_is_one_number() -> None:
    bounded = [name for name in NAMES if "octet_length" in code(name) and name.startswith("read_")]
    assert len(bounded) == 5
    for name in bounded:
        weighed = re.findall(r"sum\((\d+) \+", code(name))
        said = re.findall(r"(\d+) a row", statement(name))
        assert weighed == [str(ROW_BYTES)], name
        assert set(said) <= {str(ROW_BYTES)}, name


def test_the_tiers_that_sync_are_the_same_in_sql_and_in_python() -> None:
    texts = [*scripts.functions().values(), *(statement(name) for name in NAMES)]
    named = [found for text in texts for found in re.findall(r"subscription_tier (?:NOT )?IN \(([^)]*)\)", text)]
    assert named, "sync.push decides by tier"
    for tier_list in named:
        assert set(re.findall(r"'(\w+)'", tier_list)) == tiers.SYNCED
    (permitted,) = re.findall(r"CHECK \(subscription_tier IN \(([^)]*)\)", scripts.migration("0001_app_tables"))
    assert {*tiers.SYNCED, "free"} == set(re.findall(r"'(\w+)'", permitted))


def test_the_inventory_knows_every_trigger_that_the_schema_creates() -> None:
    known = re.findall(r"\('(atlas_sync_\w+)', \d+\)", code("inventory"))
    texts = [*map(scripts.migration, scripts.migrations()), *scripts.functions().values()]
    created = {name for text in texts for name in re.findall(r"CREATE (?:CONSTRAINT )?TRIGGER (\w+)", text)}
    assert created == set(known)
    identity = next(text for text in texts if "sync.identity(OUT" in text)
    (recording,) = re.findall(r"tgname IN \(([^)]*)\)", identity)
    assert set(re.findall(r"\w+", recording)) == created - {"atlas_sync_refuse_truncate", "atlas_sync_batch"}


def test_a_function_of_many_arguments_gets_them_by_name() -> None:
    for name in NAMES:
        calls = re.findall(r"\bsync\.(\w+)\(([^()]*\$2[^()]*)\)", code(name))
        for function, arguments in calls:
            assert all("=>" in argument for argument in arguments.split(",")), f"{name}: {function}"
