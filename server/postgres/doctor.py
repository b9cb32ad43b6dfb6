"""Is this database fit to serve? One finding a question, and what to do about a bad one."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import asyncpg

from server.errors import UnavailableError, UnfitError
from server.metrics import DEFAULT_ROWS_COUNTED
from server.operations.inventory import NAMED, TOPICS, by_topic, queue, says
from server.postgres.connection import LOCAL_PATH, connect, statement
from server.postgres.errors import UNMIGRATED
from server.postgres.inventory import take_inventory
from server.postgres.listener import Listening
from server.postgres.migrate import CREATORS, ENCODING, NEWER, POLICIES, revisions

T = TypeVar("T")

OLDEST: Final = 15
LISTEN_FIXED: Final = {15: 15, 16: 11, 17: 7, 18: 1}
"""Minor versions from which on LISTEN survives the truncation of the commit log (PostgreSQL commit 8eeb4a0f)."""
SECURE: Final = {15: 20, 16: 16, 17: 12, 18: 7}
"""Minor versions of 2026-11-12: the newest security fixes that were known when this was written."""
CLOCK_SECONDS: Final = 5.0
"""A device shows «seconds ago» from seq, and tokens are checked by this machine's clock."""
AHEAD_DAYS: Final = 14
"""Partitions must reach this far, so that a forgotten deployment is noticed before strays are."""
FILLING: Final = 0.1
"""How full the notification queue may be: it is emptied as soon as all who listen have read."""
UNREADABLE: Final = "This login cannot read which were applied."


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    good: bool
    says: str
    """What was found; where it is bad, what to do."""
    grave: bool = True
    """Being bad, it can cost changes or availability."""


Question = Callable[[Any], Awaitable[Finding]]
"""A connection, and what is found there."""


async def examine(url: str, listen_url: str | None) -> AsyncIterator[Finding]:
    """Ask everything, with the rights of `url`. Stops after the first finding that makes the others unaskable."""
    try:
        # Nothing prepared: this must be able to look through a pooler too.
        connection = await connect(url, statement_cache_size=0)
    except (UnavailableError, UnfitError) as error:
        yield Finding("connection", False, f"{error} Check DATABASE_URL, and that Postgres runs.")
        return

    async def listen(_: Any) -> Finding:
        return await _listen(listen_url or url)

    try:
        async for finding in _answers(FIRST, connection):
            yield finding
        # The last of them is about the migrations.
        if not finding.good and finding.says != UNREADABLE:
            return
        try:
            found = await _in_transaction(take_inventory, connection)
        except asyncpg.PostgresError as error:
            yield _unasked("objects", error)
            return
        # What is missing, and a right that is, is named once: by the inventory.
        named = (*UNMIGRATED, asyncpg.InsufficientPrivilegeError) if found else ()
        for topic, wrong in by_topic(found).items():
            if wrong:
                yield Finding(topic, False, says(wrong))
            elif topic == "privileges":
                async for finding in _answers((_privileges,), connection, named):
                    yield finding
            else:
                yield Finding(topic, True, TOPICS[topic].good)
        async for finding in _answers((listen, *LATER), connection, named):
            yield finding
    finally:
        connection.terminate()


async def _answers(
    asks: Iterable[Question], connection: Any, named: tuple[type[Exception], ...] = ()
) -> AsyncIterator[Finding]:
    for ask in asks:
        try:
            yield await _in_transaction(ask, connection)
        except named:
            pass
        except asyncpg.PostgresError as error:
            yield _unasked(ask.__name__.strip("_"), error)


async def _in_transaction(ask: Callable[[Any], Awaitable[T]], connection: Any) -> T:
    async with connection.transaction(readonly=True):
        await connection.execute(LOCAL_PATH)
        return await ask(connection)


def _unasked(what: str, error: asyncpg.PostgresError) -> Finding:
    return Finding(what, False, f"This could not be asked: {error}.")


async def _connection(connection: Any) -> Finding:
    return Finding("connection", True, await connection.fetchval("SELECT current_user || ' at ' || current_database()"))


