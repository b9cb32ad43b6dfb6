"""What others do to the database while servers run: locks, limits, policies, triggers, clocks."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any
from unittest import mock
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import UUID, uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from protocol.cursor import Position
from protocol.errors import CloseCode
from protocol.frames import Applied, Error, Live, Ping, Pong
from server import metrics
from server.declaration.chat import CHAT
from server.declaration.synced import Synced
from server.exceptions import UnavailableError
from server.feed.ports import ReadKey, Want
from server.postgres import connection, inspector, pool, vitals
from server.postgres.doctor import examine
from server.postgres.migrate import migrate
from server.postgres.store import PostgresStore
from tests.support.client_device import ClientDevice
from tests.support.cluster import SERVER_LOGIN, Cluster, Database, administrator, running_cluster
from tests.support.device import UNLIMITED, PushingDevice, live_device, now
from tests.support.oracle import select_everything
from tests.support.peer import peer
from tests.support.people import add_conversation, add_message, add_user
from tests.support.pools import pool_of_one
from tests.support.proxy import Proxy, postgres_behind_proxy
from tests.support.rows import CreateConversation, CreateMessage, RenameConversation
from tests.support.serving import Running, ServerProcess, serving
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def nobody_waits_longer_than_they_must(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server asks each device for another delay, up to seconds: here for the least."""
    monkeypatch.setattr(random, "randrange", lambda start, stop=None: 0 if stop is None else start)


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspector, "EVERY", 0.1)


class Looks:
    """The server's looks at the database."""

    def __init__(self) -> None:
        self._may = asyncio.Event()
        self._may.set()
        self._waits = asyncio.Event()

    async def permitted(self) -> None:
        self._waits.set()
        await self._may.wait()
        self._waits.clear()

    async def hold(self) -> None:
        """When this returns, none is under way, and none begins before `release`."""
        self._may.clear()
        self._waits.clear()
        await self._waits.wait()

    def release(self) -> None:
        self._may.set()


@pytest.fixture
def looks(looks_often: None, monkeypatch: pytest.MonkeyPatch) -> Looks:
    looks, look = Looks(), inspector.Inspector.inspect

    async def when_permitted(self: inspector.Inspector) -> None:
        await looks.permitted()
        await look(self)

    monkeypatch.setattr(inspector.Inspector, "inspect", when_permitted)
    return looks


async def asked(http: str, path: str = "/readyz", **headers: str) -> tuple[int, str]:
    """What HTTP answers."""

    def ask() -> tuple[int, str]:
        try:
            with urlopen(Request(f"{http}{path}", headers=headers), timeout=10) as response:
                return response.status, response.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(ask)


async def is_ready(server: Running) -> bool:
    return (await asked(server.http))[0] == 200


# ---- Blindness -----------------------------------------------------------------------------------------------------

PARTITION = "SELECT tableoid::regclass FROM messages LIMIT 1"
DAMAGES = {
    "policy": (
        "DROP POLICY atlas_sync_reads ON messages",
        "CREATE POLICY atlas_sync_reads ON messages FOR SELECT TO atlas_sync USING (true)",
        "policy atlas_sync_reads on public.messages",
    ),
    "right": (
        "REVOKE SELECT ON messages FROM atlas_sync",
        "GRANT SELECT ON messages TO atlas_sync",
        "SELECT on column public.messages.content",
    ),
    "trigger": (
        "ALTER TABLE messages DISABLE TRIGGER atlas_sync_record",
        "ALTER TABLE messages ENABLE TRIGGER atlas_sync_record",
        "trigger atlas_sync_record on public.messages",
    ),
    "trigger of one partition": (
        "ALTER TABLE {} DISABLE TRIGGER USER",
        "ALTER TABLE {} ENABLE TRIGGER USER",
        "trigger atlas_sync_record on public.{}",
    ),
    "restriction": (
        "CREATE POLICY hides ON messages AS RESTRICTIVE FOR SELECT USING (role <> 'user')",
        "DROP POLICY hides ON messages",
        "policy hides on public.messages",
    ),
}
"""What is done, how it is mended by hand, and what it is called."""


