"""The doctor finds what is wrong with a database, and says what to do about it."""

import re
from typing import Any
from unittest.mock import patch

import pytest

from server.postgres import listener
from server.postgres.doctor import Finding, examine
from tests.support.cluster import Database
from tests.support.people import add_conversation, add_user
from tests.support.proxy import postgres_behind_proxy


async def findings(url: str, listen_url: str | None = None) -> dict[str, Finding]:
    return {finding.what: finding async for finding in examine(url, listen_url)}


async def test_a_fit_database_has_no_findings(every_database: Database) -> None:
    found = await findings(every_database.server_url)
    # The tests' clusters run with fsync = off, which the doctor must not like.
    assert [name for name, finding in found.items() if not finding.good] == ["durability"]
    assert len(found) == 12


@pytest.mark.parametrize(
    ("damage", "what", "advice"),
    [
        ("ALTER TABLE messages DISABLE TRIGGER atlas_sync_record", "triggers", "ENABLE TRIGGER"),
        ("ALTER TABLE messages ENABLE REPLICA TRIGGER atlas_sync_record", "triggers", "ENABLE TRIGGER"),
        ("DROP TRIGGER atlas_sync_record_update ON conversations", "triggers", "restore"),
        ("DROP TRIGGER atlas_sync_refuse_truncate ON sync.messages_default", "triggers", "restore"),
        (
            "DO $$ BEGIN EXECUTE 'DROP TABLE sync.messages_' || "
            "to_char((now() + interval '1 month') AT TIME ZONE 'UTC', 'YYYY_MM'); END $$",
            "partitions",
            "atlas-sync maintain",
        ),
        (
            "DO $$ BEGIN EXECUTE 'DROP TABLE sync.log_' || "
            "to_char((now() + interval '1 week') AT TIME ZONE 'UTC', 'IYYY_\"w\"IW'); END $$",
            "partitions",
            "atlas-sync maintain",
        ),
        ("REVOKE SELECT ON sync.log FROM atlas_sync", "privileges", "GRANT atlas_sync"),
        ("UPDATE sync.migrations SET version_num = '0001_app_tables'", "migrations", "atlas-sync migrate"),
        ("UPDATE sync.migrations SET version_num = '9999_of_tomorrow'", "migrations", "newer version"),
        ("DROP SCHEMA sync CASCADE", "migrations", "atlas-sync migrate"),
    ],
)
async def test_damage_is_found_and_the_finding_says_what_to_do(
    database: Database, sql: Any, damage: str, what: str, advice: str
) -> None:
    await sql.execute(damage)
    finding = (await findings(database.server_url))[what]
    assert not finding.good
    assert finding.grave
    assert advice in finding.says


async def test_strays_are_found(database: Database, sql: Any) -> None:
    conversation = await add_conversation(sql, await add_user(sql))
    await sql.execute(
        "INSERT INTO messages (conversation_id, role, content, created_at) VALUES ($1, 'user', 'x', '1999-12-31')",
        conversation,
    )
    finding = (await findings(database.server_url))["strays"]
    assert not finding.good
    assert not finding.grave
    assert "messages" in finding.says
    assert "atlas-sync maintain" in finding.says


async def test_columns_of_the_archive_that_differ_are_found_with_the_statement_that_mends_it(
    database: Database, sql: Any
) -> None:
    await sql.execute("ALTER TABLE messages ADD COLUMN changed varchar(8), ADD COLUMN dropped int")
    await sql.execute("ALTER TABLE messages_archive ADD COLUMN changed varchar(8), ADD COLUMN dropped int")
    assert (await findings(database.server_url))["archive"].good
    await sql.execute("ALTER TABLE messages ALTER COLUMN changed TYPE varchar(9), DROP COLUMN dropped")
    await sql.execute('ALTER TABLE messages ADD COLUMN "How" varchar(9), ADD COLUMN seen int[]')
    finding = (await findings(database.server_url))["archive"]
    assert not finding.good
    assert not finding.grave
    found = re.search(r"Run (ALTER TABLE .*), and give", finding.says)
    assert found is not None
    await sql.execute(found[1])
    assert (await findings(database.server_url))["archive"].good


async def test_a_login_that_can_do_too_much_is_pointed_out_but_is_no_obstacle(database: Database) -> None:
    finding = (await findings(database.url))["privileges"]
    assert not finding.good
    assert not finding.grave


async def test_a_pooler_that_swallows_notifications_is_recognised(database: Database) -> None:
    # On the wire a transaction-mode pooler looks like this: LISTEN is answered, and nothing is ever delivered.
    with (
        patch.object(listener, "ANSWER_SECONDS", 0.2),
        patch.object(listener.Listening, "_on_answer", lambda *_: None),
    ):
        finding = (await findings(database.server_url))["listen"]
    assert not finding.good
    assert "ATLAS_LISTEN_URL" in finding.says


async def test_a_postgres_that_is_not_there_is_one_finding(database: Database) -> None:
    async with postgres_behind_proxy(database.server_url) as (proxy, url):
        proxy.refusing = True
        found = await findings(url)
    assert list(found) == ["connection"]
    assert "DATABASE_URL" in found["connection"].says
