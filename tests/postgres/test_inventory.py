"""Every object and right that Atlas Sync made in a database is known. A missing or altered one is found and mended."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from server.exceptions import UnfitError
from server.operations.inventory import Wrong
from server.postgres import doctor
from server.postgres.connection import SAFE_PATH, statement
from server.postgres.doctor import Finding, examine
from server.postgres.inventory import mend
from server.postgres.migrate import cautions, migrate, steps
from server.postgres.steps import SILENT
from tests.support.chat_app import App, Heard, command
from tests.support.cluster import SERVER_LOGIN, Cluster, Database, administrator, binaries
from tests.support.inventory import inventory, undone
from tests.support.maintenance import maintained, make_month

OF_THE_TESTS = {"durability", "version", "idle", "temporary"}
"""What the doctor does not like of the tests' clusters."""


@pytest.fixture
async def admin(every_database: Database) -> AsyncIterator[Any]:
    """An administrator's connection to `every_database`."""
    async with administrator(every_database) as connection:
        yield connection


async def ill(database: Database) -> dict[str, Finding]:
    """What the doctor finds with the server's login."""
    return {
        finding.what: finding
        async for finding in examine(database.server_url, None)
        if not finding.good and finding.what not in OF_THE_TESTS
    }


# ---- The list ------------------------------------------------------------------------------------------------------

MADE = """
    WITH ours AS (
        SELECT c.oid, n.nspname, c.relname, c.oid::regclass::text AS name, c.relispartition AS is_part,
               c.relrowsecurity AS secured, c.relacl AS acl
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('public', 'sync') AND c.relkind IN ('r', 'p', 'v')
    )
    SELECT format('function sync.%I', proname), format('ALTER FUNCTION %s RENAME TO gone', oid::regprocedure)
    FROM pg_proc WHERE pronamespace = 'sync'::regnamespace
    UNION ALL SELECT format('function sync.%I', proname),
                     format('UPDATE pg_proc SET prosrc = prosrc || '' '' WHERE oid = %s', oid)
    FROM pg_proc WHERE pronamespace = 'sync'::regnamespace
    UNION ALL SELECT format('EXECUTE on function sync.%I', proname),
                     format('REVOKE EXECUTE ON FUNCTION %s FROM %s', p.oid::regprocedure, a.grantee::regrole)
    FROM pg_proc p, aclexplode(proacl) a WHERE pronamespace = 'sync'::regnamespace AND a.grantee <> p.proowner

    UNION ALL SELECT name, format('ALTER TABLE %s RENAME TO gone', name) FROM ours
    WHERE NOT is_part OR relname LIKE '%default'
    UNION ALL SELECT format('column %s.%I', name, attname), format('ALTER TABLE %s RENAME %I TO gone', name, attname)
    FROM ours o JOIN pg_attribute a ON a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE o.nspname = 'sync' AND NOT is_part
    UNION ALL SELECT format('row level security of %s', name), format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', name)
    FROM ours WHERE secured

    UNION ALL SELECT format('trigger %I on %s', tgname, tgrelid::regclass),
                     format('ALTER TABLE %s DISABLE TRIGGER %I', tgrelid::regclass, tgname)
    FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT format('trigger %I on %s', tgname, tgrelid::regclass),
                     format('DROP TRIGGER %I ON %s', tgname, tgrelid::regclass)
    FROM pg_trigger WHERE NOT tgisinternal AND tgparentid = 0

    UNION ALL SELECT format('policy %I on %s', polname, polrelid::regclass),
                     format('DROP POLICY %I ON %s', polname, polrelid::regclass)
    FROM pg_policy

    UNION ALL SELECT format('%s on %s', privilege_type, name),
                     CASE a.grantee::regrole::text
                     WHEN 'atlas_sync' THEN format('REVOKE %s ON %s FROM atlas_sync', privilege_type, name)
                     -- As after a restore without privileges.
                     ELSE format('UPDATE pg_class SET relacl = NULL WHERE oid = %s', oid) END
    FROM ours, aclexplode(acl) a WHERE a.grantee NOT IN (0, a.grantor)
    UNION ALL SELECT format('%s on column %s.%I', privilege_type, name, attname),
                     format('REVOKE %s (%I) ON %s FROM %s', privilege_type, attname, name, a.grantee::regrole)
    FROM ours o JOIN pg_attribute t ON t.attrelid = o.oid, aclexplode(t.attacl) a
    -- A right to the whole table is one to the column.
    WHERE NOT EXISTS (SELECT FROM aclexplode(o.acl) whole
                      WHERE whole.grantee = a.grantee AND whole.privilege_type = a.privilege_type)
    UNION ALL SELECT format('USAGE on schema %s', nspname),
                     CASE nspname WHEN 'auth' THEN 'UPDATE pg_namespace SET nspacl = NULL WHERE nspname = ''auth'''
                     ELSE format('REVOKE USAGE ON SCHEMA %s FROM %s, PUBLIC', nspname, a.grantee::regrole) END
    FROM pg_namespace, aclexplode(nspacl) a
    WHERE nspname IN ('sync', 'public', 'auth') AND a.grantee NOT IN (0, a.grantor)
      -- What is the app's to take away.
      AND NOT (nspname = 'public' AND a.grantee = 'authenticated'::regrole)
    UNION ALL SELECT 'USAGE on schema sync', 'GRANT USAGE ON SCHEMA sync TO PUBLIC'
    UNION ALL SELECT 'role ' || rolname, format('ALTER ROLE %I RENAME TO gone', rolname) FROM pg_roles
    WHERE rolname IN ('atlas_sync', 'anon', 'authenticated', 'service_role')
    UNION ALL SELECT 'function auth.uid', 'ALTER FUNCTION auth.uid() RENAME TO gone'

    UNION ALL SELECT o.name, format('UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s', indexrelid)
    FROM ours o JOIN pg_index x ON x.indrelid = o.oid JOIN pg_class i ON i.oid = x.indexrelid
    WHERE NOT is_part AND (o.nspname = 'sync' OR o.relname LIKE 'messages%' OR i.relname LIKE '%newest')
    UNION ALL SELECT 'default partition ' || name,
                     format('ALTER TABLE %s DETACH PARTITION %s', i.inhparent::regclass, name)
    FROM ours o JOIN pg_inherits i ON i.inhrelid = o.oid WHERE o.relname LIKE '%default'
"""
"""Each thing there is, and how it is taken away or altered."""


