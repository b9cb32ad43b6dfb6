"""The writers and the devices of `streams`, a C program (appends.c): the same for our server and for the common way."""

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Final

from benchmarks import machine
from benchmarks.machine import BenchmarkError
from benchmarks.processes import LIMIT, end, launch

HEAD: Final = struct.Struct("<QQQQ")
TOKEN: Final = struct.Struct("<QQQII")
ARRIVAL: Final = struct.Struct("<QII")
TAIL: Final = " größer."
"""Behind a marker: with it a token has 20 characters, of which two are not ASCII."""
MARKER: Final = "~#{:010}"


class Kind(IntEnum):
    """How a writer sends: over HTTP each append by itself, or what is due together; to Redis likewise."""

    SINGLE = 0
    GROUPED = 1
    ONE_BY_ONE = 2
    PIPELINED = 3


@dataclass(frozen=True, slots=True)
class Device:
    """A device is there when it has received bytes that contain what each step expects (at most 12 of them), and
    `markers` markers."""

    port: int
    steps: Sequence[tuple[bytes, bytes]]
    """What is sent, and expected."""
    markers: int = 0


@dataclass(frozen=True, slots=True)
class Writer:
    """A connection, and the streams that it writes. With `Kind.SINGLE` and `Kind.ONE_BY_ONE` that is one."""

    kind: Kind
    port: int
    streams: Sequence[str]
    headers: str = ""
    """Lines of each request, each with its end."""


@dataclass(slots=True)
class Token:
    """Instants are nanoseconds of CLOCK_MONOTONIC."""

    due: int
    sent: int
    """Just before its request was sent."""
    answered: int
    stream: int
    """Its number among the streams of all writers."""
    refused: bool
    arrivals: dict[int, int] = field(default_factory=dict)
    """When each device received it first."""


@dataclass(frozen=True, slots=True)
class Done:
    began: int
    """Instant of the first connect."""
    all_there: int
    """Instant at which the last device was there."""
    tokens: list[Token]
    there: dict[int, int]
    """When each device received its last marker."""

    def texts(self, streams: int) -> list[str]:
        """Return what was written to each stream."""
        parts: list[list[str]] = [[] for _ in range(streams)]
        for number, token in enumerate(self.tokens):
            parts[token.stream].append(MARKER.format(number) + TAIL)
        return ["".join(each) for each in parts]


class Appends:
    def __init__(self, process: asyncio.subprocess.Process, result: Path) -> None:
        self._process = process
        self._result = result
        self.pid = process.pid

    async def ready(self) -> None:
        """Return when all devices are there. Raises BenchmarkError if they do not come."""
        if await self._line(LIMIT) != b"ready\n":
            raise BenchmarkError("Not all devices were let in; what their program wrote above may say why.")

    async def write(self, rate: float, seconds: float, window_ms: float, each: int, *, drop: bool = False) -> range:
        """Write so many tokens a second of each stream. Return their numbers when all are answered and have arrived at
        `each` devices, or nothing arrives any more. `drop`: what is late at the end is not sent, and an append has one
        token only."""
        return await self._command(f"write {rate} {seconds} {window_ms} {each} {int(drop)}", LIMIT + seconds)

    async def arrived(self, count: int) -> None:
        """Return when so many markers have arrived since the beginning, or nothing arrives any more."""
        await self._command(f"await {count}", LIMIT)

    async def _command(self, line: str, limit: float) -> range:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        word, *numbers = (await self._line(limit)).split()
        if word != b"done":
            raise BenchmarkError("The writers did not come to an end; what their program wrote above may say why.")
        first, count = map(int, numbers)
        return range(first, first + count)

    async def end(self) -> Done:
        """Disconnect all devices, and return everything that was written and has arrived."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(LIMIT):
            await self._process.wait()
        if self._process.returncode != 0:
            raise BenchmarkError("A device or a writer was disconnected; what their program wrote above says why.")
        return await asyncio.to_thread(_result, self._result)

    async def _line(self, limit: float) -> bytes:
        assert self._process.stdout is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                return await self._process.stdout.readline() or b"nothing"
        return b"nothing"


@asynccontextmanager
async def appending(
    program: Path, place: Path, devices: Sequence[Device], writers: Sequence[Writer], at_once: int
) -> AsyncIterator[Appends]:
    """Connect the devices, `at_once` of them at a time. `program`: the compiled appends.c."""
    machine.allow_files(len(devices) + len(writers))
    script, result = place / "script.appends", place / "result.appends"
    script.write_bytes(_script(devices, writers, at_once))
    pipe = asyncio.subprocess.PIPE
    process = await launch(program, script, result, stdin=pipe, stdout=pipe)
    try:
        appends = Appends(process, result)
        await appends.ready()
        yield appends
    finally:
        await end(process)


def _script(devices: Sequence[Device], writers: Sequence[Writer], at_once: int) -> bytes:
    out = [_number(at_once), _text(TAIL), _number(len(TAIL)), _number(len(devices))]
    for device in devices:
        out += [_number(device.port), _number(device.markers), _number(len(device.steps))]
        out += [_text(part) for step in device.steps for part in step]
    out.append(_number(len(writers)))
    for writer in writers:
        out += [bytes([writer.kind]), _number(writer.port), _text(writer.headers), _number(len(writer.streams))]
        out += map(_text, writer.streams)
    return b"".join(out)


def _number(number: int) -> bytes:
    return number.to_bytes(4, "little")


def _text(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return _number(len(raw)) + raw


def _result(path: Path) -> Done:
    raw = path.read_bytes()
    began, all_there, tokens_count, _ = HEAD.unpack_from(raw)
    arrivals = HEAD.size + tokens_count * TOKEN.size
    tokens = [
        Token(due, sent, answered, stream, bool(refused))
        for due, sent, answered, stream, refused in TOKEN.iter_unpack(raw[HEAD.size : arrivals])
    ]
    there: dict[int, int] = {}
    for at, device, token in ARRIVAL.iter_unpack(raw[arrivals:]):
        there[device] = at
        if token < len(tokens):
            tokens[token].arrivals.setdefault(device, at)
    return Done(began, all_there, tokens, there)
