"""`atlas-sync watch`: a device in a terminal. It prints changes of all kinds as they arrive.

It keeps its cursor in a file.
"""

import os
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import orjson
from rich.console import Console

from atlas_sync.device import Device
from atlas_sync.rows import Deleted, Row
from atlas_sync.schema import Schema
from atlas_sync.session import Batch, Event
from server import private
from server.exceptions import ConfigError
from server.terminal.device import instant, line, named, run, shortened, shows_welcome
from server.terminal.trouble import Shows, Token, address

NEWEST: Final = 50
"""Rows of each kind that are printed of a snapshot."""
NAMES: Final = 1_000
"""Rows whose names are kept."""


@dataclass(slots=True)
class Memory:
    """What the device keeps from one start to the next: its client_id, its cursor, and names of rows."""

    path: Path
    client_id: UUID
    cursor: bytes | None
    names: "Names" = field(default_factory=lambda: Names())

    @classmethod
    def load(cls, path: Path) -> "Memory":
        """Read the file; a new client_id if it does not exist. Raises ConfigError if its content is not ours."""
        try:
            kept = orjson.loads(path.read_bytes())
            cursor = kept["cursor"]
            names = Names({(str(kind), str(key)): str(name) for kind, key, name in kept.get("names", [])})
            client_id = UUID(kept["client_id"])
            return cls(path, client_id, None if cursor is None else b64decode(cursor, validate=True), names)
        except FileNotFoundError:
            return cls(path, uuid4(), None)
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{path} is not a cursor file of atlas-sync watch. Name another, or delete it.") from None

    def save(self, cursor: bytes | None) -> None:
        """Replace the file atomically: a crash leaves the old file or the new one."""
        self.cursor = cursor
        kept = {
            "client_id": str(self.client_id),
            "cursor": None if cursor is None else b64encode(cursor).decode(),
            "names": [[*row, name] for row, name in self.names.items()],
        }
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self.path.with_name(self.path.name + ".new")
        fresh.unlink(missing_ok=True)
        with open(fresh, "xb", opener=private.opener) as file:
            file.write(orjson.dumps(kept))
        os.replace(fresh, self.path)


class Names(dict[tuple[str, str], str]):
    """Names of rows that have rows below them (a conversation's title), by kind and key."""

    def learn(self, rows: Iterable[Row | Deleted], schema: Schema) -> None:
        """Take the names of these rows: their first text that is not NULL. Too many: the first are forgotten."""
        parents = {kind.parent for kind in schema}
        for row in rows:
            if isinstance(row, Row) and row.kind in parents:
                texts = [column.name for column in schema[row.kind].columns if column.type == "text"]
                name = next((row.values[text] for text in texts if row.values[text]), None)
                self.pop((row.kind, named(row.id)), None)
                if name is not None:
                    self[row.kind, named(row.id)] = shortened(name)
        while len(self) > NAMES:
            del self[next(iter(self))]


def watch(url: str, token: str, user: UUID, memory: Memory, console: Console) -> None:
    """Print changes until SIGINT or SIGTERM arrives. Raises StayAwayError, TokenRefusedError, and ConfigError for a URL
    that is none."""
    given = Token(token)
    welcomes = shows_welcome(console)

    held: list[Row | Deleted] = []
    in_snapshot = False

    def on_batch(batch: Batch) -> None:
        # A snapshot is printed once it is complete: an interrupted one arrives again.
        nonlocal in_snapshot
        if batch.replaces:
            held.clear()
            in_snapshot = True
        held.extend(batch.rows)
        if batch.cursor is not None:
            schema = connected.schema
            assert schema is not None
            memory.names.learn(held, schema)
            for row in ordered(newest(held, schema) if in_snapshot else held, schema):
                console.print(line(row, schema, memory.names), soft_wrap=True)
            held.clear()
            in_snapshot = False
            memory.save(batch.cursor)

    def on_event(event: Event) -> None:
        given.hear(event)
        welcomes(event)

    connected = Device(
        address(url),
        user=user,
        token=given,
        client_id=memory.client_id,
        cursor=memory.cursor,
        on_batch=on_batch,
        on_event=on_event,
        on_status=Shows(lambda text: console.print(text, soft_wrap=True), lambda: connected.reason),
    )
    run(connected.run)
    console.print("Stopped. Start again to see what you missed.", style="dim")


def newest(rows: list[Row | Deleted], schema: Schema) -> list[Row]:
    """Of the rows of a snapshot the newest of each kind."""
    found: list[Row] = []
    for kind in schema:
        of_kind = [row for row in rows if isinstance(row, Row) and row.kind == kind.name]
        found += sorted(of_kind, key=kind.rank)[-NEWEST:]
    return found


def ordered(rows: Iterable[Row | Deleted], schema: Schema) -> list[Row | Deleted]:
    """In the order of the instants that are shown; of one instant, a row before those below it."""
    order = {kind.name: i for i, kind in enumerate(schema)}
    return sorted(rows, key=lambda row: (instant(row, schema), order[row.kind]))
