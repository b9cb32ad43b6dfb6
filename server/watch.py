"""`atlas-sync watch`: a device in a terminal, which shows changes as they arrive and keeps its cursor in a file."""

import asyncio
import contextlib
import os
import signal
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
from rich.console import Console
from rich.text import Text

from protocol.client import Batch, Event, Welcomed
from protocol.connect import Device, Status, StayAway
from protocol.replica import Conversation, Deleted, Message, Profile, Row
from server.errors import AtlasError, ConfigError


class StayAwayError(AtlasError):
    """The server told this device not to come back."""


@dataclass(slots=True)
class Memory:
    """What this device keeps from one start to the next: who it is, and where it stands."""

    path: Path
    client_id: UUID
    cursor: bytes | None

    @classmethod
    def load(cls, path: Path) -> "Memory":
        """Raises ConfigError if the file is there and is not ours."""
        try:
            kept = orjson.loads(path.read_bytes())
            cursor = kept["cursor"]
            return cls(path, UUID(kept["client_id"]), None if cursor is None else b64decode(cursor, validate=True))
        except FileNotFoundError:
            return cls(path, uuid4(), None)
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{path} is not a cursor file of atlas-sync watch. Name another, or delete it.") from None

    def save(self, cursor: bytes | None) -> None:
        """Whole or not at all: a crash in between leaves the old file."""
        self.cursor = cursor
        kept = {
            "client_id": str(self.client_id),
            "cursor": None if cursor is None else b64encode(cursor).decode(),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_name(self.path.name + ".new")
        fresh.write_bytes(orjson.dumps(kept))
        os.replace(fresh, self.path)


def watch(url: str, token: str, memory: Memory, console: Console) -> None:
    """Show changes until SIGINT or SIGTERM. Raises StayAwayError."""

    held: list[Row] = []

    def on_batch(batch: Batch) -> None:
        # A snapshot is shown when it is whole: interrupted before, it comes again.
        if batch.replaces:
            held.clear()
        held.extend(batch.rows)
        if batch.cursor is not None:
            for row in held:
                console.print(line(row), soft_wrap=True)
            held.clear()
            memory.save(batch.cursor)

    async def main() -> None:
        device = Device(
            url,
            token=lambda: token,
            client_id=memory.client_id,
            cursor=memory.cursor,
            window=(10, 10),
            on_batch=on_batch,
            on_event=lambda event: _show_event(event, console),
            on_status=_shows_status(console),
        )
        loop = asyncio.get_running_loop()
        running = asyncio.ensure_future(device.run())
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, running.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await running

    try:
        asyncio.run(main())
    except StayAway as instruction:
        raise StayAwayError(f"The server says: stay away ({instruction}).") from None
    console.print("Stopped. Start again to see what you missed.", style="dim")


def line(row: Row) -> Text:
    """A row as one line: when, what, and for a message its beginning."""
    match row:
        case Message():
            style = {"user": "bold cyan", "assistant": "green"}.get(row.role, "yellow")
            return _line(row.created_at, f"{row.role:>9}", style, row.content)
        case Conversation():
            return _line(row.updated_at, "conversation", "magenta", row.title or "(untitled)")
        case Profile():
            return _line(row.seq, "profile", "yellow", f"tier {row.tier}")
        case Deleted():
            kind = {"p": "profile", "c": "conversation", "m": "message"}[row.kind]
            return _line(row.seq, "deleted", "red", f"{kind} {row.id}")


def _line(instant: int, what: str, style: str, text: str) -> Text:
    when = datetime.fromtimestamp(instant / 1_000_000, UTC).astimezone()
    # What people wrote is data: no escape sequence of theirs reaches this terminal.
    printable = "".join(c if c.isprintable() else " " for c in text)
    return Text.assemble((f"{when:%b %d %H:%M:%S} ", "dim"), (f"{what:>12}  ", style), printable)


def _show_event(event: Event, console: Console) -> None:
    if isinstance(event, Welcomed):
        how = "resumed" if event.mode == "resumed" else f"a snapshot ({event.why})"
        console.print(f"connected as {event.session}, tier {event.tier}: {how}", style="dim")


def _shows_status(console: Console) -> Callable[[Status], Any]:
    return lambda status: console.print(f"· {status.name.lower().replace('_', ' ')}", style="dim")