async def test_every_object_and_right_that_a_migration_made_is_missed_when_it_is_gone(sql: Any) -> None:
    assert await inventory(sql) == []
    # regclass writes the schema's name.
    await sql.execute(SAFE_PATH)
    made = await sql.fetch(MADE)
    assert len(made) > 250
    kinds = await sql.fetch(
        "SELECT DISTINCT classid::regclass::text FROM pg_depend WHERE refobjid = 'sync'::regnamespace"
    )
    assert {kind[0] for kind in kinds} == {"pg_class", "pg_proc"}, "MADE knows no other kind"
    unnoticed = []
    for what, damage in made:
        async with undone(sql):
            await sql.execute(damage)
            named = [wrong.what for wrong in await inventory(sql, "postgres")]
        if not any(all(part in name for part in what.split(" on ")) for name in named):
            unnoticed.append(f"{what}: {damage}")
    assert unnoticed == []


# ---- What happens to databases ---------------------------------------------------------------------------------------


def other_trigger(rest: str, when: str = "AFTER UPDATE") -> str:
    return (
        "DROP TRIGGER atlas_sync_record_update ON profiles; "
        f"CREATE CONSTRAINT TRIGGER atlas_sync_record_update {when} ON profiles {rest} "
        "EXECUTE FUNCTION sync.record_profile()"
    )


