"""What Atlas Sync made in a database is known one by one: what is missing or altered of it is found, and mended."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from server.errors import UnfitError
from server.operations.inventory import Wrong, by_topic
from server.postgres import doctor
from server.postgres.doctor import Finding, examine
from server.postgres.adopt import SILENT
from server.postgres.inventory import mend, take_inventory
from server.postgres.migrate import cautions, migrate, steps
from server.postgres.pool import SAFE_PATH, statement
from tests.support import v1
from tests.support.cluster import SERVER_LOGIN, Cluster, Database, binaries
from tests.support.maintaining import make_month, maintained
from tests.support.pushing import administrator
from tests.support.v1 import App, Heard, command

OF_THE_TESTS = {"durability", "version", "idle", "temporary"}
"""What the doctor does not like of the tests' clusters."""


@pytest.fixture
async def sql(every_database: Database) -> AsyncIterator[Any]:
    async with administrator(every_database) as connection:
        yield connection


@asynccontextmanager
async def undone(sql: Any) -> AsyncIterator[None]:
    """What is done meanwhile is rolled back."""
    transaction = sql.transaction()
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


async def inventory(sql: Any, role: str = SERVER_LOGIN) -> list[Wrong]:
    """As the server's login finds it."""
    async with undone(sql):
        await sql.execute(f"{SAFE_PATH}; SET LOCAL ROLE {role}")
        return await take_inventory(sql)


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
        SELECT c.oid, n.nspname, c.relname, c.oid::regclass::text AS name, c.relispartition AS is_part, c.relrowsecurity AS secured,
               c.relacl AS acl
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
    UNION ALL SELECT format('SELECT on column %s.%I', name, attname),
                     format('REVOKE %s (%I) ON %s FROM %s', privilege_type, attname, name, a.grantee::regrole)
    FROM ours o JOIN pg_attribute t ON t.attrelid = o.oid, aclexplode(t.attacl) a
    UNION ALL SELECT format('USAGE on schema %s', nspname),
                     CASE nspname WHEN 'auth' THEN 'UPDATE pg_namespace SET nspacl = NULL WHERE nspname = ''auth'''
                     ELSE format('REVOKE USAGE ON SCHEMA %s FROM %s, PUBLIC', nspname, a.grantee::regrole) END
    FROM pg_namespace, aclexplode(nspacl) a WHERE nspname IN ('sync', 'public', 'auth') AND a.grantee NOT IN (0, a.grantor)
      -- What is the app's to take away.
      AND NOT (nspname = 'public' AND a.grantee = 'authenticated'::regrole)
    UNION ALL SELECT 'USAGE on schema sync', 'GRANT USAGE ON SCHEMA sync TO PUBLIC'
    UNION ALL SELECT 'role ' || rolname, format('ALTER ROLE %I RENAME TO gone', rolname) FROM pg_roles
    WHERE rolname IN ('atlas_sync', 'anon', 'authenticated', 'service_role')
    UNION ALL SELECT 'function auth.uid', 'ALTER FUNCTION auth.uid() RENAME TO gone'

    UNION ALL SELECT o.name, format('UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s', indexrelid)
    FROM ours o JOIN pg_index x ON x.indrelid = o.oid JOIN pg_class i ON i.oid = x.indexrelid
    WHERE o.nspname = 'sync' AND NOT is_part OR o.relname LIKE 'messages%' AND o.nspname = 'public'
       OR i.relname LIKE '%newest'
    UNION ALL SELECT 'default partition ' || name,
                     format('ALTER TABLE %s DETACH PARTITION %s', i.inhparent::regclass, name)
    FROM ours o JOIN pg_inherits i ON i.inhrelid = o.oid WHERE o.relname LIKE '%default'
"""
"""Each thing there is, and how it is taken away or altered."""


async def test_whatever_a_migration_made_is_missed_when_it_is_gone(database: Database) -> None:
    async with administrator(database) as sql:
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
        f"CREATE CONSTRAINT TRIGGER atlas_sync_record_update {when} ON profiles {rest} EXECUTE FUNCTION sync.profile_changed()"
    )


SAME = "(OLD.id, OLD.subscription_tier) IS DISTINCT FROM (NEW.id, NEW.subscription_tier)"
EVERY = (
    "(OLD.id, OLD.subscription_tier, OLD.subscription_status) IS DISTINCT FROM "
    "(NEW.id, NEW.subscription_tier, NEW.subscription_status)"
)
DEFERRED = "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
PARTITION = "sync.messages_default"
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
    ("REVOKE SELECT ON messages FROM atlas_sync", "SELECT on public.messages", True),
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
    ("DROP FUNCTION sync.message_changed CASCADE", "function sync.message_changed", True),
    ("DROP FUNCTION sync.push", "function sync.push", True),
    ("DROP FUNCTION sync.vitals", "function sync.vitals", False),
    (
        "CREATE OR REPLACE FUNCTION sync.profile_changed() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "function sync.profile_changed",
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
        "SELECT, INSERT, UPDATE, DELETE on public.messages",
        False,
    ),
]
"""What is done, what is found then, and whether the server must not serve with it."""


async def test_each_damage_is_found_as_what_it_is_and_mended(sql: Any) -> None:
    assert await inventory(sql) == []
    for damage, what, serving in MENDED:
        async with undone(sql):
            await sql.execute(damage)
            found = {wrong.what: wrong for wrong in await inventory(sql)}
            assert what in found, damage
            assert found[what].serving is serving, damage
            assert by_topic([*found.values()]).keys() == by_topic([]).keys()
            await sql.execute(SAFE_PATH)
            assert await mend(sql, SILENT) == [], damage
            assert await inventory(sql) == [], damage


OWNED = """
    CREATE ROLE an_owner;
    DO $$ BEGIN EXECUTE (SELECT string_agg(format('ALTER FUNCTION %s OWNER TO an_owner', oid::regprocedure), ';')
                         FROM pg_proc WHERE pronamespace = 'sync'::regnamespace); END $$;
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
        OWNED
        + "DO $$ BEGIN EXECUTE (SELECT string_agg(format('ALTER TABLE %s OWNER TO an_owner', oid::regclass), ';') "
        "FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace IN ('sync'::regnamespace, 'public'::regnamespace)); "
        "END $$; ALTER TABLE conversations FORCE ROW LEVEL SECURITY",
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
        "DROP TRIGGER atlas_sync_record_update ON profiles; ALTER TABLE profiles ALTER subscription_status TYPE varchar(9)",
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
"""What is done, what is found, how the statement begins that is named against it and how it ends, and whether the server
must not serve."""


