"""`atlas-sync migrate --undo` gives the app its tables back as they were, with every row that was written since."""

import asyncio
import re
import subprocess
from typing import Final
from uuid import uuid4

import asyncpg
import pytest

from benchmarks.v1 import fill
from server.declaration.chat import CHAT_TOML
from server.exceptions import UnfitError
from server.postgres import connection
from server.postgres.maintain import maintain_once
from server.postgres.migrate import migrate
from server.postgres.migrate import steps as steps_of_migrate
from server.postgres.steps import SILENT
from server.postgres.undo import steps, undo
from tests.postgres.test_adopt import RICH, SAID
from tests.postgres.test_migrate import catalogue
from tests.support import chat_app
from tests.support.chat_app import App, Heard, command
from tests.support.cluster import NEWEST, Cluster, Database, binaries
from tests.support.device import live_device
from tests.support.inventory import inventory
from tests.support.maintenance import POLICY, add_old_messages, all_messages, maintained, make_month
from tests.support.notes import DECLARATION, GATE, PERSON, add_folder, add_note, notes
from tests.support.people import add_conversation, add_message, add_user
from tests.support.serving import serving
from tests.support.waiting import eventually


async def write(app: App) -> None:
    """What an app does in the months after it was adopted: of now, of later, of then; changed and deleted."""
    _, conversation = await app.somebody()
    for days in (0, 60, 370, -200):
        await app.sql.execute(
            "INSERT INTO messages (id, conversation_id, role, content, created_at) "
            "VALUES ($1, $2, 'user', 'written since', now() + make_interval(days => $3))",
            *(uuid4(), conversation, days),
        )
    await app.sql.execute(
        "UPDATE messages SET content = 'changed' WHERE id = (SELECT id FROM messages ORDER BY id LIMIT 1)"
    )
    await app.sql.execute("DELETE FROM messages WHERE id = (SELECT id FROM messages ORDER BY id DESC LIMIT 1)")


async def test_the_database_is_as_it_was_and_has_what_was_written_since(app: App) -> None:
    before = await app.shape()
    others = [await app.rows(table) for table in ("profiles", "conversations", "daily_usage", "usage_logs")]
    await migrate(app.url)
    await write(app)
    rows = [row[:5] for row in await app.rows("messages")]
    assert len(rows) == 2_003
    await undo(app.url, SILENT)
    assert await app.shape() == before
    assert await app.rows("messages") == rows
    assert [await app.rows(table) for table in ("profiles", "conversations", "daily_usage", "usage_logs")] == others
    await app.sql.execute("INSERT INTO messages (id) VALUES ($1) ON CONFLICT (id) DO NOTHING", uuid4())


async def test_what_the_app_has_on_its_tables_is_as_it_was(app: App) -> None:
    reader, writer = await app.role(), await app.role()
    await app.sql.execute(RICH.replace("{reader}", reader).replace("{writer}", writer))
    await app.sql.execute(f"GRANT SELECT (id) ON profiles TO {reader}; GRANT SELECT ON conversations TO PUBLIC")
    # A right that another role than the owner granted.
    await app.sql.execute(f"SET ROLE {writer}; GRANT SELECT ON messages TO {reader}; RESET ROLE")
    before, dumped = await app.shape(), await catalogue(app.database)
    await migrate(app.url)
    await write(app)
    await undo(app.url, SILENT)
    assert await app.shape() == before
    assert await catalogue(app.database) == dumped
    assert await app.sql.fetchval("SELECT max(number) FROM messages") == await app.sql.fetchval(
        "SELECT currval(pg_get_serial_sequence('messages', 'number'))"
    )


