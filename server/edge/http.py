"""The HTTP side: health, figures, and the limits on a request that uvicorn does not set itself."""

import asyncio
import hmac
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.edge.wheel import Wheel

REQUEST_SECONDS: Final = 10.0
"""A connection that has not sent a whole request by then is closed: uvicorn itself waits for ever (slowloris)."""
REQUEST_BYTES: Final = 64 * 1024
"""A request line and headers of this size are nobody's honest ones; httptools sets no limit."""


def host(request: Request) -> str:
    """The host that the request's Host header names, without its port; "" if that cannot be told. Not of `request.url`,
    which is put together from more than this header, whatever is in it."""
    named = request.headers.getlist("host")
    found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]*)?", named[0].lower()) if len(named) == 1 else None
    return "" if found is None else found[1].strip("[]")


@dataclass(frozen=True, slots=True)
class Figures:
    """Who may see the figures: whoever reaches `port` under a name of this machine's, and on any port whoever has
    `token`."""

    read: Callable[[], Awaitable[bytes]]
    port: int | None
    token: str | None

    async def answer(self, request: Request) -> Response:
        own = request.scope["server"][1] == self.port
        if not (own and _names_this_machine(request)) and not self._has_token(request):
            if own:
                return PlainTextResponse(
                    "Ask by an IP address or this machine's own name, or set ATLAS_METRICS_TOKEN and send it.\n",
                    status_code=403,
                )
            if self.token is None:
                return PlainTextResponse("Set ATLAS_METRICS_TOKEN or ATLAS_METRICS_PORT.\n", status_code=404)
            headers = {"WWW-Authenticate": "Bearer"}
            return PlainTextResponse("Send ATLAS_METRICS_TOKEN.\n", status_code=401, headers=headers)
        return Response(await self.read(), media_type=CONTENT_TYPE_LATEST, headers={"Cache-Control": "no-store"})

    def _has_token(self, request: Request) -> bool:
        given = request.headers.get("authorization", "")
        return self.token is not None and hmac.compare_digest(given.encode(), f"Bearer {self.token}".encode())


def _names_this_machine(request: Request) -> bool:
    """A page in a browser can have its own site's name lead here, and then reads the answers as its own; an address or
    these names it cannot."""
    named = host(request)
    try:
        ip_address(named)
    except ValueError:
        return named in ("localhost", socket.gethostname().lower())
    return True


def application(not_ready: Callable[[], str | None], figures: Figures, routes: Sequence[BaseRoute] = ()) -> Starlette:
    """`not_ready` says why this process should get no new connections, or None. `routes` are served beside."""

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        reason = not_ready()
        return PlainTextResponse("ready\n") if reason is None else PlainTextResponse(f"{reason}\n", status_code=503)

    own = [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", figures.answer)]
    return Starlette(routes=[*own, *routes])


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol with a bound on how long, and how large, an unfinished request may be."""

    wheel: Wheel
    """Set by `bounded_http`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.wheel_slot = -1
        self._unfinished = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.wheel.at(self, self.wheel.clock() + REQUEST_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self.wheel.drop(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unfinished += len(data)
        if self._unfinished > REQUEST_BYTES:
            self.transport.abort()
            return
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self.wheel_slot < 0:
            self.wheel.at(self, self.wheel.clock() + REQUEST_SECONDS)

    def on_message_complete(self) -> None:
        self._finished()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._finished()
        super().handle_websocket_upgrade()

    def on_time(self, now: float) -> None:
        self.transport.abort()

    def _finished(self) -> None:
        self.wheel.drop(self)
        self._unfinished = 0


def bounded_http(wheel: Wheel) -> type[BoundedHttp]:
    return type("BoundedHttp", (BoundedHttp,), {"wheel": wheel})
