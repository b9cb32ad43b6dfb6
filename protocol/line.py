"""One WebSocket to the server: opening it, and hanging up. Knows nothing of what is said on it."""

import asyncio
from contextlib import suppress

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from protocol.wire import Encoding

CLOSE_WITHIN = 2.0  # seconds; the other side of a close is a courtesy

# Frames read ahead of the app: some 260 KB each, so a slow app holds about 1 MB here before TCP holds the server back.
FRAMES_AHEAD = 4


class Socket(ClientConnection):
    """Remembers when the last byte came: a large row on a slow line is long in becoming a message, and no silence."""

    heard = 0.0  # seconds, the loop's clock

    def data_received(self, data: bytes) -> None:
        self.heard = self.loop.time()
        super().data_received(data)


async def dial(url: str, encoding: Encoding) -> Socket:
    """Raises OSError or InvalidHandshake. Waits for as long as it is let."""
    socket = await connect(
        url,
        subprotocols=[Subprotocol(f"atlas-sync.v1.{encoding}")],
        create_connection=Socket,
        compression=None,
        proxy=None,
        max_size=None,  # a single row may have any size
        max_queue=FRAMES_AHEAD,
        ping_interval=None,  # the server is the one who speaks regularly
        open_timeout=None,  # whoever dials has a limit
        close_timeout=CLOSE_WITHIN,
    )
    assert isinstance(socket, Socket)
    return socket


async def hang_up(socket: Socket, code: int | None) -> None:
    """Close with this code; None: cut it, there is nobody to hear."""
    try:
        if code is not None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(socket.close(code))
                with suppress(ConnectionClosed):
                    while True:  # what we do not read stands before the server's close
                        await socket.recv()
    finally:
        socket.transport.abort()  # also when the close was cancelled: nothing of the socket stays behind
        await socket.wait_closed()