async def test_what_is_being_streamed_is_in_its_row(app: App) -> None:
    await migrate(app.url)
    user, conversation = await app.somebody()
    message, stream = uuid4(), uuid4()
    await app.sql.execute(
        "INSERT INTO messages (id, conversation_id, role, content) VALUES ($1, $2, 'assistant', '')",
        *(message, conversation),
    )
    opening = "SELECT sync.open_stream($1, $2, 'm', ARRAY[$3], 'content', false, 9, 'a server')"
    await app.sql.execute(opening, stream, user, str(message))
    await app.sql.execute("SELECT sync.append_streams('a server', ARRAY[$1::uuid], ARRAY[0], ARRAY['text'])", stream)
    await undo(app.url, SILENT)
    assert await app.sql.fetchval("SELECT content FROM messages WHERE id = $1", message) == "text"


async def test_archived_months_and_strays_come_back(newest_app: App) -> None:
    before = await newest_app.shape()
    await migrate(newest_app.url)
    _, conversation = await newest_app.somebody()
    # As after two years: the adopted partition ended long ago, and some months after it.
    await newest_app.sql.execute(
        "ALTER TABLE messages DETACH PARTITION public.messages_v1; "
        "DELETE FROM public.messages_v1 WHERE created_at >= date_trunc('month', now() - interval '40 days', 'UTC'); "
        "SET timezone = 'UTC'; DO $$ BEGIN EXECUTE format('ALTER TABLE messages ATTACH PARTITION public.messages_v1 "
        "FOR VALUES FROM (MINVALUE) TO (%L)', date_trunc('month', now() - interval '40 days')); END $$"
    )
    for month in (-1, 0):
        await make_month(newest_app.sql, month)
    await newest_app.sql.execute(
        "INSERT INTO messages (id, conversation_id, role, content, created_at) "
        "SELECT gen_random_uuid(), $1, 'user', 'of ' || at, at FROM generate_series("
        "date_trunc('month', now() - interval '30 days'), now() + interval '9 years', interval '7 days') at",
        conversation,
    )
    await newest_app.sql.execute("SELECT sync.archive_partition('public.messages_v1')")
    rows = [row[:5] for row in await all_messages(newest_app.sql)]
    await undo(newest_app.url, SILENT)
    assert await newest_app.shape() == before
    assert sorted(tuple(row) for row in await newest_app.rows("messages")) == rows


async def test_a_database_that_is_adopted_again_is_served_again(newest_app: App) -> None:
    before = await newest_app.shape()
    for _ in range(2):
        await migrate(newest_app.url)
        await write(newest_app)
        user, _ = await newest_app.somebody()
        async with serving(newest_app.database) as server, live_device(server.url, user) as device:
            assert device.state()
        await undo(newest_app.url, SILENT)
        assert await newest_app.shape() == before


async def test_an_undo_that_is_killed_after_each_step_comes_to_the_same_end(app: App) -> None:
    before = await app.shape()
    await migrate(app.url)
    await write(app)
    rows = [row[:5] for row in await app.rows("messages")]
    planned = len(await steps(app.url))
    assert await app.killed_after_each_step("undo") == planned > 3
    assert await app.shape() == before
    assert await app.rows("messages") == rows


async def test_an_undo_that_is_killed_at_any_moment_comes_to_the_same_end(newest_app: App) -> None:
    before = await newest_app.shape()
    await migrate(newest_app.url)
    await write(newest_app)
    rows = [row[:5] for row in await newest_app.rows("messages")]
    await newest_app.killed_at_any_moment("undo", 0.1)
    assert await newest_app.shape() == before
    assert await newest_app.rows("messages") == rows


async def test_maintenance_does_not_run_beside_an_undo(newest_app: App) -> None:
    await migrate(newest_app.url)
    async with newest_app.holding("SELECT FROM messages LIMIT 1"):
        undoing = asyncio.create_task(undo(newest_app.url, heard := Heard()))
        await eventually(lambda: len(heard.waited) > 0)
        assert not await maintain_once(newest_app.url, POLICY, lambda _: None)
    await undoing
    assert await newest_app.sql.fetchval("SELECT to_regnamespace('sync') IS NULL")


