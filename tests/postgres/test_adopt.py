"""A chat app's tables are adopted as they are: no row is lost or rewritten, and nothing of the app stops working."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import asyncpg
import pytest

from server.exceptions import UnfitError
from server.operations.catalog import Step
from server.postgres.adopt import remaining_steps
from server.postgres.connection import LOCAL_PATH
from server.postgres.declared import DECLARING
from server.postgres.migrate import migrate, steps
from server.postgres.steps import WAITING
from tests.support import chat_app
from tests.support.chat_app import CHAT_FILE, App, Heard, command, shape
from tests.support.cluster import Cluster, Database, administrator
from tests.support.device import greeting_device, live_device, now
from tests.support.inventory import inventory, undone
from tests.support.maintenance import archive_after, maintained
from tests.support.oracle import select_everything
from tests.support.rows import CreateMessage, DeleteMessage, EditMessage
from tests.support.serving import serving
from tests.support.waiting import LIMIT, eventually

ROWS = "SELECT id, conversation_id, role, content, created_at, xmin::text, ctid::text FROM {} ORDER BY id"
"""The messages as they lie in their file."""
SAID = "INSERT INTO messages (id, conversation_id, role, content) VALUES ($1, $2, 'user', $3)"


# ---- Rows ------------------------------------------------------------------------------------------------------------


async def test_no_row_is_lost_changed_or_rewritten(app: App) -> None:
    file = "SELECT pg_relation_filenode(to_regclass($1))"
    before, lies_in = await app.sql.fetch(ROWS.format("messages")), await app.sql.fetchval(file, "messages")
    beside = [await app.rows(table) for table in ("profiles", "conversations", "daily_usage", "usage_logs")]
    await migrate(app.url)
    assert await app.sql.fetch(ROWS.format("public.messages_v1")) == before
    assert await app.sql.fetchval(file, "public.messages_v1") == lies_in
    assert await app.sql.fetchval("SELECT count(*) FROM messages") == len(before) == 2_000
    assert [await app.rows(table) for table in ("profiles", "conversations", "daily_usage", "usage_logs")] == beside


async def test_the_old_indexes_are_those_of_the_new_table_each_once_and_valid(newest_app: App) -> None:
    await migrate(newest_app.url)
    indexes = await newest_app.sql.fetch(
        "SELECT i.relname AS name, x.indisvalid AS valid, p.inhparent::regclass::text AS parent, "
        "regexp_replace(pg_get_indexdef(x.indexrelid), '^.* USING ', '') AS def "
        "FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid LEFT JOIN pg_inherits p ON p.inhrelid = i.oid "
        "WHERE x.indrelid = 'public.messages_v1'::regclass"
    )
    assert all(index["valid"] and index["parent"] for index in indexes)
    assert {(index["name"], index["parent"]) for index in indexes} == {
        ("messages_v1_pkey", "messages_pkey"),
        ("atlas_v1_messages_conversation_id_idx", "messages_conversation_id_idx"),
        ("atlas_v1_messages_created_at_idx", "messages_created_at_idx"),
        ("atlas_messages_v1_newest", "messages_newest"),
    }
    assert len({index["def"] for index in indexes}) == len(indexes)
    for table in ("public.messages", "public.conversations"):
        assert await newest_app.sql.fetchval(
            "SELECT bool_and(indisvalid) FROM pg_index WHERE indrelid = $1::regclass", table
        )


async def test_the_app_writes_as_before_and_the_feed_records_it(newest_app: App) -> None:
    await migrate(newest_app.url)
    user, conversation = await newest_app.somebody()
    mine, old, ahead = uuid4(), uuid4(), uuid4()
    await newest_app.sql.execute(SAID, mine, conversation, "of now")
    dated = "INSERT INTO messages (id, conversation_id, role, content, created_at) VALUES ($1, $2, 'user', $3, $4)"
    first = await newest_app.sql.fetchval("SELECT min(created_at) FROM messages")
    await newest_app.sql.execute(dated, old, conversation, "of then", first)
    await newest_app.sql.execute(
        dated, ahead, conversation, "to come", await newest_app.sql.fetchval("SELECT now() + interval '200 days'")
    )
    where = "SELECT tableoid::regclass::text FROM messages WHERE id = $1"
    assert await newest_app.sql.fetchval(where, mine) == await newest_app.sql.fetchval(where, old) == "messages_v1"
    await archive_after(newest_app.database, 1_200)
    await maintained(newest_app.database)
    assert await newest_app.sql.fetchval(where, ahead) == "messages_default"
    await newest_app.sql.execute("UPDATE messages SET content = 'corrected' WHERE id = $1", old)
    await newest_app.sql.execute("DELETE FROM messages WHERE id = $1", mine)
    assert [tuple(row) for row in await newest_app.log(user)] == [
        *(("m", "u", each) for each in (mine, old, ahead, old)),
        ("m", "d", mine),
    ]
    await newest_app.sql.execute("DELETE FROM conversations WHERE id = $1", conversation)
    assert await newest_app.sql.fetchval("SELECT count(*) FROM messages WHERE conversation_id = $1", conversation) == 0


async def test_a_device_gets_what_select_finds_and_writes_to_old_messages(newest_app: App) -> None:
    await migrate(newest_app.url)
    user, conversation = await newest_app.somebody()
    async with serving(newest_app.database) as server, live_device(server.url, user) as device:
        # A row that was never updated has the instant at which it was created.
        assert device.state() == {
            key: (*row[:-1], row[-2] if row[-1] is None and key[0] == "m" else row[-1])
            for key, row in (await select_everything(newest_app.sql, user)).items()
        }
        old, other = (
            (UUID(str(row["id"])), row["at"])
            for row in await newest_app.sql.fetch(
                "SELECT id, sync.seq_at(created_at) AS at FROM messages WHERE conversation_id = $1"
                " AND role = 'user' ORDER BY id LIMIT 2",
                conversation,
            )
        )
        made, at = uuid4(), now()
        seq = await device.apply(
            CreateMessage(made, conversation, "user", "from a device", at),
            EditMessage(*old, "edited on a device", at),
            DeleteMessage(*other),
        )
        state = await device.reach(seq)
        assert state["m", made][2] == "from a device"
        assert state["m", old[0]][2:] == ("edited on a device", old[1], at)
        assert ("m", other[0]) not in state
    content = "SELECT content FROM messages WHERE id = $1"
    assert [await newest_app.sql.fetchval(content, each) for each in (made, old[0], other[0])] == [
        "from a device",
        "edited on a device",
        None,
    ]


async def test_nulls_stay_except_in_the_three_instants_and_devices_can_hold_them(newest_app: App) -> None:
    user, conversation = await newest_app.somebody()
    hollow, adrift, undated, nobodys, bare = (uuid4() for _ in range(5))
    await newest_app.sql.execute("INSERT INTO messages (id, conversation_id) VALUES ($1, $2)", undated, conversation)
    await newest_app.sql.execute("INSERT INTO messages (id, created_at) VALUES ($1, now())", adrift)
    await newest_app.sql.execute("INSERT INTO messages VALUES ($1, $2, NULL, NULL, now())", hollow, conversation)
    await newest_app.sql.execute("INSERT INTO conversations (id) VALUES ($1)", nobodys)
    await newest_app.sql.execute(
        "INSERT INTO conversations (id, user_id, created_at) VALUES ($1, $2, '2026-01-01Z')", bare, user
    )
    await newest_app.sql.execute("INSERT INTO profiles (id) VALUES ($1)", uuid4())
    await migrate(newest_app.url)
    assert tuple(
        await newest_app.sql.fetchrow("SELECT role, content, updated_at FROM messages WHERE id = $1", hollow)
    ) == ((None,) * 3)
    same = (
        "SELECT m.created_at = c.created_at FROM messages m JOIN conversations c ON c.id = conversation_id "
        "WHERE m.id = $1"
    )
    assert await newest_app.sql.fetchval(same, undated)
    assert await newest_app.sql.fetchval("SELECT updated_at = created_at FROM conversations WHERE id = $1", bare)
    # The app goes on writing what it wrote.
    await newest_app.sql.execute("INSERT INTO messages (id, conversation_id) VALUES ($1, $2)", uuid4(), conversation)
    await newest_app.sql.execute("INSERT INTO messages (id) VALUES ($1)", uuid4())
    await newest_app.sql.execute("UPDATE messages SET role = NULL, content = NULL WHERE id = $1", undated)
    await newest_app.sql.execute("UPDATE messages SET conversation_id = NULL WHERE id = $1", undated)
    await newest_app.sql.execute("UPDATE messages SET conversation_id = $2 WHERE id = $1", undated, conversation)
    await newest_app.sql.execute("UPDATE profiles SET subscription_status = NULL")
    await newest_app.sql.execute("INSERT INTO profiles (id) VALUES ($1)", uuid4())
    await newest_app.sql.execute("INSERT INTO conversations (id) VALUES ($1)", uuid4())
    await newest_app.sql.execute(SAID, uuid4(), nobodys, "to nobody")
    for column in ("messages.created_at", "conversations.created_at", "conversations.updated_at"):
        table, name = column.split(".")
        with pytest.raises(asyncpg.NotNullViolationError):
            await newest_app.sql.execute(f"UPDATE {table} SET {name} = NULL")
    async with serving(newest_app.database) as server, live_device(server.url, user) as device:
        assert device.state()["m", hollow][1:3] == (None, None)
        assert ("m", adrift) not in device.state()
        assert ("c", nobodys) not in device.state()


async def test_a_conversation_of_nobody_comes_to_its_owner_with_its_messages_and_goes_again(newest_app: App) -> None:
    user, _ = await newest_app.somebody()
    nobodys, said = uuid4(), uuid4()
    await newest_app.sql.execute("INSERT INTO conversations (id, title) VALUES ($1, 'found')", nobodys)
    await newest_app.sql.execute(SAID, said, nobodys, "said to nobody")
    await migrate(newest_app.url)
    owner = "UPDATE conversations SET user_id = $2 WHERE id = $1"
    async with serving(newest_app.database) as server, live_device(server.url, user) as device:
        await newest_app.sql.execute(owner, nobodys, user)
        while ("m", said) not in device.state():
            await device.hear()
        assert device.state()["c", nobodys][0] == "found"
        await newest_app.sql.execute(owner, nobodys, None)
        while ("c", nobodys) in device.state():
            await device.hear()
        assert ("m", said) not in device.state()
    async with serving(newest_app.database) as server, live_device(server.url, user) as device:
        assert ("c", nobodys) not in device.state()


async def test_a_user_without_a_tier_is_told_that_it_works_on_the_device_alone(newest_app: App) -> None:
    user = uuid4()
    await newest_app.sql.execute("INSERT INTO profiles (id) VALUES ($1)", user)
    await migrate(newest_app.url)
    async with serving(newest_app.database) as server, greeting_device(server.url, user) as device:
        assert (await device.closed())[0] == 4301


# ---- What the app has on messages ------------------------------------------------------------------------------------

RICH = """
    CREATE TABLE models (name text PRIMARY KEY);
    INSERT INTO models VALUES ('small');
    ALTER TABLE messages
        ADD COLUMN model text DEFAULT 'small' REFERENCES models (name), ADD COLUMN "Tags" text[] NOT NULL DEFAULT '{}',
        ADD COLUMN length int GENERATED ALWAYS AS (char_length(content)) STORED, ADD COLUMN number bigserial,
        ADD CONSTRAINT short CHECK (char_length(content) < 10000);
    COMMENT ON TABLE messages IS 'what''s said';
    COMMENT ON COLUMN messages.content IS 'the text';
    COMMENT ON CONSTRAINT short ON messages IS 'not a novel';
    CREATE INDEX said ON messages (lower(role), created_at);
    CREATE INDEX "Long" ON messages (created_at) WHERE char_length(content) > 100;
    CREATE INDEX tagged ON messages USING gin ("Tags") WITH (fastupdate = off);
    CREATE VIEW recent WITH (security_barrier) AS SELECT * FROM messages WHERE created_at > '2026-01-01';
    CREATE VIEW mine WITH (security_invoker) AS SELECT id, content FROM messages;
    CREATE VIEW "Nested" AS SELECT r.id, m.content FROM recent r JOIN mine m USING (id);
    CREATE TABLE touched (name text, at timestamptz DEFAULT now());
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN INSERT INTO public.touched VALUES (TG_NAME); RETURN NEW; END';
    CREATE TRIGGER each_row BEFORE UPDATE OF content ON messages FOR EACH ROW
        WHEN (OLD.content IS DISTINCT FROM NEW.content) EXECUTE FUNCTION touch();
    CREATE TRIGGER each_statement AFTER INSERT ON messages REFERENCING NEW TABLE AS fresh
        FOR EACH STATEMENT EXECUTE FUNCTION touch();
    CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON messages DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION touch();
    CREATE TRIGGER off BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION touch();
    ALTER TABLE messages DISABLE TRIGGER off;
    CREATE TRIGGER always BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION touch();
    ALTER TABLE messages ENABLE ALWAYS TRIGGER always;
    CREATE POLICY of_users ON messages FOR SELECT TO {reader} USING (role = 'user');
    CREATE POLICY writes ON messages FOR INSERT TO {reader}, {writer} WITH CHECK (char_length(content) > 0);
    CREATE POLICY never ON messages AS RESTRICTIVE TO {reader} USING (content <> 'secret');
    CREATE POLICY all_of_it ON messages TO {writer} USING (true);
    ALTER TABLE messages ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY,
        REPLICA IDENTITY USING INDEX messages_pkey;
    GRANT SELECT, INSERT ON messages TO {writer} WITH GRANT OPTION;
    GRANT SELECT (id, content), UPDATE ("Tags") ON messages TO {reader};
    CREATE TABLE attachments (message uuid, name text);
    ALTER TABLE attachments ENABLE ROW LEVEL SECURITY;
    CREATE POLICY with_its_message ON attachments TO {reader}
        USING (EXISTS (SELECT FROM messages m WHERE m.id = message));
    GRANT SELECT ON attachments TO {reader};
    CREATE PUBLICATION changes FOR TABLE messages, profiles;
