"""A peer that writes its own bytes: HTTP and WebSocket frames, valid or not."""

import asyncio
import base64
import contextlib
import json
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from websockets.frames import Opcode

from tests.support.serving import Running
from tests.support.waiting import LIMIT


@dataclass
class Raw:
    """A TCP connection, with nothing between it and the test."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> bytes:
        """The answer's status line and headers."""
        async with asyncio.timeout(LIMIT):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def closed(self) -> tuple[int | None, list[dict[str, Any]]]:
        """Answer the close; returns the close code and the frames before it."""
        data = bytearray()
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(LIMIT):
                while more := await self.reader.read(65_536):
                    data += more
                    if parsed(bytes(data))[0] is not None:
                        await self.say(framed(Opcode.CLOSE, b""))
                        break
        await self.everything()
        return parsed(bytes(data))

    async def everything(self) -> bytes:
        """All bytes until the connection ends."""
        data = bytearray()
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(LIMIT):
                while more := await self.reader.read(65_536):
                    data += more
        return bytes(data)


@contextlib.asynccontextmanager
async def raw(server: Running) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def handshake(path: str = "/sync", method: str = "GET", **changed: bytes | None) -> bytes:
    """A valid opening handshake, except for what is changed. A header of None is left out."""
    headers = {
        "Host": b"sync.example.com",
        "Upgrade": b"websocket",
        "Connection": b"Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(bytes(16)),
        "Sec-WebSocket-Version": b"13",
        "Sec-WebSocket-Protocol": b"atlas-sync.v1.json",
    }
    changes = {name.replace("_", "-"): value for name, value in changed.items()}
    lines = [f"{method} {path} HTTP/1.1".encode()]
    lines += [name.encode() + b": " + value for name, value in {**headers, **changes}.items() if value is not None]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def framed(opcode: int, data: bytes, *, fin: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    """A WebSocket frame, valid or not. The mask is all zeros, so the data stays readable."""
    head = bytes([fin << 7 | rsv << 4 | opcode])
    mask = 0x80 if masked else 0
    if len(data) < 126:
        head += bytes([mask | len(data)])
    elif len(data) < 1 << 16:
        head += struct.pack(">BH", mask | 126, len(data))
    else:
        head += struct.pack(">BQ", mask | 127, len(data))
    return head + (bytes(4) if masked else b"") + data


def parsed(data: bytes) -> tuple[int | None, list[dict[str, Any]]]:
    """The close code and the JSON frames in what the server said on a WebSocket."""
    code: int | None = None
    said: list[dict[str, Any]] = []
    while len(data) > 1:
        opcode, length, begin = data[0] & 0x0F, data[1], 2
        assert not length & 0x80, "a server masks nothing"
        if length >= 126:
            begin = 4 if length == 126 else 10
            length = int.from_bytes(data[2:begin], "big")
        if len(data) < begin + length:
            break  # the rest has not come
        body, data = data[begin : begin + length], data[begin + length :]
        if opcode == Opcode.TEXT:
            said.append(json.loads(body))
        elif opcode == Opcode.CLOSE:
            code = struct.unpack(">H", body[:2])[0] if body else 1005
    return code, said
