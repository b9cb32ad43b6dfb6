"""The chat app's database as it was before Atlas Sync: its shape, and what is done with it."""

import asyncio
import contextlib
import itertools
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
from typer.testing import CliRunner

from benchmarks.v1 import TABLES, fill
from server.cli import cli
from server.declaration import chat
from server.operations.catalog import Step
from tests.support.cluster import Cluster, Database
from tests.support.waiting import LIMIT

CHAT_FILE: Final = str(Path(chat.__file__).with_name("chat.toml"))
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


async def create(sql: Any) -> None:
    """The app's tables, empty."""
    await sql.execute(TABLES)


class Heard:
    """Progress that records what it is told."""

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
            signal.setitimer(signal.ITIMER_REAL, moment * (killed + random.random()) / 10)
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
        """By processes that are killed some moment, a tenth of so many seconds later each time; how many were."""
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
    """`atlas-sync migrate`, in a thread of this process: its status, and what it printed."""
    runner = CliRunner(env={"DATABASE_URL": app.url})
    async with asyncio.timeout(3 * LIMIT):
        result = await asyncio.to_thread(runner.invoke, cli, ["migrate", *arguments], input=answer)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


async def shape(sql: Any) -> list[str]:
    """The lines of SHAPE."""
    return [row[0] for row in await sql.fetch(SHAPE)]
