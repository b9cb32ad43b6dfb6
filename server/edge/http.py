"""HTTP: health checks, metrics, and limits on requests that uvicorn does not set."""

import asyncio
import hmac
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any, Final

import httptools
import structlog
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from protocol.codec import Codec
from server.edge import handshake
from server.edge.service import BODY_BYTES, ServiceTokens
from server.edge.timers import TimerWheel
from server.edge.websocket import CLOSE_SECONDS, DISCARDED, WebSocket
from server.feed.readers import Readiness

log = structlog.get_logger()

REQUEST_SECONDS: Final = 10.0
"""Until a connection must have sent a whole request: uvicorn itself would wait for ever (slowloris)."""
REQUEST_BYTES: Final = 64 * 1024
"""Limit on a request; httptools sets none. Honest requests without a service token are far smaller."""
PIPELINED: Final = 8
"""Requests of a connection that may wait for the answer to an earlier one."""
READABLE: Final = {"Access-Control-Allow-Origin": "*", "Cache-Control": "no-store"}
"""A page of any site may read such an answer. A browser tells no page why a WebSocket did not open."""


def host(request: Request) -> str:
    """The host in the request's Host header, without its port; "" if there is no valid one.

    `request.url` is no substitute: it is built from more than this header.
    """
    named = request.headers.getlist("host")
    found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]*)?", named[0].lower()) if len(named) == 1 else None
    return "" if found is None else found[1].strip("[]")


