"""`atlas-sync trace` tells where a message is, from what the servers, the devices and Postgres really did."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from typer.testing import CliRunner

from protocol.frames import Changes
from server.cli import cli
from server.exceptions import ConfigError, UnavailableError, UnfitError
from server.feed import presence
from server.operations.trace import Line, Verdict, as_json, status, tell
from server.operations.trace_facts import Facts
from server.postgres import trace_queries
from tests.support.cluster import Cluster, Database, administrator
from tests.support.commands import run_command
from tests.support.device import NOBODYS, live_device, now
from tests.support.notes import add_folder, add_note, notes
from tests.support.people import add_conversation, add_message, add_user
from tests.support.rows import CreateConversation, CreateMessage
from tests.support.serving import Running, ServerProcess, serving
from tests.support.waiting import eventually
from tests.support.watching import Watching

pytestmark = pytest.mark.shared_database  # a trace is about one user

FREE = "UPDATE profiles SET subscription_tier = 'free' WHERE id = $1"
MARKER = "nobody-else-may-read-this"
"""In every title and content; in nothing that is printed."""
BIG = 100_000
FILLING = 200
"""Messages of BIG bytes: more than the buffers of a connection that nobody reads take."""


@dataclass(frozen=True, slots=True)
class Told:
    facts: Facts
    lines: list[Line]

    @property
    def verdict(self) -> str:
        return self.lines[-1].says

    @property
    def status(self) -> int:
        return status(self.lines)

    def about(self, what: str) -> str:
        return "\n".join(line.says for line in self.lines if line.what == what)

    def obstacles(self) -> list[str]:
        return [line.what for line in self.lines[:-1] if line.verdict is Verdict.BAD]

    def device(self, client_id: UUID) -> Line:
        (line,) = [line for line in self.lines if line.what == "device" and line.says.startswith(str(client_id))]
        return line


async def trace(database: Database, message: UUID, user: UUID | None = None, *, privileged: bool = False) -> Told:
    url = database.url if privileged else database.server_url
    facts = await trace_queries.ask(url, str(message), user)
    lines = tell(facts)
    assert MARKER not in as_json(facts, lines)
    return Told(facts, lines)


async def trace_until(database: Database, message: UUID, condition: Callable[[Told], object]) -> Told:
    """Ask again until that is told, because a device is noted a little later than it moves."""

    async def ask() -> Told | None:
        told = await trace(database, message)
        return told if condition(told) else None

    told: Told = await eventually(ask)
    return told


@pytest.fixture
async def own_database(postgres_18: Cluster) -> AsyncIterator[Database]:
    """For a test that alters more than the rows of its user."""
    made = await postgres_18.create()
    yield made
    await made.drop()


@pytest.fixture
def quick_presence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "EVERY", 0.05)


@pytest.fixture
async def quick(quick_presence: None, database: Database) -> AsyncIterator[Running]:
    """A server that notes where its devices are all the time."""
    async with serving(database) as running:
        yield running


@pytest.fixture
async def conversation(sql: Any, user: UUID) -> UUID:
    return await add_conversation(sql, user, f"about {MARKER}")


async def noted(sql: Any, client_id: UUID, state: str) -> None:
    await eventually(
        lambda: sql.fetchval("SELECT true FROM sync.devices WHERE client_id = $1 AND state = $2", client_id, state)
    )


# ---- Where devices are ----------------------------------------------------------------------------------------------


async def test_a_message_that_every_device_has_is_delivered(
    quick: Running, database: Database, sql: Any, user: UUID, conversation: UUID
) -> None:
    async with live_device(quick.url, user) as one, live_device(quick.url, user) as other:
        message = await add_message(sql, conversation, MARKER)
        told = await trace_until(database, message, lambda told: told.status == 0 and "all 2" in told.verdict)
        assert told.verdict == "Delivered to all 2 devices."
        assert {line.verdict for line in told.lines} == {Verdict.GOOD}
        for device in (one, other):
            assert "live on" in told.device(device.client_id).says
        assert told.facts.row is not None
        assert (told.facts.row.owner, told.facts.row.parent) == (user, str(conversation))
        assert told.facts.row.bytes == len(MARKER)
        head = await sql.fetchval("SELECT seq FROM sync.feeds WHERE user_id = $1", user)
        assert f"feed position {head}" in told.about("change")


async def test_a_device_that_is_away_gets_it_when_it_comes_back(
    quick: Running, database: Database, sql: Any, user: UUID, conversation: UUID
) -> None:
    async with live_device(quick.url, user) as stays:
        async with live_device(quick.url, user) as leaves:
            await noted(sql, leaves.client_id, "live")
        await noted(sql, leaves.client_id, "closed")
        message = await add_message(sql, conversation, MARKER)
        told = await trace_until(database, message, lambda told: "1 of 2" in told.verdict)
        assert told.verdict.startswith("Delivered to 1 of 2 devices; the other one was last seen ")
        assert told.verdict.endswith(" and gets it when it comes back.")
        assert told.status == 0
        assert "(1000: the device closed it)" in told.device(leaves.client_id).says
        assert told.device(leaves.client_id).verdict is Verdict.WAITING
        assert told.device(stays.client_id).verdict is Verdict.GOOD
        async with live_device(quick.url, user, leaves.client_id):
            told = await trace_until(database, message, lambda told: "all 2" in told.verdict)
            assert told.status == 0


async def test_an_edited_message_counts_as_received_with_its_last_change(
    quick: Running, database: Database, sql: Any, user: UUID, conversation: UUID
) -> None:
    async with live_device(quick.url, user) as device:
        message = await add_message(sql, conversation, MARKER)
        await device.hear_a(Changes)
        await trace_until(database, message, lambda told: "the only device" in told.verdict)
    await noted(sql, device.client_id, "closed")
    await sql.execute("UPDATE messages SET content = content || ' again' WHERE id = $1", message)
    told = await trace(database, message)
    assert told.verdict.startswith("Delivered to none of 1 device; it was last seen ")
    assert [change.op for change in told.facts.changes] == ["u", "u"]
    assert told.status == 0


async def test_a_device_that_does_not_read_is_shown_as_taking_no_data(
    quick: Running, database: Database, sql: Any, user: UUID, conversation: UUID
) -> None:
    async with live_device(quick.url, user) as reads, live_device(quick.url, user) as device:
        await sql.execute(
            "INSERT INTO messages (conversation_id, role, content) SELECT $1, 'user', repeat('x', $2) "
            "FROM generate_series(1, $3)",
            conversation,
            BIG,
            FILLING,
        )
        message = await add_message(sql, conversation, MARKER)
        reading = asyncio.create_task(reads.reach(await head(sql, user)))
        told = await trace_until(
            database, message, lambda told: "takes no data" in told.verdict and "1 of 2" in told.verdict
        )
        assert told.verdict == "Delivered to 1 of 2 devices; the other one takes no data at this moment."
        assert "its socket takes no data" in told.device(device.client_id).says
        assert told.status == 0
        await reading


async def head(sql: Any, user: UUID) -> int:
    return int(await sql.fetchval("SELECT seq FROM sync.feeds WHERE user_id = $1", user))


async def test_what_a_killed_server_reported_of_its_devices_no_longer_counts(
    database: Database, sql: Any, user: UUID, conversation: UUID
) -> None:
    often = "from server.feed import presence; presence.EVERY = 0.2"
    async with ServerProcess(database.server_url, often) as server, live_device(server.url, user) as device:
        await noted(sql, device.client_id, "live")
        await server.kill()
        message = await add_message(sql, conversation, MARKER)
        line = (await trace(database, message)).device(device.client_id)
        assert "live on" in line.says, "it has not been silent for long"
        assert "had not been sent it" in line.says
        await sql.execute("UPDATE sync.servers SET seen_at = seen_at - interval '2 minutes'")
        told = await trace(database, message)
        says = told.device(device.client_id).says
        assert "live" not in says
        assert "that server is dead or cut off" in says
        assert told.verdict.endswith(" and gets it when it comes back.")
        assert told.status == 0


async def test_a_device_that_pushed_before_devices_were_recorded_is_reported_to_a_login_that_may_see_it(
    quick: Running, database: Database, sql: Any, user: UUID, conversation: UUID
) -> None:
    message = uuid4()
    async with live_device(quick.url, user) as device:
        await device.apply(CreateMessage(message, conversation, "user", MARKER, now()))
    await noted(sql, device.client_id, "closed")
    await sql.execute("DELETE FROM sync.devices WHERE user_id = $1", user)
    told = await trace(database, message, privileged=True)
    assert "never seen" in told.device(device.client_id).says


# ---- What stands in the way -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [FREE, "DELETE FROM profiles WHERE id = $1"], ids=["free", "no profile"])
async def test_an_owner_whose_plan_does_not_sync_stands_in_the_way(
    quick: Running, database: Database, sql: Any, user: UUID, conversation: UUID, change: str
) -> None:
    async with live_device(quick.url, user) as device:
        await noted(sql, device.client_id, "live")
        # What the database keeps without a profile, an app without that foreign key keeps too.
        await sql.execute("ALTER TABLE conversations DROP CONSTRAINT IF EXISTS conversations_user_id_fkey")
        await sql.execute(change, user)
        assert (await device.closed())[0] == 4301
    await noted(sql, device.client_id, "closed")
    message = await add_message(sql, conversation, MARKER)
    told = await trace(database, message)
    assert told.obstacles() == ["plan", "device"]
    assert "(4301: the user's plan did not sync)" in told.device(device.client_id).says
    assert told.verdict.endswith("it gets nothing while the plan does not sync.")
    assert told.status == 1


async def test_a_message_that_was_written_past_the_triggers_stands_in_the_way_until_it_is_touched(
    database: Database, sql: Any, user: UUID, conversation: UUID
) -> None:
    await sql.execute("SET session_replication_role = replica")
    message = await add_message(sql, conversation, MARKER)
    await sql.execute("SET session_replication_role = origin")
    told = await trace(database, message)
    assert told.obstacles() == ["change"]
    assert told.status == 1
    way_out = told.about("change").partition("then run ")[2].removesuffix(".")
    await sql.execute(way_out)
    assert (await trace(database, message)).status == 0


async def test_a_feed_that_does_not_agree_with_its_log_stands_in_the_way(
    database: Database, sql: Any, user: UUID, conversation: UUID
) -> None:
    message = await add_message(sql, conversation, MARKER)
    await add_message(sql, conversation, MARKER)
    last = "SELECT max(seq) FROM sync.log WHERE user_id = $1"
    await sql.execute(f"DELETE FROM sync.log WHERE user_id = $1 AND seq = ({last})", user)
    told = await trace(database, message)
    assert told.obstacles() == ["feed"]
    assert told.status == 1


# ---- What is not there, or somewhere else ---------------------------------------------------------------------------


async def test_a_deleted_message_is_reported_with_the_devices_that_know_of_it(
    quick: Running, database: Database, sql: Any, user: UUID, conversation: UUID
) -> None:
    message = await add_message(sql, conversation, MARKER)
    async with live_device(quick.url, user):
        await sql.execute("DELETE FROM messages WHERE id = $1", message)
        told = await trace_until(database, message, lambda told: "the only" in told.verdict)
    assert told.verdict == "It was deleted; that has reached the only device."
    assert told.status == 0
    assert [change.op for change in told.facts.changes] == ["d", "u"]
    assert (await trace(database, message, user)).facts.changes == told.facts.changes
    assert "the whole" not in told.about("message")


async def test_a_message_whose_conversation_was_deleted_went_with_it(
    quick: Running, database: Database, sql: Any, user: UUID
) -> None:
    message, conversation = uuid4(), uuid4()
    async with live_device(quick.url, user) as device:
        # A deletion before, and one after, of conversations that it was not in.
        await sql.execute("DELETE FROM conversations WHERE id = $1", await add_conversation(sql, user, MARKER))
        await device.apply(
            CreateConversation(conversation, MARKER, now()),
            CreateMessage(message, conversation, "user", MARKER, now()),
        )
        other = await add_conversation(sql, user, MARKER)
        await sql.execute("DELETE FROM conversations WHERE id = $1", other)
        await sql.execute("DELETE FROM conversations WHERE id = $1", conversation)
        told = await trace_until(database, message, lambda told: "the only" in told.verdict)
    assert f"deleted with its conversation {conversation} " in told.about("change")
    assert told.verdict == "It was deleted; that has reached the only device."
    assert told.status == 0


async def test_which_conversation_it_went_with_is_a_guess_where_the_log_does_not_say(
    database: Database, sql: Any, user: UUID, conversation: UUID
) -> None:
    message = await add_message(sql, conversation, MARKER)
    await sql.execute("DELETE FROM conversations WHERE id = $1", conversation)
    told = await trace(database, message, user)
    assert f"probably deleted with conversation {conversation} " in told.about("change")
    assert told.status == 0


async def test_a_message_that_was_deleted_past_the_triggers_stands_in_the_way(
    database: Database, sql: Any, user: UUID, conversation: UUID
) -> None:
    message = await add_message(sql, conversation, MARKER)
    await sql.execute("SET session_replication_role = replica")
    await sql.execute("DELETE FROM messages WHERE id = $1", message)
    told = await trace(database, message)
    assert told.obstacles() == ["change"]
    assert told.verdict == "It is gone and its deletion was not recorded, so devices that have it keep it."
    assert told.status == 1


async def test_a_message_in_the_archive_is_found_there(
    quick: Running, database: Database, sql: Any, user: UUID, conversation: UUID
) -> None:
    await sql.execute(
        "CREATE TABLE IF NOT EXISTS public.messages_archive (LIKE public.messages) PARTITION BY RANGE (created_at); "
        "GRANT SELECT ON public.messages_archive TO atlas_sync; "
        "CREATE TABLE long_ago PARTITION OF public.messages_archive FOR VALUES FROM ('2001-01-01') TO ('2001-02-01')"
    )
    async with live_device(quick.url, user):
        message = await add_message(sql, conversation, MARKER)
        await sql.execute("UPDATE messages SET created_at = '2001-01-02' WHERE id = $1", message)
        # As a partition moves: without a trigger, and no device is told.
        await sql.execute("SET session_replication_role = replica")
        await sql.execute("INSERT INTO messages_archive SELECT * FROM messages WHERE id = $1", message)
        await sql.execute("DELETE FROM messages WHERE id = $1", message)
        told = await trace_until(database, message, lambda told: "the only device" in told.verdict)
    assert told.about("message").startswith("in the archive: ")
    assert told.status == 0


async def test_a_row_of_any_kind_is_traced(every_postgres: Cluster, quick_presence: None) -> None:
    user = uuid4()
    async with notes(every_postgres) as (database, sql), serving(database) as server:
        note = await add_note(sql, folder := await add_folder(sql, user), MARKER)
        device = Watching(server.url, user)

        async def delivered() -> Told | None:
            facts = await trace_queries.ask(database.server_url, str(note), None, "note")
            told = Told(facts, tell(facts))
            return told if told.status == 0 and "was sent it" in told.about("device") else None

        told: Told = await eventually(delivered)
        await device.stop()
        assert told.about("note").startswith(f"in notes: {len(MARKER)} bytes of content, folder {folder}")
        assert told.about("plan") == "there is no gate: syncs"
        await sql.execute("DELETE FROM folders")
        facts = await trace_queries.ask(database.server_url, str(note), user, "note")
        assert "deleted" in Told(facts, tell(facts)).about("change")
        facts = await trace_queries.ask(database.server_url, folder, user, "folder")
        assert Told(facts, tell(facts)).verdict.startswith("It was deleted")
        for key, kind in (("no number", "note"), (str(note), "nothing"), ("a,b", "note")):
            with pytest.raises(ConfigError, match=r"key of kind note|--kind must be one of folder, note"):
                await trace_queries.ask(database.server_url, key, user, kind)


async def test_a_change_that_the_log_has_lost_was_received_by_devices_at_whose_position_the_log_continues(
    quick_presence: None, own_database: Database
) -> None:
    async with administrator(own_database) as sql, serving(own_database) as server:
        user = await add_user(sql)
        conversation = await add_conversation(sql, user, MARKER)
        async with live_device(server.url, user) as early:
            await noted(sql, early.client_id, "live")
        await noted(sql, early.client_id, "closed")
        message = await add_message(sql, conversation, MARKER)
        async with live_device(server.url, user) as late:
            await noted(sql, late.client_id, "live")
        await noted(sql, late.client_id, "closed")
        for partition in await sql.fetch("SELECT DISTINCT tableoid::regclass::text AS name FROM sync.log"):
            await sql.execute(f"DROP TABLE {partition['name']}")
    told = await trace(own_database, message)
    assert told.about("change").startswith("no longer in the log")
    assert told.device(late.client_id).verdict is Verdict.GOOD
    assert "gets a snapshot when it comes back" in told.device(early.client_id).says
    assert told.status == 0


async def test_a_message_that_never_arrived_is_looked_for_in_the_outbox(
    quick: Running, database: Database, sql: Any, user: UUID
) -> None:
    message = uuid4()
    async with live_device(quick.url, user) as device:
        await device.rejection(CreateMessage(message, NOBODYS, "user", MARKER, now()))
    told = await trace(database, message, user, privileged=True)
    assert told.status == 1
    assert "outbox" in told.verdict
    assert f"{device.client_id}: number 1 was rejected, unknown_parent" in told.about("outbox")
    assert "What this belongs to does not exist any more." in told.about("outbox")
    unowned = await trace(database, message)
    assert "the whole change log" in unowned.about("message")
    assert "--user" in unowned.about("outbox")
    assert unowned.status == 1


async def test_a_message_of_another_user_is_reported_as_such(
    database: Database, sql: Any, user: UUID, conversation: UUID
) -> None:
    message, other = await add_message(sql, conversation, MARKER), await add_user(sql)
    told = await trace(database, message, other)
    assert str(user) in told.about("owner")
    assert "another user" in told.verdict
    assert told.status == 1
    assert (await trace(database, message, user)).status == 0


async def test_the_id_of_a_conversation_is_recognised(database: Database, conversation: UUID) -> None:
    told = await trace(database, conversation)
    assert "the key of a conversation" in told.about("message")
    assert told.status == 1


# ---- What it does to the database -----------------------------------------------------------------------------------


async def test_every_question_can_be_asked_of_every_postgres_by_the_server_and_by_an_administrator(
    every_database: Database,
) -> None:
    sql = await every_database.connect()
    user = await add_user(sql)
    conversation = await add_conversation(sql, user, MARKER)
    message = await add_message(sql, conversation, MARKER)
    await sql.execute("UPDATE messages SET created_at = 'infinity', updated_at = 'infinity' WHERE id = $1", message)
    gone = await add_message(sql, conversation, MARKER)
    await sql.execute("DELETE FROM messages WHERE id = $1", gone)
    await sql.close()
    for privileged in (False, True):
        for asked in (message, gone, uuid4()):
            for owner in (None, user):
                await trace(every_database, asked, owner, privileged=privileged)


async def test_a_trace_cannot_write(own_database: Database) -> None:
    async with administrator(own_database) as sql:
        await sql.execute(
            """
            CREATE TABLE written ();
            CREATE OR REPLACE FUNCTION sync.seq_at(moment timestamptz) RETURNS bigint LANGUAGE plpgsql AS $$
            BEGIN INSERT INTO public.written DEFAULT VALUES; RETURN 1; END $$
            """
        )
    with pytest.raises(UnavailableError, match="ReadOnly"):
        await trace_queries.ask(own_database.url, str(uuid4()), None)


async def test_a_search_that_takes_too_long_ends_with_a_sentence(database: Database, sql: Any) -> None:
    async with sql.transaction():
        await sql.execute("LOCK TABLE sync.log")
        with pytest.raises(UnavailableError, match="--user"):
            await trace_queries.ask(database.server_url, str(uuid4()), None, seconds=0.2)


async def test_a_database_that_cannot_be_asked_says_what_to_do(postgres_18: Cluster, own_database: Database) -> None:
    # postgres, a database that nobody migrates
    with pytest.raises(UnfitError, match="atlas-sync migrate"):
        await trace_queries.ask(postgres_18.postgres.url(), str(uuid4()), None)
    async with administrator(own_database) as sql:
        await sql.execute("REVOKE ALL ON SCHEMA sync FROM atlas_sync")
    with pytest.raises(UnfitError, match="GRANT atlas_sync"):
        await trace_queries.ask(own_database.server_url, str(uuid4()), None)


# ---- The command ----------------------------------------------------------------------------------------------------


async def test_the_command_prints_a_line_a_fact_or_json_and_tells_scripts_by_its_status(
    database: Database, sql: Any, user: UUID, conversation: UUID
) -> None:
    async def run(*arguments: str) -> tuple[int, list[str]]:
        runner = CliRunner(env={"DATABASE_URL": database.server_url})
        done = await asyncio.to_thread(runner.invoke, cli, ["trace", *arguments])
        assert isinstance(done.exception, SystemExit | None)
        assert MARKER not in done.output
        assert "\x1b" not in done.output
        return done.exit_code, done.output.splitlines()

    await sql.execute("ALTER TABLE messages DROP CONSTRAINT messages_role_check")
    message = await add_message(sql, conversation, MARKER, role="\x1b[31mred")
    status, lines = await run(str(message))
    assert status == 0
    assert {line[0] for line in lines} <= set("✓!✗")
    assert lines[-1].startswith("! verdict ")
    status, lines = await run(str(uuid4()), "--user", str(user))
    assert status == 1
    assert lines[-1].startswith("✗ verdict ")
    status, lines = await run(str(message), "--json")
    assert status == 0
    told = orjson.loads("\n".join(lines))
    assert told["verdict"] == {"what": "verdict", "standing": "waiting", "says": "It is here, and no device is known."}
    assert told["facts"]["row"]["parent"] == str(conversation)


async def test_the_command_ends_with_one_sentence_if_postgres_is_away() -> None:
    url = "postgresql://nobody@127.0.0.1:1/nowhere"
    status, _, said = await run_command("trace", str(uuid4()), DATABASE_URL=url)
    assert status == 2
    assert said.startswith("atlas-sync: ")
    assert said.count("\n") == 1
