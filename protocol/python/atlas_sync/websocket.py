"""One WebSocket to the server: opening and closing it. Knows nothing of the frames that travel on it."""

import asyncio
from contextlib import suppress

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from atlas_sync.codec import Encoding

CLOSE_WITHIN = 2.0  # seconds; waiting for the other side's close frame is a courtesy

# Frames read ahead of the app: some 260 KB each, so a slow app holds about 1 MB here before TCP holds the server back.
FRAMES_AHEAD = 4


class WebSocket(ClientConnection):
    """Records when the last byte arrived. A large row on a slow network takes long to become a message: that is not
    silence."""

    last_byte_at = 0.0  # seconds, the event loop's clock

    def data_received(self, data: bytes) -> None:
        self.last_byte_at = self.loop.time()
        super().data_received(data)

    async def end(self, code: int | None) -> None:
        """Close with this code; None: abort, because the server does not answer any more."""
        try:
            if code is not None:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self.close(code))
                    with suppress(ConnectionClosed):
                        while True:  # frames that were not read yet come before the server's close frame
                            await self.recv()
        finally:
            self.transport.abort()  # also when closing was cancelled: no transport may be left behind
            await self.wait_closed()


async def open_websocket(url: str, encoding: Encoding) -> WebSocket:
    """Raises OSError or InvalidHandshake. Has no time limit of its own."""
    try:
        websocket = await connect(
            url,
            subprotocols=[Subprotocol(f"atlas-sync.v1.{encoding}")],
            create_connection=WebSocket,
            compression=None,
            proxy=None,
            max_size=None,  # a single row may have any size
            max_queue=FRAMES_AHEAD,
            ping_interval=None,  # the server sends something regularly
            open_timeout=None,  # the caller limits the time
            close_timeout=CLOSE_WITHIN,
        )
    except ConnectionClosed:  # before the handshake was sent
        raise ConnectionError("the server closed the connection at once") from None
    assert isinstance(websocket, WebSocket)
    return websocket