@dataclass(frozen=True, slots=True)
class Metrics:
    """Answers requests for the metrics: on `port` requests that name this machine, on any port requests with
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
    """Whether the request names this machine by an IP address or its own name.

    A web page can make its site's name resolve to this machine and then read the answers (DNS rebinding). It cannot do
    that with an address or with these names.
    """
    named = host(request)
    try:
        ip_address(named)
    except ValueError:
        return named in ("localhost", socket.gethostname().lower())
    return True


def application(
    readiness: Callable[[], Readiness],
    metrics: Metrics,
    routes: Sequence[BaseRoute] = (),
    origins: handshake.Origins = None,
) -> Starlette:
    """The HTTP application. `routes` are served too. `origins`: pages that may open WebSockets."""

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        found = readiness()
        return PlainTextResponse(f"{found.reason}\n", status_code=200 if found.ready else 503)

    async def sync(request: Request) -> Response:
        if not handshake.is_allowed(request.headers.get("origin"), origins):
            return PlainTextResponse("Pages of this origin may not connect.\n", status_code=403, headers=READABLE)
        headers = {**READABLE, "Upgrade": "websocket", "Connection": "Upgrade"}
        return PlainTextResponse("Open a WebSocket here.\n", status_code=426, headers=headers)

    async def not_found(request: Request, error: Exception) -> Response:
        return PlainTextResponse("Not Found", status_code=404, headers=READABLE)

    own = [
        Route(handshake.PATH, sync),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", metrics.answer),
    ]
    return Starlette(routes=[*own, *routes], exception_handlers={404: not_found})


_NOBODY: Final = asyncio.Protocol()


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol with limits on requests, and with our own WebSockets."""

    timers: TimerWheel
    origins: handshake.Origins
    connect: Callable[[Codec], WebSocket]
    service: ServiceTokens
    """These four are set by `bounded_http`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.timer_slot = -1
        self._unfinished = 0
        self._allowed = REQUEST_BYTES
        self._problem: str | None = None
        self._discarding = False
        self._upgrades: bool | None = None
        """Whether the request is to open a WebSocket; None before its headers are complete."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.timers.at(self, self.timers.clock() + REQUEST_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self.timers.drop(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        while data:
            if self._discarding:
                self._discard(data)
                return
            # In pieces, because the headers decide how large the request may be.
            room = self._allowed - self._unfinished
            if room <= 0:
                status = 413 if self._receiving else 431
                self._refuse(status, f"This request is larger than {self._allowed // 1024} KiB.")
                return
            piece, data = data[:room], data[room:]
            self._unfinished += len(piece)
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserError:
                self._refuse(400, self._problem or "This is not a valid HTTP request.")
            except httptools.HttpParserUpgrade as upgrade:
                if self._should_upgrade():
                    self._upgrade(piece[upgrade.args[0] :] + data)
                return

    def _should_upgrade(self) -> bool:
        # uvicorn asks three times, and searches the headers each time.
        if self._upgrades is None:
            self._upgrades = super()._should_upgrade()
        return self._upgrades

    def on_message_begin(self) -> None:
        self._upgrades = None
        super().on_message_begin()
        if len(self.pipeline) >= PIPELINED:
            self._invalid("Wait for answers before you send more requests.")
        if self.timer_slot < 0:
            self.timers.at(self, self.timers.clock() + REQUEST_SECONDS)

    def on_headers_complete(self) -> None:
        # RFC 9112, 3.2. HTTP/1.0, which some health checks speak, has no Host.
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() != "1.0"):
            self._invalid("A request must have exactly one Host header.")
        if any(name == b"authorization" and self.service.accept(value) for name, value in self.headers):
            self._allowed = BODY_BYTES
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._finished()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._discarding and not self.transport.is_closing():
            self.transport.write_eof()

    def on_time(self, now: float) -> None:
        self.transport.abort()

    @property
    def _answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete and not cycle.disconnected

    @property
    def _receiving(self) -> bool:
        """Whether a request's headers have arrived, and its body has not."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and cycle.more_body

    def _invalid(self, problem: str) -> None:
        self._problem = problem
        raise ValueError(problem)  # ends the parser

    def _finished(self) -> None:
        self.timers.drop(self)
        self._unfinished = 0
        self._allowed = REQUEST_BYTES

    def _upgrade(self, rest: bytes) -> None:
        """Open a WebSocket. `rest` arrived with the request, and belongs to the WebSocket."""
        if self._answering:
            # The answer to an earlier request would arrive between the WebSocket's frames.
            self._refuse(400, "Open a WebSocket on a connection of its own.")
            return
        request = self.scope["method"], self.url, self.parser.get_http_version(), self.headers, self.origins
        opened = handshake.accept(*request)
        if opened is None:
            response, encoding = handshake.answer(*request)
            if encoding is None:
                log.info(
                    "no WebSocket was opened",
                    status=response.status_code,
                    why=response.body.decode().partition("\n")[0],
                )
                response.headers["X-Content-Type-Options"] = "nosniff"
                self._end(response.serialize())
                return
            opened = response.serialize(), encoding
        answer, codec = opened
        self._finished()
        self.connections.discard(self)
        socket = self.connect(codec)
        transport = self.transport
        transport.write(answer)
        # uvloop keeps the `data_received` of the last protocol that is not buffered. It would keep this object, with
        # its parser and headers, for the connection's lifetime (13.7 instead of 6.4 KiB each).
        transport.set_protocol(_NOBODY)
        transport.set_protocol(socket)
        # uvloop goes on reading for the old protocol until reading is resumed.
        transport.pause_reading()
        transport.resume_reading()
        socket.connection_made(transport)
        socket.receive(rest)

    def _refuse(self, status: int, problem: str) -> None:
        log.info("a request is refused", status=status, why=problem)
        body = f"{problem}\n".encode()
        self._end(
            b"".join(
                [
                    f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode(),
                    b"content-type: text/plain; charset=utf-8\r\nx-content-type-options: nosniff\r\n",
                    f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode(),
                    body,
                ]
            )
        )

    def _end(self, answer: bytes) -> None:
        """Send a last answer, and throw away further input. Closing a socket with unread input resets it, and the peer
        may then never see the answer."""
        self._discarding = True
        self._unfinished = 0
        if self._receiving and not self.cycle.response_started and not self.pipeline:
            # Its endpoint may wait for the rest of the request, which it will not get.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.pipeline.clear()
        if not self._answering:  # otherwise that answer is the last one
            self.transport.write(answer)
            self.transport.write_eof()
        self.flow.resume_reading()
        self.timers.at(self, self.timers.clock() + CLOSE_SECONDS)

    def _discard(self, data: bytes) -> None:
        self._unfinished += len(data)
        if self._unfinished > DISCARDED:
            self.transport.abort()


def bounded_http(
    timers: TimerWheel, origins: handshake.Origins, connect: Callable[[Codec], WebSocket], service: ServiceTokens
) -> type[BoundedHttp]:
    """The class of uvicorn's connections. `connect` makes the WebSocket for a connection in this encoding. Requests
    with a token of `service` may be larger."""
    members = {"timers": timers, "origins": origins, "connect": staticmethod(connect), "service": service}
    return type("BoundedHttp", (BoundedHttp,), members)