SAME = "(OLD.id, OLD.subscription_tier) IS DISTINCT FROM (NEW.id, NEW.subscription_tier)"
EVERY = (
    "(OLD.id, OLD.subscription_tier, OLD.subscription_status) IS DISTINCT FROM "
    "(NEW.id, NEW.subscription_tier, NEW.subscription_status)"
)
DEFERRED = "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
PARTITION = "public.messages_default"
MENDED = [
    ("ALTER TABLE messages DISABLE TRIGGER atlas_sync_record", "trigger atlas_sync_record on public.messages", True),
    (
        "ALTER TABLE profiles ENABLE REPLICA TRIGGER atlas_sync_record",
        "trigger atlas_sync_record on public.profiles",
        True,
    ),
    (
        "ALTER TABLE conversations DISABLE TRIGGER USER",
        "trigger atlas_sync_record_update on public.conversations",
        True,
    ),
    (f"ALTER TABLE {PARTITION} DISABLE TRIGGER USER", f"trigger atlas_sync_record on {PARTITION}", True),
    ("DROP TRIGGER atlas_sync_record_update ON messages", "trigger atlas_sync_record_update on public.messages", True),
    (
        "DROP TRIGGER atlas_sync_record ON messages_archive",
        "trigger atlas_sync_record on public.messages_archive",
        True,
    ),
    ("ALTER TRIGGER atlas_sync_record ON messages RENAME TO x", "trigger atlas_sync_record on public.messages", True),
    (
        f"DROP TRIGGER atlas_sync_refuse_truncate ON {PARTITION}",
        f"trigger atlas_sync_refuse_truncate on {PARTITION}",
        False,
    ),
    (other_trigger(f"{DEFERRED} WHEN ({SAME})"), "trigger atlas_sync_record_update on public.profiles", True),
    (
        other_trigger(f"{DEFERRED} WHEN ({EVERY} AND false)"),
        "trigger atlas_sync_record_update on public.profiles",
        True,
    ),
    (other_trigger(f"{DEFERRED} WHEN (NOT {EVERY})"), "trigger atlas_sync_record_update on public.profiles", True),
    (other_trigger(DEFERRED), "trigger atlas_sync_record_update on public.profiles", True),
    (other_trigger(f"FOR EACH ROW WHEN ({EVERY})"), "trigger atlas_sync_record_update on public.profiles", True),
    (
        other_trigger(f"{DEFERRED} WHEN ({EVERY})", "AFTER UPDATE OF subscription_tier"),
        "trigger atlas_sync_record_update on public.profiles",
        True,
    ),
    ("DROP POLICY atlas_sync_reads ON messages", "policy atlas_sync_reads on public.messages", True),
    ("ALTER POLICY atlas_sync_reads ON sync.log USING (seq > 5)", "policy atlas_sync_reads on sync.log", True),
    ("ALTER POLICY atlas_sync_reads ON sync.feeds USING (false)", "policy atlas_sync_reads on sync.feeds", True),
    ("ALTER POLICY atlas_sync_reads ON profiles TO authenticated", "policy atlas_sync_reads on public.profiles", True),
    ("DROP POLICY atlas_sync_reads ON sync.devices", "policy atlas_sync_reads on sync.devices", False),
    ("DROP POLICY atlas_own_messages ON messages", "policy atlas_own_messages on public.messages", False),
    ("ALTER POLICY atlas_own_profile ON profiles USING (true)", "policy atlas_own_profile on public.profiles", False),
    (
        "ALTER POLICY atlas_own_conversations ON conversations WITH CHECK (true)",
        "policy atlas_own_conversations on public.conversations",
        False,
    ),
    ("ALTER TABLE messages DISABLE ROW LEVEL SECURITY", "row level security of public.messages", False),
    (f"ALTER TABLE {PARTITION} DISABLE ROW LEVEL SECURITY", f"row level security of {PARTITION}", False),
    ("REVOKE SELECT ON messages FROM atlas_sync", "SELECT on column public.messages.content", True),
    (
        "REVOKE SELECT (subscription_tier) ON profiles FROM atlas_sync",
        "SELECT on column public.profiles.subscription_tier",
        True,
    ),
    ("REVOKE SELECT ON sync.log FROM atlas_sync", "SELECT on sync.log", True),
    ("REVOKE SELECT ON sync.clients FROM atlas_sync", "SELECT on sync.clients", False),
    ("REVOKE USAGE ON SCHEMA sync FROM atlas_sync", "USAGE on schema sync", True),
    ("REVOKE USAGE ON SCHEMA public FROM atlas_sync, PUBLIC", "USAGE on schema public", True),
    ("REVOKE EXECUTE ON FUNCTION sync.push FROM atlas_sync", "EXECUTE on function sync.push", True),
    ("GRANT EXECUTE ON FUNCTION sync.record TO PUBLIC", "EXECUTE on function sync.record", False),
    ("GRANT USAGE ON SCHEMA sync TO PUBLIC", "USAGE on schema sync", False),
    ("DROP FUNCTION sync.record_message CASCADE", "function sync.record_message", True),
    ("DROP FUNCTION sync.push", "function sync.push", True),
    ("DROP FUNCTION sync.vitals", "function sync.vitals", False),
    (
        "CREATE OR REPLACE FUNCTION sync.record_profile() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
        "SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN NULL; END'",
        "function sync.record_profile",
        True,
    ),
    ("ALTER FUNCTION sync.record SECURITY INVOKER", "function sync.record", True),
    ("ALTER FUNCTION sync.record RESET search_path", "function sync.record", False),
    ("DROP VIEW sync.all_messages", "view sync.all_messages", True),
    ("DROP VIEW sync.partitions", "view sync.partitions", False),
    ("ALTER VIEW sync.all_messages RESET (security_invoker)", "view sync.all_messages", False),
    (
        "CREATE OR REPLACE VIEW sync.all_messages WITH (security_invoker = true) AS "
        "SELECT id, conversation_id, role, content, created_at, updated_at FROM messages",
        "view sync.all_messages",
        True,
    ),
    (f"DROP TABLE {PARTITION}", f"default partition {PARTITION}", False),
    (f"ALTER TABLE messages DETACH PARTITION {PARTITION}", f"default partition {PARTITION}", False),
    ("ALTER TABLE sync.log DETACH PARTITION sync.log_default", "default partition sync.log_default", False),
    # As pg_restore leaves it, without privileges.
    (
        "UPDATE pg_class SET relacl = NULL WHERE relnamespace IN ('public'::regnamespace, 'sync'::regnamespace); "
        "UPDATE pg_attribute SET attacl = NULL WHERE attrelid = 'profiles'::regclass; "
        "UPDATE pg_proc SET proacl = NULL WHERE pronamespace = 'sync'::regnamespace; "
        "UPDATE pg_namespace SET nspacl = NULL WHERE nspname IN ('sync', 'auth')",
        "USAGE on schema sync",
        True,
    ),
]
"""What is done, what is found then, and whether the server must not serve with it."""


