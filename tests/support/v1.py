"""The chat app's database as it was before Atlas Sync: its tables, real conversations in them, and its shape."""

import asyncio
import contextlib
import itertools
import os
import random
import sys
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
from chitchat_dataset import Dataset

from server.adoption import Step
from tests.support.cluster import Cluster, Database
from tests.support.waiting import LIMIT

LONGEST: Final = 150
"""Messages of a conversation: fewer than a device's window."""
PAST: Final = timedelta(days=300)
"""How long ago the first message of a filling was written."""

TABLES: Final = """
    CREATE TABLE public.profiles (
        id uuid PRIMARY KEY, email text UNIQUE, subscription_tier text, subscription_status text, usage_stats jsonb,
        created_at timestamptz, updated_at timestamptz
    );
    CREATE TABLE public.conversations (
        id uuid PRIMARY KEY, user_id uuid REFERENCES public.profiles (id), title text,
        created_at timestamptz, updated_at timestamptz
    );
    CREATE INDEX conversations_user_id_idx ON public.conversations (user_id);
    CREATE INDEX conversations_updated_at_idx ON public.conversations (updated_at DESC);
    CREATE TABLE public.messages (
        id uuid PRIMARY KEY, conversation_id uuid REFERENCES public.conversations (id), role text, content text,
        created_at timestamptz
    );
    CREATE INDEX messages_conversation_id_idx ON public.messages (conversation_id);
    CREATE INDEX messages_created_at_idx ON public.messages (created_at);
    CREATE TABLE public.daily_usage (
        id bigserial PRIMARY KEY, user_id uuid, date date, conversations_count int, total_tokens_used int,
        api_cost_estimate decimal(10, 4), tier text, UNIQUE (user_id, date)
    );
    CREATE TABLE public.usage_logs (
        id bigserial PRIMARY KEY, user_id uuid, event text, data jsonb, timestamp timestamptz
    );
"""

SHAPE: Final = """
    WITH relations AS (
        SELECT c.oid::regclass AS name, c.* FROM pg_class c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
    ), schemas AS (
        SELECT oid, nspname, nspowner, nspacl FROM pg_namespace
        WHERE nspname !~ '^pg_(toast|temp|catalog)' AND nspname <> 'information_schema'
    ), lines AS (
        SELECT format('column %s %s %s %s', r.name, row_number() OVER (PARTITION BY r.oid ORDER BY a.attnum), a.attname,
                      format_type(a.atttypid, a.atttypmod))
               || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
               || format(' %s%s%s', a.attidentity, a.attgenerated, a.attstorage)
               || coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '')
               || coalesce(' COMMENT ' || col_description(r.oid, a.attnum), '')
               || coalesce(' ACL ' || (SELECT string_agg(x::text, ' ' ORDER BY x::text) FROM aclexplode(a.attacl) x),
                           '') AS line
        FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        -- An ACL that only repeats what the owner has anyhow says as much as none.
        UNION ALL
        SELECT format('relation %s %s%s%s secured %s %s owner %s', name, relkind, relpersistence, relreplident,
                      relrowsecurity, relforcerowsecurity, relowner::regrole)
               || coalesce(' ' || reloptions::text, '') || coalesce(' COMMENT ' || obj_description(oid, 'pg_class'), '')
               || ' ACL ' || (SELECT string_agg(x::text, ' ' ORDER BY x::text) FROM aclexplode(coalesce(
                   relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner))) x)
        FROM relations
        UNION ALL
        SELECT format('constraint %s %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid), convalidated)
               || coalesce(' COMMENT ' || obj_description(oid, 'pg_constraint'), '')
        FROM pg_constraint WHERE conrelid IN (SELECT oid FROM relations)
        UNION ALL
        SELECT format('index %s %s %s %s', pg_get_indexdef(indexrelid), indisvalid, indisclustered, indisreplident)
               || coalesce(' COMMENT ' || obj_description(indexrelid, 'pg_class'), '')
        FROM pg_index WHERE indrelid IN (SELECT oid FROM relations)
        UNION ALL
        SELECT format('trigger %s %s', pg_get_triggerdef(oid), tgenabled)
               || coalesce(' COMMENT ' || obj_description(oid, 'pg_trigger'), '')
        FROM pg_trigger WHERE NOT tgisinternal AND tgrelid IN (SELECT oid FROM relations)
        UNION ALL
        SELECT 'policy ' || p::text FROM pg_policies p
        UNION ALL
        SELECT format('view %s %s', name, pg_get_viewdef(oid)) FROM relations WHERE relkind IN ('v', 'm')
        UNION ALL
        SELECT 'rule ' || pg_get_ruledef(oid) FROM pg_rewrite
        WHERE ev_class IN (SELECT oid FROM relations) AND rulename <> '_RETURN'
        UNION ALL
        SELECT 'publication ' || p::text FROM pg_publication_tables p
        UNION ALL
        SELECT 'statistics ' || pg_get_statisticsobjdef(oid) FROM pg_statistic_ext
        UNION ALL
        SELECT format('inheritance %s of %s', inhrelid::regclass, inhparent::regclass) FROM pg_inherits
        WHERE inhrelid IN (SELECT oid FROM relations)
        UNION ALL
        SELECT format('schema %s owner %s ACL %s', nspname, nspowner::regrole, (
            SELECT string_agg(x::text, ' ' ORDER BY x::text)
            FROM aclexplode(coalesce(nspacl, acldefault('n', nspowner))) x))
        FROM schemas
        UNION ALL
        SELECT format('function %s %s', p.oid::regprocedure, md5(p.prosrc)) FROM pg_proc p JOIN schemas n
        ON n.oid = p.pronamespace
    )
    SELECT line FROM lines ORDER BY line
"""
"""Every line of what the app made, in the tables' own schema and around it. The same lines: the same database, but for
its rows and for what schema sync holds."""


