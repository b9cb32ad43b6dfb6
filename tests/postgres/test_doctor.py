"""The doctor finds what is wrong with a database, and says what to do about it."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any
from unittest.mock import patch

import pytest

from server.metrics import DEFAULT_ROWS_COUNTED
from server.postgres import listener
from server.postgres.doctor import LISTEN_FIXED, OLDEST, SECURE, Finding, _version, examine
from tests.support.cluster import Cluster, Database, administrator
from tests.support.maintenance import add_many_strays, add_old_messages
from tests.support.notes import DECLARATION, FOLDER, GATE, NOTE, PERSON, notes
from tests.support.people import add_conversation, add_user
from tests.support.proxy import postgres_behind_proxy


async def findings(url: str, listen_url: str | None = None) -> dict[str, Finding]:
    return {finding.what: finding async for finding in examine(url, listen_url)}


@pytest.fixture
async def shared_sql(shared_database: Database) -> AsyncIterator[Any]:
    """An administrator's connection to a database that a test leaves as it found it."""
    async with administrator(shared_database) as connection:
        yield connection


async def mended(database: Database, sql: Any) -> None:
    """Nothing is to be said about it then, but for what its cluster is."""
    await sql.execute(
        f"ALTER DATABASE {database.name} SET idle_in_transaction_session_timeout = '60s'; "
        f"REVOKE TEMP ON DATABASE {database.name} FROM PUBLIC"
    )


async def test_a_fit_database_has_no_findings(every_database: Database) -> None:
    async with administrator(every_database) as sql:
        await mended(every_database, sql)
    found = await findings(every_database.server_url)
    # The tests' clusters run with fsync = off, which the doctor must not like, and maybe with an old minor version.
    assert {name for name, finding in found.items() if not finding.good} - {"version"} == {"durability"}
    assert len(found) == 25


