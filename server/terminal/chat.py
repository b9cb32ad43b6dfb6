"""`atlas-sync chat`: a device of the chat schema in a terminal that writes.

Each line that is typed becomes a message of a conversation, unless it begins with a slash: `/help` names the commands.
Lines typed while the server is unavailable wait in a file. They are sent when it is available again, also by the next
start of the command. An answer that is being written grows at the end of its line.
"""

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

from rich.console import Console
from rich.text import Text

from atlas_sync.chat import CONVERSATION, MESSAGE, create_conversation, create_message, rename_conversation
from atlas_sync.device import Device, Status
from atlas_sync.mutation import WriteError
from atlas_sync.outbox import Entry, EntryState, Outbox
from atlas_sync.replica import Replica
from atlas_sync.rows import Key, Row
from atlas_sync.schema import Schema
from atlas_sync.session import Batch, Event, Live, SchemaArrived
from atlas_sync.storage import SqliteStorage, StorageError
from atlas_sync.streams import StreamGrew, StreamsNamed
from atlas_sync.view import build_view
from server.exceptions import ConfigError, UnavailableError
from server.terminal.device import line_of, printable, run, shortened
from server.terminal.trouble import Shows, Token, address

SENDING_SECONDS = 10.0
"""How long the command waits, after the end of the input, for lines and stops to be sent. Lines stay in the file."""
SNAPSHOT_SECONDS = 30.0
LISTED = 10
"""Conversations that `/list` shows."""
HELP = (
    "/list         the newest conversations, with their numbers",
    "/open NUMBER  write to another one",
    "/new [TITLE]  begin one; without a title its first message names it",
    "/stop         end the answers that are being written here",
    "/quit         send what waits, and end (or Ctrl-D)",
    "/help         these lines",
    "Every other line is a message. One that begins with a slash is typed with two.",
)


def chat(
    url: str, token: str, user: UUID, path: Path, chosen: UUID | None, title: str | None, console: Console
) -> None:
    """Chat until the input ends, or SIGINT or SIGTERM arrives.

    `path` is the outbox's file. `chosen` is the conversation; None: the newest one, or a new one called `title`. Raises
    ConfigError for a file that cannot be used and a URL that is none; UnavailableError, StayAwayError,
    TokenRefusedError.
    """
    address(url)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        storage = SqliteStorage(path, user)
    except StorageError as error:
        raise ConfigError(str(error)) from None
    with contextlib.closing(storage):
        run(lambda: _Chat(url, token, user, Outbox(storage, Schema.chat()), chosen, title, console).run())
        waiting = sum(entry.state is EntryState.PENDING for entry in Outbox(storage, Schema.chat()).entries)
    if waiting:
        console.print(f"{waiting} not sent yet: kept in {path}, and sent by the next start.", style="yellow")