async def test_each_damage_is_named_and_mended(admin: Any) -> None:
    assert await inventory(admin) == []
    for damage, what, serving in MENDED:
        async with undone(admin):
            await admin.execute(damage)
            found = {wrong.what: wrong for wrong in await inventory(admin)}
            assert what in found, damage
            assert found[what].serving is serving, damage
            await admin.execute(SAFE_PATH)
            assert await mend(admin, SILENT) == [], damage
            assert await inventory(admin) == [], damage


OWNED = """
    CREATE ROLE an_owner;
    DO $$ BEGIN EXECUTE (SELECT string_agg(format('ALTER FUNCTION %s OWNER TO an_owner', oid::regprocedure), ';')
                         FROM pg_proc WHERE pronamespace = 'sync'::regnamespace); END $$
"""
OWNED_TABLES = """
    DO $$ BEGIN EXECUTE (SELECT string_agg(format('ALTER TABLE %s OWNER TO an_owner', oid::regclass), ';')
                         FROM pg_class WHERE relkind IN ('r', 'p')
                         AND relnamespace IN ('sync'::regnamespace, 'public'::regnamespace)); END $$
"""
BY_HAND = [
    (
        "CREATE POLICY hides ON messages AS RESTRICTIVE FOR SELECT USING (role <> 'secret')",
        "policy hides on public.messages",
        "ALTER POLICY hides ON public.messages TO ",
        "authenticated",
        True,
    ),
    (OWNED, "row level security of public.messages", "ALTER ROLE an_owner BYPASSRLS", "", True),
    (
        f"{OWNED}; {OWNED_TABLES}; ALTER TABLE conversations FORCE ROW LEVEL SECURITY",
        "row level security of public.conversations",
        "ALTER TABLE public.conversations NO FORCE ROW LEVEL SECURITY",
        "",
        True,
    ),
    (
        "ALTER TABLE messages RENAME content TO body",
        "column public.messages.content",
        "ALTER TABLE public.messages RENAME COLUMN ",
        "body TO content",
        True,
    ),
    (
        "DROP TRIGGER atlas_sync_record_update ON profiles; "
        "ALTER TABLE profiles ALTER subscription_status TYPE int USING length(subscription_status)",
        "column public.profiles.subscription_status",
        "",
        "DROP TRIGGER atlas_sync_record_update ON profiles; "
        "ALTER TABLE profiles ALTER subscription_status TYPE varchar(9)",
        True,
    ),
    (
        "DROP INDEX conversations_newest",
        "index (user_id, updated_at, id) of public.conversations",
        "CREATE INDEX CONCURRENTLY conversations_newest ON public.conversations (user_id, updated_at DESC, id DESC)",
        "",
        False,
    ),
    (
        "ALTER TABLE sync.servers DROP CONSTRAINT servers_pkey",
        "key (server) of sync.servers",
        "ALTER TABLE sync.servers ADD PRIMARY KEY (server)",
        "",
        False,
    ),
]
"""What is done, what is found, how the statement that is named against it begins and how it ends, and whether the
server must not serve."""


