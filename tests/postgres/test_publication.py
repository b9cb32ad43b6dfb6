"""The publication holds what servers read of the WAL, follows the declaration, and no write of the app fails because of
it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import asyncpg
import pytest

from server.declaration.chat import CHAT_TOML
from server.exceptions import ConfigError, UnfitError
from server.postgres import inspector
from server.postgres.doctor import Finding, examine
from server.postgres.migrate import migrate, steps
from server.postgres.plan import plan
from server.postgres.publication import EARLIER, FOREIGN, UNGUARDED, Doorbells
from server.postgres.steps import SILENT
from server.postgres.undo import undo
from tests.postgres.test_undo import UNPARTITIONED, dumped
from tests.support.chat_app import App, command
from tests.support.cluster import SERVER_LOGIN, Cluster, Database, administrator, running_cluster
from tests.support.inventory import inventory
from tests.support.maintenance import maintained, make_month
from tests.support.notes import DECLARATION, FOLDER, GATE, PERSON, add_folder, add_note, notes
from tests.support.people import add_conversation, add_message, add_user
from tests.support.replication import LOGICAL
from tests.support.serving import serving
from tests.support.waiting import eventually

WAL, LISTEN = Doorbells.WAL, Doorbells.LISTEN
PUBLISHED = """
    SELECT schemaname || '.' || tablename AS tab, attnames::text[] AS names
    FROM pg_publication_tables WHERE pubname = 'atlas_sync' ORDER BY 1