@pytest.mark.usefixtures("looks_often")
@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_server_that_does_not_see_everything_serves_nobody_and_then_everybody_has_it_all(
    database: Database, sql: Any, damage: str
) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user, f"{user} talks")
    await add_message(sql, conversation, f"{user} begins")
    await sql.execute("SET search_path = public")
    partition = await sql.fetchval(PARTITION)
    break_it, mend_it, name = (each.format(partition) for each in DAMAGES[damage])
    async with serving(database, sweep=0.1, **UNLIMITED) as server, contextlib.AsyncExitStack() as stack:
        connected, away = ClientDevice(server.url, user), ClientDevice(server.url, user)
        connected.start()
        stack.push_async_callback(connected.stop)

        async def has_all(device: ClientDevice) -> bool:
            device.check()
            return device.state() == await select_everything(sql, user)

        for by_hand in (True,) if damage == "restriction" else (True, False):
            away.start()
            for device in (connected, away):
                await eventually(partial(has_all, device))
            await away.stop()
            assert away.cursor is not None
            await sql.execute(break_it)

            async def is_named() -> bool:
                status, why = await asked(server.http)
                return status == 503 and name in why

            await eventually(is_named)
            await add_message(sql, conversation, f"{user} meanwhile")
            await sql.execute("UPDATE messages SET content = content || ' so' WHERE conversation_id = $1", conversation)

            async def is_put_off() -> bool:
                async with peer(server.url) as new:
                    await new.say_hello(user)
                    await new.say(Ping())
                    heard = [await new.hear(), await new.hear()]
                    assert {type(frame) for frame in heard} == {Error, Pong}, heard
                    (error,) = [frame for frame in heard if isinstance(frame, Error)]
                    # The history that the server begins may take effect at this moment.
                    assert error.code in ("unavailable", "position_lost"), error
                    return error.code == "unavailable"

            await eventually(is_put_off)
            if by_hand:
                await sql.execute(mend_it)
            else:
                await migrate(database.url)
            await eventually(lambda: is_ready(server))
            before, fresh = len(away.snapshots), ClientDevice(server.url, user)
            fresh.start()
            away.start()
            for device in (connected, away, fresh):
                await eventually(partial(has_all, device))
            # It may hear of two histories: one that the server began, and one that the mended database is.
            assert away.snapshots[before] == "epoch"
            await away.stop()
            await fresh.stop()


async def test_a_trigger_that_was_off_between_two_looks_is_noticed(database: Database, sql: Any) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user, f"{user} talks")
    async with serving(database, sweep=0.1, **UNLIMITED) as server:
        device = ClientDevice(server.url, user)
        device.start()
        try:
            await eventually(lambda: device.cursor is not None)
            async with sql.transaction():
                await sql.execute("ALTER TABLE messages DISABLE TRIGGER atlas_sync_record")
                await add_message(sql, conversation, f"{user} unseen")
                await sql.execute("ALTER TABLE messages ENABLE TRIGGER atlas_sync_record")

            async def has_all() -> bool:
                device.check()
                return device.state() == await select_everything(sql, user)

            await eventually(has_all)
        finally:
            await device.stop()