async def test_a_fault_that_an_operator_must_mend_comes_with_a_statement(admin: Any) -> None:
    for damage, what, says, rest, serving in BY_HAND:
        async with undone(admin):
            await admin.execute(damage)
            wrong = {wrong.what: wrong for wrong in await inventory(admin)}[what]
            assert wrong.serving is serving
            assert says in wrong.problem
            await admin.execute(SAFE_PATH)
            assert what in [left.what for left in await mend(admin, SILENT)], damage
            await admin.execute("SET search_path = public")
            await admin.execute((says + rest).replace(" CONCURRENTLY", ""))
            await admin.execute(SAFE_PATH)
            assert await mend(admin, SILENT) == [], damage
            assert await inventory(admin) == [], damage
    async with undone(admin):
        await admin.execute("DROP TABLE sync.clients")
        assert [str(wrong) for wrong in await inventory(admin)] == [
            "table sync.clients (missing: restore it from a backup)"
        ]


HARMLESS = """
    CREATE POLICY shown ON messages AS RESTRICTIVE USING (true);
    CREATE POLICY theirs ON messages AS RESTRICTIVE TO authenticated USING (role <> 'secret');
    CREATE POLICY writes ON messages AS RESTRICTIVE FOR INSERT WITH CHECK (role <> 'secret');
    ALTER TABLE messages FORCE ROW LEVEL SECURITY;
    ALTER TABLE messages ENABLE ALWAYS TRIGGER atlas_sync_record;
    REVOKE INSERT ON conversations FROM authenticated;
    REVOKE ALL ON profiles FROM authenticated;
    DROP TRIGGER atlas_sync_record_update ON profiles;
    CREATE TYPE tier AS ENUM ('free', 'core', 'studio');
    ALTER TABLE profiles DROP CONSTRAINT profiles_subscription_tier_check, ALTER subscription_tier DROP DEFAULT,
        ALTER subscription_tier TYPE tier USING subscription_tier::tier, ALTER subscription_status TYPE varchar(9);
"""