"""
CHAT = {"public.conversations", "public.messages", "public.profiles", "sync.declaration", "sync.log"}
LOG = ["user_id", "seq", "n", "prev", "kind", "op", "row_id", "row_at", "mark", "prev_mark", "row_key"]


@pytest.fixture(scope="module")
def logical() -> Iterator[Cluster]:
    with running_cluster("18", {**LOGICAL, "max_slot_wal_keep_size": "1GB"}) as cluster:
        yield cluster


async def published(sql: Any) -> dict[str, list[str]]:
    return {row["tab"]: row["names"] for row in await sql.fetch(PUBLISHED)}


async def test_it_has_what_servers_read_and_nothing_else(every_postgres: Cluster) -> None:
    async with notes(every_postgres) as (database, sql):
        assert await published(sql) == {}
        assert await migrate(database.url, doorbells=WAL) == []
        assert await published(sql) == {
            "public.folders": ["id", "owner", "name"],
            "public.notes": ["id", "folder", "said"],
            "sync.declaration": ["only_one", "digest"],
            "sync.log": LOG,
        }
        options = "pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot, puballtables"
        found = await sql.fetchrow(f"SELECT {options} FROM pg_publication")
        assert tuple(found) == (True, True, False, False, True, False)


async def test_a_plain_migration_keeps_it_and_it_follows_the_declaration(every_postgres: Cluster) -> None:
    async with notes(every_postgres, FOLDER) as (database, sql):
        await migrate(database.url, doorbells=WAL)
        await migrate(database.url, text=GATE + PERSON + DECLARATION.replace('["said"]', '["said", "parts"]'))
        assert await published(sql) == {
            "public.folders": ["id", "owner", "name"],
            "public.notes": ["id", "folder", "said", "parts"],
            "public.people": ["id", "plan"],
            "sync.declaration": ["only_one", "digest"],
            "sync.log": LOG,
        }
        assert await steps(database.url) == []
        await migrate(database.url, text=FOLDER)
        assert set(await published(sql)) == {"public.folders", "sync.declaration", "sync.log"}


async def test_the_chat_schema_is_published_by_the_names_of_its_tables(every_database: Database) -> None:
    async with administrator(every_database) as sql:
        await migrate(every_database.url, doorbells=WAL)
        assert set(await published(sql)) == CHAT


async def test_listen_drops_it_and_ends_the_silence(every_postgres: Cluster) -> None:
    async with notes(every_postgres) as (database, sql):
        await migrate(database.url, doorbells=WAL)
        assert await sql.fetchval("SELECT sync.keep_quiet()")
        await migrate(database.url, doorbells=LISTEN)
        assert await published(sql) == {}
        assert await sql.fetchval("SELECT count(*) FROM pg_event_trigger") == 0
        assert await sql.fetchrow("SELECT doorbells, quiet_until::text FROM sync.meta") == ("listen", "-infinity")
        assert await steps(database.url) == await steps(database.url, doorbells=LISTEN) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("ALTER TABLE notes DROP CONSTRAINT notes_pkey", "it has no replica identity, as a primary key is"),
        ("ALTER TABLE notes REPLICA IDENTITY NOTHING", "it has no replica identity, as a primary key is"),
        ("ALTER TABLE notes REPLICA IDENTITY FULL", "its REPLICA IDENTITY is FULL, which allows no list of columns"),
        (
            "ALTER TABLE notes ALTER secret SET DEFAULT gen_random_uuid()::text, ALTER secret SET NOT NULL; "
            "CREATE UNIQUE INDEX other ON notes (secret); ALTER TABLE notes REPLICA IDENTITY USING INDEX other; "
            "DROP INDEX other",
            "it has no replica identity, as a primary key is",
        ),
        (
            "ALTER TABLE notes DROP CONSTRAINT notes_pkey; ALTER TABLE notes ADD PRIMARY KEY (id) DEFERRABLE",
            "it has no replica identity, as a primary key is",
        ),
    ],
)
async def test_a_table_whose_updates_would_fail_is_left_out_and_named(
    every_postgres: Cluster, change: str, why: str
) -> None:
    async with notes(every_postgres) as (database, sql):
        await sql.execute(change)
        says = f"public.notes is left out of the publication atlas_sync: {why}. Its changes ring, and are then read."
        assert says in (await plan(database.url, doorbells=WAL)).cautions
        await migrate(database.url, doorbells=WAL)
        assert set(await published(sql)) == {"public.folders", "sync.declaration", "sync.log"}
        assert await steps(database.url) == []
        await edit(sql)


async def edit(sql: Any) -> None:
    note = await add_note(sql, await add_folder(sql, uuid4()))
    assert await sql.execute("UPDATE notes SET said = 'more' WHERE id = $1", note) == "UPDATE 1"


async def test_a_replica_identity_of_other_columns_is_published_too(every_postgres: Cluster) -> None:
    async with notes(every_postgres) as (database, sql):
        await sql.execute(
            "UPDATE notes SET secret = id; ALTER TABLE notes ALTER secret SET DEFAULT gen_random_uuid()::text, "
            "ALTER secret SET NOT NULL; CREATE UNIQUE INDEX other ON notes (secret) INCLUDE (said); "
            "ALTER TABLE notes REPLICA IDENTITY USING INDEX other"
        )
        await migrate(database.url, doorbells=WAL)
        assert (await published(sql))["public.notes"] == ["id", "folder", "said", "secret"]
        await edit(sql)


CHANGES = [
    "ALTER TABLE notes DROP CONSTRAINT notes_pkey",
    "ALTER TABLE notes REPLICA IDENTITY NOTHING",
    "ALTER TABLE notes REPLICA IDENTITY FULL",
    "ALTER TABLE notes ALTER secret SET DEFAULT gen_random_uuid()::text, ALTER secret SET NOT NULL; "
    "CREATE UNIQUE INDEX other ON notes (secret); ALTER TABLE notes REPLICA IDENTITY USING INDEX other",
]


@pytest.mark.parametrize("change", CHANGES)
async def test_an_update_succeeds_in_the_transaction_that_changed_the_tables_key(
    every_postgres: Cluster, change: str
) -> None:
    async with notes(every_postgres) as (database, sql):
        await migrate(database.url, doorbells=WAL)
        async with sql.transaction():
            await sql.execute(change)
            await edit(sql)
        assert set(await published(sql)) == {"public.folders", "sync.declaration", "sync.log"}


@pytest.mark.parametrize("change", CHANGES)
async def test_without_an_event_trigger_a_server_takes_the_table_out(every_postgres: Cluster, change: str) -> None:
    async with notes(every_postgres) as (database, sql):
        await migrate(database.url, doorbells=WAL)
        await sql.execute("DROP EVENT TRIGGER atlas_sync_withdraw")
        await sql.execute(change)
        with pytest.raises((asyncpg.ObjectNotInPrerequisiteStateError, asyncpg.InvalidColumnReferenceError)):
            await edit(sql)
        server = await asyncpg.connect(database.server_url)
        await server.execute("SELECT sync.withdraw()")
        await server.close()
        await edit(sql)
        assert set(await published(sql)) == {"public.folders", "sync.declaration", "sync.log"}


async def test_a_server_looks_for_such_tables_again_and_again(every_database: Database) -> None:
    async with administrator(every_database) as sql:
        await migrate(every_database.url, doorbells=WAL)
        await sql.execute("DROP EVENT TRIGGER atlas_sync_withdraw")
        with patch.object(inspector, "EVERY", 0.05):
            async with serving(every_database):
                await sql.execute("ALTER TABLE profiles REPLICA IDENTITY NOTHING")
                await eventually(lambda: taken_out(sql, "public.profiles"))
        await sql.execute("UPDATE profiles SET subscription_tier = 'core'")


async def taken_out(sql: Any, table: str) -> bool:
    return table not in await published(sql)


async def test_what_was_taken_out_is_published_again_once_it_fits(every_postgres: Cluster) -> None:
    async with notes(every_postgres) as (database, sql):
        await migrate(database.url, doorbells=WAL)
        await sql.execute("ALTER TABLE notes DROP CONSTRAINT notes_pkey")
        await sql.execute("ALTER TABLE notes ADD PRIMARY KEY (id)")
        assert "public.notes" not in await published(sql)
        await migrate(database.url)
        assert "public.notes" in await published(sql)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE notes ADD COLUMN more text DEFAULT 'x' NOT NULL",
        "ALTER TABLE notes ADD COLUMN length int GENERATED ALWAYS AS (length(said)) STORED",
        "ALTER TABLE notes DROP COLUMN secret",
        "ALTER TABLE notes RENAME COLUMN secret TO hidden",
        "ALTER TABLE notes ALTER said SET NOT NULL",
        "CREATE UNIQUE INDEX ON notes (folder, id)",
        "ALTER TABLE notes CLUSTER ON notes_pkey",
        "ALTER TABLE notes ENABLE ROW LEVEL SECURITY",
    ],
)
async def test_other_changes_of_a_table_leave_it_published(every_postgres: Cluster, change: str) -> None:
    async with notes(every_postgres) as (database, sql):
        await migrate(database.url, doorbells=WAL)
        await sql.execute(change)
        await edit(sql)
        assert (await published(sql))["public.notes"] == ["id", "folder", "said"]


@pytest.mark.parametrize("change", ["DROP COLUMN said", "ALTER COLUMN said TYPE varchar(10)"])
async def test_a_published_column_is_dropped_or_retyped_once_its_table_is_not_published(
    every_postgres: Cluster, change: str
) -> None:
    """As without a publication Postgres refuses that for our trigger's sake; server/README.md, Your own migrations."""
    async with notes(every_postgres) as (database, sql):
        await migrate(database.url, doorbells=WAL)
        await sql.execute("DROP TRIGGER atlas_sync_record_update ON notes")
        with pytest.raises((asyncpg.DependentObjectsStillExistError, asyncpg.FeatureNotSupportedError)):
            await sql.execute(f"ALTER TABLE notes {change}")
        await sql.execute(f"BEGIN; ALTER PUBLICATION atlas_sync DROP TABLE notes; ALTER TABLE notes {change}; COMMIT")
        await migrate(database.url, text=DECLARATION.replace('"said"', '"parts"').replace("limits = {", "# "))
        assert (await published(sql))["public.notes"] == ["id", "folder", "parts"]