@pytest.mark.usefixtures("looks_often")
async def test_a_user_whose_profile_is_hidden_is_not_told_to_work_locally(database: Database, sql: Any) -> None:
    user, nobody = await add_user(sql), uuid4()
    async with serving(database, sweep=0.1, **UNLIMITED) as server:
        async with live_device(server.url, user) as device, peer(server.url) as other, peer(server.url) as stranger:
            await sql.execute("ALTER POLICY atlas_sync_reads ON profiles USING (id IS NULL)")
            await device.say_push(CreateConversation(uuid4(), "hello", now()))
            await other.say_hello(user)
            await stranger.say_hello(nobody)
            for one in (device, other, stranger):
                error = await one.hear_a(Error)
                assert error.code in ("unavailable", "position_lost"), error
        await sql.execute("ALTER POLICY atlas_sync_reads ON profiles USING (true)")
        await eventually(lambda: is_ready(server))
        async with live_device(server.url, user) as device, peer(server.url) as stranger:
            assert device.state() == await select_everything(sql, user)
            await stranger.say_hello(nobody)
            assert (await stranger.closed())[0] == CloseCode.LOCAL_ONLY


@pytest.mark.parametrize(
    "damage",
    [
        "DROP POLICY atlas_sync_reads ON profiles",
        "ALTER POLICY atlas_sync_reads ON profiles USING (subscription_tier IS NULL)",
        "ALTER POLICY atlas_sync_reads ON profiles TO authenticated",
        "CREATE POLICY hides ON profiles AS RESTRICTIVE USING (subscription_tier IS NULL)",
    ],
)
async def test_a_missing_profile_counts_only_where_the_server_sees_all_profiles(
    database: Database, sql: Any, damage: str
) -> None:
    user, nobody = await add_user(sql), uuid4()
    one = pool_of_one(database)
    store = PostgresStore(one, Synced(CHAT))
    keys = [ReadKey(str(each), Position(0, 0, 0)) for each in (user, nobody)]
    kind = CHAT.kind["conversation"]
    try:
        assert [page.tier for page in await store.read_feed(keys, 10, 10_000)] == ["core", None]
        assert (await store.rows(kind, str(nobody), [Want(None, None, 10)], 10_000)).tier is None
        await sql.execute(damage)
        with pytest.raises(UnavailableError):
            await store.read_feed(keys, 10, 10_000)
        with pytest.raises(UnavailableError):
            await store.rows(kind, str(user), [Want(None, None, 10)], 10_000)
    finally:
        one.terminate()


@pytest.mark.usefixtures("looks_often")
async def test_a_history_that_a_lock_keeps_from_beginning_begins_when_the_lock_is_gone(
    database: Database, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspector, "STATEMENT_SECONDS", 0.2)
    before = await sql.fetchval("SELECT sync.epoch()")
    waits = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query ~ 'begin_history' "
        "AND wait_event_type = 'Lock'"
    )
    async with serving(database, sweep=0.1) as server, administrator(database) as holder:
        async with holder.transaction():
            await holder.execute("SELECT FROM sync.meta FOR UPDATE")
            await sql.execute("REVOKE SELECT ON messages FROM atlas_sync")
            await eventually(lambda: sql.fetchval(waits))
            await eventually(lambda: sql.fetchval(waits.replace("count(*)", "count(*) = 0")))
            await sql.execute("GRANT SELECT ON messages TO atlas_sync")
            assert not await is_ready(server)
        await eventually(lambda: is_ready(server))
        assert await sql.fetchval("SELECT sync.epoch()") != before


# ---- Locks and lines -------------------------------------------------------------------------------------------------

SIZE = 4
"""ATLAS_POOL_SIZE, and how many pairs of devices there are."""
LIMIT_SECONDS = 0.6
"""For a statement: fifteen otherwise."""
METRICS_TOKEN = "the token of those who watch"
BACKENDS = """
    SELECT pid
    FROM pg_stat_activity WHERE datname = current_database() AND usename = 'atlas_server'
"""
WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE usename = 'atlas_server' AND datname = current_database() "
    "AND wait_event_type = 'Lock'"
)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (connection, pool, inspector):
        monkeypatch.setattr(module, "STATEMENT_SECONDS", LIMIT_SECONDS)
    # Whoever looks at the figures is told sooner than a statement ends.
    monkeypatch.setattr(vitals, "PATIENCE", LIMIT_SECONDS / 5)
    monkeypatch.setattr(vitals, "AGE", 0.0)
    monkeypatch.setattr(inspector, "EVERY", 0.1)
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 1.0)


