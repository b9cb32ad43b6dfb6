"""Where each device is, noted every few seconds for support staff: which ones are here, and how far they are.

No change is waited for and none costs anything: the readers are looked at every few seconds, and those that stand
elsewhere than before are written down together.
"""

import asyncio
from itertools import islice
from typing import Final
from uuid import UUID

import structlog

from server.errors import UnavailableError
from server.feed.hub import Hub, Reader
from server.feed.ports import Notebook, Sighting

log = structlog.get_logger()

EVERY: Final = 15.0
"""Seconds between two looks; how old what support staff see may be."""
AT_ONCE: Final = 1_000
"""Devices noted by one statement, and readers looked at before others get the loop."""
DEPARTED: Final = 100_000
"""Departures kept while Postgres is away; the oldest are forgotten first."""


class Roster:
    def __init__(self, hub: Hub, notebook: Notebook, server: str) -> None:
        self._hub = hub
        self._notebook = notebook
        self._server = server
        self._departed: dict[tuple[str, UUID], Sighting] = {}

    def left(self, reader: Reader, code: int) -> None:
        """The reader's connection ended with this close code. To be told while the reader still is in the hub."""
        if reader.welcomed_at is not None:
            device = reader.feed.user, reader.client_id
            self._departed.pop(device, None)
            self._departed[device] = _sighting(reader)._replace(state="closed", close_code=code)
            if len(self._departed) > DEPARTED:
                del self._departed[next(iter(self._departed))]

    async def run(self) -> None:
        """Note until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            try:
                await self.note()
            except UnavailableError as error:
                log.info("where devices are could not be noted", error=str(error))

    async def note(self) -> None:
        """Note what changed. Raises UnavailableError; what was not noted then is noted the next time."""
        # Those who left before those who are here: one may have come back.
        departed, self._departed = self._departed, {}
        try:
            while departed:
                some = list(islice(departed.values(), AT_ONCE))
                await self._notebook.note(self._server, some)
                for sighting in some:
                    del departed[sighting.user, sighting.client_id]
        finally:
            self._departed = departed | self._departed

        moved: dict[tuple[str, UUID], tuple[Reader, Sighting]] = {}
        for count, reader in enumerate(self._hub.readers()):
            if reader.welcomed_at and not reader.sink.gone and (sighting := _sighting(reader)) != reader.sighting:
                moved[sighting.user, sighting.client_id] = reader, sighting
            if count % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
        everybody = list(moved.values())
        for begin in range(0, max(len(everybody), 1), AT_ONCE):
            group = everybody[begin : begin + AT_ONCE]
            await self._notebook.note(self._server, [sighting for _, sighting in group])
            for reader, sighting in group:
                reader.sighting = sighting


def _sighting(reader: Reader) -> Sighting:
    position, state = reader.whereabouts
    # Inside a transaction it has all that was before, and not yet the transaction.
    seq = None if position is None else position.seq - (position.n > 0)
    user, session = reader.feed.user, reader.sink.session
    return Sighting(user, reader.client_id, session, seq, state, None, reader.welcomed_at or 0)
