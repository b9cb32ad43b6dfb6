"""How far each device is, recorded every few seconds for support staff.

Nothing waits for this and no change costs anything: every few seconds all readers are compared with what was last
recorded of them, and those that moved are written together.
"""

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import Final
from uuid import UUID

import structlog

from server.exceptions import UnavailableError
from server.feed.hub import Hub, Reader
from server.feed.ports import DeviceState, DeviceStatus, PresenceStore

log = structlog.get_logger()

EVERY: Final = 15.0
"""Seconds between two recordings: the greatest age of what support staff see."""
AT_ONCE: Final = 1_000
"""Devices recorded by one statement, and readers compared before others get the loop."""
DEPARTED: Final = 100_000
"""Departures kept while Postgres is away; the oldest are dropped first."""


class Presence:
    """`server` names this process in the table."""

    def __init__(
        self, hub: Hub, store: PresenceStore, server: str, known: Callable[[], str | None] = lambda: None
    ) -> None:
        """`known`: why the database cannot be used, if the log has that already."""
        self._known = known
        self._trouble: str | None = None
        self._hub = hub
        self._store = store
        self._server = server
        self._departed: dict[tuple[str, UUID], DeviceStatus] = {}

    def left(self, reader: Reader, code: int) -> None:
        """The reader's connection ended with this close code. Call it before the hub removes the reader."""
        if reader.welcomed_at is not None:
            device = reader.feed.user, reader.client_id
            self._departed.pop(device, None)
            self._departed[device] = _status(reader)._replace(state=DeviceState.CLOSED, close_code=code)
            if len(self._departed) > DEPARTED:
                del self._departed[next(iter(self._departed))]

    async def run(self) -> None:
        """Record until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            try:
                await self.record()
                self._trouble = None
            except UnavailableError as error:
                self._report(str(error))

    def _report(self, trouble: str) -> None:
        """Log it once, until a record succeeds."""
        if trouble not in (self._trouble, self._known()):
            log.info("the devices' status could not be recorded", error=trouble)
        self._trouble = trouble

    async def record(self) -> None:
        """Record what changed. Raises UnavailableError; the next call then records what this one could not."""
        # Departures first: a device that left may have come back.
        departed, self._departed = self._departed, {}
        try:
            while departed:
                some = list(islice(departed.values(), AT_ONCE))
                await self._store.record(self._server, some)
                for status in some:
                    del departed[status.user, status.client_id]
        finally:
            self._departed = departed | self._departed

        moved: dict[tuple[str, UUID], tuple[Reader, DeviceStatus]] = {}
        for count, reader in enumerate(self._hub.readers()):
            if reader.welcomed_at and not reader.sink.gone and (status := _status(reader)) != reader.recorded:
                moved[status.user, status.client_id] = reader, status
            if count % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
        everybody = list(moved.values())
        for begin in range(0, max(len(everybody), 1), AT_ONCE):
            group = everybody[begin : begin + AT_ONCE]
            await self._store.record(self._server, [status for _, status in group])
            for reader, status in group:
                reader.recorded = status


def _status(reader: Reader) -> DeviceStatus:
    position = reader.position
    # Within a transaction the device has everything before the transaction, and not yet the transaction itself.
    seq = None if position is None else position.seq - (position.n > 0)
    user, session = reader.feed.user, reader.sink.session
    return DeviceStatus(user, reader.client_id, session, seq, reader.state, None, reader.welcomed_at or 0)