class Backends:
    """What the server had in Postgres at any moment."""

    def __init__(self, sql: Any) -> None:
        self._sql = sql
        self._turn = asyncio.Lock()
        self.pids: set[int] = set()
        self.most = 0

    async def count(self) -> int:
        async with self._turn:
            rows = await self._sql.fetch(BACKENDS)
        self.pids |= {row["pid"] for row in rows}
        self.most = max(self.most, len(rows))
        return len(rows)

    async def watch(self) -> None:
        while True:
            await self.count()
            await asyncio.sleep(0.01)


async def come_and_go(server: Running, user: UUID) -> None:
    """A device that says hello again and again, and pushes each time."""
    while True:
        with contextlib.suppress(TimeoutError):
            async with peer(server.url) as one:
                device = PushingDevice(one.socket, one.codec, user, uuid4(), 1)
                await device.hello()
                await device.say_push(CreateConversation(uuid4(), f"{user}", now()))
                async with asyncio.timeout(0.2):
                    await device.answer()


async def scrape(server: Running) -> None:
    while True:
        await asked(server.http, "/metrics", Authorization=f"Bearer {METRICS_TOKEN}")


@contextlib.asynccontextmanager
async def going_on(*work: Any) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(ended, asyncio.CancelledError), ended


@contextlib.asynccontextmanager
async def crowded(server: Running, sql: Any, watching: Any) -> AsyncIterator[Backends]:
    """Devices come, read, push and go, and somebody looks at the figures; all is well at the end."""
    users = [await add_user(sql) for _ in range(2 * SIZE)]
    backends = Backends(watching)
    async with going_on(scrape(server), backends.watch(), *(come_and_go(server, user) for user in users)):
        yield backends
        await eventually(lambda: is_ready(server))
    async with live_device(server.url, users[0]) as device:
        seq = await device.apply(CreateConversation(uuid4(), "well", now()))
        assert await device.reach(seq) == await select_everything(sql, users[0])


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("table", ["messages", "sync.feeds", "sync.meta", "sync.histories"])
async def test_a_server_behind_a_lock_opens_no_more_connections_and_none_waits_for_long(
    database: Database, sql: Any, table: str
) -> None:
    given = {"pool_size": SIZE, "sweep": 0.1, "metrics_token": METRICS_TOKEN, **UNLIMITED}
    async with (
        administrator(database) as holder,
        administrator(database) as watching,
        serving(database, **given) as server,
        crowded(server, sql, watching) as backends,
    ):
        async with holder.transaction():
            await holder.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            await eventually(lambda: watching_waits(sql))
            before = set(backends.pids)
            await eventually(lambda: are_others(backends, before, 3 * SIZE))
        assert backends.most <= SIZE + 2


async def watching_waits(sql: Any) -> bool:
    return bool(await sql.fetchval(WAITING))


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("how", ["silent", "swallow"])
async def test_a_server_whose_line_to_postgres_is_black_leaves_no_connection_behind(
    database: Database, sql: Any, how: str
) -> None:
    given = {"pool_size": SIZE, "sweep": 0.1, "metrics_token": METRICS_TOKEN, **UNLIMITED}
    async with (
        administrator(database) as watching,
        postgres_behind_proxy(database.server_url) as (proxy, url),
        serving(url, **given) as server,
        crowded(server, sql, watching) as backends,
    ):
        for _ in range(2):
            before = set(backends.pids)
            if how == "swallow":
                proxy.swallow()
            else:
                proxy.silent = True
                made = proxy.connections
                await eventually(partial(has_made_more, proxy, made + SIZE))
                proxy.silent = False
            await eventually(partial(are_others, backends, before, SIZE))
            await eventually(lambda: is_ready(server))
        # What passes late is of connections that are gone: Postgres hears of both at once.
        assert backends.most <= SIZE + 2 + (how == "silent") * proxy.connections
        await eventually(lambda: few_enough(backends))


