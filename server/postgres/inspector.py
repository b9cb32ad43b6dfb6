"""Inspects the database every few seconds, on a connection of its own: which host counts, and whether this server sees
every change."""

import asyncio
import contextlib
from typing import Final

import asyncpg
import orjson
import structlog

from server import metrics
from server.clock import Clock
from server.declaration.synced import Synced
from server.exceptions import AtlasError, UnavailableError, UnfitError
from server.feed.history import EARLIER, History
from server.postgres.connection import LOCAL_PATH, STATEMENT_SECONDS, limited, statement
from server.postgres.declared import declared
from server.postgres.errors import StandbyError, translated
from server.postgres.route import OpenConnection, Route
from server.postgres.scripts import schema
from server.retry import Retry

log = structlog.get_logger()

EVERY: Final = 5.0
"""Seconds between two inspections. For no longer than that the server writes to a former primary on old connections."""
EVERY_OF_SEVERAL: Final = 2.0
"""The same if the URL names several hosts: one of them may be promoted while the other falls silent, and refuses
nothing."""
LONGEST_PAUSE: Final = 1.0
"""Seconds between two inspections while Postgres is away. Everybody else's pauses end with the first that succeeds."""
QUEUE: Final = "SELECT pg_catalog.pg_notification_queue_usage()"
"""The call also lets Postgres remove notifications that only closed sessions had not received."""
VERSION: Final = "SELECT to_jsonb(m) FROM sync.migrations m"
BEGIN: Final = "SELECT sync.begin_history(before => $1)"
EPOCH: Final = "SELECT sync.epoch()"
WITHDRAW: Final = "SELECT sync.withdraw()"
"""Where no event trigger could be made, UPDATEs of a table whose key was changed fail until then."""
DIGEST: Final = "SELECT digest FROM sync.declaration"
UNDECLARED: Final = "Nothing is declared to be synced in this database. Run `atlas-sync migrate`."
NAMED: Final = 3
"""How many problems an error names."""


class Inspector:
    """`every`: seconds between two inventories while there is no problem. One takes Postgres some 15 ms."""

    def __init__(self, route: Route, clock: Clock, synced: Synced, every: float) -> None:
        self._route = route
        self._synced = synced
        self._every = every
        self._inventory_at = 0.0
        self._epoch = ""
        """The epoch at the last inventory. A changed trigger or policy begins another one."""
        self._history: History = route.history
        self._clock = clock
        self._at_once = asyncio.Event()
        self._seen = False
        """Whether an inventory has found no problem since this server started."""
        self._trouble = ""
        self._to_begin = False
        self._schema = schema()
        self._history.on_mismatch = self._at_once.set
        synced.on_mismatch = self._at_once.set

    async def run(self) -> None:
        """Inspect until cancelled."""
        every = min(EVERY, EVERY_OF_SEVERAL) if self._route.several else EVERY
        retry = Retry(None, longest=LONGEST_PAUSE)
        wait = every
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._at_once.wait()
            self._at_once.clear()
            wait = every
            try:
                await self.inspect()
            except (UnavailableError, UnfitError) as error:
                self._log(error)
                lasts = isinstance(error, UnfitError) or str(error) == EARLIER
                self._history.inspection_error = str(error) if lasts else None
                if isinstance(error, UnavailableError | StandbyError):
                    wait = min(retry.failed(error), every)
            else:
                self._trouble = ""
                self._history.inspection_error = None
                if retry.failures:
                    retry.reset()
                    self._history.alarm.ring()

    async def inspect(self) -> None:
        """Inspect the database once. Raises UnavailableError, and UnfitError for a database that cannot serve."""
        split = await self._route.survey(self._examine)
        if split != self._history.split:
            self._history.split = split
            metrics.HISTORY_SPLIT.set(split)
            if split:
                log.warning("another host answers with an earlier history, and is not used")

    async def _examine(self, opened: OpenConnection) -> None:
        self._clock.set_ahead(opened.ahead)
        with translated():
            async with limited(opened.raw, STATEMENT_SECONDS):
                await opened.raw.execute(LOCAL_PATH)
                found = await opened.raw.fetch(statement("inventory_access"))
                if not found:
                    await self._take_declaration(opened)
                    await opened.raw.execute(WITHDRAW)
                metrics.NOTIFICATION_QUEUE.set(await opened.raw.fetchval(QUEUE))
                now = asyncio.get_running_loop().time()
                if (
                    not found
                    and self._history.blind is None
                    and now < self._inventory_at
                    and opened.report.epoch == self._epoch
                ):
                    return
                if not found:
                    # This version cannot judge a schema that another version made.
                    version = await opened.raw.fetchval(VERSION)
                    same = version is not None and orjson.loads(version) == self._schema
                    found = await opened.raw.fetch(statement("inventory")) if same else []
        self._inventory_at, self._epoch = now + self._every, opened.report.epoch
        problems = [f"{each['what']} is {each['problem']}" for each in found if each["serving"]]
        metrics.BLIND.set(bool(problems))
        if not problems:
            await self._begin(opened)
            if self._history.blind is not None and await self._newest_epoch(opened) != self._history.epoch:
                # A history has begun since this connection was opened, by the line above or because of a mended object.
                self._at_once.set()
                return
            self._history.clear_blind()
            self._seen = True
            return
        more = f" and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        why = f"This server may not see every change: {', '.join(problems[:NAMED])}{more}. Run `atlas-sync migrate`."
        # Devices that have read since the problem began may lack rows, and it is unknown when it began.
        self._to_begin |= self._seen and self._history.blind is None
        self._history.set_blind(why)
        await self._begin(opened)
        raise UnfitError(why)

    async def _take_declaration(self, opened: OpenConnection) -> None:
        """Put the database's declaration in force. Raises UnfitError if it has none."""
        try:
            digest = await opened.raw.fetchval(DIGEST)
        except asyncpg.UndefinedTableError:
            digest = None
        if digest is None:
            raise UnfitError(UNDECLARED)
        if digest != self._synced.declaration.digest:
            found = await declared(opened.raw)
            assert found is not None
            self._synced.use(found)

    async def _begin(self, opened: OpenConnection) -> None:
        """Begin a new history if that is due. If that fails, as a lock may cause, the next inspection retries."""
        if self._to_begin:
            with translated():
                async with limited(opened.raw, STATEMENT_SECONDS):
                    await opened.raw.fetchval(BEGIN, self._history.epoch)
            self._to_begin = False

    async def _newest_epoch(self, opened: OpenConnection) -> str:
        with translated():
            async with limited(opened.raw, STATEMENT_SECONDS):
                return str(await opened.raw.fetchval(EPOCH))

    def _log(self, error: AtlasError) -> None:
        """Log an error once, and not at every inspection."""
        if str(error) != self._trouble:
            self._trouble = str(error)
            log.warning("the database could not be inspected", error=str(error))
