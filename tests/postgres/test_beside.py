"""Partitions of messages and of its archive lie beside it: closed, in backups, and moved there from schema `sync`."""

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import pytest

from server.declaration.chat import CHAT_TOML
from server.exceptions import UnfitError
from server.postgres.migrate import migrate, steps
from server.postgres.steps import SILENT
from server.postgres.undo import undo
from tests.postgres.test_migrate import catalogue
from tests.postgres.test_publications import writing
from tests.support import chat_app
from tests.support.cluster import NEWEST, Cluster, Database, administrator, binaries
from tests.support.inventory import inventory
from tests.support.maintenance import POLICY, add_old_messages, all_messages, maintained, make_month, whereabouts
from tests.support.people import add_conversation, add_message, add_user

PARTITIONS: Final = (
    "SELECT partition::text AS name, since, until FROM sync.partitions WHERE parent LIKE 'messages%' ORDER BY 1"
)
RIGHTS: Final = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
ENDUSERS: Final = ("anon", "authenticated", "service_role", "atlas_sync")


KEYS: Final = (
    "ALTER TABLE conversations ALTER id SET DEFAULT gen_random_uuid(); "
    "ALTER TABLE messages ALTER id SET DEFAULT gen_random_uuid()"
)


@pytest.fixture
async def sql(every_database: Database) -> AsyncIterator[Any]:
    async with administrator(every_database) as connection:
        yield connection


async def names(sql: Any) -> list[str]:
    return [row["name"] for row in await sql.fetch(PARTITIONS)]


async def filled(sql: Any, database: Database) -> UUID:
    """A conversation with messages in the archive, in a month, and in the default partition."""
    conversation = await add_conversation(sql, await add_user(sql))
    await make_month(sql, -14)
    await add_old_messages(sql, conversation, -14, 3)
    await maintained(database)
    await add_old_messages(sql, conversation, 9, 2)
    await add_message(sql, conversation)
    return conversation


# ---- Nobody reaches rows past the policies of the table --------------------------------------------------------------