async def test_the_limit_of_the_servers_statements_does_not_apply_to_an_undo(
    newest_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    await newest_app.sql.execute(
        "CREATE FUNCTION slow(text) RETURNS boolean LANGUAGE sql AS $$ SELECT pg_sleep(0.3) IS NOT NULL $$; "
        "ALTER TABLE messages ADD CHECK (content NOT LIKE 'slow%' OR slow(content))"
    )
    await migrate(newest_app.url)
    _, conversation = await newest_app.somebody()
    await newest_app.sql.execute(
        "INSERT INTO messages (id, conversation_id, content, created_at) "
        "SELECT gen_random_uuid(), $1, 'slow', now() + interval '99 days' FROM generate_series(1, 3)",
        conversation,
    )
    monkeypatch.setattr(connection, "STATEMENT_SECONDS", 0.5)
    await undo(newest_app.url, SILENT)
    assert await newest_app.sql.fetchval("SELECT count(*) FROM messages") == 203


async def test_an_interrupted_migration_must_be_completed_before_it_is_undone(newest_app: App) -> None:
    class StopError(Exception):
        pass

    class Stopping(chat_app.Heard):
        def ends(self, step: object) -> None:
            raise StopError

    with pytest.raises(StopError):
        await migrate(newest_app.url, Stopping())
    with pytest.raises(UnfitError, match="Let `atlas-sync migrate` complete it, then undo"):
        await undo(newest_app.url, SILENT)


async def test_tables_that_migrations_created_stay_with_data_and_nothing_of_ours(every_database: Database) -> None:
    sql = await every_database.connect()
    conversation = await add_conversation(sql, await add_user(sql))
    await make_month(sql, -20)
    await add_old_messages(sql, conversation, -20, rows=5)
    await maintained(every_database)
    await add_message(sql, conversation)
    await sql.execute(
        "INSERT INTO messages (conversation_id, role, content, created_at) VALUES ($1, 'user', 'stray', '2050-01-01')",
        conversation,
    )
    rows = await all_messages(sql)
    assert await sql.fetchval("SELECT count(*) FROM messages_archive") == 5
    await undo(every_database.url, SILENT)
    columns = "id, conversation_id, role, content, created_at, updated_at"
    assert sorted(tuple(row) for row in await sql.fetch(f"SELECT {columns} FROM messages")) == rows
    assert await sql.fetchval("SELECT to_regnamespace('sync') IS NULL AND to_regclass('messages_archive') IS NULL")
    assert not await sql.fetchval("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal")
    assert not await sql.fetchval("SELECT count(*) FROM pg_policy")
    assert await sql.fetchval(
        "SELECT bool_and(relnamespace = 'public'::regnamespace) FROM pg_class c JOIN pg_inherits ON inhrelid = c.oid"
    )
    await add_message(sql, conversation)
    await sql.close()


async def test_the_command_asks_first_unless_it_is_given_yes(newest_app: App) -> None:
    before = await newest_app.shape()
    await migrate(newest_app.url)
    adopted = await newest_app.shape()
    status, said = await command(newest_app, "--undo", answer="n\n")
    assert status == 1
    assert "Devices will no longer sync, and usage, costs and cached responses are lost. Continue? [y/N]" in said
    status, said = await command(newest_app, "--undo", "--plan")
    assert status == 0
    for step in await steps(newest_app.url):
        assert f"{step.says}\n    {step.locks}; " in said
    assert await newest_app.shape() == adopted
    status, said = await command(newest_app, "--undo", "--yes")
    assert (status, said.splitlines()[-1]) == (0, "The database is as it was before.")
    assert await newest_app.shape() == before
    status, said = await command(newest_app, "--undo", "--yes")
    assert (status, said) == (0, "Nothing of Atlas Sync is in this database.\n")


# ---- On a platform that is not ours ----------------------------------------------------------------------------------

PLATFORM = """
    DO $$ BEGIN CREATE ROLE {auth} NOLOGIN; END $$;
    CREATE SCHEMA auth AUTHORIZATION {auth};
    CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS
        $$ SELECT (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid $$;
    ALTER FUNCTION auth.uid() OWNER TO {auth};
    GRANT USAGE ON SCHEMA auth TO anon, authenticated, service_role, {owner};
    ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public
        GRANT ALL ON TABLES TO anon, authenticated, service_role;
"""


async def test_an_owner_who_is_no_superuser_adopts_serves_and_undoes(every_postgres: Cluster) -> None:
    database = await every_postgres.create("template0")
    admin = await database.connect()
    owner, auth = (f"{database.name}_{name}" for name in ("owner", "auth"))
    url = every_postgres.postgres.url(database.name, owner)
    try:
        await admin.execute(
            f'CREATE ROLE {owner} LOGIN CREATEROLE; ALTER DATABASE "{database.name}" OWNER TO {owner};'
            + PLATFORM.replace("{owner}", owner).replace("{auth}", auth)
        )
        if await admin.fetchval("SELECT current_setting('server_version_num')::int >= 160000"):
            # The platform that created these roles made its owner their administrator.
            await admin.execute(f"GRANT anon, authenticated, service_role, atlas_sync TO {owner} WITH ADMIN OPTION")
        sql = await asyncpg.connect(url)
        await chat_app.create(sql)
        await fill(sql, 200)
        app = App(database, sql, [])
        # With FORCE, row level security would hide rows from the owner, who moves them.
        await sql.execute("ALTER TABLE messages ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        with pytest.raises(UnfitError, match="FORCE ROW LEVEL SECURITY"):
            await migrate(url)
        await sql.execute("ALTER TABLE messages DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY")
        before, rows = await app.shape(), await app.rows("messages")
        assert await migrate(url) == []
        assert await inventory(admin) == await inventory(admin, owner) == []
        user, conversation = await app.somebody()
        async with serving(database) as server, live_device(server.url, user) as device:
            held = {key for key in device.state() if key[0] == "m"}
            said = uuid4()
            await sql.execute(SAID, said, conversation, "hello")
            while ("m", said) not in device.state():
                await device.hear()
        async with App(database, admin, []).acting("authenticated", user):
            assert await admin.fetchval("SELECT count(*) FROM messages") == len(held) + 1
        await undo(url, SILENT)
        assert await app.shape() == before
        assert len(await app.rows("messages")) == len(rows) + 1
        await sql.close()
    finally:
        await admin.close()
        await database.drop()
        await chat_app.drop_roles(every_postgres, [owner, auth])


@NEWEST
async def test_migrating_after_an_undo_brings_everything_back(every_database: Database) -> None:
    sql = await every_database.connect()
    conversation = await add_conversation(sql, await add_user(sql))
    await add_message(sql, conversation)
    for at in ("2001-02-03", "2041-02-03"):
        await sql.execute(
            "INSERT INTO messages (conversation_id, role, content, created_at) "
            "VALUES ($1, 'user', 'x', $2::text::timestamptz)",
            *(conversation, at),
        )
    await undo(every_database.url, SILENT)
    await migrate(every_database.url)
    assert await sql.fetchval("SELECT count(*) FROM messages") == 3
    before = await sql.fetchval("SELECT count(*) FROM sync.log")
    await sql.execute("UPDATE messages SET content = 'y'")
    assert await sql.fetchval("SELECT count(*) FROM sync.log") == before + 3
    with pytest.raises(asyncpg.RaiseError, match="TRUNCATE"):
        await sql.execute("TRUNCATE messages")
    assert await inventory(sql) == []
    await sql.close()


# ---- What is only declared ------------------------------------------------------------------------------------------

UNPARTITIONED: Final = re.sub("^(partition|archive|policies) = .*\n", "", CHAT_TOML, flags=re.MULTILINE)


async def dumped(database: Database) -> str:
    tool = binaries(database.cluster.version) / "pg_dump"
    made = await asyncio.to_thread(
        subprocess.run, [str(tool), "--schema-only", database.url], check=True, capture_output=True, text=True
    )
    return re.sub(r"^\\(un)?restrict .*$", "", made.stdout, flags=re.MULTILINE)


async def test_the_chat_tables_without_partitions_are_left_byte_for_byte(app: App) -> None:
    reader, writer = await app.role(), await app.role()
    await app.sql.execute(RICH.replace("{reader}", reader).replace("{writer}", writer))
    # Atlas Sync needs them, and the app has them.
    await app.sql.execute("ALTER TABLE messages ALTER created_at SET DEFAULT now(), ADD updated_at timestamptz")
    before = await dumped(app.database)
    rows = await app.rows("messages")
    assert await migrate(app.url, text=UNPARTITIONED) == []
    assert await steps_of_migrate(app.url) == []
    _, conversation = await app.somebody()
    await app.sql.execute(SAID, uuid4(), conversation, "written since")
    assert len(await app.rows("messages")) == len(rows) + 1
    (planned,) = await steps(app.url)
    assert "public.messages" in planned.says
    await undo(app.url, SILENT)
    assert await steps(app.url) == []
    assert await dumped(app.database) == before


@pytest.mark.parametrize("declaration", [DECLARATION, GATE + PERSON + DECLARATION], ids=["notes", "with a gate"])
async def test_an_app_that_is_no_chat_is_left_byte_for_byte(every_postgres: Cluster, declaration: str) -> None:
    async with notes(every_postgres, None) as (database, sql):
        await sql.execute(
            """
            CREATE SCHEMA other; CREATE TABLE other."Odd Name" (id int PRIMARY KEY, "who's" uuid, said text);
            ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
            CREATE POLICY own ON notes TO authenticated USING (said <> 'secret');
            GRANT SELECT (said) ON notes TO authenticated;
            CREATE TABLE parted (id int, who uuid, PRIMARY KEY (id)) PARTITION BY RANGE (id);
            CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
            """
        )
        odd = '[kind.odd]\ntable = "other.Odd Name"\nowner = "who\'s"\ncolumns = ["said"]\n'
        odd += '[kind.part]\ntable = "parted"\nowner = "who"\ncolumns = []\n'
        before = await dumped(database)
        assert await migrate(database.url, text=declaration + odd) == []
        await add_note(sql, await add_folder(sql, uuid4()))
        await sql.execute("INSERT INTO parted VALUES (1, gen_random_uuid())")
        assert await sql.fetchval("SELECT count(*) FROM sync.log") == 3
        await undo(database.url, SILENT)
        assert await dumped(database) == before


async def test_what_is_declared_beside_a_partitioned_chat_is_left_too(newest_app: App) -> None:
    await newest_app.sql.execute("CREATE SCHEMA other; CREATE TABLE other.stars (id uuid PRIMARY KEY, who uuid)")
    before = await newest_app.shape()
    stars = '[kind.star]\ntable = "other.stars"\nowner = "who"\ncolumns = []\n'
    assert await migrate(newest_app.url, text=CHAT_TOML + stars) == []
    await undo(newest_app.url, SILENT)
    assert await newest_app.shape() == before


async def test_tables_that_are_partitioned_later_come_back_too(newest_app: App) -> None:
    await newest_app.sql.execute("ALTER TABLE messages ALTER created_at SET DEFAULT now(), ADD updated_at timestamptz")
    before = await newest_app.shape()
    assert await migrate(newest_app.url, text=UNPARTITIONED) == []
    assert await migrate(newest_app.url, text=CHAT_TOML) == []
    await undo(newest_app.url, SILENT)
    assert await newest_app.shape() == before