"""


def about_messages(lines: list[str]) -> set[str]:
    """Of a shape, what an app may have on messages."""
    kinds = (
        "trigger",
        "policy",
        "view",
        "constraint messages short",
        "constraint messages messages_model",
    )
    return {line for line in lines if line.startswith(kinds) and "atlas_" not in line and "sync" not in line}


async def test_everything_that_the_app_has_on_messages_is_there_afterwards(app: App) -> None:
    reader, writer = await app.role(), await app.role()
    await app.sql.execute(RICH.replace("{reader}", reader).replace("{writer}", writer))
    before = await app.shape()
    assert await migrate(app.url) == []
    assert await inventory(app.sql) == []
    after = await app.shape()
    assert about_messages(before) - about_messages(after) == set()
    # Of some columns the server's role has a right now.
    columns = [line.partition(" ACL ")[0] for line in before if line.startswith("column messages ")]
    kept = {line.partition(" ACL ")[0] for line in after}
    assert [line for line in columns if line not in kept] == [line for line in columns if " created_at " in line]
    for index in ("said", '"Long"', "tagged"):
        assert await app.sql.fetchval("SELECT indisvalid FROM pg_index WHERE indexrelid = $1::regclass", index)
    relation = next(line for line in after if line.startswith("relation messages "))
    assert "secured t t" in relation
    assert "what's said" in relation
    grants = "SELECT has_table_privilege($1, 'messages', 'SELECT WITH GRANT OPTION')"
    assert await app.sql.fetchval(grants, writer)
    assert await app.sql.fetchval("SELECT has_column_privilege($1, 'messages', 'Tags', 'UPDATE')", reader)
    for table in ("messages", "messages_archive"):
        may = "SELECT has_column_privilege($1, $2, 'role', 'SELECT'), has_column_privilege($1, $2, 'content', 'SELECT')"
        assert tuple(await app.sql.fetchrow(may, reader, table)) == (False, True)

    theirs = "SELECT polname, polroles, polpermissive FROM pg_policy WHERE polrelid = $1::regclass AND polcmd <> 'a'"
    archived = [tuple(row) for row in await app.sql.fetch(theirs, "messages_archive")]
    assert sorted(archived) == sorted(tuple(row) for row in await app.sql.fetch(theirs, "messages"))

    _, conversation = await app.somebody()
    said = uuid4()
    await app.sql.execute(SAID, said, conversation, "hello")
    await app.sql.execute("UPDATE messages SET content = 'hello again' WHERE id = $1", said)
    names = [row[0] for row in await app.sql.fetch("SELECT name FROM touched ORDER BY at, name")]
    assert names == ["always", "each_statement", "each_row", "late"]
    assert await app.sql.fetchval('SELECT content FROM "Nested" WHERE id = $1', said) == "hello again"
    assert await app.sql.fetchval("SELECT length FROM messages WHERE id = $1", said) == len("hello again")
    assert await app.sql.fetchval("SELECT number FROM messages WHERE id = $1", said) == 2_001
    assert await app.sql.fetchval("SELECT currval(pg_get_serial_sequence('messages', 'number'))") == 2_001
    with pytest.raises(asyncpg.CheckViolationError):
        await app.sql.execute(SAID, uuid4(), conversation, "x" * 10_000)
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await app.sql.execute("UPDATE messages SET model = 'none' WHERE id = $1", said)
    async with app.acting(reader):
        users = await app.sql.fetch("SELECT id FROM messages")
        assert 0 < len(users) < 2_001
    await app.sql.execute("INSERT INTO attachments SELECT id, 'a' FROM messages WHERE role = 'user'")
    async with app.acting(reader):
        assert await app.sql.fetchval("SELECT count(*) FROM attachments") == len(users)


@pytest.mark.parametrize(
    "grant",
    [
        "SELECT, INSERT ON {table} TO {role}",
        "SELECT ({columns}) ON {table} TO {role}",
        "SELECT, INSERT ON {table} TO PUBLIC",
    ],
    ids=["table", "columns", "everybody"],
)
async def test_a_role_of_the_app_reaches_all_rows_as_before_and_end_users_their_own(app: App, grant: str) -> None:
    role = await app.role()
    columns = {"messages": "id, content", "conversations": "id, user_id", "profiles": "id"}
    for table in columns:
        await app.sql.execute(f"GRANT {grant.format(table=table, role=role, columns=columns[table])}")
    await migrate(app.url)
    async with app.acting(role):
        counts = [await app.sql.fetchval(f"SELECT count(id) FROM {table}") for table in columns]
    assert counts == [await app.sql.fetchval(f"SELECT count(*) FROM {table}") for table in columns]
    user, conversation = await app.somebody()
    if "INSERT" in grant:
        async with app.acting(role):
            await app.sql.execute(SAID, uuid4(), conversation, "by the app")
    own = await app.sql.fetchval(
        "SELECT count(*) FROM messages m JOIN conversations c ON c.id = conversation_id WHERE user_id = $1", user
    )
    async with app.acting("authenticated", user):
        assert await app.sql.fetchval("SELECT count(*) FROM messages") == own < 2_000


async def test_rights_that_the_app_took_away_do_not_come_back_by_default(newest_app: App) -> None:
    role = await newest_app.role()
    await newest_app.sql.execute(f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO {role}")
    await migrate(newest_app.url)
    for right in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"):
        assert not await newest_app.sql.fetchval("SELECT has_table_privilege($1, 'messages', $2)", role, right)


async def test_a_publication_of_a_part_publishes_the_same_part_afterwards(newest_app: App) -> None:
    await newest_app.sql.execute(
        "CREATE PUBLICATION part FOR TABLE messages (id, role) WHERE (id IS NOT NULL) "
        "WITH (publish = 'insert', publish_via_partition_root = true)"
    )
    of = "SELECT attnames::text, rowfilter FROM pg_publication_tables WHERE tablename = 'messages'"
    before = tuple(await newest_app.sql.fetchrow(of))
    await migrate(newest_app.url)
    assert tuple(await newest_app.sql.fetchrow(of)) == before


# ---- What stops it ---------------------------------------------------------------------------------------------------

OBSTACLES = {
    "a foreign key": (
        "CREATE TABLE notes (m uuid REFERENCES messages)",
        "Foreign keys refer to .*notes. Leave out `partition` and `archive` in the declaration",
    ),
    "an index that is invalid": (
        "CREATE INDEX shaky ON messages (role); "
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'shaky'::regclass",
        "The index shaky of public.messages is invalid",
    ),
    "a unique index": ("CREATE UNIQUE INDEX once ON messages (md5(id::text))", "The unique index once"),
    "a unique constraint": ("ALTER TABLE messages ADD CONSTRAINT once UNIQUE (id, role)", "The unique index once"),
    "a constraint not validated": (
        "ALTER TABLE messages ADD CONSTRAINT short CHECK (content <> '') NOT VALID",
        "short of public.messages is NOT VALID",
    ),
    "a constraint that is not inherited": (
        "ALTER TABLE messages ADD CONSTRAINT mine CHECK (role <> '') NO INHERIT",
        "mine of public.messages is NO INHERIT",
    ),
    "an exclusion": (
        "ALTER TABLE messages ADD CONSTRAINT apart EXCLUDE (id WITH =)",
        "(exclusion constraint|unique index) apart",
    ),
    "a materialized view": ("CREATE MATERIALIZED VIEW counts AS SELECT count(*) FROM messages", "counts is a material"),
    "a view that needs the key": (
        "CREATE VIEW latest AS SELECT m.id, m.content, count(*) FROM messages m GROUP BY m.id",
        "latest",
    ),
    "a function of its rows": (
        "CREATE FUNCTION shout(m messages) RETURNS text LANGUAGE sql AS 'SELECT upper(m.content)'",
        "shout",
    ),
    "a function with a body of statements": (
        "CREATE FUNCTION many() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM messages; END",
        "bound to public.messages by their bodies: public.many",
    ),
    "an identity": ("ALTER TABLE messages ADD COLUMN n int GENERATED ALWAYS AS IDENTITY", "messages.n"),
    "a rule": ("CREATE RULE quiet AS ON DELETE TO messages DO INSTEAD NOTHING", "quiet"),
    "a trigger that sees each row's transition": (
        "CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; CREATE TRIGGER rows AFTER "
        "INSERT ON messages REFERENCING NEW TABLE AS n FOR EACH ROW EXECUTE FUNCTION t()",
        "The trigger rows",
    ),
    "a type": (
        "ALTER TABLE messages DROP CONSTRAINT messages_conversation_id_fkey, ALTER conversation_id TYPE text",
        "messages.conversation_id is text, and must be uuid",
    ),
    "a type of an instant": (
        "ALTER TABLE conversations ALTER updated_at TYPE timestamp",
        "conversations.updated_at is",
    ),
    "a type of what would be added": ("ALTER TABLE messages ADD updated_at timestamp", "messages.updated_at is"),
    "no profiles": ("DROP TABLE profiles CASCADE", "public.profiles is missing"),
    "no conversations": ("DROP TABLE conversations CASCADE", "public.conversations is missing"),
    "no column": ("ALTER TABLE conversations DROP COLUMN title", "lack the column conversations.title"),
    "a view in a table's place": (
        "ALTER TABLE profiles RENAME TO people; CREATE VIEW profiles AS SELECT * FROM people",
        "public.profiles is not a table",
    ),
    "a publication of partitions": (
        "CREATE TABLE events (at date) PARTITION BY RANGE (at); CREATE PUBLICATION several FOR TABLE messages, events",
        "The publication several publishes rows of public.events under the names of partitions",
    ),
    "a name of a partition": ("CREATE VIEW messages_2026_12 AS SELECT 1", "schema public: messages_2026_12. Rename"),
    "names of partitions": (
        "CREATE TABLE messages_archive (); CREATE TYPE messages_default AS (); CREATE DOMAIN messages_v1 AS text; "
        "CREATE INDEX messages_newest ON messages (role)",
        "schema public: messages_archive, messages_default, messages_newest, messages_v1. Rename",
    ),
    "a message that is yet to come": (
        "INSERT INTO messages (id, created_at) VALUES (gen_random_uuid(), '2099-01-01')",
        "The newest message is dated 2099-01-01",
    ),
}


@pytest.fixture(scope="module")
def obstructed(postgres_15: Cluster) -> Iterator[Database]:
    """The app's database, in which each obstacle is made and rolled back."""

    async def fill() -> Database:
        database = await postgres_15.create("template0")
        async with administrator(database) as sql:
            await chat_app.create(sql)
        return database

    database = asyncio.run(fill())
    yield database
    asyncio.run(database.drop())


