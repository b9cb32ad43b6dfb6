"""The load client of `peers`, a C program (load.c): the same for every peer, whatever its protocol."""

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import machine
from benchmarks.machine import BenchmarkError
from benchmarks.processes import LIMIT, POLL, end, launch

TEXT: Final = 1
BINARY: Final = 2
ARRIVAL: Final = struct.Struct("<QII")
SILENCE: Final = 10.0
"""Seconds without an arrival after which nothing more will arrive."""


class Step(NamedTuple):
    """Send a frame, if it has an opcode, and wait for one that contains `expected`."""

    opcode: int
    sent: bytes
    expected: bytes


class Reply(NamedTuple):
    """The answer to each frame that begins with `prefix`."""

    prefix: bytes
    opcode: int
    answer: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """How a device opens its socket and subscribes."""

    path: str
    headers: str = ""
    """Lines, each with its end."""
    steps: Sequence[Step] = ()


class Arrived(NamedTuple):
    at: int
    """Microseconds since 1970."""
    device: int
    change: int
    """The ten digits of its marker."""


class Load:
    def __init__(self, process: asyncio.subprocess.Process, arrivals: Path) -> None:
        self._process = process
        self._arrivals = arrivals
        self._count = 0
        self._last = time.monotonic()
        self._reading: asyncio.Task[None] | None = None
        self.pid = process.pid

    async def begin(self) -> None:
        """Return when all devices have played their parts. Raises BenchmarkError if they cannot."""
        assert self._process.stdout is not None
        line = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(LIMIT):
                line = await self._process.stdout.readline()
        if line != b"ready\n":
            raise BenchmarkError("Not all devices were let in; what the load client wrote above may say why.")
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self._count, self._last = int(line), time.monotonic()

    async def arrived(self, count: int) -> None:
        """Return when so many changes have arrived since it began, or when nothing arrives any more. Raises
        BenchmarkError if a device was disconnected."""
        began = time.monotonic()
        while self._count < count and time.monotonic() - max(began, self._last) < SILENCE:
            if self._process.returncode is not None:
                raise BenchmarkError("A device was disconnected; what the load client wrote above says why.")
            await asyncio.sleep(POLL)

    async def end(self) -> list[Arrived]:
        """Disconnect all devices, and return everything that has arrived."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(LIMIT):
            await self._process.wait()
        if self._process.returncode != 0:
            raise BenchmarkError("A device was disconnected; what the load client wrote above says why.")
        return [Arrived(*each) for each in ARRIVAL.iter_unpack(_content(self._arrivals))]

    @property
    def count(self) -> int:
        return self._count


@asynccontextmanager
async def loading(
    program: Path, place: Path, port: int, parts: Sequence[Part], replies: Sequence[Reply], cpu: int
) -> AsyncIterator[Load]:
    """Connect a device for each part, all of them to this port. `program`: the compiled load.c."""
    script, arrivals = place / "script.load", place / "arrivals"
    script.write_bytes(_script(parts, replies))
    pipe = asyncio.subprocess.PIPE
    process = await launch(program, str(port), script, arrivals, stdin=pipe, stdout=pipe)
    try:
        machine.pin(process.pid, cpu)
        load = Load(process, arrivals)
        await load.begin()
        yield load
    finally:
        await end(process)


def _script(parts: Sequence[Part], replies: Sequence[Reply]) -> bytes:
    out = [_number(len(replies))]
    for reply in replies:
        out += [_text(reply.prefix), bytes([reply.opcode]), _text(reply.answer)]
    out.append(_number(len(parts)))
    for part in parts:
        out += [_text(part.path.encode()), _text(part.headers.encode()), _number(len(part.steps))]
        for step in part.steps:
            out += [bytes([step.opcode]), _text(step.sent), _text(step.expected)]
    return b"".join(out)


def _number(number: int) -> bytes:
    return number.to_bytes(4, "little")


def _text(text: bytes) -> bytes:
    return _number(len(text)) + text


def _content(path: Path) -> bytes:
    return path.read_bytes()
