"""A bare peer: says exactly what a test wants said, and shows every frame that comes back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar
from uuid import UUID, uuid4

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from protocol.codec import MSGPACK, Codec
from protocol.frames import Changes, Error, Hello, Live, Row, Snapshot, ToClient, ToServer, Welcome, Window
from tests.support.serving import token
from tests.support.waiting import LIMIT

Frame = TypeVar("Frame")
DEFAULT_WINDOW = Window()


class Peer:
    def __init__(self, socket: ClientConnection, codec: Codec) -> None:
        self.socket = socket
        self.codec = codec
        self.cursor: bytes | None = None
        """Of the last frame that had one."""

    async def say(self, frame: ToServer) -> None:
        await self.say_raw(self.codec.encode(frame))

    async def say_raw(self, data: bytes, *, text: bool | None = None) -> None:
        await self.socket.send(data.decode() if (self.codec.text if text is None else text) else data)

    async def hear(self) -> ToClient:
        """The next frame. Raises ConnectionClosed at the end."""
        async with asyncio.timeout(LIMIT):
            data = await self.socket.recv()
        frame = self.codec.decode_to_client(data.encode() if isinstance(data, str) else data)
        if isinstance(frame, Changes):
            self.cursor = frame.to
        elif isinstance(frame, Live) or (isinstance(frame, Snapshot) and frame.cursor is not None):
            self.cursor = frame.cursor
        return frame

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

    async def rows_until_live(self) -> list[Row]:
        frames = await self.hear_until(Live)
        return [row for frame in frames if isinstance(frame, Changes | Snapshot) for row in frame.rows]

    async def greet(
        self,
        user: UUID,
        cursor: bytes | None = None,
        window: Window = DEFAULT_WINDOW,
        **token_options: Any,
    ) -> Welcome:
        return await self.greet_with(token(user, **token_options), cursor, window)

    async def greet_with(self, bearer: str, cursor: bytes | None = None, window: Window = DEFAULT_WINDOW) -> Welcome:
        await self.say(Hello(token=bearer, client_id=uuid4(), cursor=cursor, window=window))
        welcome = await self.hear()
        assert isinstance(welcome, Welcome), welcome
        return welcome

    async def say_hello(self, user: UUID, cursor: bytes | None = None) -> None:
        """Without waiting for the answer."""
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
