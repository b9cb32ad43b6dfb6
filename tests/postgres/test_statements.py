"""Statements that are twins differ in one table only. Numbers and names that several statements know are the same."""

import re
from pathlib import Path

from server import tiers
from server.declaration.chat import CHAT, CHAT_SQL
from server.declaration.sql import reading, recording
from server.postgres import connection, scripts
from server.postgres.connection import statement

FOLDER = Path(connection.__file__).parent / "sql"
NAMES = sorted(script.stem for script in FOLDER.glob("*.sql"))


def code(name: str) -> str:
    """The statement without its comments."""
    return re.sub(r"--[^\n]*\n", "", statement(name))


def test_a_reading_of_archives_differs_only_in_the_table_of_messages() -> None:
    recent, everywhere = (reading.feed(CHAT, everywhere=each) for each in (False, True))
    assert recent != everywhere
    assert recent.replace("public.messages", "sync.all_messages") == everywhere


def test_what_a_row_weighs_beside_its_text_is_one_number() -> None:
    bounded = {name: text for name, text in reading.statements(CHAT).items() if "octet_length" in text}
    lists = {f"{form}_{kind.name}" for form in ("list", "lists") for kind in CHAT.kinds}
    assert bounded.keys() == {"read_feed", "read_feed_everywhere", *lists}
    for name, text in bounded.items():
        assert re.findall(r"sum\((\d+) \+", text) == [str(reading.ROW_BYTES)], name
        assert set(re.findall(r"(\d+) a row", text)) == {str(reading.ROW_BYTES)}, name


def test_the_tiers_that_sync_are_those_of_the_chat_schema() -> None:
    assert CHAT.gate is not None
    assert {*CHAT.gate.syncs} == tiers.SYNCED
    (permitted,) = re.findall(r"CHECK \(subscription_tier IN \(([^)]*)\)", CHAT_SQL)
    assert {*tiers.SYNCED, "free"} == set(re.findall(r"'(\w+)'", permitted))


def test_the_inventory_knows_every_trigger_that_the_schema_creates() -> None:
    known = re.findall(r"\('(atlas_sync_\w+)', \d+\)", code("inventory"))
    texts = [*map(scripts.migration, scripts.migrations()), *scripts.functions().values()]
    texts += [CHAT_SQL, *(text for kind in CHAT.kinds for text in recording.triggers(kind).values())]
    created = {name for text in texts for name in re.findall(r"CREATE (?:CONSTRAINT )?TRIGGER (\w+)", text)}
    assert created == set(known)
    identity = next(text for text in texts if "sync.identity(OUT" in text)
    (recorded,) = re.findall(r"tgname IN \(([^)]*)\)", identity)
    assert set(re.findall(r"\w+", recorded)) == created - {"atlas_sync_refuse_truncate", "atlas_sync_batch"}


def test_a_function_of_many_arguments_gets_them_by_name() -> None:
    for name in NAMES:
        calls = re.findall(r"\bsync\.(\w+)\(([^()]*\$2[^()]*)\)", code(name))
        for function, arguments in calls:
            assert all("=>" in argument for argument in arguments.split(",")), f"{name}: {function}"