async def test_undo_removes_it(every_postgres: Cluster) -> None:
    async with notes(every_postgres) as (database, sql):
        await migrate(database.url, doorbells=WAL)
        await undo(database.url, SILENT)
        assert await sql.fetchval("SELECT count(*) FROM pg_publication") == 0
        assert await sql.fetchval("SELECT count(*) FROM pg_event_trigger") == 0


async def test_undo_leaves_the_schema_byte_for_byte(every_postgres: Cluster) -> None:
    async with notes(every_postgres, None) as (database, sql):
        await sql.execute("CREATE PUBLICATION theirs FOR TABLE notes WHERE (id > 3) WITH (publish = 'insert')")
        before = await dumped(database)
        await migrate(database.url, text=DECLARATION, doorbells=WAL)
        await undo(database.url, SILENT)
        assert await dumped(database) == before


async def test_an_app_whose_messages_are_partitioned_later_is_as_it_was_after_an_undo(app: App) -> None:
    await app.sql.execute(
        "ALTER TABLE messages ALTER created_at SET DEFAULT now(), ADD updated_at timestamptz; "
        "CREATE PUBLICATION theirs FOR TABLE messages WITH (publish_via_partition_root = true)"
    )
    before = await app.shape()
    assert await migrate(app.url, text=UNPARTITIONED, doorbells=WAL) == []
    assert (await published(app.sql))["public.messages"][0] == "id"
    assert await migrate(app.url, text=CHAT_TOML) == []
    assert set(await published(app.sql)) == CHAT
    assert await app.sql.fetchval("SELECT relkind FROM pg_class WHERE oid = 'messages'::regclass") == b"p"
    _, conversation = await app.somebody()
    await app.sql.execute("UPDATE messages SET content = 'changed' WHERE conversation_id = $1", conversation)
    assert await steps(app.url) == []
    await undo(app.url, SILENT)
    assert await app.shape() == before