async def test_what_is_for_an_operator_to_mend_comes_with_what_to_do(sql: Any) -> None:
    for damage, what, says, rest, serving in BY_HAND:
        async with undone(sql):
            await sql.execute(damage)
            wrong = {wrong.what: wrong for wrong in await inventory(sql)}[what]
            assert wrong.serving is serving
            assert says in wrong.problem
            await sql.execute(SAFE_PATH)
            assert what in [left.what for left in await mend(sql, SILENT)], damage
            await sql.execute("SET search_path = public")
            await sql.execute((says + rest).replace(" CONCURRENTLY", ""))
            await sql.execute(SAFE_PATH)
            assert await mend(sql, SILENT) == [], damage
            assert await inventory(sql) == [], damage
    async with undone(sql):
        await sql.execute("DROP TABLE sync.clients")
        assert [str(wrong) for wrong in await inventory(sql)] == [
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


async def test_what_only_the_servers_login_lacks_only_it_finds(sql: Any) -> None:
    newer = await sql.fetchval("SELECT current_setting('server_version_num')::int >= 160000")
    inherits = "GRANT atlas_sync TO atlas_server WITH INHERIT FALSE" if newer else "ALTER ROLE atlas_server NOINHERIT"
    membership = "membership of atlas_server in atlas_sync"
    for damage, what in (
        ("REVOKE atlas_sync FROM atlas_server", membership),
        (inherits, membership),
        ("CREATE POLICY hides ON sync.log AS RESTRICTIVE TO atlas_server USING (seq > 5)", "policy hides on sync.log"),
    ):
        async with undone(sql):
            await sql.execute(damage)
            assert await inventory(sql, "postgres") == []
            (wrong,) = await inventory(sql)
            assert (wrong.what, wrong.serving) == (what, True)
            if wrong.mend is not None:
                await sql.execute(wrong.mend)
                assert await inventory(sql) == []


async def test_a_role_that_is_lost_comes_back_with_its_rights_and_without_its_members(sql: Any) -> None:
    async with undone(sql):
        await sql.execute("ALTER ROLE atlas_sync RENAME TO former")
        assert "role atlas_sync" in [wrong.what for wrong in await inventory(sql)]
        await sql.execute(SAFE_PATH)
        assert await mend(sql, SILENT) == []
        (wrong,) = await inventory(sql)
        assert wrong.mend == "GRANT atlas_sync TO atlas_server"


async def test_what_is_the_apps_to_decide_is_left_alone(sql: Any) -> None:
    async with undone(sql):
        await sql.execute(HARMLESS)
        assert [wrong.what for wrong in await inventory(sql)] == ["trigger atlas_sync_record_update on public.profiles"]
        await sql.execute(SAFE_PATH)
        assert await mend(sql, SILENT) == []


async def test_it_waits_for_nobody_who_changes_the_tables_and_needs_no_right(
    sql: Any, every_database: Database
) -> None:
    server = await asyncpg.connect(every_database.server_url)
    try:
        await sql.execute("REVOKE atlas_sync FROM atlas_server; REVOKE USAGE ON SCHEMA public FROM PUBLIC")
        await server.execute(f"{SAFE_PATH}; SET lock_timeout = '1s'")
        async with undone(sql):
            await sql.execute(
                "LOCK TABLE profiles, conversations, messages, messages_archive, sync.log, sync.feeds "
                "IN ACCESS EXCLUSIVE MODE"
            )
            found = [Wrong(*row) for row in await server.fetch(statement("inventory"))]
    finally:
        await sql.execute("GRANT atlas_sync TO atlas_server")
        await server.close()
    assert [(wrong.what, wrong.mend, wrong.serving) for wrong in found] == [
        ("membership of atlas_server in atlas_sync", "GRANT atlas_sync TO atlas_server", True)
    ]
