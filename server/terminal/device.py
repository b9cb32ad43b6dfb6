"""What the commands `watch` and `chat` share: running a device until Ctrl-C, and printing rows."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from rich.console import Console
from rich.text import Text

from atlas_sync.device import StayAway
from atlas_sync.rows import Deleted, Key, Row
from atlas_sync.schema import Kind, Schema
from atlas_sync.session import Event, Welcomed
from server.exceptions import AtlasError

STYLES: Final = ("yellow", "magenta", "cyan", "green", "blue")
"""Of the kinds, in their order."""
LONGEST: Final = 2_000
"""Characters of a value that are shown."""
NAME_CHARACTERS: Final = 60


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


def line(row: Row | Deleted, schema: Schema, names: Mapping[tuple[str, str], str] = {}) -> Text:
    """A row of any kind as one line: its instant, its kind and key, and its columns that are not NULL.

    `names`: of rows, by kind and key as `named` writes it. A row whose parent has one is shown with it instead of the
    parent's key.
    """
    if isinstance(row, Deleted):
        name = names.get((row.kind, named(row.id)))
        return line_of(row.seq, "deleted", "red", f"{row.kind} {named(row.id)}{'' if name is None else f'  “{name}”'}")
    kind = schema[row.kind]
    style = STYLES[schema.kinds.index(kind) % len(STYLES)]
    parent = None if kind.parent is None else names.get((kind.parent, named(kind.parent_of(row))))
    home = None if parent is None else kind.columns[0].name
    said = (
        f"in “{parent}”" if name == home else f"{name}: {_shown(value)}"
        for name, value in row.values.items()
        if _is_said(kind, name, value)
    )
    return line_of(instant(row, schema), row.kind, style, "  ".join([named(row.id), *said]))


def named(key: Key) -> str:
    """A key, as the command `trace` takes it."""
    return ",".join(map(str, key)) if isinstance(key, tuple) else str(key)


def instant(row: Row | Deleted, schema: Schema) -> int:
    """When the row was written: by the column that orders its list, if that is an instant, else by its seq."""
    if isinstance(row, Deleted):
        return row.seq
    kind = schema[row.kind]
    column = None if kind.newest is None else kind.column(kind.newest)
    value = None if column is None or column.type != "instant" else row.values[column.name]
    return row.seq if value is None else int(value)


def _is_said(kind: Kind, name: str, value: Any) -> bool:
    column = kind.column(name)
    return value is not None and (column is None or column.type != "instant")


def _shown(value: Any) -> str:
    match value:
        case str():
            text = value
        case bytes():
            text = f"{len(value)} bytes"
        case list() | dict() | bool():
            text = orjson.dumps(value, default=str).decode()
        case _:
            text = str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def shortened(text: str) -> str:
    """A name for a row: a text that is not much longer than a line's half."""
    return text if len(text) <= NAME_CHARACTERS else f"{text[:NAME_CHARACTERS].rstrip()}…"


def printable(text: str, keep: str = "") -> str:
    """Make text of a server or a person safe to print: replace unprintable characters, except those in `keep`.

    So no escape sequence reaches the terminal, and no character that changes the direction of text.
    """
    return "".join(c if c.isprintable() or c in keep else " " for c in text)


def console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is: brackets and colons are not markup."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def line_of(instant: int, what: str, style: str, text: str) -> Text:
    """`instant`: microseconds since 1970; the server's, and so perhaps beyond the calendar."""
    try:
        when = f"{datetime.fromtimestamp(instant / 1_000_000, UTC).astimezone():%b %d %H:%M:%S}"
    except (OverflowError, ValueError, OSError):
        when = "beyond the calendar"
    return Text.assemble((f"{when:15} ", "dim"), (printable(f"{what:>12}  "), style), printable(text))


def shows_welcome(console: Console) -> Callable[[Event], None]:
    def show(event: Event) -> None:
        if isinstance(event, Welcomed):
            how = "resumed" if event.mode == "resumed" else f"a snapshot ({event.why})"
            tier = "" if event.tier is None else f", tier {event.tier}"
            console.print(printable(f"connected as {event.session}{tier}: {how}"), style="dim")

    return show
