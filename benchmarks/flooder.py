"""One socket that floods the server, as a process: parameters are JSON on standard input, the result on standard
output.

It sends frames of one kind at a given rate, with or without a hello before them. Whenever the server ends the
connection it opens another one.
"""

import base64
import os
import socket
import sys
import time
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

import orjson
from websockets.frames import Frame, Opcode

from protocol.codec import JSON
from protocol.frames import Hello, Live

WAVE: Final = 64 * 1024
"""Bytes per send()."""
PAUSE: Final = 0.1
"""Seconds between two connections."""


def masked(opcode: Opcode, data: bytes = b"", *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


KINDS: Final = {
    "pings": (b"", masked(Opcode.PING)),
    "pongs": (b"", masked(Opcode.PONG)),
    "fragments": (masked(Opcode.TEXT, b" ", fin=False), masked(Opcode.CONT, b"", fin=False)),
}
"""Return the bytes sent first, and those sent repeatedly."""


def connect(port: int, token: str | None) -> socket.socket:
    """Return a connection that was upgraded, and welcomed if there is a token."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(
        f"GET /sync HTTP/1.1\r\nHost: localhost:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: {JSON.subprotocol}\r\n\r\n".encode()
    )
    _read_until(sock, b"\r\n\r\n")
    if token is not None:
        sock.sendall(masked(Opcode.TEXT, JSON.encode(Hello(token=token, client_id=uuid4()))))
        _read_until(sock, str(Live.__struct_config__.tag).encode())
    return sock


def _read_until(sock: socket.socket, what: bytes) -> None:
    said = b""
    while what not in said:
        more = sock.recv(65_536)
        if not more:
            raise ConnectionError("The server ended the connection.")
        said += more


def flood(port: int, kind: str, megabits: float, seconds: float, token: str | None) -> dict[str, Any]:
    """Return the bytes sent, how often the server ended the connection, and the duration of the longest one."""
    first, frame = KINDS[kind]
    wave = frame * (WAVE // len(frame))
    sent = cut_offs = 0
    longest = 0.0
    begun = time.monotonic()
    end = begun + seconds
    while time.monotonic() < end:
        opened = time.monotonic()
        with suppress(OSError), connect(port, token) as sock:
            sock.setblocking(False)
            opened = time.monotonic()
            due = opened
            waiting = first + wave
            while time.monotonic() < end:
                with suppress(BlockingIOError):
                    if not sock.recv(65_536):
                        break
                with suppress(BlockingIOError):
                    count = sock.send(waiting)
                    sent += count
                    waiting = waiting[count:] or wave
                    due += count * 8 / (megabits * 1e6)
                time.sleep(max(0.0, min(due - time.monotonic(), 0.01)))
        if time.monotonic() < end:
            cut_offs += 1
            longest = max(longest, time.monotonic() - opened)
            time.sleep(PAUSE)
    return {"bytes": sent, "cut_offs": cut_offs, "longest_seconds": longest}


if __name__ == "__main__":
    sys.stdout.write(orjson.dumps(flood(**orjson.loads(sys.stdin.readline()))).decode() + "\n")