class _Chat:
    def __init__(
        self, url: str, token: str, user: UUID, outbox: Outbox, chosen: UUID | None, title: str | None, console: Console
    ) -> None:
        self._outbox = outbox
        self._conversation = chosen
        self._title = title
        self._unnamed = False
        """Whether the first message names the conversation."""
        self._console = console
        self._replica = Replica(Schema.chat())
        self._stopping: list[asyncio.Future[bool]] = []
        self._sent = asyncio.Event()
        """Set while every mutation has its result."""
        self._shown: set[Key] = set()
        self._printed: dict[Key, int] = {}
        """Of answers that grow: how many of their characters are printed."""
        self._growing: Key | None = None
        """The answer at the end of whose line the next characters are printed."""
        self._mine: dict[Key, int] = {}
        """Unconfirmed messages of this terminal: the outbox entry's key, by the message's id."""
        self._token = Token(token)
        self._device = Device(
            url,
            user=user,
            token=self._token,
            client_id=outbox.client_id,
            schema=Schema.chat(),
            window={CONVERSATION: 50, MESSAGE: 20},
            outbox=outbox,
            on_batch=self._on_batch,
            on_stream=self._on_stream,
            on_event=self._on_event,
            on_status=Shows(self._put, lambda: self._device.reason),
        )

    async def run(self) -> None:
        running = asyncio.ensure_future(self._device.run())
        talking = asyncio.ensure_future(self._talk())
        try:
            await asyncio.wait([running, talking], return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            await talking
        finally:
            talking.cancel()
            await self._device.stop()
            await asyncio.gather(running, talking, *self._stopping, return_exceptions=True)

    async def _talk(self) -> None:
        if self._title is None and self._conversation is None:
            # Only the server knows which conversation is the newest.
            try:
                await self._device.wait_live(SNAPSHOT_SECONDS)
            except TimeoutError:
                raise UnavailableError(
                    f"The server did not answer within {SNAPSHOT_SECONDS:.0f} s. To write offline, name a conversation "
                    "with --conversation, or begin one with --new."
                ) from None
        self._enter()
        self._print("Each line is a message; /help names the commands.")
        async for typed in _lines():
            if typed.startswith("/") and not typed.startswith("//"):
                if typed.split(maxsplit=1)[0] == "/quit":
                    break
                self._obey(*typed[1:].split(maxsplit=1))
            elif typed.strip():
                self._say(typed.removeprefix("/"))
        self._report_results()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SENDING_SECONDS):
                await self._sent.wait()
                await asyncio.gather(*self._stopping, return_exceptions=True)

    def _enter(self) -> None:
        """Enter the chosen conversation, the newest one, or a new one."""
        known = self._newest()
        if self._title is not None or not (known or self._conversation):
            self._begin(self._title or "Terminal")
        else:
            self._open(self._conversation or known[0])

    def _newest(self) -> list[UUID]:
        """Conversations, the newest first."""
        rows = self._replica.newest_first(CONVERSATION)
        return [row.id for row in rows if isinstance(row.id, UUID)]

    def _begin(self, title: str | None) -> None:
        made = uuid4()
        self._device.write(create_conversation(made, title, self._device.now()))
        self._open(made, title)
        self._unnamed = title is None

    def _open(self, conversation: UUID, title: str | None = None) -> None:
        self._conversation = conversation
        self._unnamed = False
        name = self._name(conversation) if title is None else title
        self._put(Text.assemble((printable(name), "bold"), f"  {conversation}"))
        self._shown.clear()
        self._printed.clear()
        self._show()

    def _name(self, conversation: UUID) -> str:
        found = self._replica.rows[CONVERSATION].get(conversation)
        return "New conversation" if found is None or found.title is None else str(found.title)

    def _obey(self, command: str = "", rest: str = "") -> None:
        """Carry out the line of a command, but for `/quit`."""
        listed = self._newest()[:LISTED]
        match command:
            case "help":
                self._print(*HELP)
            case "list":
                self._print(*(f"{i:>3}  {self._name(each)}" for i, each in enumerate(listed, 1)))
            case "open" if rest.isdecimal() and 1 <= int(rest) <= len(listed):
                self._open(listed[int(rest) - 1])
            case "open":
                self._print(f"/open takes a number of /list: 1 to {len(listed)}." if listed else "There are none yet.")
            case "stop":
                for message in self._written():
                    self._stopping.append(asyncio.ensure_future(self._device.stop_stream(MESSAGE, message)))
            case "new":
                try:
                    self._begin(shortened(rest.strip()) or None)
                except ValueError as error:
                    self._refuse(error, rest)
            case _:
                self._print(f"There is no command /{command}; /help names them. To write that, type //{command}.")

    def _refuse(self, error: ValueError, typed: str) -> None:
        says = too_long(typed) if isinstance(error, WriteError) and error.code == "too_long" else str(error)
        self._put(Text(printable(f"  ✗ {says}"), "red"))

    def _print(self, *lines: str) -> None:
        for each in lines:
            self._put(Text(printable(f"  {each}"), "dim"))

    def _put(self, text: Text) -> None:
        """Print a line, below an answer that grows."""
        if self._growing is not None:
            self._growing = None
            self._console.print()
        self._console.print(text, soft_wrap=True)

    def _say(self, typed: str) -> None:
        assert self._conversation is not None
        mutation = create_message(uuid4(), self._conversation, "user", typed, self._device.now())
        try:
            self._mine[mutation.id] = self._device.write(mutation).key
        except ValueError as error:
            self._refuse(error, typed)
            return
        if self._unnamed:
            self._unnamed = False
            self._device.write(rename_conversation(self._conversation, shortened(typed), self._device.now()))
        if self._device.status is not Status.LIVE:
            self._print("… kept until the server can be reached")

    def _on_event(self, event: Event) -> None:
        self._token.hear(event)
        if isinstance(event, SchemaArrived) and not (CONVERSATION in event.schema and MESSAGE in event.schema):
            raise ConfigError("This server syncs no conversations and messages. `atlas-sync watch` shows any rows.")
        self._report_results()

    def _on_batch(self, batch: Batch) -> None:
        self._replica.receive(batch)
        self._show()

    def _on_stream(self, what: StreamsNamed | StreamGrew | Live) -> None:
        self._replica.receive(what)
        self._show()

    def _show(self) -> None:
        """Print the conversation's new messages, except those that were typed here, and what has grown."""
        view = build_view(self._replica, [], self._replica.streams).rows[MESSAGE]
        for message in reversed(self._replica.newest_first(MESSAGE, self._conversation)):
            shown = view[message.id]
            if shown.streaming:
                self._shown.discard(message.id)  # one that is asked again is written anew
                self._grow(shown.row)
            elif message.id not in self._shown and (shown.row.content or message.role == "user"):
                self._shown.add(message.id)
                if message.id in self._printed:
                    self._grow(shown.row)
                    del self._printed[message.id]
                elif message.id not in self._mine:
                    self._put(_line(shown.row))

    def _grow(self, message: Row) -> None:
        """Print what the answer has got since the last time: in its line, or in another one if that is not the last."""
        printed = self._printed.get(message.id, 0)
        if len(message.content) <= printed:
            return
        rest = replace(message, values={**message.values, "content": message.content[printed:]})
        if self._growing == message.id:
            self._console.print(Text(printable(rest.content)), end="", soft_wrap=True)
        else:
            if self._growing is not None:
                self._console.print()
            self._console.print(_line(rest), end="", soft_wrap=True)
        self._growing = message.id
        self._printed[message.id] = len(message.content)

    def _written(self) -> list[Key]:
        """The messages of this conversation that are being written."""
        view = build_view(self._replica, [], self._replica.streams).rows[MESSAGE]
        rows = self._replica.newest_first(MESSAGE, self._conversation)
        return [row.id for row in rows if view[row.id].streaming]

    def _report_results(self) -> None:
        """Print the results of the messages that were typed here."""
        entries = {entry.key: entry for entry in self._outbox.entries}
        if any(entry.state is EntryState.PENDING for entry in entries.values()):
            self._sent.clear()
        else:
            self._sent.set()
        for message, key in list(self._mine.items()):
            entry = entries.get(key)
            if entry is None or entry.state is not EntryState.PENDING:
                del self._mine[message]
                self._shown.add(message)
                self._put(_result(entry))
                if entry is not None and entry.state is EntryState.REJECTED:
                    # The reason is on the screen, and the person can type the line again.
                    self._outbox.discard(key)


