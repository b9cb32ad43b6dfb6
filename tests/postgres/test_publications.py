"""A publication of messages publishes the same rows under the same name before, during and after adoption and undo."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from uuid import UUID, uuid4

import pytest

from server.exceptions import UnfitError
from server.postgres.migrate import cautions, migrate, steps
from server.postgres.steps import SILENT
from server.postgres.undo import undo
from tests.support import chat_app
from tests.support.chat_app import App
from tests.support.cluster import Cluster, administrator, running_cluster
from tests.support.maintenance import maintained
from tests.support.replication import LOGICAL, Sent, sent, slot, subscription
from tests.support.waiting import eventually

ROOT = "SELECT pubviaroot FROM pg_publication WHERE pubname = 'changes'"
SAID = "INSERT INTO messages (id, conversation_id, role, content, created_at) VALUES ($1, $2, 'user', $3, now() + $4)"


@pytest.fixture(scope="module", params=["18", "15"])
def logical(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with running_cluster(request.param, LOGICAL) as cluster:
        yield cluster


@pytest.fixture
async def published(logical: Cluster) -> AsyncIterator[App]:
    async with chat_app.app(logical, messages=200) as made:
        yield made


@contextlib.asynccontextmanager
async def writing(app: App, conversation: UUID) -> AsyncIterator[list[UUID]]:
    """What is inserted while the block runs, one after the other: now, and far ahead."""
    said: list[UUID] = []
    ended = False

    async def write() -> None:
        async with administrator(app.database) as sql:
            while not ended:
                each = uuid4()
                ahead = await sql.fetchval("SELECT make_interval(days => $1)", 300 * (len(said) % 2))
                await sql.execute(SAID, each, conversation, "meanwhile", ahead)
                said.append(each)

    writer = asyncio.create_task(write())
    try:
        await eventually(lambda: len(said) > 3 or writer.done())
        yield said
        count = len(said)
        await eventually(lambda: len(said) > count + 3 or writer.done())
    finally:
        ended = True
        await writer


def ids(changes: list[Sent], op: str) -> list[UUID]:
    return [UUID(str((change.new or change.old or {})["id"])) for change in changes if change.op == op]


async def change(app: App, message: UUID, content: str) -> None:
    await app.sql.execute("UPDATE messages SET content = $2 WHERE id = $1", message, content)


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
async def test_rows_are_published_under_the_tables_name_before_during_and_after(published: App, identity: str) -> None:
    sql = published.sql
    await sql.execute(
        f"ALTER TABLE messages REPLICA IDENTITY {identity}; CREATE PUBLICATION changes FOR TABLE messages"
    )
    _, conversation = await published.somebody()
    old, gone = [row[0] for row in await sql.fetch("SELECT id FROM messages ORDER BY id LIMIT 2")]
    async with slot(sql, f"of_{published.database.name}") as name:
        async with writing(published, conversation) as during:
            await migrate(published.url)
        assert await sql.fetchval(ROOT)
        await maintained(published.database)
        await change(published, old, "after")
        await change(published, during[1], "after")
        await change(published, during[-1], "after")
        await sql.execute("DELETE FROM messages WHERE id = $1", gone)
        changes = await sent(sql, name, "changes")
        assert {each.table for each in changes} == {"public.messages"}
        assert ids(changes, "I") == during
        assert ids(changes, "U") == [old, during[1], during[-1]]
        assert ids(changes, "D") == [gone]
        whole = [each.old is not None and each.old["content"] is not None for each in changes if each.op in "UD"]
        assert whole == [identity == "FULL"] * 4
        async with writing(published, conversation) as during:
            await undo(published.url, SILENT)
        await change(published, old, "at last")
        changes = await sent(sql, name, "changes")
        assert {each.table for each in changes} == {"public.messages"}
        # Rows that are copied back are not published again.
        assert ids(changes, "I") == during
        assert ids(changes, "U") == [old]
        assert not await sql.fetchval(ROOT)


@pytest.mark.parametrize("part", ["(id, role)", "WHERE (role = 'user')", "(id, content) WHERE (content <> 'secret')"])
async def test_a_publication_of_a_part_publishes_the_same_part(published: App, part: str) -> None:
    sql = published.sql
    await sql.execute(f"CREATE PUBLICATION changes FOR TABLE messages {part} WITH (publish = 'insert')")
    _, conversation = await published.somebody()
    before = await published.shape()
    async with slot(sql, f"of_{published.database.name}") as name:
        for work in (migrate, lambda url: undo(url, SILENT)):
            await work(published.url)
            mine, theirs = uuid4(), uuid4()
            await sql.execute(SAID, mine, conversation, "said", await sql.fetchval("SELECT interval '300 days'"))
            await sql.execute(
                "INSERT INTO messages (id, conversation_id, role, content, created_at) "
                "VALUES ($1, $2, 'system', 'secret', now())",
                theirs,
                conversation,
            )
            changes = await sent(sql, name, "changes")
            assert {each.table for each in changes} == {"public.messages"}
            assert ids(changes, "I") == ([mine] if "WHERE" in part else [mine, theirs])
            if part.startswith("("):
                assert list(changes[0].new or ()) == part.partition(")")[0].strip("(").split(", ")
    assert await published.shape() == before


async def test_a_subscriber_has_every_row_and_knows_of_no_partition(published: App) -> None:
    await published.sql.execute("CREATE PUBLICATION changes FOR TABLE messages")
    (said,) = await cautions(published.url)
    assert "On its subscribers, run ALTER TABLE messages ADD COLUMN updated_at timestamptz first." in said
    _, conversation = await published.somebody()
    cluster = published.database.cluster
    async with chat_app.app(cluster, messages=0) as copy:
        await copy.sql.execute("ALTER TABLE messages ADD COLUMN updated_at timestamptz")

        async def same() -> bool:
            rows = "SELECT id, conversation_id, role, content, created_at FROM messages ORDER BY id"
            return bool(await copy.sql.fetch(rows) == await published.sql.fetch(rows))

        async with subscription(published.database, copy.sql, "changes"):
            await eventually(same)
            for work in (migrate, lambda url: undo(url, SILENT)):
                async with writing(published, conversation):
                    await work(published.url)
                await published.sql.execute("UPDATE messages SET content = 'changed' WHERE role = 'user'")
                await published.sql.execute(
                    "DELETE FROM messages WHERE id = (SELECT id FROM messages ORDER BY id LIMIT 1)"
                )
                await eventually(same)
            assert not await copy.sql.fetchval("SELECT apply_error_count FROM pg_stat_subscription_stats")


async def test_a_publication_of_all_tables_is_left_alone_and_the_plan_says_what_to_do(published: App) -> None:
    await published.sql.execute("CREATE PUBLICATION changes FOR ALL TABLES")
    says = "Let postgres run ALTER PUBLICATION changes SET (publish_via_partition_root = true)"
    assert any(says in said for said in await cautions(published.url))
    await migrate(published.url)
    assert not await published.sql.fetchval(ROOT)
    assert any(says in said for said in await cautions(published.url))
    await published.sql.execute("ALTER PUBLICATION changes SET (publish_via_partition_root = true)")
    assert await cautions(published.url) == []
    assert await steps(published.url) == []
    _, conversation = await published.somebody()
    async with slot(published.sql, f"of_{published.database.name}") as name:
        await published.sql.execute(
            SAID, uuid4(), conversation, "x", await published.sql.fetchval("SELECT interval '0'")
        )
        changes = await sent(published.sql, name, "changes")
        assert "public.messages" in {each.table for each in changes}
        assert not any("messages_" in each.table for each in changes)


async def test_a_publication_of_somebody_else_stops_it_before_anything_is_changed(logical: Cluster) -> None:
    async with chat_app.app(logical, messages=20) as app:
        owner = await app.role("LOGIN")
        other = await app.role()
        await app.sql.execute(
            f'GRANT CREATE ON DATABASE "{app.database.name}" TO {owner}, {other}; '
            f"GRANT CREATE ON SCHEMA public TO {owner}; ALTER TABLE profiles OWNER TO {owner}; "
            f"ALTER TABLE conversations OWNER TO {owner}; ALTER TABLE messages OWNER TO {owner}; "
            f"CREATE PUBLICATION changes FOR TABLE messages; ALTER PUBLICATION changes OWNER TO {other}"
        )
        before = await app.shape()
        url = logical.postgres.url(app.database.name, owner)
        for work in (migrate, steps):
            with pytest.raises(UnfitError, match=f"belongs to {other}. Make this login a member of {other}"):
                await work(url)
        assert await app.shape() == before
        await app.sql.execute(f"GRANT {other} TO {owner}; ALTER ROLE {owner} CREATEROLE")
        assert any(step.says.startswith("put a partitioned table") for step in await steps(url))
        await app.sql.execute(f"DROP PUBLICATION changes; REASSIGN OWNED BY {owner}, {other} TO CURRENT_USER")
        await app.sql.execute(f"DROP OWNED BY {owner}, {other}")


async def test_changes_of_archived_rows_are_published_where_the_archive_is(published: App) -> None:
    sql = published.sql
    await sql.execute("CREATE PUBLICATION changes FOR TABLE messages")
    await migrate(published.url)
    _, conversation = await published.somebody()
    await sql.execute("SELECT sync.make_partition('messages_archive', '2040-01-01Z')")
    old = uuid4()
    await sql.execute(
        "INSERT INTO messages_archive (id, conversation_id, content, created_at) VALUES ($1, $2, 'x', '2040-01-02')",
        *(old, conversation),
    )
    await sql.execute("ALTER PUBLICATION changes ADD TABLE messages_archive")
    async with slot(sql, f"of_{published.database.name}") as name:
        await sql.execute("UPDATE messages_archive SET content = 'y' WHERE id = $1", old)
        changes = await sent(sql, name, "changes")
    assert [(each.op, each.table) for each in changes] == [("U", "public.messages_archive")]
