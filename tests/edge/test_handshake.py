"""The quick answer to an opening handshake is the careful one's, and given to all whom it is meant for."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations
from typing import Final, NamedTuple

import pytest
from websockets.typing import Origin

from protocol.codec import CODECS, JSON, MSGPACK
from server.edge import handshake
from server.edge.handshake import Origins

APP: Final = Origin("https://app.example.com")
KEY: Final = b"dGhlIHNhbXBsZSBub25jZQ=="
GOOD: Final = {
    b"host": b"sync.example.com",
    b"upgrade": b"websocket",
    b"connection": b"Upgrade",
    b"sec-websocket-key": KEY,
    b"sec-websocket-version": b"13",
    b"sec-websocket-protocol": b"atlas-sync.v1.msgpack",
    b"origin": APP.encode(),
}
VALUES: Final = {
    b"host": [b"", b"a b"],
    b"upgrade": [b"WebSocket", b"websocket, h2c", b"websocket/13", b" websocket ", b"h2c"],
    b"connection": [b"keep-alive, Upgrade", b"upgrade", b"UPGRADE", b"close", b"upgrade,", b"Upgrade, \xff"],
    b"sec-websocket-key": [
        KEY[:-2],
        KEY + b" ",
        KEY + b"\n",
        b"=" * 24,
        b"a" * 24,
        b"\xe4" * 22 + b"==",
        b"/" * 22 + b"==",
    ],
    b"sec-websocket-version": [b"8", b"13 ", b"13, 8", b"013", b""],
    b"sec-websocket-protocol": [
        b"atlas-sync.v1.json",
        b"atlas-sync.v1.json, atlas-sync.v1.msgpack",
        b"atlas-sync.v1.json,chat",
        b"chat, atlas-sync.v1.json",
        b"atlas-sync.v1.jsonx",
        b"atlas-sync.v1.json, ",
        b"atlas-sync.v1.json\n",
        b"atlas-sync.v1.json; q=1",
        b"ATLAS-SYNC.V1.JSON",
        b",",
        b"",
    ],
    b"origin": [b"https://evil.example.com", b"null", b"", b"\xff", APP.encode() + b" "],
    b"cookie": [b"\xff"],
    b"sec-websocket-extensions": [b"permessage-deflate; client_max_window_bits", b"\xff"],
}


class Request(NamedTuple):
    method: str
    target: bytes
    version: str
    headers: list[tuple[bytes, bytes]]


def changes() -> Iterator[Callable[[Request], Request]]:
    """Each makes a good request another one."""
    for name, good in GOOD.items():
        yield partial(_with, name, [])
        yield partial(_with, name, [good, good])
    for name, values in VALUES.items():
        for value in values:
            yield partial(_with, name, [value])
    for method in ("POST", "get"):
        yield partial(Request._replace, method=method)
    for target in (b"/sync?a=b", b"/sync?\xff", b"/sync\n", b"/syncs", b"/sync/", b"//sync", b"/SYNC", b""):
        yield partial(Request._replace, target=target)
    for version in ("1.0", "2.0"):
        yield partial(Request._replace, version=version)


def _with(name: bytes, values: list[bytes], request: Request) -> Request:
    others = [header for header in request.headers if header[0] != name]
    return request._replace(headers=others + [(name, value) for value in values])


@pytest.mark.parametrize("origins", [None, [None, APP], [APP], [re.compile("https://.*")], []])
def test_the_quick_answer_accepts_only_what_the_careful_one_does_and_says_the_same(origins: Origins) -> None:
    good = Request("GET", b"/sync", "1.1", list(GOOD.items()))
    accepted = 0
    for one, other in combinations([Request._replace, *changes()], 2):
        request = other(one(good))
        quick = handshake.accept(*request, origins)
        if quick is not None:
            accepted += 1
            response, codec = handshake.answer(*request, origins)
            assert (response.status_code, codec) == (101, quick[1]), request
            assert _undated(response.serialize()) == _undated(quick[0])
    assert bool(accepted) is (origins is None or APP in origins)


@pytest.mark.parametrize("connection", [b"Upgrade", b"upgrade", b"keep-alive, Upgrade"])
@pytest.mark.parametrize(
    "offer", [None, *(name.encode() for name in CODECS), b"atlas-sync.v1.json, atlas-sync.v1.msgpack"]
)
@pytest.mark.parametrize("origin", [APP.encode(), None])
def test_browsers_and_our_clients_get_the_quick_answer(
    connection: bytes, offer: bytes | None, origin: bytes | None
) -> None:
    said = {
        **GOOD,
        b"connection": connection,
        b"user-agent": b"\xff",
        b"origin": origin,
        b"sec-websocket-protocol": offer,
    }
    given = [(name, value) for name, value in said.items() if value is not None]
    quick = handshake.accept("GET", b"/sync?trace=1", "1.1", given, [None, APP])
    assert quick is not None
    assert quick[1] is (JSON if offer is not None and offer.startswith(b"atlas-sync.v1.json") else MSGPACK)
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in quick[0]  # the example of RFC 6455, 1.3


def _undated(response: bytes) -> bytes:
    assert response.count(b"\r\nDate: ") == 1
    return re.sub(rb"\r\nDate: [^\r]+", b"", response)