async def test_partitions_are_made_archived_and_emptied_of_strays_beside_it(
    every_database: Database, strays_move: None
) -> None:
    async with administrator(every_database) as sql:
        await migrate(every_database.url, doorbells=WAL)
        conversation = await add_conversation(sql, await add_user(sql))
        await make_month(sql, -14)
        for months in (0, 20, -14):
            await sql.execute(
                "INSERT INTO messages (conversation_id, role, content, created_at) "
                "VALUES ($1, 'user', 'x', now() + make_interval(months => $2))",
                *(conversation, months),
            )
        await maintained(every_database)
        assert await sql.execute("UPDATE messages SET content = 'y'") == "UPDATE 2"
        assert await sql.execute("UPDATE messages_archive SET content = 'y'") == "UPDATE 1"
        assert set(await published(sql)) == CHAT
        assert await inventory(sql) == []


async def test_a_partition_whose_updates_would_fail_takes_its_table_out(every_database: Database) -> None:
    async with administrator(every_database) as sql:
        await migrate(every_database.url, doorbells=WAL)
        message = await add_message(sql, await add_conversation(sql, await add_user(sql)))
        (part,) = await sql.fetchrow("SELECT tableoid::regclass::text FROM messages WHERE id = $1", message)
        await sql.execute(f"ALTER TABLE {part} REPLICA IDENTITY FULL")
        assert await sql.execute("UPDATE messages SET content = 'y'") == "UPDATE 1"
        assert set(await published(sql)) == CHAT - {"public.messages"}


async def test_rows_of_tables_that_inherit_are_not_published(every_postgres: Cluster) -> None:
    """No trigger of ours sees them; and their updates could fail."""
    async with notes(every_postgres) as (database, sql):
        await sql.execute("CREATE TABLE scribbles () INHERITS (notes)")
        await migrate(database.url, doorbells=WAL)
        assert "public.scribbles" not in await published(sql)
        await sql.execute("INSERT INTO scribbles (id, folder) VALUES (1, 'x'); UPDATE notes SET said = 'y'")


