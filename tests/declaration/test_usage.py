"""sync.daily_usage is declared like a table of the app, and devices only read it."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from server.declaration.chat import CHAT_TOML
from server.declaration.check import load
from server.declaration.draft import draft
from server.declaration.file.problems import DeclarationError
from server.declaration.usage import TABLE, USAGE, with_usage
from server.demo.run import USED
from server.postgres.inventory import take_inventory
from server.postgres.migrate import migrate, steps
from server.postgres.tables import facts
from tests.support.cluster import Cluster, administrator

OWN = """
    CREATE TABLE notes (id uuid PRIMARY KEY, user_id uuid NOT NULL, words text);
    CREATE INDEX ON notes (user_id);
"""
NOTES = """
    [kind.note]
    tag = "n"
    table = "public.notes"
    owner = "user_id"
    columns = ["words"]
"""
DECLARATION = CHAT_TOML + USED


async def test_what_is_known_of_it_before_it_is_made_is_what_is_made(sql: Any) -> None:
    made = (await facts(sql)).table[USAGE]
    assert msgspec.structs.replace(made, owner="", rows=-1) == TABLE
    assert with_usage(await facts(sql)) == await facts(sql)


async def test_a_draft_has_it_only_if_it_is_asked_for(sql: Any) -> None:
    found = await facts(sql)
    assert "daily_usage" not in draft(found)
    drafted = draft(found, ["sync.daily_usage"])
    assert 'owner = "user_id"' in drafted
    assert [kind.table for kind in load(drafted, found, "a draft").kinds] == [USAGE]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda kind: kind + 'devices = { insert = ["date"] }\n', "devices only read it. Remove `devices`."),
        (lambda kind: kind + "policies = true\n", "devices only read it. Remove `policies`."),
        (lambda kind: kind.replace("daily_usage", "daily_costs"), "There is no table `sync.daily_costs`."),
    ],
    ids=["written by devices", "with policies", "another table of ours"],
)
async def test_it_alone_is_read_and_never_written(sql: Any, change: Callable[[str], str], says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        load(change(DECLARATION), await facts(sql), "it")


async def test_it_can_be_declared_from_the_first_migration_on_and_left_out_again(every_postgres: Cluster) -> None:
    database = await every_postgres.create("template0")
    try:
        async with administrator(database) as sql:
            await sql.execute(OWN)
            assert await steps(database.url, text=NOTES + USED)
            assert await migrate(database.url, text=NOTES + USED) == []
            assert await steps(database.url) == []
            await sql.execute(
                "ALTER TABLE sync.daily_usage DISABLE TRIGGER atlas_sync_record, DROP tier;"
                "REVOKE SELECT (date) ON sync.daily_usage FROM atlas_sync"
            )
            assert sorted(wrong.what for wrong in await take_inventory(sql)) == [
                "SELECT on column sync.daily_usage.date",
                "column sync.daily_usage.tier",
                "trigger atlas_sync_record on sync.daily_usage",
            ]
            await sql.execute("ALTER TABLE sync.daily_usage ADD tier text")
            assert await migrate(database.url, text=NOTES) == []
            triggers = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'sync.daily_usage'::regclass"
            assert await sql.fetchval(triggers) == 0
            assert await take_inventory(sql) == []
    finally:
        await database.drop()
