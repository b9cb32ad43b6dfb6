"""A real Prometheus raises alerts about a real server when a fault is caused, and not before."""

import re
import signal
from typing import Any, Final

import pytest

from protocol.frames import Page
from tests.support.cluster import Database, administrator
from tests.support.device import live_device
from tests.support.people import add_conversation, add_user
from tests.support.prometheus import needs_prometheus, watched
from tests.support.proxy import postgres_behind_proxy
from tests.support.waiting import eventually

pytestmark = needs_prometheus

LOOKS_OFTEN: Final = "from server.postgres import inspector, vitals; inspector.EVERY, vitals.AGE = 0.2, 0.0"
CLOCK: Final = """
import signal, time
true = time.time_ns
def put_on(*_):
    time.time_ns = lambda: true() + 3_000_000_000
signal.signal(signal.SIGUSR1, put_on)
"""
"""On SIGUSR1 the clock of the server's machine is three seconds ahead."""


@pytest.fixture(autouse=True)
async def maintained(sql: Any) -> None:
    """A database that is maintained, so that no other alert fires."""
    await sql.execute("UPDATE sync.meta SET maintained_at = now()")


async def test_a_cut_listen_connection_raises_an_alert_until_it_works_again(database: Database) -> None:
    async with (
        postgres_behind_proxy(database.server_url) as (proxy, url),
        watched(database.server_url, ATLAS_LISTEN_URL=url) as (_, watching),
    ):
        proxy.refusing = True
        proxy.cut()
        alert = await eventually(lambda: watching.fires("AtlasListenCut"))
        assert alert["labels"]["severity"] == "critical"
        assert alert["labels"]["instance"] in alert["annotations"]["summary"]
        proxy.refusing = False
        await eventually(watching.is_content)


async def test_alerts_about_the_database_name_the_statement_and_the_table(database: Database, sql: Any) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    async with (
        watched(database.server_url) as (server, watching),
        live_device(server.url, user) as device,
        administrator(database) as locking,
    ):
        name = "list_conversation"  # the snapshot's, and a page's
        await eventually(lambda: watching.query(f'atlas_statement_seconds_count{{name="{name}"}} > 0'))
        assert not await watching.fires("AtlasStatementSlow")
        async with locking.transaction():
            await locking.execute("LOCK TABLE public.conversations IN ACCESS EXCLUSIVE MODE")
            await device.say(device.asking(1))
            slow = """
                SELECT count(*) FROM pg_stat_activity
                WHERE wait_event_type = 'Lock' AND query ~ 'kind conversation'
                    AND clock_timestamp() - query_start > '2.5 s'
            """
            await eventually(lambda: sql.fetchval(slow))
        await device.hear_a(Page)
        alert = await eventually(lambda: watching.fires("AtlasStatementSlow"))
        assert alert["labels"]["name"] == name
        assert f"sql/{name}.sql" in alert["annotations"]["description"]

        assert not await watching.fires("AtlasDefaultRows")
        stray = (
            "INSERT INTO messages (conversation_id, role, content, created_at) VALUES ($1, 'user', '', '2010-01-01')"
        )
        await sql.execute(stray, conversation)
        week = await sql.fetchval(
            "SELECT partition::text FROM sync.partitions WHERE parent = 'log' ORDER BY since LIMIT 1"
        )
        await sql.execute(f"ALTER TABLE sync.log DETACH PARTITION {week}")
        await sql.execute(stray, conversation)
        alert = await eventually(lambda: watching.fires("AtlasDefaultRows"))
        assert alert["labels"]["table"] == "log"
        assert alert["annotations"]["summary"] == "The default partition of log has rows (1)"

        assert not await watching.fires("AtlasNotMaintained")
        await sql.execute("UPDATE sync.meta SET maintained_at = NULL")
        await eventually(lambda: watching.fires("AtlasNotMaintained"))


async def test_a_wrong_clock_and_a_changed_policy_raise_alerts(database: Database, sql: Any) -> None:
    async with watched(database.server_url, f"{LOOKS_OFTEN}\n{CLOCK}") as (server, watching):
        assert server.process is not None
        server.process.send_signal(signal.SIGUSR1)
        alert = await eventually(lambda: watching.fires("AtlasClockOff"))
        assert re.match(r"Postgres' clock is -[23]\.\d s ahead", alert["annotations"]["summary"])
        assert alert["labels"]["instance"] in alert["annotations"]["summary"]

        await sql.execute("ALTER POLICY atlas_sync_reads ON public.messages TO CURRENT_USER")
        await eventually(lambda: watching.fires("AtlasBlind"))
        assert not await watching.fires("AtlasPostgresAway")
        await sql.execute("ALTER POLICY atlas_sync_reads ON public.messages TO atlas_sync")
        await eventually(lambda: watching.fires("AtlasHistoryChanged"))

        async def sees() -> bool:
            return not await watching.fires("AtlasBlind")

        await eventually(sees)


async def test_an_unreachable_postgres_and_a_stopped_server_raise_alerts(
    database: Database,
) -> None:
    async with postgres_behind_proxy(database.server_url) as (proxy, url), watched(url) as (server, watching):
        proxy.refusing = True
        proxy.cut()
        await eventually(lambda: watching.fires("AtlasPostgresAway"))
        proxy.refusing = False
        await eventually(watching.is_content)
        await server.kill()
        await eventually(lambda: watching.fires("AtlasNotScraped"))
        await eventually(lambda: watching.fires("AtlasNobodyScraped"))
