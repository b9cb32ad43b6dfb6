"""A peer on the wire: it sends exactly what a test wants sent, returns every frame, and holds what it receives."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from msgspec import structs
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from atlas_sync.replica import Replica
from atlas_sync.rows import Deleted
from atlas_sync.rows import Row as ClientRow
from atlas_sync.schema import Schema
from protocol.codec import CODECS, MSGPACK, Codec
from protocol.frames import (
    ID,
    NOTHING,
    AskPage,
    Changes,
    Error,
    Hello,
    Live,
    Page,
    Snapshot,
    ToClient,
    ToServer,
    Welcome,
    Window,
)
from tests.support.oracle import State, held
from tests.support.rows import Before, all_received, encoded_value
from tests.support.serving import token
from tests.support.waiting import LIMIT

Frame = TypeVar("Frame")
CHAT = Schema.chat()
DEFAULT_WINDOW: Window = {}
both_codecs = pytest.mark.parametrize(
    "codec", list(CODECS.values()), ids=lambda codec: "json" if codec.text else "msgpack"
)


class Peer:
    """One connection. Rows are applied to `replica` as SPEC.md 5 and 7 say."""

    def __init__(self, socket: ClientConnection, codec: Codec) -> None:
        self.socket = socket
        self.codec = codec
        self.replica = Replica(CHAT)
        self.cursor: bytes | None = None
        """The cursor to resume at; None while a snapshot is incomplete."""
        self.welcome: Welcome | None = None
        self._pages = itertools.count()
        self._replaces = False
        """The next frame is the first of a snapshot."""

    async def say(self, frame: ToServer) -> None:
        await self.say_raw(self.codec.encode(frame))

    async def say_raw(self, data: bytes, *, text: bool | None = None) -> None:
        await self.socket.send(data.decode() if (self.codec.text if text is None else text) else data)

    async def hear(self) -> ToClient:
        """The next frame. Raises ConnectionClosed at the end."""
        frame = self.codec.decode_to_client(await self._receive())
        if isinstance(frame, Snapshot | Changes | Page):
            frame = structs.replace(frame, rows=all_received(frame.rows))
        self._follow(frame)
        return frame

    async def _receive(self) -> bytes:
        async with asyncio.timeout(LIMIT):
            data = await self.socket.recv()
        return data.encode() if isinstance(data, str) else data

    def _follow(self, frame: ToClient) -> None:
        if isinstance(frame, Welcome):
            self.welcome = frame
            self._replaces = frame.mode == "snapshot"
            if self._replaces:
                self.cursor = None
        elif isinstance(frame, Snapshot):
            apply = self.replica.replace if self._replaces else self.replica.apply
            apply(map(_held, frame.rows))
            self._replaces = False
            self.cursor = frame.cursor
        elif isinstance(frame, Changes):
            assert self.cursor in (None, frame.from_), "a hole"
            self.replica.apply(map(_held, frame.rows))
            self.cursor = frame.to
        elif isinstance(frame, Live):
            assert self.cursor in (None, frame.cursor), "a hole"
            self.cursor = frame.cursor

    def state(self) -> State:
        """What the device holds, as `select_everything` finds it."""
        return held(self.replica)

    async def hear_a(self, kind: type[Frame], where: Callable[[Frame], bool] = lambda _: True) -> Frame:
        """The next frame of that kind; what comes before it is passed over."""
        while True:
            frame = await self.hear()
            if isinstance(frame, kind) and where(frame):
                return frame

    async def hear_until(self, kind: type[Any]) -> list[ToClient]:
        """Everything up to and with the first frame of that kind."""
        frames = [await self.hear()]
        while not isinstance(frames[-1], kind):
            frames.append(await self.hear())
        return frames

    async def rows_until_live(self) -> list[Any]:
        frames = await self.hear_until(Live)
        return [row for frame in frames if isinstance(frame, Changes | Snapshot) for row in frame.rows]

    async def page(self, conversation: UUID | None, before: Before | None = None, limit: int | None = None) -> Page:
        number = next(self._pages)
        await self.say(self.asking(number, conversation, before, limit))
        page = await self.hear_a(Page)
        assert page.id == number
        return page

    def asking(
        self, number: int, conversation: UUID | None = None, before: Before | None = None, limit: int | None = None
    ) -> AskPage:
        """Asks for messages of a conversation, or for conversations."""
        return AskPage(
            id=number,
            kind="conversation" if conversation is None else "message",
            parent=NOTHING if conversation is None else encoded_value(conversation, self.codec),
            before=NOTHING if before is None else encoded_value(before, self.codec),
            limit=limit,
        )

    async def pages(self, conversation: UUID | None, limit: int | None = None) -> AsyncIterator[Page]:
        """Every page, from the newest row to the oldest."""
        before: Before | None = None
        seen: set[Before] = set()
        while True:
            page = await self.page(conversation, before, limit)
            yield page
            if not page.more:
                return
            before = after(page)
            assert before not in seen, "it goes round in circles"
            seen.add(before)

    async def greet(
        self,
        user: UUID,
        cursor: bytes | None = None,
        window: Window = DEFAULT_WINDOW,
        **token_options: Any,
    ) -> Welcome:
        return await self.greet_with(token(user, **token_options), cursor, window)

    async def greet_with(self, bearer: str, cursor: bytes | None = None, window: Window = DEFAULT_WINDOW) -> Welcome:
        self.cursor = cursor
        await self.say(Hello(token=bearer, client_id=uuid4(), cursor=cursor, window=window))
        welcome = await self.hear()
        assert isinstance(welcome, Welcome), welcome
        return welcome

    async def say_hello(self, user: UUID, cursor: bytes | None = None) -> None:
        """Without waiting for the answer."""
        self.cursor = cursor
        await self.say(Hello(token=token(user), client_id=uuid4(), cursor=cursor))

    async def closed(self) -> tuple[int, Error | None]:
        """Wait for the end: the close code, and the last error before it."""
        error = None
        with contextlib.suppress(ConnectionClosed):
            while True:
                frame = await self.hear()
                if isinstance(frame, Error):
                    error = frame
        received = self.socket.protocol.close_rcvd
        return (1006 if received is None else received.code), error


@contextlib.asynccontextmanager
async def peer(url: str, codec: Codec = MSGPACK, **options: Any) -> AsyncIterator[Peer]:
    async with connect(
        url,
        subprotocols=[Subprotocol(codec.subprotocol)],
        compression=None,
        max_size=None,
        ping_interval=None,
        close_timeout=1,
        proxy=None,
        **options,
    ) as socket:
        yield Peer(socket, codec)


def after(page: Page) -> Before:
    """Where the next page begins. Pages go from new rows to old ones."""
    assert page.rows, "more is promised, and there is nothing to go on from"
    last: Any = page.rows[-1]
    return Before(last.updated_at if last[0] == "c" else last.created_at, last.id)


def _held(row: Any) -> ClientRow | Deleted:
    """The same row, as the Python client has it."""
    kind = next(kind for kind in CHAT if kind.tag == row[0].removeprefix("-"))
    if row[0].startswith("-"):
        return Deleted(kind.name, row[1], row[ID])
    return ClientRow(kind.name, row[1], row[ID], dict(zip((each.name for each in kind.columns), row[3:], strict=True)))