@pytest.mark.parametrize("what", OBSTACLES)
async def test_an_obstacle_is_found_before_anything_is_changed(obstructed: Database, what: str) -> None:
    statements, says = OBSTACLES[what]
    async with administrator(obstructed) as sql, undone(sql):
        await sql.execute(f"{statements}; {LOCAL_PATH}")
        with pytest.raises(UnfitError, match=says) as refused:
            await remaining_steps(sql)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("what", ["a rule", "a message that is yet to come"])
async def test_a_database_with_an_obstacle_stays_as_it_is(newest_app: App, what: str) -> None:
    statements, says = OBSTACLES[what]
    await newest_app.sql.execute(statements)
    before = await newest_app.shape()
    for work in (migrate, steps):
        with pytest.raises(UnfitError, match=says):
            await work(newest_app.url)
    assert await newest_app.shape() == before


async def test_the_original_is_recorded_after_obstacles_were_removed(newest_app: App) -> None:
    await newest_app.sql.execute("ALTER TABLE messages ADD CONSTRAINT once UNIQUE (id, role)")
    with pytest.raises(UnfitError):
        await migrate(newest_app.url)
    await newest_app.sql.execute(
        "ALTER TABLE messages DROP CONSTRAINT once; ALTER TABLE messages ALTER created_at SET DEFAULT now()"
    )
    await migrate(newest_app.url)
    kept = await newest_app.sql.fetchval(
        "SELECT facts -> 'columns' -> 'messages.created_at' ->> 'default' FROM sync.original"
    )
    assert kept == "now()"