def has_made_more(proxy: Proxy, connections: int) -> bool:
    return proxy.connections > connections


def are_others(backends: Backends, before: set[int], number: int) -> bool:
    return len(backends.pids - before) >= number


async def few_enough(backends: Backends) -> bool:
    return await backends.count() <= SIZE + 2


# ---- Few connections -------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def a_login(sql: Any, connections: int) -> AsyncIterator[str]:
    """One like the server's, which may have so many connections."""
    name = f"atlas_{uuid4().hex[:8]}"
    await sql.execute(f"CREATE ROLE {name} LOGIN IN ROLE atlas_sync CONNECTION LIMIT {connections}")
    try:
        yield name
    finally:
        await sql.execute(f"DROP ROLE {name}")


async def work(server: Running, user: UUID, rounds: int) -> list[Error]:
    """Come, read, push and go; the errors that were heard."""
    errors: list[Error] = []
    for number in range(rounds):
        async with peer(server.url) as one:
            device = PushingDevice(one.socket, one.codec, user, uuid4(), 1)
            await device.hello()
            while not isinstance(frame := await device.hear(), Live):
                errors += [frame] if isinstance(frame, Error) else []
            await device.say_push(CreateConversation(uuid4(), f"{number}", now()))
            answer = await device.answer()
            errors += [answer] if isinstance(answer, Error) else []
    return errors


@contextlib.asynccontextmanager
async def served_with_few(database: Database, login: str, sql: Any) -> AsyncIterator[None]:
    """A server whose devices notice nothing of it. It has more connections once that is over."""
    users = [await add_user(sql) for _ in range(8)]
    url = database.cluster.postgres.url(database.name, login)
    mine = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1"
    with capture_logs() as told:
        async with serving(url, sweep=0.1, **UNLIMITED) as server:
            errors = await asyncio.gather(*(work(server, user, 8) for user in users))
            assert [error for some in errors for error in some] == []
            assert await is_ready(server)
            few = [line for line in told if "no connection left" in line["event"]]
            assert len(few) == 1, few
            assert [line for line in told if line["log_level"] in ("warning", "error")] == few
            for user in users[:2]:
                async with live_device(server.url, user) as device:
                    assert device.state() == await select_everything(sql, user)
            before = await sql.fetchval(mine, login)

            async def has_grown() -> bool:
                # More than six have nothing to do: two for the feed, two for snapshots, and who listens and writes.
                return bool(await sql.fetchval(mine, login) > min(before, 5))

            async with administrator(database) as holder, holder.transaction():
                await holder.execute("LOCK TABLE profiles IN ACCESS EXCLUSIVE MODE")
                yield
                async with going_on(*(come_and_go(server, user) for user in users)):
                    await eventually(has_grown)


@pytest.mark.usefixtures("looks_often")
@pytest.mark.parametrize("connections", [3, 4, 6])
async def test_a_server_whose_login_has_few_connections_makes_do_and_no_device_notices(
    database: Database, sql: Any, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "NO_MORE_SECONDS", 0.2)
    async with a_login(sql, connections) as login, served_with_few(database, login, sql):
        await sql.execute(f"ALTER ROLE {login} CONNECTION LIMIT -1")


@pytest.fixture
def small_cluster() -> Iterator[Cluster]:
    """One with room for few."""
    with running_cluster("18", {"max_connections": "14"}) as cluster:
        yield cluster


