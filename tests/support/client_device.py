"""The Python client as a device that is checked against SPEC.md frame by frame."""

import asyncio
import random
import time
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from atlas_sync.device import Device
from atlas_sync.mutation import Rejected, Result
from atlas_sync.outbox import Outbox
from atlas_sync.replica import Replica
from atlas_sync.rows import Deleted, Key, Row
from atlas_sync.schema import Schema
from atlas_sync.session import Acknowledged, Batch, Event, Welcomed
from atlas_sync.storage import MemoryStorage
from tests.support.oracle import State, held, select_everything
from tests.support.serving import token
from tests.support.waiting import eventually

EVERYTHING: Final = {"conversation": 500, "message": 200}
SCHEMA: Final = Schema.chat()


class Impatient(random.Random):
    """Back-off in a fiftieth of the time: a run has more faults than a device meets in a month."""

    def random(self) -> float:
        return super().random() / 50


class ClientDevice:
    """Keeps its rows, cursor and outbox over restarts. Raises what SPEC.md forbids."""

    def __init__(self, url: str, user: UUID, window: Mapping[str, int] = EVERYTHING) -> None:
        self.url = url
        self.user = user
        self.window = window
        self.storage = MemoryStorage()
        self.outbox = Outbox(self.storage, SCHEMA)
        self.client_id = self.outbox.client_id
        self.results: dict[int, Result] = {}
        self.replica = Replica(SCHEMA)
        self.cursor: bytes | None = None
        self.snapshots: list[str] = []
        self.batches = 0
        self.device: Device | None = None
        self._in_snapshot = False
        self._newest: dict[tuple[str, Key], int] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.outbox = Outbox(self.storage, SCHEMA)
        self.device = Device(
            self.url,
            user=self.user,
            token=lambda: token(self.user),
            client_id=self.client_id,
            schema=SCHEMA,
            cursor=self.cursor,
            window=self.window,
            on_batch=self._on_batch,
            on_event=self._on_event,
            rng=Impatient(),
            outbox=self.outbox,
        )
        self._task = asyncio.create_task(self.device.run())

    async def stop(self) -> None:
        assert self.device is not None
        assert self._task is not None
        await self.device.stop()
        await self._task

    def check(self) -> None:
        """Raise the exception that ended the device, if one did."""
        if self._task is not None and self._task.done():
            self._task.result()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Welcomed) and event.mode == "snapshot":
            self.snapshots.append(str(event.why))
        if isinstance(event, Acknowledged):
            # A number that was rejected may be pushed again as an empty array, whose result means nothing.
            self.results.update(
                (result.n, result) for result in event.results if not isinstance(self.results.get(result.n), Rejected)
            )

    def now(self) -> int:
        return time.time_ns() // 1000 if self.device is None else self.device.now()

    def _on_batch(self, batch: Batch) -> None:
        self.batches += 1
        for row in batch.rows:
            self._object_to_strangers(row)
            kind = row.kind
            # A row of a snapshot is as new as its piece, and the changes that follow begin at the first piece.
            if not self._in_snapshot and not batch.replaces:
                assert row.seq >= self._newest.get((kind, row.id), 0), f"{kind} {row.id} went back"
                self._newest[kind, row.id] = row.seq
        self._in_snapshot = (batch.replaces or self._in_snapshot) and batch.cursor is None
        if batch.replaces:
            self.replica.replace(batch.rows)
        else:
            self.replica.apply(batch.rows)
        if batch.replaces or batch.cursor is not None:
            # Without one until a snapshot is whole: interrupted before, it starts over.
            self.cursor = batch.cursor

    def _object_to_strangers(self, row: Row | Deleted) -> None:
        # Every title and content names its owner.
        text = (row.values.get("title") or row.values.get("content")) if isinstance(row, Row) else None
        assert text is None or text.startswith(str(self.user)), "somebody else's row"
        assert row.kind != "profile" or isinstance(row, Deleted) or row.id == self.user, "somebody else's profile"

    async def ends_up_with_what_select_finds(self, sql: Any, limit: float) -> None:
        """Wait for it. Nobody writes any more."""
        expected = await select_everything(sql, self.user)

        def up_to_date() -> bool:
            self.check()
            return self.state() == expected

        try:
            await eventually(up_to_date, limit)
        except AssertionError:
            assert self.state() == expected

    def state(self) -> State:
        return held(self.replica)