async def test_a_login_that_does_not_own_the_tables_is_told_who_does(newest_app: App) -> None:
    role = await newest_app.role("LOGIN")
    await newest_app.sql.execute(f'GRANT CREATE ON DATABASE "{newest_app.database.name}" TO {role}')
    await newest_app.sql.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    before = await newest_app.shape()
    with pytest.raises(UnfitError, match=r"of postgres\).*Migrate as the owner of these tables \(ATLAS_ADMIN_URL\)"):
        await migrate(newest_app.database.cluster.postgres.url(newest_app.database.name, role))
    assert [line for line in await newest_app.shape() if not line.startswith("schema sync")] == before


# ---- Interrupted, and beside others ----------------------------------------------------------------------------------


async def test_an_adoption_that_is_killed_after_each_step_comes_to_the_same_end(app: App) -> None:
    rows = await app.rows("messages")
    async with chat_app.app(app.database.cluster, messages=20) as other:
        await migrate(other.url)
        whole = await other.shape()
    planned = [step for step in await steps(app.url) if step is not DECLARING]
    assert await app.killed_after_each_step("migrate") == len(planned) + 1 > 15
    assert await app.shape() == whole
    assert [row[:5] for row in await app.rows("messages")] == [row[:5] for row in rows]


async def test_an_adoption_that_is_killed_at_any_moment_comes_to_the_same_end(newest_app: App) -> None:
    async with chat_app.app(newest_app.database.cluster, messages=20) as other:
        await migrate(other.url)
        whole = await other.shape()
    rows = await newest_app.rows("messages")
    kills = await newest_app.killed_at_any_moment("migrate")
    assert kills > 0
    assert await newest_app.shape() == whole
    assert [row[:5] for row in await newest_app.rows("messages")] == [row[:5] for row in rows]


