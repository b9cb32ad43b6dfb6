"""Messages of Postgres' protocol, for the connections whose transport is read here and not by asyncpg.

asyncpg opens such a connection: TLS, authentication and settings are its business. The names of the messages are those
of the manual (Message Formats).
"""

import asyncio
import struct
from collections.abc import Iterator
from typing import Any, Final

LENGTH: Final = struct.Struct(">I")
COUNT: Final = struct.Struct(">H")
NULL: Final = 0xFFFFFFFF
"""The length of a NULL."""
SYNC: Final = b"S\0\0\0\x04"
BINARY: Final = b"\0\x01\0\x01"
"""As a list of format codes: all values are binary."""

COPY_BOTH: Final = ord("W")
COPY_DATA: Final = ord("d")
DATA_ROW: Final = ord("D")
ERROR: Final = ord("E")
READY: Final = ord("Z")


def take_over(connection: Any, protocol: asyncio.Protocol) -> asyncio.Transport:
    """Read the transport of an idle asyncpg connection from now on. That connection can no longer be used."""
    transport: asyncio.Transport = connection._transport  # asyncpg offers no public way to it
    transport.set_protocol(protocol)
    connection._aborted = True  # else asyncpg would end it as soon as nobody refers to the connection
    return transport


class Messages:
    """Cuts what arrives into messages. Sans-I/O.

    `most`: of a message that is longer, only the first `HEAD` bytes of the body are kept, while its end is as it was
    sent: beyond those bytes.
    """

    HEAD: Final = 64

    __slots__ = ("_kept", "_missing", "_most", "_parts")

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._parts: list[bytes] = []
        """The begin of a message. The pieces are joined once: to append each to the former ones took 78 s of the loop
        for 64 MiB."""
        self._missing = 0
        """Bytes that have to come before it is worth looking again."""
        self._kept: tuple[bytes, int] | None = None
        """The begin of a message that is too long, and its length."""

    def split(self, data: bytes) -> Iterator[tuple[int, bytes, int, int]]:
        """The messages that are complete now: the type of each, and the bytes in which its body begins and ends."""
        if len(data) < self._missing:
            self._missing -= len(data)
            if self._kept is None:
                self._parts.append(data)
            return
        at = 0
        if self._kept is not None:
            head, length = self._kept
            at, self._kept = self._missing, None
            yield head[0], head, 5, 1 + length
        elif self._parts:
            data = b"".join([*self._parts, data])
            self._parts = []
        self._missing = 0
        size = len(data)
        while size - at >= 5:
            length = LENGTH.unpack_from(data, at + 1)[0]
            end = at + 1 + length
            if end > size:
                if self._most is not None and length > self._most and size - at >= 5 + self.HEAD:
                    self._kept = data[at : at + 5 + self.HEAD], length
                    self._missing = end - size
                    return
                break
            yield data[at], data, at + 5, end
            at = end
        if at < size:
            self._parts = [data[at:]]
            wanted = 1 + LENGTH.unpack_from(data, at + 1)[0] if size - at >= 5 else 5
            if self._most is not None and wanted > 1 + self._most:
                wanted = 5 + self.HEAD
            self._missing = wanted - (size - at)


def message(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return kind + LENGTH.pack(len(body) + 4) + body


def query(text: str) -> bytes:
    return message(b"Q", text.encode(), b"\0")


def parse(name: str, text: str, *types: int) -> bytes:
    """Prepare a statement. `types`: the OIDs of its parameters."""
    given = b"".join([COUNT.pack(len(types)), *map(LENGTH.pack, types)])
    return message(b"P", name.encode(), b"\0", text.encode(), b"\0", given)


def execute() -> bytes:
    """Execute what was bound to the unnamed portal, for all its rows."""
    return message(b"E", b"\0", LENGTH.pack(0))


def fields(data: bytes, at: int) -> list[bytes | None]:
    """The values of a DataRow, whose body begins at `at`."""
    (count,) = COUNT.unpack_from(data, at)
    at += 2
    found: list[bytes | None] = []
    for _ in range(count):
        (length,) = LENGTH.unpack_from(data, at)
        at += 4
        if length == NULL:
            found.append(None)
        else:
            found.append(data[at : at + length])
            at += length
    return found


def error(data: bytes, at: int, end: int) -> tuple[str, str]:
    """The SQLSTATE and the message of an ErrorResponse. Its other fields may quote a row."""
    said = {part[:1]: part[1:].decode(errors="replace") for part in data[at:end].split(b"\0") if part}
    return said.get(b"C", ""), said.get(b"M", "")