async def _version(connection: Any) -> Finding:
    major, minor = divmod(int(await connection.fetchval("SHOW server_version_num")), 10_000)
    found = f"PostgreSQL {major}.{minor}"
    if major < OLDEST:
        return Finding("version", False, f"{found} is too old. Upgrade to {OLDEST} or later.")
    fixed = LISTEN_FIXED.get(major, 0)
    if minor < fixed:
        return Finding("version", False, f"{found} can fail LISTEN for ever. Upgrade to {major}.{fixed} or later.")
    secure = SECURE.get(major, 0)
    if minor < secure:
        says = f"{found} lacks security fixes (CVE-2026-6460 and others). Upgrade to {major}.{secure} or later."
        return Finding("version", False, says, grave=False)
    return Finding("version", True, found)


async def _encoding(connection: Any) -> Finding:
    encoding = await connection.fetchval("SHOW server_encoding")
    return Finding("encoding", encoding == "UTF8", encoding if encoding == "UTF8" else ENCODING.format(encoding))


async def _schema(connection: Any) -> Finding:
    creators = await connection.fetchrow(statement("creators"))
    if creators["strangers"] is not None:
        return Finding("schema", False, CREATORS.format(creators["strangers"]))
    if creators["others"] is not None:
        says = f"{CREATORS.format(creators['others'])} Leave it to whom you trust as the owner."
        return Finding("schema", False, says, grave=False)
    return Finding("schema", True, "only owners create functions in schema public")


async def _primary(connection: Any) -> Finding:
    if await connection.fetchval("SELECT pg_is_in_recovery()"):
        return Finding("primary", False, "This is a standby, which cannot LISTEN. Point DATABASE_URL at the primary.")
    return Finding("primary", True, "this is the primary")


async def _migrated(connection: Any) -> Finding:
    known = revisions()
    try:
        applied = await connection.fetchval("SELECT version_num FROM sync.migrations")
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        return Finding("migrations", False, "There is no schema `sync` yet. Run `atlas-sync migrate`.")
    except asyncpg.InsufficientPrivilegeError:
        return Finding("migrations", False, UNREADABLE)
    if applied is None:
        return Finding("migrations", False, UNREADABLE)
    if applied not in known:
        return Finding("migrations", False, NEWER.format(applied))
    if applied != known[0]:
        return Finding("migrations", False, f"{applied} is not the newest ({known[0]}). Run `atlas-sync migrate`.")
    return Finding("migrations", True, f"{applied}, the newest")


async def _listen(url: str) -> Finding:
    try:
        async with Listening(partial(connect, url), lambda user, seq: None, asyncio.Lock()):
            pass
    except UnfitError as error:
        return Finding("listen", False, str(error))
    except UnavailableError as error:
        if isinstance(error.__cause__, asyncpg.InsufficientPrivilegeError):
            raise error.__cause__ from None
        return Finding("listen", False, f"{error} Check ATLAS_LISTEN_URL.")
    return Finding("listen", True, "a notification came back")


async def _partitions(connection: Any) -> Finding:
    vitals = await connection.fetchrow(statement("vitals"))
    reach = {name: vitals[f"{name}_ahead"] for name in ("messages", "log")}
    short = [name for name, days in reach.items() if days < AHEAD_DAYS]
    if short:
        return Finding(
            "partitions",
            False,
            f"Those of {' and '.join(short)} end soon. Run `atlas-sync maintain`, and keep it running.",
        )
    days = f"messages for {reach['messages']:.0f} days, the log for {reach['log']:.0f}"
    return Finding("partitions", True, f"made ahead: {days}")


async def _strays(connection: Any) -> Finding:
    vitals = await connection.fetchrow(statement("vitals"))
    most = {"messages": DEFAULT_ROWS_COUNTED - 1, "log": 0}
    found = [name for name, rows in most.items() if vitals[f"{name}_default"] > rows]
    if found:
        return Finding(
            "strays",
            False,
            f"Rows of {' and '.join(found)} lie in a default partition. Nothing is lost; `atlas-sync maintain --once` "
            "moves them to their own, but for those that server/README.md lets stay (Maintenance).",
            grave=False,
        )
    return Finding("strays", True, f"{vitals['messages_default']} messages in the default partition")