async def test_only_the_servers_login_finds_what_it_alone_lacks(admin: Any) -> None:
    newer = await admin.fetchval("SELECT current_setting('server_version_num')::int >= 160000")
    inherits = "GRANT atlas_sync TO atlas_server WITH INHERIT FALSE" if newer else "ALTER ROLE atlas_server NOINHERIT"
    membership = "membership of atlas_server in atlas_sync"
    for damage, what in (
        ("REVOKE atlas_sync FROM atlas_server", membership),
        (inherits, membership),
        ("CREATE POLICY hides ON sync.log AS RESTRICTIVE TO atlas_server USING (seq > 5)", "policy hides on sync.log"),
    ):
        async with undone(admin):
            await admin.execute(damage)
            assert await inventory(admin, "postgres") == []
            (wrong,) = await inventory(admin)
            assert (wrong.what, wrong.serving) == (what, True)
            if wrong.mend is not None:
                await admin.execute(wrong.mend)
                assert await inventory(admin) == []


async def test_a_lost_role_is_created_again_with_its_rights_and_without_its_members(sql: Any) -> None:
    async with undone(sql):
        await sql.execute("ALTER ROLE atlas_sync RENAME TO former")
        assert "role atlas_sync" in [wrong.what for wrong in await inventory(sql)]
        await sql.execute(SAFE_PATH)
        assert await mend(sql, SILENT) == []
        (wrong,) = await inventory(sql)
        assert wrong.mend == "GRANT atlas_sync TO atlas_server"


async def test_the_inventory_leaves_alone_what_the_app_may_decide(admin: Any) -> None:
    async with undone(admin):
        await admin.execute(HARMLESS)
        (wrong,) = await inventory(admin)
        assert wrong.what == "trigger atlas_sync_record_update on public.profiles"
        await admin.execute(SAFE_PATH)
        assert await mend(admin, SILENT) == []


async def test_the_inventory_waits_for_no_lock(every_database: Database, admin: Any) -> None:
    server = await asyncpg.connect(every_database.server_url)
    try:
        await server.execute("SET lock_timeout = '1s'")
        async with undone(admin):
            await admin.execute(
                "LOCK TABLE profiles, conversations, messages, messages_archive, sync.log, sync.feeds "
                "IN ACCESS EXCLUSIVE MODE"
            )
            assert await server.fetch(statement("inventory_access")) == []
            assert await server.fetch(statement("inventory")) == []
    finally:
        await server.close()


@pytest.mark.parametrize(
    ("damage", "mends"),
    [
        ("REVOKE atlas_sync FROM atlas_server", "GRANT atlas_sync TO atlas_server"),
        ("REVOKE USAGE ON SCHEMA sync FROM atlas_sync", "GRANT USAGE ON SCHEMA sync TO atlas_sync"),
        ("REVOKE SELECT ON sync.kinds FROM atlas_sync", "GRANT SELECT ON sync.kinds TO atlas_sync"),
        ("REVOKE SELECT ON sync.declaration FROM atlas_sync", "GRANT SELECT ON sync.declaration TO atlas_sync"),
        ("ALTER TABLE sync.kinds RENAME TO gone", None),
        ("ALTER SCHEMA sync RENAME TO gone", None),
    ],
)
async def test_a_login_that_cannot_read_what_is_declared_is_told_why(sql: Any, damage: str, mends: str | None) -> None:
    async with undone(sql):
        await sql.execute(damage)
        await sql.execute(f"{SAFE_PATH}; SET LOCAL ROLE {SERVER_LOGIN}")
        (wrong,) = [Wrong(*row) for row in await sql.fetch(statement("inventory_access"))]
        assert wrong.serving
        assert wrong.mend == mends
        if mends is not None:
            await sql.execute(f"RESET ROLE; {mends}; SET LOCAL ROLE {SERVER_LOGIN}")
            assert await sql.fetch(statement("inventory_access")) == []


# ---- `migrate` and `doctor` ------------------------------------------------------------------------------------------

DAMAGE = """
    ALTER TABLE messages DISABLE TRIGGER atlas_sync_record;
    DROP FUNCTION sync.record_conversation CASCADE;
    DROP POLICY atlas_sync_reads ON conversations;
    REVOKE SELECT ON sync.log FROM atlas_sync;
    DROP VIEW sync.all_messages;
"""