async def test_an_index_whose_build_was_cut_off_is_built_anew(newest_app: App) -> None:
    index = "atlas_messages_v1_newest"
    # A build waits for older snapshots, and is not valid until then.
    async with newest_app.holding("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT FROM usage_logs LIMIT 1"):
        migrating = asyncio.create_task(migrate(newest_app.url))
        pid = await eventually(
            lambda: newest_app.sql.fetchval(
                "SELECT pid FROM pg_stat_activity WHERE query LIKE 'CREATE % INDEX CONCURRENTLY atlas%' "
                "AND wait_event_type = 'Lock' AND datname = current_database()"
            )
        )
        await newest_app.sql.execute("SELECT pg_cancel_backend($1)", pid)
        with pytest.raises(UnfitError, match="canceling statement"):
            await migrating
    left = [
        row[0]
        for row in await newest_app.sql.fetch("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid")
    ]
    assert left == ["atlas_messages_v1_pkey"]
    assert f"drop the unfinished index {left[0]}" in [step.says for step in await steps(newest_app.url)]
    await migrate(newest_app.url)
    assert not await newest_app.sql.fetchval("SELECT count(*) FROM pg_index WHERE NOT indisvalid")
    assert await newest_app.sql.fetchval("SELECT to_regclass($1) IS NOT NULL", index)


