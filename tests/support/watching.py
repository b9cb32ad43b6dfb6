"""The Python client as a device of any kinds: it takes the server's schema, whichever that is."""

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

from atlas_sync.device import Device
from atlas_sync.replica import Replica
from atlas_sync.rows import Key
from atlas_sync.session import Batch, Event, SchemaArrived, Welcomed
from tests.support.client_device import Impatient
from tests.support.serving import token

State = dict[tuple[str, Key], dict[str, Any]]


class Watching:
    """A device that takes the server's schema, whichever that is."""

    def __init__(self, url: str, user: UUID) -> None:
        self.replica = Replica()
        self.snapshots: list[str] = []
        self.device = Device(
            url,
            user=user,
            token=lambda: token(user),
            client_id=uuid4(),
            window={},
            on_batch=self._on_batch,
            on_event=self._on_event,
            rng=Impatient(),
        )
        self.task = asyncio.create_task(self.device.run())

    def _on_batch(self, batch: Batch) -> None:
        (self.replica.replace if batch.replaces else self.replica.apply)(batch.rows)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, SchemaArrived):
            self.replica.adopt(event.schema)
        if isinstance(event, Welcomed) and event.mode == "snapshot":
            self.snapshots.append(str(event.why))

    def columns(self) -> Mapping[str, list[str]]:
        assert self.replica.schema is not None
        return {kind.name: [column.name for column in kind.columns] for kind in self.replica.schema}

    def has(self, schema: str) -> bool:
        return self.replica.schema is not None and self.replica.schema.hash == schema

    def holds(self, expected: State) -> bool:
        return self.state() == expected

    def state(self) -> State:
        if self.task.done():
            self.task.result()
        return {
            (kind, key): {name: row.values.get(name) for name in names}
            for kind, names in self.columns().items()
            for key, row in self.replica.rows[kind].items()
        }

    async def stop(self) -> None:
        await self.device.stop()
        await self.task