@pytest.mark.usefixtures("looks_often")
async def test_a_server_makes_do_while_other_clients_of_postgres_leave_few_connections(
    small_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "NO_MORE_SECONDS", 0.2)
    database = await small_cluster.create()
    async with administrator(database) as sql, contextlib.AsyncExitStack() as others:
        await sql.execute("CREATE ROLE another LOGIN")
        for _ in range(7):
            other = await asyncpg.connect(small_cluster.postgres.url(database.name, "another"))
            others.push_async_callback(other.close)
        async with served_with_few(database, SERVER_LOGIN, sql):
            await others.aclose()


# ---- Row level security that hides rows from whom functions run as ---------------------------------------------------


@contextlib.asynccontextmanager
async def a_plain_owner(sql: Any) -> AsyncIterator[str]:
    """Everything belongs to a role that is neither superuser nor BYPASSRLS."""
    name = f"owner_{uuid4().hex[:8]}"
    await sql.execute(
        f"""
        CREATE ROLE {name} LOGIN;
        ALTER SCHEMA sync OWNER TO {name};
        ALTER SCHEMA auth OWNER TO {name};
        ALTER SCHEMA public OWNER TO {name};
        DO $$ BEGIN
            EXECUTE format('ALTER DATABASE %I OWNER TO {name}', current_database());
            EXECUTE (SELECT string_agg(format('ALTER FUNCTION %s OWNER TO {name}', oid::regprocedure), ';')
                     FROM pg_proc WHERE pronamespace IN ('sync'::regnamespace, 'auth'::regnamespace));
            EXECUTE (SELECT string_agg(format('ALTER TABLE %s OWNER TO {name}', oid::regclass), ';')
                     FROM pg_class WHERE relkind IN ('r', 'p', 'v')
                     AND relnamespace IN ('sync'::regnamespace, 'public'::regnamespace));
        END $$
        """
    )
    try:
        yield name
    finally:
        await sql.execute(f"REASSIGN OWNED BY {name} TO postgres; DROP OWNED BY {name}; DROP ROLE {name}")


REFUSED = "Row level security hides rows of .*public.{} from {}, so changes cannot be recorded for devices"
CHANGES = {
    "conversations": [
        "INSERT INTO messages (conversation_id, role, content) VALUES ($1, 'user', 'more')",
        "UPDATE messages SET content = 'other' WHERE conversation_id = $1",
        "DELETE FROM messages WHERE conversation_id = $1",
    ],
    "messages": ["UPDATE conversations SET user_id = (SELECT id FROM profiles) WHERE user_id IS NULL AND $1 <> id"],
    "profiles": [],
}
"""What cannot be recorded where rows of a table are hidden."""


@pytest.mark.parametrize("table", CHANGES)
async def test_a_change_that_cannot_be_recorded_fails_and_pushes_wait_until_it_can(
    database: Database, sql: Any, looks: Looks, table: str
) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    await add_message(sql, conversation)
    # As adopted tables may have it.
    await sql.execute("ALTER TABLE conversations ALTER user_id DROP NOT NULL")
    await sql.execute("INSERT INTO conversations (user_id, title) VALUES (NULL, 'of nobody')")
    async with a_plain_owner(sql) as owner, serving(database, sweep=0.1, **UNLIMITED) as server:
        refused = REFUSED.format(table, owner)
        async with live_device(server.url, user) as device:
            await device.apply(RenameConversation(conversation, "before", now()))
            # The server that sees it begins another history, which ends the connection.
            await looks.hold()
            await sql.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
            before = await select_everything(sql, user)
            held = RenameConversation(conversation, "held", now())
            error = await device.refused_push(held)
            assert (error.code, error.retryable) == ("unavailable", True)
            for change in CHANGES[table]:
                with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match=refused):
                    await sql.execute(change.replace("$1", f"'{conversation}'"))
            assert await select_everything(sql, user) == before

            looks.release()

            async def is_named() -> bool:
                status, why = await asked(server.http)
                return status == 503 and f"row level security of public.{table}" in why

            await eventually(is_named)
            findings = [finding async for finding in examine(database.server_url, None) if not finding.good]
            found = next(finding.says for finding in findings if finding.what == "row security")
            assert f"ALTER TABLE public.{table} NO FORCE ROW LEVEL SECURITY" in found
            left = await migrate(database.cluster.postgres.url(database.name, owner))
            assert any(f"ALTER TABLE public.{table} NO FORCE ROW LEVEL SECURITY" in wrong.problem for wrong in left)
            await sql.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
        await eventually(lambda: is_ready(server))
        async with live_device(server.url, user, device.client_id, n=device.number) as again:
            (result,) = await again.patient_push(held)
            assert isinstance(result, Applied)
            for change in CHANGES[table]:
                await sql.execute(change.replace("$1", f"'{conversation}'"))
            seq = await again.apply(CreateConversation(uuid4(), "after", now()))
            assert await again.reach(seq) == await select_everything(sql, user)


