"""What HTTP answers to those who watch: whether this process should get new connections, and why not."""

import asyncio
import gc

import httpx
import pytest
import uvicorn
import uvloop
from uvicorn.server import ServerState
from websockets.typing import Origin

from protocol.codec import Codec
from server.edge.http import BoundedHttp, Metrics, application, bounded_http
from server.edge.service import ServiceTokens
from server.edge.timers import TimerWheel
from server.edge.websocket import WebSocket
from server.feed.readers import Readiness
from tests.edge.test_websocket import Recorder


async def nothing() -> bytes:
    return b""


@pytest.mark.parametrize(
    ("readiness", "status"),
    [
        (Readiness(True, "ready"), 200),
        (Readiness(True, "Another host answers, too. Stop it."), 200),
        (Readiness(False, "This Postgres holds an earlier history."), 503),
    ],
)
async def test_readyz_answers_with_the_reason(readiness: Readiness, status: int) -> None:
    transport = httpx.ASGITransport(application(lambda: readiness, Metrics(nothing, None, None)))
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.text) == (status, f"{readiness.reason}\n")
        assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    ("path", "origin", "status"),
    [
        ("/sync", None, 426),
        ("/sync", "https://app.example.com", 426),
        ("/sync", "https://evil.example.com", 403),
        ("/wrong", "https://app.example.com", 404),
    ],
)
async def test_a_plain_request_tells_a_page_of_any_site_why_no_websocket_opens(
    path: str, origin: str | None, status: int
) -> None:
    origins = [None, Origin("https://app.example.com")]
    answers = application(lambda: Readiness(True, "ready"), Metrics(nothing, None, None), origins=origins)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(answers), base_url="http://here") as client:
        answer = await client.get(path, headers={} if origin is None else {"Origin": origin})
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (status, "*")
        assert "Access-Control-Allow-Origin" not in (await client.get("/healthz")).headers


HANDSHAKE = (
    b"GET /sync HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def test_an_open_websocket_keeps_nothing_of_its_request_under_uvloop() -> None:
    """A request with its parser and headers would more than double what a connection costs."""

    async def open_one() -> None:
        opened: list[WebSocket] = []

        def connect(codec: Codec) -> WebSocket:
            opened.append(WebSocket(Recorder(), text=codec.text, max_size=1_000))
            return opened[-1]

        protocol = bounded_http(TimerWheel(), None, connect, ServiceTokens([]))
        answers = application(lambda: Readiness(True, "ready"), Metrics(nothing, None, None))
        config, state = uvicorn.Config(answers, lifespan="off"), ServerState()
        config.load()
        server = await asyncio.get_running_loop().create_server(lambda: protocol(config, state, {}), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            writer.write(HANDSHAKE)
            assert (await reader.readline()).startswith(b"HTTP/1.1 101")
            gc.collect()
            kept = sum(isinstance(each, BoundedHttp) for each in gc.get_objects())
            assert (kept, opened[0].connected) == (0, True)
        finally:
            writer.close()
            server.close()

    uvloop.run(open_one())