async def _archive(connection: Any) -> Finding:
    differing = await connection.fetchval(statement("doctor_archive"))
    if differing is not None:
        return Finding(
            "archive",
            False,
            f"Months of messages cannot move there. Run ALTER TABLE messages_archive {differing}, and give it the "
            "constraints that messages has.",
            grave=False,
        )
    return Finding("archive", True, "it has the columns of messages")


async def _privileges(connection: Any) -> Finding:
    too_many = await connection.fetchval(statement("doctor_privileges"))
    if too_many is not None:
        return Finding(
            "privileges",
            False,
            f"This login can do more than the server needs ({too_many}). Serve with one that is only a member of "
            "atlas_sync; migrate with this one.",
            grave=False,
        )
    return Finding("privileges", True, TOPICS["privileges"].good)


async def _temporary(connection: Any) -> Finding:
    row = await connection.fetchrow(statement("doctor_temporary"))
    if row["who"] is not None:
        return Finding(
            "temporary",
            False,
            f"{row['who']} may make temporary objects here, by which functions that have their owner's rights can be "
            f"hijacked. Run REVOKE TEMP ON DATABASE {row['database']} FROM {row['who']}; then grant it to those who "
            "need it.",
            grave=False,
        )
    return Finding("temporary", True, "nobody makes temporary objects but those who were granted it")


async def _policies(connection: Any) -> Finding:
    policies = await connection.fetchval(statement("policies"))
    if policies is not None:
        return Finding("policies", False, POLICIES.format(policies), grave=False)
    return Finding("policies", True, "none that devices read and write past")


async def _idle(connection: Any) -> Finding:
    roles = [row["role"] for row in await connection.fetch(statement("doctor_idle"))]
    if roles:
        more = f" and {len(roles) - NAMED} more" if len(roles) > NAMED else ""
        return Finding(
            "idle",
            False,
            f"Sessions of {', '.join(roles[:NAMED])}{more} may stay in a transaction for ever. One that listens, and "
            "does, fills the notification queue, after which every commit that notifies fails. For each, run ALTER "
            f"ROLE {roles[0]} SET idle_in_transaction_session_timeout = '60s'.",
            grave=False,
        )
    return Finding("idle", True, "no session stays in a transaction for ever")


async def _queue(connection: Any) -> Finding:
    sessions = await connection.fetch(statement("doctor_queue"))
    usage = sessions[0]["usage"]
    if usage > FILLING:
        return Finding("queue", False, queue(usage, [tuple(row)[1:] for row in sessions if row["pid"] is not None]))
    return Finding("queue", True, f"{usage:.0%} of the notification queue is in use")


async def _clock(connection: Any) -> Finding:
    before = time.time()
    theirs = float(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())"))
    off = theirs - (before + time.time()) / 2
    if abs(off) > CLOCK_SECONDS:
        return Finding("clock", False, f"Postgres' clock is {off:+.1f} s off this machine's. Run NTP on both.")
    return Finding("clock", True, f"{off * 1000:+.0f} ms from this machine's")


async def _durability(connection: Any) -> Finding:
    off = [
        name
        for name in ("fsync", "synchronous_commit", "full_page_writes")
        if await connection.fetchval(f"SHOW {name}") == "off"
    ]
    if off:
        return Finding(
            "durability",
            False,
            f"{', '.join(off)} = off: a crash loses commits that devices have already seen. Set it on.",
        )
    return Finding("durability", True, "a commit that devices see survives a crash")


FIRST: Final[tuple[Question, ...]] = (_connection, _version, _encoding, _primary, _schema, _migrated)
LATER: Final[tuple[Question, ...]] = (
    _partitions,
    _strays,
    _archive,
    _temporary,
    _policies,
    _idle,
    _queue,
    _clock,
    _durability,
)
