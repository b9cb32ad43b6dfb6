"""Connections that ask for a cached response again and again, as a process: parameters are JSON on standard input, the
result on standard output.

Each connection sends its next request when it has the answer to the last one.
"""

import asyncio
import sys
import time
from typing import Any, cast

import orjson
import uvloop


class Asker(asyncio.Protocol):
    def __init__(self, request: bytes, stop_at: float, done: asyncio.Future[None]) -> None:
        self._request = request
        self._stop_at = stop_at
        self._done = done
        self._left = -1
        """Bytes of the answer that are to come; -1: its head is not complete."""
        self._have = b""
        self._asked_at = 0.0
        self.waits: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        if self._left < 0:
            self._have += data
            end = self._have.find(b"\r\n\r\n")
            if end < 0:
                return
            if not self._have.startswith(b"HTTP/1.1 200"):
                self._done.set_exception(ConnectionError(self._have[:200].decode()))
                self._transport.abort()
                return
            size = self._have.find(b"content-length: ") + len(b"content-length: ")
            self._left = int(self._have[size : self._have.find(b"\r", size)]) - (len(self._have) - end - 4)
        else:
            self._left -= len(data)
        if not self._left:
            now = time.perf_counter()
            self.waits.append(now - self._asked_at)
            if now < self._stop_at:
                self._ask()
            else:
                self._done.set_result(None)
                self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionError("The server closed a connection."))

    def _ask(self) -> None:
        self._left, self._have = -1, b""
        self._asked_at = time.perf_counter()
        self._transport.write(self._request)


async def ask(port: int, request: str, connections: int, seconds: float) -> dict[str, Any]:
    """Ask for so long. Returns the waits for each answer in milliseconds, and the CPU seconds that asking took."""
    loop = asyncio.get_running_loop()
    cpu = time.process_time()
    stop_at = time.perf_counter() + seconds
    askers = []
    for _ in range(connections):
        done = loop.create_future()
        _, asker = await loop.create_connection(
            lambda done=done: Asker(request.encode(), stop_at, done),  # type: ignore[misc]  # a default has no type
            *("127.0.0.1", port),
        )
        askers.append((asker, done))
    await asyncio.gather(*(done for _, done in askers))
    waits = sorted(1000 * wait for asker, _ in askers for wait in asker.waits)
    return {"waits": waits, "cpu": time.process_time() - cpu}


if __name__ == "__main__":
    given = orjson.loads(sys.stdin.buffer.read())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.stdout.buffer.write(orjson.dumps(runner.run(ask(**given))))
