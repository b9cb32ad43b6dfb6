"""`atlas-sync migrate --plan` names at once all that it will do, what stands in the way, and who notices."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from server.declaration.chat import CHAT_TOML
from server.exceptions import UnfitError
from server.postgres.declared import DECLARING
from server.postgres.doctor import examine
from server.postgres.migrate import migrate, steps
from server.postgres.plan import NO_DEVICES, NO_RIGHTS, NOTHING, OF_END_USERS, RECONNECT, SNAPSHOT, plan
from server.postgres.script import LATER, NOTHING_TO_RUN, script
from tests.support.chat_app import App, command
from tests.support.cluster import Cluster, Database, administrator
from tests.support.notes import DECLARATION, FOLDER, GATE, PERSON, add_folder, add_note, notes
from tests.support.people import add_conversation, add_user

WITH_PARTS = DECLARATION.replace('columns = ["said"]', 'columns = ["said", "parts"]')


async def test_a_first_declaration_is_planned_with_its_triggers_and_rights(every_postgres: Cluster) -> None:
    async with notes(every_postgres, None) as (database, sql):
        await sql.execute("ALTER TABLE notes ENABLE ROW LEVEL SECURITY")
        found = await plan(database.url, text=DECLARATION)
        assert found.obstacles == []
        assert [step.says.partition(" ")[0] for step in found.steps] == ["run", "declare"]
        assert found.triggers == ["public.folders", "public.notes"]
        assert "atlas_sync, the role of the server, may read these columns of public.folders: id, owner, name." in (
            found.rights
        )
        assert "The row policy atlas_sync_reads lets atlas_sync read all rows of public.notes." in found.rights
        assert not [says for says in found.rights if "authenticated" in says]
        assert found.devices == [NO_DEVICES]
        assert await sql.fetchval("SELECT to_regnamespace('sync')") is None
        await migrate(database.url, text=DECLARATION)
        again = await plan(database.url)
        assert (again.obstacles, again.steps, again.rights, again.devices) == ([], [], [NO_RIGHTS], [NOTHING])


async def test_the_chat_schema_says_what_end_users_may_do(postgres_18: Cluster) -> None:
    database = await postgres_18.create("template0")
    found = await plan(database.url)
    assert OF_END_USERS in found.rights
    assert DECLARING in found.steps


async def test_a_plan_says_which_changes_give_devices_a_snapshot(postgres_18: Cluster) -> None:
    async with notes(postgres_18, FOLDER) as (database, sql):
        folder = await add_folder(sql, uuid4())
        quiet = await plan(database.url, text=DECLARATION)
        assert quiet.steps == [DECLARING]
        assert quiet.devices == ["Kind note is new: no device needs a snapshot.", RECONNECT]
        await add_note(sql, folder)
        loud = await plan(database.url, text=WITH_PARTS)
        assert loud.devices == ["Kind note is new: devices need a snapshot.", RECONNECT, SNAPSHOT]
        await migrate(database.url, text=GATE + PERSON + DECLARATION)
        gone = await plan(database.url, text=FOLDER)
        assert set(gone.triggers) == {"public.people", "public.notes"}
        assert [says for says in gone.rights if "no longer" in says and "public.people" in says]


async def test_a_plan_says_that_archived_rows_are_no_longer_read_or_are_read_again(
    database: Database, sql: Any
) -> None:
    without = CHAT_TOML.replace('archive = "12 months"\n', "")
    gone = "Kind message has no archive any more: devices no longer get the rows in public.messages_archive"
    quiet = await plan(database.url, text=without)
    assert quiet.devices[1:] == [f"{gone}: no device needs a snapshot.", RECONNECT]
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    await sql.execute("CREATE TABLE old PARTITION OF messages_archive DEFAULT")
    await sql.execute(
        "INSERT INTO messages_archive (id, conversation_id, role, content, created_at, updated_at) "
        "VALUES (gen_random_uuid(), $1, 'user', 'old', '2001-01-01', '2001-01-01')",
        conversation,
    )
    for text, says in (
        (without, gone),
        (CHAT_TOML, "Kind message has an archive: devices get the rows in public.messages_archive, too"),
    ):
        loud = await plan(database.url, text=text)
        assert f"{says}: devices need a snapshot." in loud.devices
        assert SNAPSHOT in loud.devices
        await migrate(database.url, text=text)
    assert await sql.fetchval("SELECT count(*) FROM sync.histories WHERE why = 'schema'") == 2


async def test_everything_that_stands_in_the_way_is_named_at_once(postgres_18: Cluster, newest_app: App) -> None:
    await newest_app.sql.execute(
        "GRANT CREATE ON SCHEMA public TO authenticated; "
        "CREATE TABLE votes (id uuid PRIMARY KEY, message uuid REFERENCES messages); "
        "CREATE RULE nothing AS ON DELETE TO messages DO ALSO NOTHING; "
        "ALTER TABLE conversations ALTER created_at TYPE timestamp"
    )
    found = await plan(newest_app.url)
    assert found.steps == []
    for says in ("may create functions", "Foreign keys refer", "has rules", "conversations.created_at is"):
        assert [each for each in found.obstacles if says in each], says
    wrong = await plan(newest_app.url, text='[kind.a]\ntable = "nothing"\nowner = "x"\ncolumns = []\n', name="a.toml")
    assert "a.toml:2:" in wrong.obstacles[-1]
    assert "may create functions" in wrong.obstacles[0]


async def test_what_was_renamed_or_dropped_on_purpose_is_declared_anew(every_postgres: Cluster) -> None:
    on_purpose = (
        "if it was renamed or dropped on purpose, change the declaration and run `atlas-sync migrate --declaration …` "
        "with your file, else "
    )
    async with notes(every_postgres, PERSON + WITH_PARTS) as (database, sql):
        await sql.execute("DROP TABLE people; DROP TRIGGER atlas_sync_record_update ON notes")
        await sql.execute("ALTER TABLE notes RENAME parts TO pieces")
        found = await plan(database.url)
        doctor = [finding.says async for finding in examine(database.server_url, None) if finding.what == "objects"]
        back = "run ALTER TABLE public.notes RENAME COLUMN … TO parts, or restore it from a backup)"
        for says in ("\n".join(found.cautions), *doctor):
            assert f"table public.people (missing: {on_purpose}rename it back or restore it" in says
            assert f"column public.notes.parts (missing: {on_purpose}{back}" in says
        text = WITH_PARTS.replace('"parts"', '"pieces as parts"')
        assert await sql.fetchval("SELECT count(*) FROM sync.histories") == 1
        anew_plan = await plan(database.url, text=text)
        assert (anew_plan.cautions, anew_plan.obstacles) == ([], [])
        assert await migrate(database.url, text=text) == []
        await sql.execute("DROP TRIGGER atlas_sync_record_update ON notes")
        await sql.execute("ALTER TABLE notes ALTER pieces TYPE text")
        (caution,) = (await plan(database.url)).cautions
        assert (
            "column public.notes.pieces (text and was declared as jsonb: if it was retyped on purpose, run" in caution
        )
        assert (await plan(database.url, text=text)).cautions == []
        assert await migrate(database.url, text=text) == []
        assert (await plan(database.url)).cautions == []


async def test_a_login_that_may_not_migrate_is_told_all_that_it_lacks_at_once(every_postgres: Cluster) -> None:
    async with notes(every_postgres, None) as (database, sql):
        login = f"{database.name}_login"
        url = every_postgres.postgres.url(database.name, login)
        await sql.execute(f"CREATE ROLE {login} LOGIN")
        try:
            await sql.execute("ALTER ROLE anon RENAME TO nona; ALTER ROLE service_role RENAME TO service_elor")
            found = await plan(url, text=DECLARATION)
            roles, tables, schema = found.obstacles
            assert "CREATE ROLE anon NOLOGIN NOINHERIT; CREATE ROLE service_role NOLOGIN NOINHERIT, then" in roles
            assert "public.folders (of postgres), public.notes (of postgres). Migrate as the owner" in tables
            assert f"GRANT CREATE ON DATABASE {database.name} TO {login}." in schema
            assert found.steps == []
            with pytest.raises(UnfitError) as refused:
                await migrate(url, text=DECLARATION)
            assert str(refused.value).splitlines() == found.obstacles
            wrong = await plan(url, text="[kind.wrong]\n", name="a.toml")
            assert "a.toml:" in wrong.obstacles[0]
            assert wrong.obstacles[1:] == [roles, schema]
            await sql.execute(
                f"ALTER ROLE {login} CREATEROLE; GRANT CREATE ON DATABASE {database.name} TO {login}; "
                f"ALTER TABLE folders OWNER TO {login}; ALTER TABLE notes OWNER TO {login}"
            )
            assert (await plan(url, text=DECLARATION)).obstacles == []
        finally:
            await sql.execute("ALTER ROLE nona RENAME TO anon; ALTER ROLE service_elor RENAME TO service_role")
            await sql.execute(f"REASSIGN OWNED BY {login} TO CURRENT_USER; DROP OWNED BY {login}; DROP ROLE {login}")


async def test_the_commands_take_the_file_of_the_declaration(postgres_18: Cluster, tmp_path: Path) -> None:
    async with notes(postgres_18, None) as (database, sql):
        app = App(database, sql, [])
        (tmp_path / "sync.toml").write_text(DECLARATION)
        file = ("--declaration", str(tmp_path / "sync.toml"))
        status, said = await command(app, "--plan", *file)
        assert status == 0
        assert "Triggers change of public.folders, public.notes." in said
        status, said = await command(app, "--sql", *file)
        assert status == 0
        assert "CREATE OR REPLACE FUNCTION sync.record_note()" in said
        assert said == await script(database.url, text=DECLARATION)
        assert await sql.fetchval("SELECT to_regnamespace('sync')") is None
        status, said = await command(app, *file)
        assert status == 0
        assert said.endswith("The database is up to date.\n")
        assert NOTHING_TO_RUN in (await command(app, "--sql"))[1]
        (tmp_path / "sync.toml").write_text(DECLARATION + "[kind.wrong]\n")
        status, said = await command(app, "--plan", *file)
        assert status == 1
        assert "sync.toml:" in said


async def test_the_sql_is_all_that_migrate_would_run(every_postgres: Cluster) -> None:
    async with notes(every_postgres, None) as (database, sql):
        await sql.execute("ALTER TABLE notes ENABLE ROW LEVEL SECURITY")
        await add_note(sql, await add_folder(sql, uuid4()))
        begun = []
        for text in (FOLDER, GATE + PERSON + WITH_PARTS, DECLARATION, None):
            printed = await script(database.url, text=text)
            assert (await steps(database.url, text=text) == []) == (NOTHING_TO_RUN in printed)
            await sql.execute(printed)
            await sql.execute("SET search_path = public")
            assert await steps(database.url, text=text) == []
            assert NOTHING_TO_RUN in await script(database.url, text=text)
            begun.append(await sql.fetchval("SELECT count(*) FROM sync.histories"))
        assert begun == [1, 2, 3, 3], "devices got a snapshot for the new kind, and for the one that is gone"
        await sql.execute("DROP TRIGGER atlas_sync_record ON notes")
        assert "CREATE CONSTRAINT TRIGGER atlas_sync_record" in await script(database.url)


async def test_the_sql_of_a_conversion_says_what_follows_from_its_result(newest_app: App) -> None:
    printed = await script(newest_app.url, text=CHAT_TOML)
    assert "-- put a partitioned table" in printed
    assert "CREATE TABLE sync.log" in printed
    assert LATER in printed


async def test_plan_and_migrate_say_whom_the_gate_lets_in(postgres_18: Cluster, tmp_path: Path) -> None:
    async with notes(postgres_18, None) as (database, sql):
        await sql.execute("INSERT INTO people VALUES (gen_random_uuid(), 'paid'), (gen_random_uuid(), 'pro')")
        (tmp_path / "sync.toml").write_text(GATE + PERSON)
        for options in (("--plan",), ()):
            said = await command(App(database, sql, []), *options, "--declaration", str(tmp_path / "sync.toml"))
            assert "The gate lets in 1 user (paid 1), and keeps out 1 (pro 1)." in said[1]


async def test_the_sql_of_an_empty_database_is_that_of_the_chat_schema(postgres_18: Cluster) -> None:
    database: Database = await postgres_18.create("template0")
    async with administrator(database) as sql:
        text = await script(database.url)
        assert "CREATE TABLE IF NOT EXISTS public.messages" in text
        assert "FUNCTION sync.record_message()" in text
        made: Any = await sql.fetchval("SELECT to_regclass('public.messages')")
        assert made is None