async def test_two_migrations_at_once_run_one_after_the_other(newest_app: App) -> None:
    heard = [Heard(), Heard()]
    await asyncio.gather(*(migrate(newest_app.url, each) for each in heard))
    second, first = sorted(heard, key=lambda each: len(each.ended))
    assert WAITING not in first.begun
    assert (second.begun, second.ended) == ([WAITING], [])
    assert await newest_app.sql.fetchval("SELECT count(*) FROM messages") == 200


async def test_a_step_waits_for_its_lock_without_holding_up_others_and_names_it(newest_app: App) -> None:
    heard = Heard()
    async with newest_app.holding("SELECT FROM conversations LIMIT 1; SELECT FROM messages LIMIT 1"):
        migrating = asyncio.create_task(migrate(newest_app.url, heard))
        await eventually(lambda: len(heard.waited) >= 3)
        # Nobody who comes after has to wait for the lock that could not be had.
        async with asyncio.timeout(LIMIT):
            await newest_app.sql.fetchval("SELECT count(*) FROM messages")
        assert not migrating.done()
    await migrating
    step, why = heard.waited[0]
    assert step.locks == "ACCESS EXCLUSIVE on messages"
    assert "lock timeout" in why


class Meddler(Heard):
    """Makes a policy between the look at the tables and the first step that locks them."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.meddled: Step | None = None

    def begins(self, step: Step) -> None:
        super().begins(step)
        if self.meddled is None and any(each.startswith("LOCK TABLE") for each in step.statements):
            self.meddled = step
            # Nobody else runs meanwhile.
            with ThreadPoolExecutor(1) as thread:
                thread.submit(asyncio.run, self._meddle()).result(LIMIT)

    async def _meddle(self) -> None:
        connection = await asyncpg.connect(self._url)
        await connection.execute("CREATE POLICY of_late ON messages FOR DELETE USING (role <> 'system')")
        await connection.close()


async def test_a_policy_that_is_created_between_planning_and_locking_is_kept(newest_app: App) -> None:
    meddler = Meddler(newest_app.url)
    await migrate(newest_app.url, meddler)
    assert meddler.meddled is not None
    assert meddler.meddled.says in [step.says for step in meddler.begun[meddler.begun.index(meddler.meddled) + 1 :]]
    kept = await newest_app.sql.fetch(
        "SELECT tablename FROM pg_policies WHERE policyname = 'of_late' AND tablename <> 'messages_v1' ORDER BY 1"
    )
    assert [row[0] for row in kept] == ["messages", "messages_archive"]


async def test_rows_that_somebody_holds_are_filled_when_they_are_free(newest_app: App) -> None:
    heard = Heard()
    await newest_app.sql.execute(
        "ALTER TABLE conversations ALTER created_at SET DEFAULT now(), ALTER updated_at SET DEFAULT now(); "
        "UPDATE conversations SET created_at = NULL WHERE id = (SELECT id FROM conversations LIMIT 1)"
    )
    async with newest_app.holding("SELECT FROM conversations WHERE created_at IS NULL FOR UPDATE"):
        migrating = asyncio.create_task(migrate(newest_app.url, heard))
        await eventually(lambda: any(step.kind == "rows" for step, _ in heard.waited))
        assert len([step for step in heard.begun if step.kind == "rows"]) < 10
    await migrating
    assert not await newest_app.sql.fetchval("SELECT count(*) FROM conversations WHERE created_at IS NULL")


async def test_a_trigger_that_undoes_what_is_filled_is_told_as_the_obstacle(newest_app: App) -> None:
    await newest_app.sql.execute(
        "UPDATE messages SET created_at = NULL; CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN NEW.created_at := OLD.created_at; RETURN NEW; END'; "
        "CREATE TRIGGER keep BEFORE UPDATE ON messages FOR EACH ROW EXECUTE FUNCTION keep()"
    )
    with pytest.raises(UnfitError, match=r"fill messages\.created_at where it is NULL is in vain: a trigger"):
        await migrate(newest_app.url)
    await newest_app.sql.execute("ALTER TABLE messages DISABLE TRIGGER keep")
    await migrate(newest_app.url)


async def test_a_trigger_of_the_app_finds_its_tables_while_rows_are_filled(newest_app: App) -> None:
    await newest_app.sql.execute(
        "UPDATE messages SET created_at = NULL WHERE content < 'm'; CREATE TABLE filled (id uuid); "
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO filled VALUES (NEW.id); RETURN NULL; END'; "
        "CREATE CONSTRAINT TRIGGER note AFTER UPDATE ON messages DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION note()"
    )
    missing = await newest_app.sql.fetchval("SELECT count(*) FROM messages WHERE created_at IS NULL")
    await migrate(newest_app.url)
    assert await newest_app.sql.fetchval("SELECT count(*) FROM filled") == missing > 0


async def test_an_adoption_does_not_depend_on_how_the_database_writes_dates(newest_app: App) -> None:
    await newest_app.sql.execute(
        f"ALTER DATABASE \"{newest_app.database.name}\" SET datestyle = 'German'; "
        f"ALTER DATABASE \"{newest_app.database.name}\" SET timezone = 'Asia/Kolkata'"
    )
    await migrate(newest_app.url)
    bound = "SELECT until AT TIME ZONE 'UTC' FROM sync.partitions WHERE partition = 'public.messages_v1'::regclass"
    assert (await newest_app.sql.fetchval(bound)).day == 1
    assert await newest_app.sql.fetchval("SELECT count(*) FROM public.messages_v1") == 200


# ---- What would be done ----------------------------------------------------------------------------------------------


async def test_the_plan_names_each_step_and_its_lock_and_changes_nothing(newest_app: App) -> None:
    before = await newest_app.shape()
    status, said = await command(newest_app, "--plan", "--declaration", CHAT_FILE)
    assert status == 0
    assert await newest_app.shape() == before
    for step in await steps(newest_app.url):
        assert f"{step.says}\n    {step.locks}; " in said
    assert any(line.startswith("run the migrations 0001_app_tables, ") for line in said.splitlines())
    status, _ = await command(newest_app, "--declaration", CHAT_FILE)
    assert status == 0
    status, said = await command(newest_app, "--plan", "--declaration", CHAT_FILE)
    assert (status, said) == (0, "There is nothing to do.\n")


async def test_tables_of_an_app_are_not_taken_for_the_chat_schema(newest_app: App) -> None:
    before = await shape(newest_app.sql)
    for options in ([], ["--plan"], ["--sql"]):
        with pytest.raises(UnfitError, match="atlas-sync init"):
            await command(newest_app, *options)
    assert await shape(newest_app.sql) == before
    assert await newest_app.sql.fetchval("SELECT to_regnamespace('sync') IS NULL")


async def test_rights_on_a_column_that_was_dropped_are_nobodys(app: App) -> None:
    """PostgreSQL 15 keeps them beside the column's remains."""
    role = await app.role()
    for table in ("messages", "conversations"):
        await app.sql.execute(
            f"ALTER TABLE {table} ADD gone text; GRANT SELECT (gone) ON {table} TO {role}; "
            f"ALTER TABLE {table} DROP COLUMN gone"
        )
    assert await migrate(app.url) == []