@pytest.mark.parametrize(
    ("damage", "what", "advice"),
    [
        (
            "DO $$ BEGIN EXECUTE 'DROP TABLE public.messages_' || "
            "to_char((now() + interval '13 days') AT TIME ZONE 'UTC', 'YYYY_MM'); END $$",
            "partitions",
            "atlas-sync maintain",
        ),
        (
            "DO $$ BEGIN EXECUTE 'DROP TABLE sync.log_' || "
            "to_char((now() + interval '1 week') AT TIME ZONE 'UTC', 'IYYY_\"w\"IW'); END $$",
            "partitions",
            "atlas-sync maintain",
        ),
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


async def test_strays_are_found_when_they_are_many(database: Database, sql: Any) -> None:
    conversation = await add_conversation(sql, await add_user(sql))
    await add_many_strays(sql, conversation, -30, DEFAULT_ROWS_COUNTED - 1)
    assert (await findings(database.server_url))["strays"].good
    await add_old_messages(sql, conversation, -40)
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


# ---- What is no fault of the database's, and lets people in ---------------------------------------------------------


@asynccontextmanager
async def a_role(sql: Any, attributes: str = "LOGIN") -> AsyncIterator[str]:
    """Of the cluster, for a moment."""
    name = "a_role_of_the_app"
    await sql.execute(f"CREATE ROLE {name} {attributes}")
    try:
        yield name
    finally:
        await sql.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


class Version:
    """A connection that says which version Postgres has."""

    def __init__(self, major: int, minor: int) -> None:
        self._number = str(major * 10_000 + minor)

    async def fetchval(self, _: str) -> str:
        return self._number


@pytest.mark.parametrize(("major", "minor"), [(18, 7), (17, 12), (16, 16), (15, 20)])
async def test_a_server_that_lacks_fixes_of_security_is_pointed_out_but_is_no_obstacle(major: int, minor: int) -> None:
    assert SECURE[major] == minor
    assert (await _version(Version(major, minor))).good
    finding = await _version(Version(major, minor - 1))
    assert not finding.good
    assert not finding.grave
    assert f"Upgrade to {major}.{minor} or later" in finding.says


@pytest.mark.parametrize(
    ("major", "minor"), [(OLDEST - 1, 99), *((at, fixed - 1) for at, fixed in LISTEN_FIXED.items())]
)
async def test_a_server_that_cannot_serve_is_an_obstacle(major: int, minor: int) -> None:
    finding = await _version(Version(major, minor))
    assert (finding.good, finding.grave) == (False, True)


async def test_a_version_that_is_newer_than_this_one_knows_is_good() -> None:
    assert (await _version(Version(max(SECURE) + 1, 0))).good


@pytest.mark.parametrize("encoding", ["WIN1252", "SQL_ASCII"])
async def test_an_encoding_that_does_not_hold_every_character_is_an_obstacle(
    every_postgres: Cluster, encoding: str
) -> None:
    made = await every_postgres.create("template0", encoding)
    try:
        finding = (await findings(made.server_url))["encoding"]
    finally:
        await made.drop()
    assert (finding.good, finding.grave) == (False, True)
    assert encoding in finding.says
    assert "CREATE DATABASE … ENCODING 'UTF8'" in finding.says


@pytest.mark.parametrize("who", ["PUBLIC", "authenticated", "anon", "atlas_server"])
async def test_a_role_that_could_take_over_by_functions_in_schema_public_is_an_obstacle_with_the_statement_that_ends_it(
    shared_database: Database, shared_sql: Any, who: str
) -> None:
    await shared_sql.execute(f"GRANT CREATE ON SCHEMA public TO {who}")
    finding = (await findings(shared_database.server_url))["schema"]
    assert (finding.good, finding.grave) == (False, True)
    assert f"REVOKE CREATE ON SCHEMA public FROM {who}." in finding.says
    await shared_sql.execute(f"REVOKE CREATE ON SCHEMA public FROM {who}")
    assert (await findings(shared_database.server_url))["schema"].good


async def test_another_role_that_creates_in_schema_public_is_pointed_out_but_is_no_obstacle(
    shared_database: Database, shared_sql: Any
) -> None:
    async with a_role(shared_sql, "NOLOGIN") as role:
        await shared_sql.execute(f"GRANT CREATE ON SCHEMA public TO {role}")
        finding = (await findings(shared_database.server_url))["schema"]
        assert (finding.good, finding.grave) == (False, False)
        assert f"REVOKE CREATE ON SCHEMA public FROM {role}." in finding.says
        # End users reach it.
        await shared_sql.execute(f"GRANT {role} TO authenticated")
        assert (await findings(shared_database.server_url))["schema"].grave


async def test_the_owner_of_the_apps_tables_may_create_functions_in_schema_public(
    shared_database: Database, shared_sql: Any
) -> None:
    async with a_role(shared_sql, "NOLOGIN") as role:
        await shared_sql.execute(f"GRANT CREATE ON SCHEMA public TO {role}; ALTER TABLE messages OWNER TO {role}")
        assert (await findings(shared_database.server_url))["schema"].good
        await shared_sql.execute("ALTER TABLE messages OWNER TO postgres")


async def test_row_policies_that_do_not_apply_to_devices_are_named(database: Database, sql: Any) -> None:
    named = []
    for table in ("profiles", "conversations", "messages", "messages_archive"):
        for role in ("authenticated", "PUBLIC"):
            await sql.execute(f'CREATE POLICY "hides {role}" ON {table} AS RESTRICTIVE TO {role} USING (false)')
            named.append(f'"hides {role}" on {table}')
        await sql.execute(f"CREATE POLICY of_nobody ON {table} TO service_role USING (true)")
    finding = (await findings(database.server_url))["policies"]
    assert (finding.good, finding.grave) == (False, False)
    assert set(finding.says.partition(": ")[2].partition(". ")[0].split(", ")) == set(named)
    assert "trigger or a constraint" in finding.says


async def test_logins_that_may_stay_in_a_transaction_are_named_with_the_statement_that_ends_it(
    database: Database, sql: Any
) -> None:
    setting = "idle_in_transaction_session_timeout"
    await mended(database, sql)

    async def named() -> bool:
        finding = (await findings(database.server_url))["idle"]
        assert finding.good or not finding.grave
        return f"ALTER ROLE {role} SET {setting} = '60s'" in finding.says

    async with a_role(sql) as role:
        assert not await named(), "the database's setting counts"
        await sql.execute(f"ALTER ROLE {role} SET {setting} = 0")
        assert await named(), "and the role's before it"
        await sql.execute(f"ALTER ROLE {role} IN DATABASE {database.name} SET {setting} = '5min'")
        assert not await named(), "and that of both before it"
        await sql.execute(f"ALTER ROLE {role} IN DATABASE {database.name} SET {setting} = '0ms'")
        assert await named()
        await sql.execute(f"REVOKE CONNECT ON DATABASE {database.name} FROM PUBLIC")
        await sql.execute(f"GRANT CONNECT ON DATABASE {database.name} TO atlas_server")
        assert not await named(), "the role may not connect to this database"


@pytest.mark.parametrize(
    ("grant", "says"),
    [
        ("ALTER ROLE {} CREATEROLE", "create roles"),
        ("ALTER ROLE {} BYPASSRLS", "bypasses row level security"),
        ("CREATE SCHEMA of_theirs AUTHORIZATION {}", "owns objects"),
        ("GRANT INSERT ON messages TO {}", "write the app's tables"),
    ],
)
async def test_what_the_servers_login_has_beyond_its_need_is_named(
    shared_database: Database, shared_sql: Any, grant: str, says: str
) -> None:
    async with a_role(shared_sql, "LOGIN IN ROLE atlas_sync") as role:
        url = shared_database.cluster.postgres.url(shared_database.name, role)
        assert (await findings(url))["privileges"].good
        await shared_sql.execute(grant.format(role))
        finding = (await findings(url))["privileges"]
        assert (finding.good, finding.grave) == (False, False)
        assert says in finding.says


async def test_the_right_to_make_temporary_objects_is_pointed_out_but_is_no_obstacle(
    shared_database: Database, shared_sql: Any
) -> None:
    for who in ("PUBLIC", "atlas_server"):
        await shared_sql.execute(f"GRANT TEMP ON DATABASE {shared_database.name} TO {who}")
        finding = (await findings(shared_database.server_url))["temporary"]
        assert (finding.good, finding.grave) == (False, False)
        statement = f"REVOKE TEMP ON DATABASE {shared_database.name} FROM {who}"
        assert f"{statement};" in finding.says
        await shared_sql.execute(statement)
        assert (await findings(shared_database.server_url))["temporary"].good


# ---- What is declared -----------------------------------------------------------------------------------------------


async def declared_findings(database: Database) -> dict[str, Finding]:
    found = {finding.what: finding async for finding in examine(database.server_url, None)}
    return {what: found[what] for what in ("kinds", "gate", "owners", "indexes")}


async def test_the_doctor_says_which_kinds_are_synced_whom_the_gate_lets_in_and_whose_rows_they_are(
    every_postgres: Cluster,
) -> None:
    async with notes(every_postgres, GATE + PERSON + DECLARATION) as (database, sql):
        found = await declared_findings(database)
        assert found["kinds"].says == "person (public.people), folder (public.folders), note (public.notes)"
        assert found["gate"].says == "the gate lets in 0 users"
        assert found["owners"].good
        await sql.execute(
            "INSERT INTO people SELECT gen_random_uuid(), plan FROM unnest(ARRAY['pro', 'pro', NULL]) AS plan; "
            "INSERT INTO folders VALUES ('a', NULL, 'nobody'), ('b', 'no uuid', 'nobody'), ('c', '', 'nobody')"
        )
        found = await declared_findings(database)
        assert not found["gate"].good
        assert "lets in 0 users, and keeps out 3 (pro 2, NULL 1)" in found["gate"].says
        assert found["owners"].says == (
            "No device gets these rows: owner of kind folder is NULL in 1 row; "
            "owner of kind folder names no user in 2 rows."
        )
        await sql.execute("INSERT INTO people VALUES (gen_random_uuid(), 'paid')")
        assert (await declared_findings(database))["gate"].says == (
            "the gate lets in 1 user (paid 1), and keeps out 3 (pro 2, NULL 1)"
        )


async def test_a_list_that_no_index_serves_comes_with_the_statement_that_creates_one(every_postgres: Cluster) -> None:
    ordered = 'newest = "edited_at"\n'
    columns = 'columns = ["said", "editedAt as edited_at"]\n'
    note = NOTE.replace('columns = ["said"]\n', columns + ordered)
    folder = FOLDER.replace('columns = ["name"]\n', 'columns = ["name", "order"]\nnewest = "order"\n')
    async with notes(every_postgres, folder + note) as (database, sql):
        for _ in range(2):
            finding = (await declared_findings(database))["indexes"]
            if finding.good:
                break
            for statement in finding.says.partition("Run ")[2].removesuffix(".").split("; "):
                assert statement.startswith("CREATE INDEX CONCURRENTLY ON public.")
                await sql.execute(statement)
        assert finding.good
        await sql.execute("DROP INDEX notes_folder_expr_coalesce_id_idx")
        finding = (await declared_findings(database))["indexes"]
        assert not finding.grave
        assert finding.says.startswith("Reading lists of note takes longer")


async def test_no_index_is_asked_for_a_table_of_atlas_sync(postgres_18: Cluster) -> None:
    used = (files("server.demo") / "usage.toml").read_text()
    async with notes(postgres_18, DECLARATION + used) as (database, _):
        finding = (await declared_findings(database))["indexes"]
        assert "sync.daily_usage" not in finding.says


async def test_a_declaration_without_a_gate_lets_everybody_in(postgres_18: Cluster) -> None:
    async with notes(postgres_18) as (database, _):
        assert (await declared_findings(database))["gate"].says == "there is none: every user with a token syncs"


@pytest.mark.parametrize(
    ("backend", "good", "says"),
    [
        (None, True, "the app's backend may stream note.said"),
        (True, True, "the app's backend may stream note.said"),
        (False, False, "ATLAS_SERVICE_TOKEN is not set here: the backend cannot stream note.said"),
    ],
)
async def test_a_declaration_that_streams_wants_a_token_where_the_servers_run(
    postgres_18: Cluster, backend: bool | None, good: bool, says: str
) -> None:
    async with notes(postgres_18, FOLDER + NOTE + 'streams = ["said"]\n') as (database, _):
        found = {finding.what: finding async for finding in examine(database.server_url, backend=backend)}["streams"]
        assert (found.good, says in found.says, found.grave) == (good, True, good)


async def test_streams_that_nobody_declared_want_no_token_and_none_are_not_named(
    postgres_18: Cluster, shared_database: Database
) -> None:
    found = {finding.what: finding async for finding in examine(shared_database.server_url, backend=False)}["streams"]
    assert (found.good, "cannot stream message.content" in found.says) == (True, True)
    async with notes(postgres_18) as (database, _):
        assert "streams" not in [finding.what async for finding in examine(database.server_url, backend=False)]
