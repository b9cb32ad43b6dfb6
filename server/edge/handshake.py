"""The answer to a request to open a WebSocket (RFC 6455, 4.2). Sans-I/O: a request in, a response out."""

from collections.abc import Sequence
from re import Pattern
from typing import Final

import websockets.exceptions
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Origin, Subprotocol

from protocol.codec import CODECS, MSGPACK, Codec

PATH: Final = "/sync"
VERSION: Final = "13"
SUBPROTOCOLS: Final = [Subprotocol(name) for name in CODECS]

Origins = Sequence[Origin | Pattern[str] | None] | None
"""Pages that browsers may connect from; None: any."""


def answer(
    method: str, target: str, version: str, headers: Sequence[tuple[bytes, bytes]], origins: Origins
) -> tuple[Response, Codec | None]:
    """The response, and the encoding of the WebSocket that it opens; None if it opens none. `version` is HTTP's."""
    request = Request(target, Headers(_text(headers)), method, f"HTTP/{version}")
    core = ServerProtocol(origins=origins, subprotocols=SUBPROTOCOLS, select_subprotocol=_select)
    if target.partition("?")[0] != PATH:
        return core.reject(404, f"WebSockets live at {PATH}.\n"), None
    if len(request.headers.get_all("Host")) != 1:
        return core.reject(400, "A request must have exactly one Host header.\n"), None
    if VERSION not in (versions := request.headers.get_all("Sec-WebSocket-Version")) and versions:
        response = core.reject(426, f"This server speaks version {VERSION} of WebSocket.\n")
        response.headers["Upgrade"] = "websocket"
        response.headers["Sec-WebSocket-Version"] = VERSION
        return response, None
    response = core.accept(request)
    if response.status_code != 101:
        return response, None
    return response, MSGPACK if core.subprotocol is None else CODECS[core.subprotocol]


def _text(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


def _select(_: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    if not offered:
        return None
    for name in offered:
        if name in CODECS:
            return name
    raise websockets.exceptions.NegotiationError("no offered subprotocol is known: " + " or ".join(CODECS))