async def test_migrate_mends_at_once_what_doctor_names_and_every_device_starts_over(
    admin: Any, every_database: Database
) -> None:
    epoch = await admin.fetchval("SELECT sync.epoch()")
    assert await migrate(every_database.url) == []
    assert await admin.fetchval("SELECT sync.epoch()") == epoch
    await admin.execute(DAMAGE)
    found = await ill(every_database)
    assert found.keys() == {"privileges", "triggers", "row security", "objects"}
    for topic in found:
        assert found[topic].grave
        assert found[topic].says.endswith(" Run `atlas-sync migrate`.")
        assert "GRANT" not in found[topic].says
    assert "trigger atlas_sync_record on public.messages (disabled)" in found["triggers"].says
    planned = await steps(every_database.url)
    assert "mend function sync.record_conversation (missing)" in [step.says for step in planned]
    assert await ill(every_database) == found, "a plan changes nothing"
    heard = Heard()
    assert await migrate(every_database.url, heard) == []
    assert set(planned) <= set(heard.begun) == set(heard.ended)
    assert await ill(every_database) == {}
    assert await steps(every_database.url) == []
    assert await admin.fetchval("SELECT sync.epoch()") != epoch


async def test_devices_that_missed_nothing_do_not_start_over(sql: Any, database: Database) -> None:
    epoch = await sql.fetchval("SELECT sync.epoch()")
    await sql.execute(
        "DROP FUNCTION sync.vitals; REVOKE SELECT ON sync.clients FROM atlas_sync; "
        "DROP POLICY atlas_own_messages ON messages"
    )
    assert await migrate(database.url) == []
    assert await sql.fetchval("SELECT sync.epoch()") == epoch


async def test_another_history_begins_after_a_server_could_not_see_every_change(sql: Any, database: Database) -> None:
    epoch = await sql.fetchval("SELECT sync.epoch()")
    await sql.execute("REVOKE SELECT ON messages FROM atlas_sync")
    assert await migrate(database.url) == []
    assert await sql.fetchval("SELECT sync.epoch()") != epoch


async def test_a_login_that_is_no_member_is_told_the_statement_and_a_member_is_not(
    sql: Any, database: Database
) -> None:
    await sql.execute("REVOKE atlas_sync FROM atlas_server")
    try:
        found = await ill(database)
    finally:
        await sql.execute("GRANT atlas_sync TO atlas_server")
    assert found["privileges"].says == (
        "membership of atlas_server in atlas_sync (missing). Run GRANT atlas_sync TO atlas_server as an administrator."
    )
    for right in (
        "SELECT ON sync.migrations",
        "USAGE ON SCHEMA sync",
        "SELECT ON sync.meta",
        "EXECUTE ON FUNCTION sync.push",
    ):
        await sql.execute(f"REVOKE {right} FROM atlas_sync")
    found = await ill(database)
    assert found.keys() == {"migrations", "privileges"}
    assert "GRANT" not in found["privileges"].says
    assert await migrate(database.url) == []
    await sql.execute("DROP POLICY atlas_sync_reads ON sync.migrations")
    assert (await ill(database)).keys() == {"migrations", "row security"}


async def test_a_dump_that_is_restored_without_rights_is_mended(admin: Any, every_database: Database) -> None:
    cluster = every_database.cluster
    restored = await cluster.create("template0")
    tools = binaries(cluster.version)
    dump = [tools / "pg_dump", "--no-owner", "--no-privileges", "--no-policies", every_database.url]
    if cluster.version == "15":
        dump.remove("--no-policies")
    try:
        await asyncio.to_thread(_restore, dump, [tools / "psql", "--quiet", "--dbname", restored.url])
        async with administrator(restored) as there:
            before = await admin.fetchval("SELECT sync.epoch()")
            assert {"SELECT on column public.messages.id", "SELECT on sync.log"} <= {
                each.what for each in await inventory(there, "postgres")
            }
            assert await migrate(restored.url) == []
            assert await inventory(there) == []
            assert await there.fetchval("SELECT sync.epoch()") != before
    finally:
        await restored.drop()


def _restore(dump: list[Any], psql: list[Any]) -> None:
    made = subprocess.run(dump, check=True, capture_output=True)
    subprocess.run(psql, check=True, capture_output=True, input=made.stdout)