def too_long(text: str) -> str:
    """How much too long a message is, in characters; the schema's limit is in bytes of UTF-8."""
    at_most = Schema.chat()[MESSAGE].limits["content"]
    assert isinstance(at_most, int)
    fits = len(text.encode()[:at_most].decode(errors="ignore"))
    return f"This text has {len(text):,} characters, and {fits:,} of them fit. Shorten it by {len(text) - fits:,}."


def _line(message: Row) -> Text:
    style = {"user": "bold cyan", "assistant": "green"}.get(message.role, "yellow")
    return line_of(message.created_at, f"{message.role:>9}", style, message.content)


def _result(entry: Entry | None) -> Text:
    if entry is not None and entry.state is EntryState.REJECTED:
        return Text(f"  ✗ {printable(entry.message or '')}", "red")
    return Text("  ✓ saved", "dim")


async def _lines() -> AsyncIterator[str]:
    """The lines of the input. A thread reads them, because that works with terminals, pipes and files."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[str | None]()

    def read() -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has been closed
            for typed in sys.stdin:
                loop.call_soon_threadsafe(queue.put_nowait, typed.rstrip("\n"))
            loop.call_soon_threadsafe(queue.put_nowait, None)

    threading.Thread(target=read, daemon=True).start()
    while (typed := await queue.get()) is not None:
        yield typed