async def test_no_role_but_the_owner_has_a_right_on_a_partition_whatever_is_granted_by_default(
    every_postgres: Cluster,
) -> None:
    """The Data API of Supabase exposes schema public, where all roles have rights on new tables by default."""
    async with chat_app.app(every_postgres, messages=50) as app:
        await app.sql.execute(f"{KEYS}; GRANT SELECT (id), UPDATE ON messages TO PUBLIC")
        await app.sql.execute(f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO {', '.join(ENDUSERS)}")
        await migrate(app.url)
        _, conversation = await app.somebody()
        await make_month(app.sql, 20)
        await add_old_messages(app.sql, conversation, 20)
        await app.sql.execute("SELECT sync.make_partition('messages_archive', '2045-01-01Z')")
        await maintained(app.database)
        made = await names(app.sql)
        assert {"messages_v1", "messages_default", "messages_archive_2045_01"} <= set(made)
        for name in made:
            for role in ENDUSERS:
                for right in RIGHTS:
                    may = await app.sql.fetchval("SELECT has_table_privilege($1, $2, $3)", role, name, right)
                    assert not may, (name, role, right)
            assert await app.sql.fetchval("SELECT relrowsecurity FROM pg_class WHERE oid = $1::text::regclass", name)
        assert await inventory(app.sql) == []


async def test_rights_that_are_granted_on_all_tables_reach_no_row_and_migrate_takes_them_back(
    every_postgres: Cluster,
) -> None:
    async with chat_app.app(every_postgres, messages=50) as app:
        await app.sql.execute("CREATE POLICY everything ON messages USING (true)")
        await migrate(app.url)
        _, conversation = await app.somebody()
        await app.sql.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO anon, authenticated")
        for name in await names(app.sql):
            for role in ("anon", "authenticated"):
                async with app.acting(role):
                    assert await app.sql.fetch(f"SELECT FROM {name}") == []
                    assert await app.sql.execute(f"DELETE FROM {name}") == "DELETE 0"
                    with pytest.raises(asyncpg.InsufficientPrivilegeError):
                        async with app.sql.transaction():
                            await app.sql.execute(
                                f"INSERT INTO {name} (id, conversation_id, created_at) VALUES ($1, $2, '2050-01-01')",
                                *(uuid4(), conversation),
                            )
                    with pytest.raises(asyncpg.RaiseError, match="TRUNCATE"):
                        async with app.sql.transaction():
                            await app.sql.execute(f"TRUNCATE {name}")
        found = [wrong for wrong in await inventory(app.sql) if wrong.what.startswith("rights on ")]
        assert {wrong.what for wrong in found} == {f"rights on public.{name}" for name in await names(app.sql)}
        assert not any(wrong.serving for wrong in found)
        await migrate(app.url)
        assert await inventory(app.sql) == []


# ---- Backups ---------------------------------------------------------------------------------------------------------


def restored(database: Database, into: Database, *which: str) -> str:
    """What psql says of a dump of that."""
    tools = binaries(database.cluster.version)
    dump = subprocess.run([tools / "pg_dump", *which, database.url], check=True, capture_output=True).stdout
    psql = [str(tools / "psql"), "--quiet", "--no-psqlrc", "--dbname", into.url]
    return subprocess.run(psql, input=dump, check=True, capture_output=True).stderr.decode()


@pytest.mark.parametrize("which", [["-n", "public"], ["-t", "public.messages*"]], ids=" ".join)
async def test_a_dump_of_the_apps_schema_or_of_the_table_has_every_message(
    every_postgres: Cluster, which: list[str]
) -> None:
    async with chat_app.app(every_postgres, messages=300) as app:
        await app.sql.execute(KEYS)
        await migrate(app.url)
        await filled(app.sql, app.database)
        await app.sql.execute("SELECT sync.archive_partition('messages_v1')")
        rows = await all_messages(app.sql)
        assert len(rows) == 306
        assert len(await whereabouts(app.sql)) >= 2
        other = await every_postgres.create("template0")
        async with administrator(other) as there:
            errors = await asyncio.to_thread(restored, app.database, other, *which)
            assert await all_messages(there) == rows
        # What refers to things that are not in the dump.
        for error in re.findall("ERROR: .*", errors):
            assert re.search(r"sync|auth|conversations|public", error), error
        await other.drop()


# ---- From schema `sync` ----------------------------------------------------------------------------------------------


async def as_earlier(sql: Any) -> None:
    """Put the partitions where earlier versions made them, and the app's own table as they left it."""
    for row in await sql.fetch(
        "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'messages_v1'::regclass"
    ):
        index = row[0]
        if index.strip('"').startswith("atlas_v1_"):
            await sql.execute(f"ALTER INDEX {index} RENAME TO {index.replace('atlas_v1_', 'x_earlier_')}")
    await sql.execute(
        "DROP POLICY atlas_sync_closed ON messages_v1; ALTER TABLE messages_v1 DISABLE ROW LEVEL SECURITY; "
        "GRANT SELECT ON messages_v1 TO authenticated"
    )
    for name in await names(sql):
        await sql.execute(f"ALTER TABLE {name} SET SCHEMA sync")
    for row in await sql.fetch(
        "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'sync.messages_v1'::regclass"
    ):
        if "x_earlier_" in row[0]:
            was = row[0].partition(".")[2].replace("x_earlier_", "")
            await sql.execute(f"ALTER INDEX {row[0]} RENAME TO {was}")


async def test_partitions_in_schema_sync_are_moved_while_the_app_writes(every_postgres: Cluster) -> None:
    async with chat_app.app(every_postgres, messages=200) as app:
        await app.sql.execute(
            "GRANT SELECT ON messages TO authenticated; CREATE PUBLICATION changes FOR TABLE messages"
        )
        original = await catalogue(app.database)
        await migrate(app.url)
        await app.sql.execute("SELECT sync.make_partition('messages_archive', '2045-01-01Z')")
        shape, epoch = await app.shape(), await app.sql.fetchval("SELECT sync.epoch()")
        rows = await all_messages(app.sql)
        await as_earlier(app.sql)
        await app.sql.execute(
            "ALTER PUBLICATION changes SET (publish_via_partition_root = false); "
            "ALTER PUBLICATION changes ADD TABLE sync.messages_v1"
        )
        moved = len(await names(app.sql))
        planned = [step.says for step in await steps(app.url)]
        assert planned[0] == "move the partition messages_default to schema public, beside messages"
        assert planned[-1] == "let changes publish rows of messages under its name"
        assert len(planned) == moved + 1
        user, conversation = await app.somebody()
        entries = len(await app.log(user))
        async with writing(app, conversation) as during:
            assert await migrate(app.url) == []
        assert len(await app.log(user)) == entries + len(during)
        assert len(await all_messages(app.sql)) == len(rows) + len(during)
        assert await app.shape() == shape
        assert await app.sql.fetchval("SELECT sync.epoch()") == epoch
        assert await inventory(app.sql) == []
        assert await steps(app.url) == []
        await undo(app.url, SILENT)
        assert await catalogue(app.database) == original


@NEWEST
async def test_a_database_of_an_earlier_version_is_undone_too(every_postgres: Cluster) -> None:
    async with chat_app.app(every_postgres, messages=50) as app:
        original = await catalogue(app.database)
        await migrate(app.url)
        rows = [row[:5] for row in await all_messages(app.sql)]
        await as_earlier(app.sql)
        await app.sql.execute("REVOKE ALL ON sync.messages_v1 FROM authenticated")
        await undo(app.url, SILENT)
        assert await catalogue(app.database) == original
        assert sorted(tuple(row) for row in await app.rows("messages")) == rows


@NEWEST
async def test_a_partition_whose_name_is_taken_stops_the_move_before_anything_is_changed(
    every_database: Database, sql: Any
) -> None:
    for name in await names(sql):
        await sql.execute(f"ALTER TABLE {name} SET SCHEMA sync")
    await sql.execute("CREATE VIEW messages_default AS SELECT 1")
    before = await chat_app.shape(sql)
    for work in (migrate, steps):
        with pytest.raises(UnfitError, match=r"in schema public: messages_default\. Rename that"):
            await work(every_database.url)
    assert await chat_app.shape(sql) == before
    await sql.execute("DROP VIEW messages_default")
    await migrate(every_database.url)
    assert await inventory(sql) == []


@NEWEST
async def test_a_name_that_is_taken_stops_an_empty_database_too(every_postgres: Cluster) -> None:
    made = await every_postgres.create("template0")
    async with administrator(made) as sql:
        await sql.execute("CREATE TABLE messages_default ()")
        before = await chat_app.shape(sql)
        for work in (migrate, steps):
            with pytest.raises(UnfitError, match=r"in schema public: messages_default\. Rename that"):
                await work(made.url)
        assert await chat_app.shape(sql) == before
    await made.drop()


# ---- Without partitions ----------------------------------------------------------------------------------------------

UNPARTITIONED: Final = re.sub(r"(?m)^(partition|archive|policies) = .*\n", "", CHAT_TOML)


async def test_foreign_keys_to_messages_stay_where_nothing_is_partitioned(every_postgres: Cluster) -> None:
    async with chat_app.app(every_postgres, messages=50) as app:
        await app.sql.execute(
            "CREATE TABLE votes (message_id uuid PRIMARY KEY REFERENCES messages ON DELETE CASCADE, up boolean); "
            "INSERT INTO votes SELECT id, true FROM messages; "
            "CREATE PUBLICATION changes FOR TABLE messages; "
            "ALTER TABLE messages ADD COLUMN updated_at timestamptz"
        )
        with pytest.raises(UnfitError, match="Leave out `partition` and `archive` in the declaration"):
            await migrate(app.url)
        before = [line for line in await app.shape() if not line.startswith(("trigger", "schema", "function"))]
        await migrate(app.url, text=UNPARTITIONED)
        after = await app.shape()
        assert [line for line in before if line not in after and "column" not in line and "relation" not in line] == []
        assert await app.sql.fetchval("SELECT relkind FROM pg_class WHERE oid = 'messages'::regclass") == b"r"
        await app.sql.execute("DELETE FROM messages WHERE id = (SELECT id FROM messages LIMIT 1)")
        assert await app.sql.fetchval("SELECT count(*) FROM votes") == 49


# ---- What server/README.md says to do --------------------------------------------------------------------------------

README: Final = Path(__file__).parents[2] / "server" / "README.md"


def scripts(heading: str) -> list[str]:
    """The blocks of SQL below a heading."""
    section = README.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```sql\n(.*?)```", section, re.DOTALL)


async def psql(database: Database, script: str) -> str:
    tool = binaries(database.cluster.version) / "psql"
    command = [str(tool), "--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--dbname", database.url]

    def run() -> str:
        return subprocess.run(command, input=script.encode(), check=False, capture_output=True).stderr.decode()

    return await asyncio.to_thread(run)


async def test_an_index_is_built_beside_writers_as_the_readme_says(every_database: Database, sql: Any) -> None:
    await filled(sql, every_database)
    index, _ = scripts("Indexes and types of a partitioned table")
    assert "CONCURRENTLY" in index
    assert await psql(every_database, index) == ""
    for table in ("messages", "messages_archive"):
        assert await sql.fetchval(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = $1::text::regclass", f"{table}_by_role"
        )
    assert not await sql.fetchval("SELECT count(*) FROM pg_index WHERE NOT indisvalid")
    # A month that is made, and one that is archived, have it too.
    partition = await make_month(sql, -15)
    await maintained(every_database, POLICY)
    assert await sql.fetchval(
        "SELECT count(*) FROM pg_index x JOIN pg_inherits i ON i.inhrelid = x.indexrelid "
        "WHERE x.indrelid = $1::text::regclass AND i.inhparent = 'messages_archive_by_role'::regclass",
        partition,
    )
    assert await steps(every_database.url) == []


async def test_a_type_is_changed_as_the_readme_says_and_no_change_is_missed(every_database: Database, sql: Any) -> None:
    conversation = await filled(sql, every_database)
    _, change = scripts("Indexes and types of a partitioned table")
    alter = re.findall(r"ALTER TABLE messages.*? TYPE .*?;", change)
    assert len(alter) == 2
    for each in alter:
        with pytest.raises((asyncpg.FeatureNotSupportedError, asyncpg.DependentObjectsStillExistError)):
            await sql.execute(each)
    rows, epoch = await all_messages(sql), await sql.fetchval("SELECT sync.epoch()")
    assert await psql(every_database, change) == ""
    planned = [step.says for step in await steps(every_database.url)]
    assert any("view sync.all_messages" in says for says in planned)
    assert await migrate(every_database.url) == []
    assert await all_messages(sql) == rows
    assert await inventory(sql) == []
    assert await sql.fetchval("SELECT sync.epoch()") != epoch, "devices start over"
    entries = await sql.fetchval("SELECT count(*) FROM sync.log")
    await sql.execute("UPDATE messages SET role = 'system' WHERE conversation_id = $1", conversation)
    await sql.execute("UPDATE messages_archive SET role = 'system' WHERE conversation_id = $1", conversation)
    assert await sql.fetchval("SELECT count(*) FROM sync.log") == entries + 6