async def test_a_generated_column_is_published_where_postgres_can(every_postgres: Cluster) -> None:
    can = every_postgres.version == "18"
    async with notes(every_postgres, None) as (database, sql):
        await sql.execute("ALTER TABLE notes ADD long int GENERATED ALWAYS AS (length(said)) STORED")
        declaration = DECLARATION.replace('columns = ["said"]', 'columns = ["said", "long"]')
        await migrate(database.url, text=declaration, doorbells=WAL)
        assert ("public.notes" in await published(sql)) == can
        said = [says for says in (await plan(database.url)).cautions if "its generated column long" in says]
        assert bool(said) != can
        await edit(sql)


# ---- Rights ---------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def owned(cluster: Cluster, grant: str = "") -> AsyncIterator[tuple[Database, Any, str]]:
    """A database whose tables belong to a login that is no superuser, as an administrator and as that login."""
    async with notes(cluster, None) as (database, sql):
        owner = f"{database.name}_owner"
        await sql.execute(
            f"CREATE ROLE {owner} LOGIN CREATEROLE; GRANT CREATE ON SCHEMA public TO {owner}; CREATE SCHEMA sync; "
            f"ALTER SCHEMA sync OWNER TO {owner};" + grant.format(database=database.name, owner=owner)
        )
        for table in ("people", "folders", "notes"):
            await sql.execute(f"ALTER TABLE {table} OWNER TO {owner}")
        try:
            yield database, sql, cluster.postgres.url(database.name, owner)
        finally:
            await sql.execute(f"DROP OWNED BY {owner}; DROP ROLE {owner}")


CREATES = "GRANT CREATE ON DATABASE {database} TO {owner}"


async def test_a_login_without_the_right_is_told_what_to_grant(every_postgres: Cluster) -> None:
    async with owned(every_postgres) as (database, sql, url):
        says = f"GRANT CREATE ON DATABASE {database.name} TO {database.name}_owner"
        assert [says in each for each in (await plan(url, text=DECLARATION, doorbells=WAL)).obstacles] == [True]
        with pytest.raises(UnfitError, match=says):
            await migrate(url, text=DECLARATION, doorbells=WAL)
        assert await sql.fetchval("SELECT to_regclass('sync.meta')") is None
        await sql.execute(says)
        await migrate(url, text=DECLARATION, doorbells=WAL)
        assert set(await published(sql)) == {"public.folders", "public.notes", "sync.declaration", "sync.log"}


async def test_without_a_superuser_the_plan_says_what_that_means(every_postgres: Cluster) -> None:
    async with owned(every_postgres, CREATES) as (_, sql, url):
        assert UNGUARDED in (await plan(url, text=DECLARATION, doorbells=WAL)).cautions
        await migrate(url, text=DECLARATION, doorbells=WAL)
        assert await sql.fetchval("SELECT count(*) FROM pg_event_trigger") == 0
        assert UNGUARDED in (await plan(url)).cautions
        await migrate(url, doorbells=LISTEN)
        await undo(url, SILENT)
        assert await sql.fetchval("SELECT count(*) FROM pg_publication") == 0


def test_the_plan_says_what_servers_need() -> None:
    async def check() -> None:
        async with notes(cluster) as (database, _):
            cautions = (await plan(database.url, doorbells=WAL)).cautions
            assert EARLIER in cautions
            needed = "Have an administrator run ALTER ROLE atlas_server REPLICATION"
            assert [says for says in cautions if needed in says]
            assert [says for says in cautions if "wal_level is replica" in says]
            await migrate(database.url, doorbells=WAL)
            assert EARLIER not in (await plan(database.url)).cautions

    with running_cluster("18", {"wal_level": "replica"}) as cluster:
        asyncio.run(check())


async def test_the_right_to_replicate_is_too_much_for_a_server_that_listens(logical: Cluster) -> None:
    async with notes(logical) as (database, sql):
        login = f"{database.name}_server"
        await sql.execute(f"CREATE ROLE {login} LOGIN REPLICATION IN ROLE atlas_sync")
        url = logical.postgres.url(database.name, login)
        privileges = {found.what: found async for found in examine(url)}["privileges"]
        assert "it may replicate" in privileges.says
        await migrate(database.url, doorbells=WAL)
        privileges = {found.what: found async for found in examine(url)}["privileges"]
        assert "it may replicate" not in privileges.says
        await sql.execute(f"DROP ROLE {login}")