async def test_a_fault_that_cannot_be_mended_keeps_migrate_from_reporting_success(sql: Any, database: Database) -> None:
    await sql.execute("CREATE POLICY hides ON messages AS RESTRICTIVE USING (role <> 'secret')")
    status, said = await command(App(database, sql, []))
    assert status == 1
    assert "✗ policy hides on public.messages (RESTRICTIVE and for everybody, so that it may hide rows" in said
    assert "up to date" not in said
    (caution,) = [said for said in await cautions(database.url) if said.startswith("policy hides on")]
    assert "run ALTER POLICY hides ON public.messages TO " in caution
    assert (await ill(database))["row security"].grave
    await sql.execute("ALTER POLICY hides ON messages TO service_role")
    assert await migrate(database.url) == []
    assert "row security" not in await ill(database)


async def test_an_owner_who_may_not_mend_it_is_told_what_an_administrator_is_to_run(sql: Any) -> None:
    async with undone(sql):
        await sql.execute(f"{OWNED}; {OWNED_TABLES}; ALTER SCHEMA sync OWNER TO an_owner")
        await sql.execute("ALTER ROLE service_role RENAME TO former")
        await sql.execute(f"ALTER ROLE an_owner BYPASSRLS; SET LOCAL ROLE an_owner; {SAFE_PATH}")
        with pytest.raises(UnfitError, match="Have an administrator run CREATE ROLE service_role NOLOGIN"):
            await mend(sql, SILENT)


async def test_tables_that_were_partitioned_before_us_come_out_clean(every_postgres: Cluster) -> None:
    database = await every_postgres.create("template0")
    try:
        async with administrator(database) as sql:
            await sql.execute(
                """
                CREATE TYPE role AS ENUM ('user', 'assistant', 'system');
                CREATE TABLE profiles (id uuid PRIMARY KEY, subscription_tier varchar(9), subscription_status text);
                CREATE TABLE conversations (id uuid PRIMARY KEY, user_id uuid, title varchar, created_at timestamptz,
                                            updated_at timestamptz);
                CREATE TABLE messages (id uuid, conversation_id uuid REFERENCES conversations, role role, content text,
                                       created_at timestamptz, updated_at timestamptz, PRIMARY KEY (created_at, id))
                    PARTITION BY RANGE (created_at);
                CREATE TABLE old PARTITION OF messages FOR VALUES FROM (MINVALUE) TO ('2020-01-01')
                    PARTITION BY RANGE (created_at);
                CREATE TABLE older PARTITION OF old FOR VALUES FROM (MINVALUE) TO ('2010-01-01');
                CREATE TABLE rest PARTITION OF messages DEFAULT;
                """
            )
            assert await migrate(database.url) == []
            assert await inventory(sql) == await inventory(sql, "postgres") == []
            assert await steps(database.url) == []
            with pytest.raises(asyncpg.RaiseError, match="TRUNCATE"):
                await sql.execute("TRUNCATE older")
            await make_month(sql, -20)
            await maintained(database)
            assert await inventory(sql) == []
    finally:
        await database.drop()


async def test_a_session_that_fills_the_notification_queue_is_named_with_the_statement_that_ends_it(
    admin: Any, every_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "FILLING", 0.0)
    async with administrator(every_database) as blocking:
        await blocking.execute("LISTEN anything")
        await blocking.execute("BEGIN")
        pid = await blocking.fetchval("SELECT pg_backend_pid()")
        await admin.execute("SELECT pg_notify('anything', repeat('x', 7000) || i) FROM generate_series(1, 5) i")
        finding = (await ill(every_database))["queue"]
        assert finding.grave
        assert f"{pid} (postgres at {every_database.name})" in finding.says
        await admin.execute("GRANT pg_read_all_stats TO atlas_server")
        try:
            finding = (await ill(every_database))["queue"]
        finally:
            await admin.execute("REVOKE pg_read_all_stats FROM atlas_server")
        assert f"Run SELECT pg_terminate_backend({pid})." in finding.says
        await blocking.execute("ROLLBACK")
    assert "queue" not in await ill(every_database)