# ---- The notification queue ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("looks_often")
async def test_the_notification_queue_is_emptied_by_the_servers_looks(database: Database, sql: Any) -> None:
    async with serving(database), administrator(database) as holder:
        await holder.execute("LISTEN anything")
        await holder.execute("BEGIN")
        await sql.execute("SELECT pg_notify('anything', repeat('x', 7000) || i) FROM generate_series(1, 300) i")
        full = await sql.fetchval("SELECT pg_notification_queue_usage()")
        assert full > 0
        await eventually(lambda: metrics.NOTIFICATION_QUEUE._value.get() >= full)
        await holder.execute("ROLLBACK")
        await eventually(lambda: metrics.NOTIFICATION_QUEUE._value.get() < full / 10)


# ---- Clocks ----------------------------------------------------------------------------------------------------------

OFF = """
import time
real, real_ns = time.time, time.time_ns
time.time = lambda: real() + {0}
time.time_ns = lambda: real_ns() + {0} * 10**9
"""


@pytest.mark.parametrize("seconds", [-3_600, 3_600])
async def test_the_clock_of_postgres_counts_where_the_servers_is_an_hour_wrong(
    database: Database, sql: Any, seconds: int
) -> None:
    user = await add_user(sql)
    environment = {"ATLAS_METRICS_TOKEN": METRICS_TOKEN}
    async with ServerProcess(database.server_url, OFF.format(seconds), **environment) as server:
        async with live_device(server.url, user) as device:
            assert device.welcome is not None
            assert abs(device.welcome.time - now()) < 2_000_000
            conversation = uuid4()
            seq = await device.apply(
                CreateConversation(conversation, "one", now()),
                CreateMessage(uuid4(), conversation, "user", "two", now()),
                RenameConversation(conversation, "three", now()),
            )
            assert await device.reach(seq) == await select_everything(sql, user)
            far = RenameConversation(conversation, "of a far future", now() + 3_600_000_000)
            assert (await device.rejection(far)).code == "bad_time"
        async with peer(server.url) as late:
            with mock.patch("tests.support.serving.time.time", return_value=time.time() - 5_400):
                await late.say_hello(user)
            code, error = await late.closed()
            assert code == CloseCode.TOKEN_REFUSED
            assert error is not None
            assert "expired" in error.message
        told = [line for line in server.log if "clocks" in line["event"]]
        assert [line["postgres_ahead_seconds"] for line in told] == [pytest.approx(-seconds, abs=2)]
        _, figures = await asked(f"http://127.0.0.1:{server.port}", "/metrics", Authorization=f"Bearer {METRICS_TOKEN}")
        (ahead,) = [line for line in figures.splitlines() if line.startswith("atlas_clock_ahead_seconds ")]
        assert float(ahead.split()[1]) == pytest.approx(-seconds, abs=2)
    with mock.patch("server.clock.time.time_ns", return_value=time.time_ns() + seconds * 10**9):
        findings = {finding.what: finding async for finding in examine(database.server_url, None)}
    assert not findings["clock"].good
    assert "Run NTP on both" in findings["clock"].says
