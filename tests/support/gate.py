"""A WebSocket proxy in front of a server that can withhold changes from a device."""

import asyncio
import contextlib
from typing import Self

import msgpack
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

MSGPACK = Subprotocol("atlas-sync.v1.msgpack")


class Gate:
    """While it is `shut`, frames of the feed do not reach the device, and all others do. So a mutation stays
    acknowledged and unseen as long as a test wants. Once the gate is open, the device notices the gap at the next
    change."""

    def __init__(self, url: str) -> None:
        self._far = url
        self._server: Server | None = None
        self.shut = False
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._visit, "127.0.0.1", 0, subprotocols=[MSGPACK], compression=None, max_size=None, ping_interval=None
        )
        port = next(iter(self._server.sockets)).getsockname()[1]
        self.url = f"ws://127.0.0.1:{port}/sync"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _visit(self, near: ServerConnection) -> None:
        try:
            far = await connect(
                self._far, subprotocols=[MSGPACK], compression=None, max_size=None, ping_interval=None, proxy=None
            )
        except (OSError, InvalidHandshake):
            near.transport.abort()
            return
        going = asyncio.create_task(self._go(near, far))
        try:
            await self._come(far, near)
        finally:
            going.cancel()
            far.transport.abort()

    async def _go(self, near: ServerConnection, far: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in near:
                await far.send(message)
        await far.close()

    async def _come(self, far: ClientConnection, near: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in far:
                if not (self.shut and msgpack.unpackb(message)["t"] in ("changes", "live")):
                    await near.send(message)
        closed = far.protocol.close_rcvd
        if closed is None:
            near.transport.abort()
        else:
            await near.close(closed.code, closed.reason)
