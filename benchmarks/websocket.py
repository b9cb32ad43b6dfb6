"""The parts of a WebSocket client that a load generator needs."""

from collections.abc import Iterator
from typing import Final

UPGRADE: Final = (
    b"GET /sync HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"
    b"\r\nUpgrade: websocket\r\nOrigin: https://app.example.com\r\nSec-WebSocket-Version: 13\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    b"Sec-WebSocket-Protocol: atlas-sync.v1.msgpack\r\n\r\n"
)
"""A browser's headers: what the server keeps of them is part of the memory of a connection."""
HEADER: Final = 10
"""Most bytes of a server's frame before its payload."""


def masked(payload: bytes) -> bytes:
    """Return a client's binary frame. The protocol demands a mask; this one is zero, because masking is not
    measured."""
    size = len(payload)
    if size < 126:
        head = bytes([0x82, 0x80 | size])
    else:
        head = b"\x82\xfe" + size.to_bytes(2) if size < 65_536 else b"\x82\xff" + size.to_bytes(8)
    return head + b"\0\0\0\0" + payload


def frames(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """Remove the complete frames from `buffer` and yield their opcodes and payloads. A server does not mask."""
    while len(buffer) >= 2:
        size, start = buffer[1], 2
        if size >= 126:
            start = 4 if size == 126 else 10
            if len(buffer) < start:
                return
            size = int.from_bytes(buffer[2:start])
        if len(buffer) < start + size:
            return
        opcode, payload = buffer[0] & 15, bytes(buffer[start : start + size])
        del buffer[: start + size]
        yield opcode, payload