@cache
def _talks() -> list[tuple[str, list[tuple[str, str]]]]:
    """Real conversations: their titles, and who said what in them."""
    talks = []
    for talk in Dataset().values():
        said = [line for turn in talk["messages"] for line in turn if line["text"]]
        if 0 < len(said) <= LONGEST:
            first = said[0]["sender"]
            lines = [("user" if line["sender"] == first else "assistant", line["text"]) for line in said]
            talks.append((lines[0][1][:80], lines))
    return talks


async def create(sql: Any) -> None:
    """The app's tables, empty."""
    await sql.execute(TABLES)


async def fill(sql: Any, messages: int, users: int = 100) -> None:
    """So many messages of so many users, in conversations that really took place, over the last 300 days."""
    now = datetime.now(UTC)
    each = PAST / max(messages, 1)
    people = [_id() for _ in range(users)]
    conversations: list[tuple[UUID, UUID, str, datetime, datetime]] = []
    spoken: list[tuple[UUID, int, list[tuple[str, str]]]] = []
    total = 0
    for (title, said), user in zip(itertools.cycle(_talks()), itertools.cycle(people), strict=False):
        if total == messages:
            break
        said = said[: messages - total]
        begin = now - PAST + each * total
        conversations.append((_id(), user, title, begin, begin + each * (len(said) - 1)))
        spoken.append((conversations[-1][0], total, said))
        total += len(said)

    async def copy(table: str, columns: str, records: Iterable[tuple[Any, ...]]) -> None:
        await sql.copy_records_to_table(
            table, schema_name="public", columns=columns.split(), records=records, timeout=3_600
        )

    await copy(
        "profiles",
        "id email subscription_tier created_at updated_at",
        ((user, f"{user}@example.com", "core", now - PAST, now - PAST) for user in people),
    )
    await copy("conversations", "id user_id title created_at updated_at", conversations)
    await copy(
        "messages",
        "id conversation_id role content created_at",
        (
            (_id(), conversation, role, text, now - PAST + each * number)
            for conversation, first, said in spoken
            for number, (role, text) in enumerate(said, first)
        ),
    )
    for statement in (
        "INSERT INTO public.daily_usage (user_id, date, conversations_count, tier) "
        "SELECT unnest($1::uuid[]), current_date, 1, 'core'",
        "INSERT INTO public.usage_logs (user_id, event, data, timestamp) "
        "SELECT unnest($1::uuid[]), 'opened', '{}', now()",
    ):
        await sql.execute(statement, people)


class Heard:
    """What a listener heard."""

    def __init__(self) -> None:
        self.begun: list[Step] = []
        self.ended: list[Step] = []
        self.waited: list[tuple[Step, str]] = []

    def begins(self, step: Step) -> None:
        self.begun.append(step)

    def advances(self, step: Step, share: float | None) -> None: ...

    def waits(self, step: Step, why: str) -> None:
        self.waited.append((step, why))

    def ends(self, step: Step) -> None:
        self.ended.append(step)


DYING: Final = """
import asyncio, os, random, signal, sys
from server.postgres.migrate import migrate
from server.postgres.undo import undo

class Dying:
    def begins(self, step): pass
    def advances(self, step, share): pass
    def waits(self, step, why): pass
    def ends(self, step):
        if not moment:
            os.kill(os.getpid(), signal.SIGKILL)

work = {"migrate": migrate, "undo": undo}[sys.argv[1]]
moment = float(sys.argv[3])
killed = 0
while True:
    child = os.fork()
    if not child:
        random.seed()
        if moment:
            signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            signal.setitimer(signal.ITIMER_REAL, random.random() * moment * (1 + killed / 4))
        asyncio.run(work(sys.argv[2], Dying()))
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != -signal.SIGKILL:
        break
    killed += 1
print(killed)
sys.exit(status)
"""
"""Again and again a process that is killed, until one comes to the end; how many were killed."""