async def test_a_publication_that_is_not_ours_is_left_alone(every_postgres: Cluster) -> None:
    async with notes(every_postgres) as (database, sql):
        await sql.execute("CREATE PUBLICATION atlas_sync FOR TABLE notes")
        assert await migrate(database.url) == []
        assert (await plan(database.url, doorbells=WAL)).obstacles == [FOREIGN]
        with pytest.raises(UnfitError, match="which Atlas Sync did not make"):
            await migrate(database.url, doorbells=WAL)
        await undo(database.url, SILENT)
        assert set(await published(sql)) == {"public.notes"}


async def test_a_publication_that_was_altered_or_dropped_is_mended(every_postgres: Cluster) -> None:
    async with notes(every_postgres) as (database, sql):
        await migrate(database.url, doorbells=WAL)
        right = await published(sql)
        await sql.execute("ALTER PUBLICATION atlas_sync SET (publish = 'insert, update, delete')")
        assert [wrong.what for wrong in await inventory(sql)] == ["publication atlas_sync"]
        await migrate(database.url)
        assert await inventory(sql) == []
        await sql.execute(
            "ALTER PUBLICATION atlas_sync ADD TABLE people; ALTER PUBLICATION atlas_sync DROP TABLE notes"
        )
        assert len(await steps(database.url)) == 1
        await migrate(database.url)
        assert await published(sql) == right
        await sql.execute("DROP PUBLICATION atlas_sync")
        await migrate(database.url)
        assert await published(sql) == right


async def test_the_command_takes_the_choice(postgres_18: Cluster) -> None:
    async with notes(postgres_18) as (database, sql):
        app = App(database, sql, [])
        status, said = await command(app, "--plan", "--doorbells", "wal")
        assert status == 0
        assert "publish what servers read as atlas_sync" in said
        assert (await command(app, "--doorbells", "wal"))[0] == 0
        assert "public.notes" in await published(sql)
        assert (await command(app, "--doorbells", "listen"))[0] == 0
        assert await published(sql) == {}
        with pytest.raises(ConfigError, match="must be one of listen, wal"):
            await command(app, "--doorbells", "pigeon")


# ---- What the doctor says -------------------------------------------------------------------------------------------


async def doorbells(url: str) -> Finding | None:
    return {found.what: found async for found in examine(url)}.get("doorbells")


async def test_the_doctor_says_nothing_while_servers_listen(every_postgres: Cluster) -> None:
    async with notes(every_postgres) as (database, _):
        assert await doorbells(database.server_url) is None


def test_the_doctor_names_what_servers_lack() -> None:
    async def check() -> None:
        async with notes(cluster) as (database, sql):
            await migrate(database.url, doorbells=WAL)
            await sql.execute("ALTER PUBLICATION atlas_sync DROP TABLE notes")
            found = await doorbells(database.server_url)
            assert found is not None
            assert not found.good
            assert "wal_level is replica" in found.says
            assert "ALTER ROLE atlas_server REPLICATION" in found.says
            assert "lacks or alters public.notes. Run `atlas-sync migrate`." in found.says

    with running_cluster("18", {"wal_level": "replica"}) as cluster:
        asyncio.run(check())


async def test_the_doctor_is_content_with_what_servers_need(logical: Cluster) -> None:
    async with notes(logical, None) as (database, sql):
        await sql.execute("ALTER TABLE notes REPLICA IDENTITY FULL")
        await migrate(database.url, text=DECLARATION, doorbells=WAL)
        await sql.execute(f"ALTER ROLE {SERVER_LOGIN} REPLICATION")
        found = await doorbells(database.server_url)
        assert found is not None
        assert found.good, found
        assert "at most 1,024 MB" in found.says
        assert "public.notes is left out of the publication" in found.says
