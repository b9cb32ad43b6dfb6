"""The endpoints of streams on 127.0.0.1, strict about offsets, with the faults that a test asks for."""

import asyncio
import json
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from uuid import UUID, uuid4

TOKEN: Final = "the token of an app's backend, in tests"
USER: Final = UUID(int=0xABC)
ROW: Final = UUID(int=0x3)

Fault = Literal["before", "after", "busy", "garbage", "hang"]
"""The connection is cut before the request is carried out, or after it; 503; a page of a proxy; no answer."""


@dataclass(slots=True)
class Kept:
    """A stream on the server."""

    stream: str
    key: str
    text: str = ""
    state: str = "open"
    row: str | None = None
    """What the server wrote to the row."""
    longest: int = 1 << 20


@dataclass
class Streams:
    """What the server keeps, and its rules."""

    kept: dict[str, Kept] = field(default_factory=dict)
    most_open: int = 32

    def open(self, body: dict[str, Any]) -> tuple[int, Any]:
        key = json.dumps([body["user"], body["kind"], body["id"], body["column"]])
        if (body["user"], body["kind"], body["column"]) != (str(USER), "message", "content"):
            return 404, "There is no such row of this user."
        found = next((each for each in self.kept.values() if each.key == key), None)
        if found is not None and body["restart"]:
            found.state, found.text, found.key = "failed", "", ""
            found = None
        status = 200 if found is not None else 201
        if found is None:
            if sum(each.state == "open" for each in self.kept.values()) >= self.most_open:
                return 429, "This user has 32 open streams."
            found = Kept(str(uuid4()), key)
            self.kept[found.stream] = found
        return status, {"stream": found.stream, "state": found.state, "offset": len(found.text), "text": found.text}

    def append(self, stream: str, offset: int, text: str) -> tuple[int, str | None, int | None]:
        if (kept := self.kept.get(stream)) is None:
            return 404, None, None
        if kept.state != "open":
            return 409, kept.state, len(kept.text)
        overlap = kept.text[offset:]
        if offset > len(kept.text) or not (text.startswith(overlap) or overlap.startswith(text)):
            return 409, "open", len(kept.text)
        if offset + len(text) > kept.longest:
            return 413, "open", len(kept.text)
        kept.text += text[len(overlap) :]
        return 200, "open", len(kept.text)

    def end(self, stream: str, state: str, body: dict[str, Any]) -> tuple[int, Any]:
        if (kept := self.kept.get(stream)) is None:
            return 404, "There is no such stream."
        answer = {"stream": stream, "state": kept.state, "offset": len(kept.text)}
        if kept.state == state:
            return 200, answer
        if kept.state != "open" or body.get("offset", len(kept.text)) != len(kept.text):
            return 409, {**answer, "problem": "It does not end there."}
        kept.state = state
        if body.get("write"):
            kept.row = kept.text
        return 200, {**answer, "state": state}


class FakeStreams:
    """The server. `faults` are those of the next requests, one each; `requests` are those that came."""

    def __init__(self) -> None:
        self.streams = Streams()
        self.faults: deque[Fault | None] = deque()
        self.requests: list[tuple[str, str, Any]] = []
        self.prefixes: list[str] = []
        """The texts after each request that appended to the first stream."""
        self._changed = asyncio.Event()
        self.url = ""
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    @property
    def only(self) -> Kept:
        (kept,) = self.streams.kept.values()
        return kept

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """As SIGKILL does: nothing is answered any more. What was carried out is kept."""
        if self._server is not None:
            self._server.close()
            for connection in list(self._connections):
                connection.transport.abort()
            await self._server.wait_closed()
            self._server = None

    async def restart(self) -> None:
        await self.start(int(self.url.rsplit(":")[-1]))

    def stop_stream(self, stream: str) -> None:
        self.streams.kept[stream].state = "stopped"
        self._change()

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await self._changed.wait()

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode()
                    request, *lines = head.split("\r\n")
                    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                    body = await reader.readexactly(int(headers.get("content-length", 0)))
                    method, path, _ = request.split(" ")
                    fault = self.faults.popleft() if self.faults else None
                    if fault == "hang":
                        await reader.read()
                        return
                    if fault == "before":
                        return
                    status, answer = (503, "Postgres is away.") if fault == "busy" else (200, "<html>")
                    if fault not in ("busy", "garbage"):
                        status, answer = await self._answer(method, path, headers, json.loads(body) if body else None)
                        self._change()
                    if fault == "after" or writer.transport.is_closing():
                        return
                    writer.write(_http(status, answer))
                    await writer.drain()
        finally:
            self._connections.discard(writer)
            if not writer.transport.is_closing():
                writer.transport.abort()

    async def _answer(self, method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any]:
        self.requests.append((method, path, body))
        self._change()
        if headers.get("authorization") != f"Bearer {TOKEN}":
            return 401, "Send ATLAS_SERVICE_TOKEN as a bearer token."
        bare, _, query = path.removeprefix("/v1/streams").lstrip("/").partition("?")
        match method, bare.split("/"):
            case "POST", [""]:
                return self.streams.open(body)
            case "PATCH", [""]:
                if len({stream for stream, _, _ in body["appends"]}) < len(body["appends"]):
                    return 400, "The appends of a request are to different streams."
                answers = [self.streams.append(*each) for each in body["appends"]]
                self.prefixes += [each.text for each in list(self.streams.kept.values())[:1]]
                return 200, {"answers": answers}
            case "POST", [stream, ("done" | "failed") as state]:
                return self.streams.end(stream, state, body)
            case "GET", [stream, "stop"]:
                return await self._stop(stream, float(query.removeprefix("wait=")))
        return 404, "Not Found"

    async def _stop(self, stream: str, wait: float) -> tuple[int, Any]:
        kept = self.streams.kept[stream]
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self.until(lambda: kept.state != "open")
                return 200, {"state": kept.state, "offset": len(kept.text)}
        return 204, None


def _http(status: int, answer: Any) -> bytes:
    text = isinstance(answer, str)
    body = b"" if answer is None else answer.encode() if text else json.dumps(answer).encode()
    media = "text/plain; charset=utf-8" if text else "application/json"
    return f"HTTP/1.1 {status} -\r\nContent-Type: {media}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