class App:
    """A database that the app made and uses."""

    def __init__(self, database: Database, sql: Any, roles: list[str]) -> None:
        self.database = database
        self.url = database.url
        self.sql = sql
        self._roles = roles

    async def shape(self) -> list[str]:
        return await shape(self.sql)

    async def rows(self, table: str) -> list[tuple[Any, ...]]:
        """All of a table, in some fixed order."""
        return sorted((tuple(row) for row in await self.sql.fetch(f"SELECT * FROM public.{table}")), key=repr)

    async def somebody(self) -> tuple[UUID, UUID]:
        """A user who said something, and the conversation with the most messages."""
        row = await self.sql.fetchrow(
            "SELECT c.user_id, c.id FROM public.conversations c JOIN public.messages m ON m.conversation_id = c.id "
            "WHERE c.user_id IS NOT NULL GROUP BY c.id ORDER BY count(*) DESC, c.id LIMIT 1"
        )
        return UUID(str(row[0])), UUID(str(row[1]))

    async def log(self, user: UUID) -> list[Any]:
        """What was recorded of this user: kind, operation, id."""
        return list(
            await self.sql.fetch(
                "SELECT kind::text, op::text, row_id FROM sync.log WHERE user_id = $1 ORDER BY seq, n", user
            )
        )

    async def role(self, attributes: str = "NOLOGIN") -> str:
        """A role of the app."""
        name = f"app_{next(_numbers)}"
        await self.sql.execute(f"CREATE ROLE {name} {attributes}; GRANT USAGE ON SCHEMA public TO {name}")
        self._roles.append(name)
        return name

    @contextlib.asynccontextmanager
    async def acting(self, role: str, user: UUID | None = None) -> AsyncIterator[None]:
        """As that role, for that user."""
        async with self.sql.transaction():
            await self.sql.execute(
                "SELECT set_config('request.jwt.claims', $1, true)", orjson.dumps({"sub": user}).decode()
            )
            await self.sql.execute(f"SET LOCAL ROLE {role}")
            yield
            await self.sql.execute("RESET ROLE")

    @contextlib.asynccontextmanager
    async def holding(self, statements: str) -> AsyncIterator[None]:
        """While a transaction that ran these is open."""
        other = await self.database.connect()
        try:
            async with other.transaction():
                await other.execute(statements)
                yield
        finally:
            await other.close()

    async def killed_after_each_step(self, command: str) -> int:
        """`migrate` or `undo`, by processes that are killed after one step each; how many were."""
        return await self._dying(command, 0)

    async def killed_at_any_moment(self, command: str, seconds: float = 0.3) -> int:
        """By processes that are killed within so many seconds, and later each time; how many were."""
        return await self._dying(command, seconds)

    async def _dying(self, command: str, moment: float) -> int:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", DYING, command, self.url, str(moment)), stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(3 * LIMIT):
            output, _ = await process.communicate()
        assert process.returncode == 0
        return int(output.split()[-1])


_numbers = itertools.count()


@contextlib.asynccontextmanager
async def app(cluster: Cluster, messages: int = 2_000) -> AsyncIterator[App]:
    """The app on this cluster, with so many messages."""
    database = await cluster.create("template0")
    roles: list[str] = []
    sql = await database.connect()
    try:
        await create(sql)
        await fill(sql, messages)
        yield App(database, sql, roles)
    finally:
        await sql.close()
        await database.drop()
        if roles:
            await drop_roles(cluster, roles)


async def drop_roles(cluster: Cluster, roles: list[str]) -> None:
    """After the database in which they had rights."""
    admin = await asyncpg.connect(cluster.postgres.url())
    try:
        await admin.execute(f"DROP ROLE {', '.join(roles)}")
    finally:
        await admin.close()


async def command(app: App, *arguments: str, answer: str = "") -> tuple[int, str]:
    """`atlas-sync migrate` in a process of its own: its status, and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", "migrate", *arguments),
        env={**os.environ, "DATABASE_URL": app.url},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(3 * LIMIT):
        output, _ = await process.communicate(answer.encode())
    assert process.returncode is not None
    return process.returncode, output.decode()


async def shape(sql: Any) -> list[str]:
    """The lines of SHAPE."""
    return [row[0] for row in await sql.fetch(SHAPE)]


def _id() -> UUID:
    return UUID(int=random.getrandbits(128), version=4)
