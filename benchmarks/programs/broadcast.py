"""python broadcast.py PORT DATABASE_URL: a channel for each user, as the README of broadcaster shows it.

The lock around subscribing is added: broadcaster 0.3.1 runs LISTEN on one connection, and without the lock two devices
that connect at the same time get «another operation is in progress».
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

import uvicorn
from broadcaster import Broadcast  # type: ignore[import-not-found]  # it is not installed where this is checked
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

port, database_url = sys.argv[1:]
hub, lock = Broadcast(database_url), asyncio.Lock()


async def serve(socket: WebSocket) -> None:
    await socket.accept()
    subscription = hub.subscribe(channel="u_" + socket.path_params["user"])
    async with lock:
        events = await subscription.__aenter__()

    async def forward() -> None:
        async for event in events:
            await socket.send_text(event.message)

    forwarding = asyncio.create_task(forward())
    try:
        await socket.send_text("subscribed")
        while True:
            await socket.receive_text()
    except (WebSocketDisconnect, RuntimeError):
        pass
    finally:
        forwarding.cancel()
        async with lock:
            await subscription.__aexit__(None, None, None)


@contextlib.asynccontextmanager
async def connected(_: Starlette) -> AsyncIterator[None]:
    await hub.connect()
    yield
    await hub.disconnect()


app = Starlette(routes=[WebSocketRoute("/{user}", serve)], lifespan=connected)
uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="error", ws_per_message_deflate=False)
