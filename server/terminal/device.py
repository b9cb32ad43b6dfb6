"""What the commands `watch` and `chat` share: running a device until Ctrl-C, and printing rows."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from atlas_sync.device import Status, StayAway
from atlas_sync.rows import Deleted, Row
from atlas_sync.session import Event, Welcomed
from server.exceptions import AtlasError


class StayAwayError(AtlasError):
    """The server told this device not to reconnect."""


def run(device: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `device` until it returns, or SIGINT or SIGTERM arrives. Raises StayAwayError."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        running = asyncio.ensure_future(device())
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, running.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await running

    try:
        asyncio.run(main())
    except StayAway as instruction:
        raise StayAwayError(printable(f"The server says: stay away ({instruction}).")) from None


def line(row: Row | Deleted) -> Text:
    """A row of the chat schema as one line: its instant, its kind, and its text."""
    match row:
        case Row("message"):
            style = {"user": "bold cyan", "assistant": "green"}.get(row.role, "yellow")
            return _line(row.created_at, f"{row.role:>9}", style, row.content)
        case Row("conversation"):
            return _line(row.updated_at, "conversation", "magenta", row.title or "(untitled)")
        case Row():
            return _line(row.seq, "profile", "yellow", f"tier {row.tier}")
        case Deleted():
            return _line(row.seq, "deleted", "red", f"{row.kind} {row.id}")


def printable(text: str, keep: str = "") -> str:
    """Make text of a server or a person safe to print: replace unprintable characters, except those in `keep`.

    So no escape sequence reaches the terminal, and no character that changes the direction of text.
    """
    return "".join(c if c.isprintable() or c in keep else " " for c in text)


def console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is: brackets and colons are not markup."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def _line(instant: int, what: str, style: str, text: str) -> Text:
    when = datetime.fromtimestamp(instant / 1_000_000, UTC).astimezone()
    return Text.assemble((f"{when:%b %d %H:%M:%S} ", "dim"), (printable(f"{what:>12}  "), style), printable(text))


def shows_welcome(console: Console) -> Callable[[Event], None]:
    def show(event: Event) -> None:
        if isinstance(event, Welcomed):
            how = "resumed" if event.mode == "resumed" else f"a snapshot ({event.why})"
            console.print(printable(f"connected as {event.session}, tier {event.tier}: {how}"), style="dim")

    return show


def shows_status(console: Console) -> Callable[[Status], None]:
    return lambda status: console.print(f"· {status.name.lower().replace('_', ' ')}", style="dim")
