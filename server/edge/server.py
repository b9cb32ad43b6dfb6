"""uvicorn, set up for this server."""

import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from server.edge.http import BoundedHttp

BACKLOG: Final = 4_096
"""Connections that may wait to be accepted: a reconnect storm arrives at one moment."""


class Server(uvicorn.Server):
    """uvicorn without its signal handlers, which belong to the owner of the loop. `ready` is called once it listens;
    `drain` ends the WebSockets at shutdown."""

    def __init__(
        self,
        application: ASGIApp,
        protocol: type[BoundedHttp],
        ready: Callable[[], None],
        drain: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                backlog=BACKLOG,
                http=protocol,
                ws="websockets-sansio",  # never used: the HTTP protocol opens our own
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                headers=[("X-Content-Type-Options", "nosniff")],
                timeout_graceful_shutdown=1,
            )
        )
        self._ready = ready
        self._drain = drain

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await self._drain()
        await super().shutdown(sockets)
