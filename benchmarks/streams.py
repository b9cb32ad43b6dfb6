"""Answers that stream, from their writers to two devices each: one is connected to the server process that the writers
write to (`within`), the other to another (`across`). In the same run and in turn, the common way: a Redis stream and
Server-Sent Events.

`atlas` is this server, twice on one Postgres. `each` and `together` are `programs/sse.py`, twice on one Redis that
keeps nothing on disk: they lose what a crash of Redis loses, and write no row at the end. All have the same writers,
which write to Redis themselves, and the same devices (appends.c): one thread, one clock.

`grouped`: backends send what is due of all their streams together, in requests some 40 ms apart, as `Stream` of
atlas_sync does; to Redis a pipeline. `single`: each append is a request, on a connection of its stream. Delays are from
just before the request is sent to the read at the device. `late` is how long a token waited until it was sent, for the
answer to the append before it or for the others of its group: where it grows, the rate is not sustained. `most` is how
many appends a second reach both devices when each stream appends as soon as it is answered, at most 150 times a second.

`server_us` is the CPU time of both server processes for each append, `store_us` that of Postgres with its background
processes, or of Redis. `statements_per_second` are those of the servers, each a transaction: groups of appends, reads
by the other process, heartbeats. Postgres counts three times as many transactions: for each group also an empty one in
each connection that listens, of which a process has two; its statistics tell of those too late for a figure.

`join_many` and `join_one`: devices that connect at once to the other process, of many users with an open stream each,
or of one user with four, until each has all texts of 4 KiB. `stop_poll`, `stop_group` and `stop_device`: from the frame
of a device until its writer knows, by a long poll and by the answer to its next grouped request (one every 40 ms), and
until the device is answered. `lost` counts tokens that a device did not get, appends that were refused, and answers
whose row at the end is not what was written.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from statistics import median
from typing import Any, Final, Self
from uuid import UUID

import msgpack
from rich.table import Table

from benchmarks import machine
from benchmarks.appends import MARKER, Device, Token, appending
from benchmarks.compiling import compiled
from benchmarks.machine import BenchmarkError
from benchmarks.processes import LIMIT, folder, redis_server
from benchmarks.results import Figures, Result, say
from benchmarks.stage import database
from benchmarks.ways import Atlas, Http, Sse, Way, hello
from benchmarks.websocket import UPGRADE, frames, masked

WAYS: Final = ("atlas", "each", "together")
SHAPES: Final = {"grouped": True, "single": False}
WARM: Final = 1.0
"""Seconds of writing before anything is measured, at most."""
WINDOW_MS: Final = 40.0
"""How long a backend collects what it sends together."""
MOST_RATE: Final = 150.0
"""Appends a second of each stream, of which more are asked for than can be: the server's limit is 200."""
MOST_SECONDS: Final = 2.0
PIECE: Final = 512
PIECES: Final = 8
"""A text of 4 KiB comes in so many appends."""
AT_ONCE: Final = 200
"""Devices that connect at the same time where that is not measured."""
FEW: Final = 20
"""Streams and devices before the first memory is measured."""
SETTLE: Final = 1.0
"""Seconds after which memory is read."""
OF_ONE_USER: Final = 4
"""Open streams of the one user whose devices join at once. A device of the common way gets one of them."""
STOPS_OF_A_USER: Final = 20
COMPARED: Final = ("server_us", "across_p50_ms", "across_p99_ms")


async def streams(
    count: int, rate: float, seconds: float, rounds: int, backends: int, ways: str, joins: int, stops: int
) -> tuple[dict[str, Any], Figures]:
    """Return the machine and the figures. Raises BenchmarkError for an unknown way."""
    chosen = [*WAYS] if ways == "all" else ways.split(",")
    if unknown := [name for name in chosen if name not in WAYS]:
        raise BenchmarkError(f"There is no way {', '.join(unknown)}: --ways takes {', '.join(WAYS)}, or all.")
    async with AsyncExitStack() as stack:
        place = stack.enter_context(folder())
        program = await compiled("appends.c", place)
        postgres, sql = await database(stack, place)
        await sql.execute("CREATE EXTENSION pg_stat_statements")
        about = machine.describe(await sql.fetchval("SHOW server_version"))
        redis = await stack.enter_async_context(redis_server(place)) if {*chosen} - {"atlas"} else ""
        present: list[Atlas | Sse] = []
        for name in chosen:
            way = Atlas(postgres, max(20, joins)) if name == "atlas" else Sse(name, redis)
            await way.start(stack, place)
            present.append(way)
        figures: Figures = {
            "streams": count, "rate": rate, "seconds": seconds, "backends": backends, "rounds": rounds, "lost": 0.0,
        }  # fmt: skip
        await _turns(Turns(program, place, count, rate, seconds, backends), present, rounds, figures)
        for way in present:
            if joins:
                found = await Joins(program, place, joins).run(way)
                figures["lost"] += found.pop("lost")
                figures |= {f"{way.name}_{name}": value for name, value in found.items()}
            if stops and isinstance(way, Atlas):
                figures |= await _stops(way, stops)
        return about, figures


async def _turns(turns: "Turns", ways: Sequence[Way], rounds: int, figures: Figures) -> None:
    """Each way in each shape, in turn, each round in the opposite order to the last."""
    found: dict[str, list[Figures]] = {}
    for number in range(rounds):
        for shape, grouped in SHAPES.items():
            for way in ways[:: -1 if number % 2 else 1]:
                found.setdefault(f"{way.name}_{shape}", []).append(await turns.run(way, grouped))
    for name, several in found.items():
        figures["lost"] += sum(each.pop("lost") for each in several)
        figures |= {f"{name}_{figure}": median(each[figure] for each in several) for figure in several[0]}
    for shape in SHAPES:
        for way in ways:
            if way.name != "atlas" and f"atlas_{shape}" in found:
                pairs = [*zip(found[f"atlas_{shape}"], found[f"{way.name}_{shape}"], strict=True)]
                for figure in COMPARED:
                    ratio = median(ours[figure] / theirs[figure] for ours, theirs in pairs)
                    figures[f"{shape}_{figure}_ratio_to_{way.name}"] = ratio


class Turns:
    def __init__(self, program: Path, place: Path, count: int, rate: float, seconds: float, backends: int) -> None:
        self._program = program
        self._place = place
        self._count = count
        self._rate = rate
        self._seconds = seconds
        self._backends = backends

    async def run(self, way: Way, grouped: bool) -> Figures:
        writers = way.writers(await way.open(self._count), grouped, self._backends)
        names = [name for writer in writers for name in writer.streams]
        devices = [way.device(name, side) for name in names for side in range(2)]
        async with appending(self._program, self._place, devices, writers, AT_ONCE) as appends:
            await appends.write(self._rate, min(WARM, self._seconds), WINDOW_MS, 2)
            began, client, before = time.monotonic(), machine.cpu_seconds(appends.pid), await _spent(way)
            measured = await appends.write(self._rate, self._seconds, WINDOW_MS, 2)
            after = await _spent(way)
            took, client = time.monotonic() - began, machine.cpu_seconds(appends.pid) - client
            most = await appends.write(MOST_RATE, min(MOST_SECONDS, self._seconds), 0, 2, drop=True)
            done = await appends.end()
        server, store, statements = (now - then for now, then in zip(after, before, strict=True))
        lost = sum(2 - len(token.arrivals) + token.refused for token in done.tokens)
        lost += await way.close(dict(zip(names, done.texts(len(names)), strict=True)))
        tokens = [done.tokens[number] for number in measured]
        waits = [_waits(tokens, side) for side in range(2)]
        if not all(waits):
            raise BenchmarkError("Nothing arrived.")
        return {
            **_shares("within", waits[0]),
            **_shares("across", waits[1]),
            "server_us": 1e6 * server / len(tokens),
            "store_us": 1e6 * store / len(tokens),
            "statements_per_second": statements / took,
            "appends_per_second": len(tokens) / took,
            **_shares("answered", sorted((token.answered - token.sent) / 1e6 for token in tokens)),
            **_shares("late", sorted((token.sent - token.due) / 1e6 for token in tokens)),
            "most_per_second": _per_second([done.tokens[number] for number in most]),
            "server_cpu_percent": 100 * server / took,
            "store_cpu_percent": 100 * store / took,
            "client_cpu_percent": 100 * client / took,
            "lost": lost,
        }


async def _spent(way: Way) -> tuple[float, float, int]:
    return *way.spent(), await way.statements()


def _waits(tokens: Sequence[Token], side: int) -> list[float]:
    """The milliseconds until each token arrived at the device of its stream on this side, sorted."""
    arrivals = ((token.sent, token.arrivals.get(2 * token.stream + side)) for token in tokens)
    return sorted((at - sent) / 1e6 for sent, at in arrivals if at is not None)


def _shares(name: str, waits: Sequence[float]) -> Figures:
    return {f"{name}_p{share}_ms": waits[len(waits) * share // 100] for share in (50, 99)}


def _per_second(tokens: Sequence[Token]) -> float:
    last = max(max(token.answered, *token.arrivals.values()) for token in tokens)
    return len(tokens) * 1e9 / (last - min(token.due for token in tokens))


class Joins:
    """Devices that connect at once, to the server that the writers do not write to, and get texts of 4 KiB."""

    def __init__(self, program: Path, place: Path, count: int) -> None:
        self._program = program
        self._place = place
        self._count = count
        marker = MARKER.format(0)
        self._pieces = ["x" * PIECE] * (PIECES - 1) + ["x" * (PIECE - len(marker)) + marker]
        self._text = "".join(self._pieces)

    async def run(self, way: Atlas | Sse) -> Figures:
        if isinstance(way, Atlas):
            return await self._ours(way)
        many = await way.open(self._count)
        one = await way.open(OF_ONE_USER)
        await way.append([*many, *one], self._pieces)
        figures = await self._join("many", [way.device(name, 1, 1) for name in many])
        figures |= await self._join("one", [way.device(one[n % OF_ONE_USER], 1, 1) for n in range(self._count)])
        figures["lost"] = await way.close(dict.fromkeys([*many, *one], self._text))
        return figures

    async def _ours(self, way: Atlas) -> Figures:
        """And the memory of a stream, whose devices are away or there."""
        await way.again()
        warm = await way.open(FEW)
        await way.append(warm, self._pieces)
        await self._join("warm", [way.device(name, 1, 1) for name in warm])
        lost = await way.close(dict.fromkeys(warm, self._text))
        figures: Figures = {}
        before = way.resident_bytes()
        many = await way.open(self._count)
        await way.append(many, self._pieces)
        await asyncio.sleep(SETTLE)
        for side, (now, then) in zip(("", "_elsewhere"), zip(way.resident_bytes(), before, strict=True), strict=True):
            figures[f"kib_per_stream_absent{side}"] = (now - then) / 1024 / self._count
        users = await way.people(self._count)
        devices = [way.device_of(user, 1) for user in users]
        async with appending(self._program, self._place, devices, [], self._count) as appends:
            await asyncio.sleep(SETTLE)
            before = way.resident_bytes()
            present = await way.open_for(users)
            await way.append(present, self._pieces)
            await appends.arrived(self._count)
            await asyncio.sleep(SETTLE)
            figures["kib_per_stream_present"] = (way.resident_bytes()[1] - before[1]) / 1024 / self._count
            done = await appends.end()
        figures["join_without_streams_ms"] = (done.all_there - done.began) / 1e6
        lost += self._count - len(done.there)
        await way.keep_alive([*many, *present], len(self._text))
        figures |= await self._join("many", [way.device(name, 1, 1) for name in many])
        (user,) = await way.people(1)
        one = await way.open_for([user] * OF_ONE_USER)
        await way.append(one, self._pieces)
        figures |= await self._join("one", [way.device_of(user, 1, OF_ONE_USER) for _ in range(self._count)])
        lost += await way.close(dict.fromkeys([*many, *present, *one], self._text))
        return {**figures, "lost": lost}

    async def _join(self, name: str, devices: Sequence[Device]) -> Figures:
        async with appending(self._program, self._place, devices, [], self._count) as appends:
            done = await appends.end()
        waits = sorted((at - done.began) / 1e6 for at in done.there.values())
        return {f"join_{name}_p50_ms": waits[len(waits) // 2], f"join_{name}_ms": waits[-1]}


async def _stops(way: Atlas, count: int) -> Figures:
    """A device stops a stream: how long until its writer knows, who waits for it, or who is told in the answer to the
    next grouped request."""
    figures: Figures = {"stops": count}
    for side, where in enumerate(("within", "across")):
        users = await way.people(-(-count // STOPS_OF_A_USER))
        names = (await way.open_for([user for user in users for _ in range(STOPS_OF_A_USER)]))[:count]
        texts = [f"What was written before stop {number}." for number in range(count)]
        for name, text in zip(names, texts, strict=True):
            await way.append([name], [text])
        waits: dict[str, list[float]] = {"poll": [], "group": [], "device": []}
        async with Heartbeat(way, dict(zip(names, map(len, texts), strict=True))) as heartbeat:
            for user in users:
                stopper = await Stopper.open(way.ports[side], user)
                for name in names:
                    if way.owners[name] == user:
                        for what, took in (await _stop(way, heartbeat, stopper, name)).items():
                            waits[what].append(1000 * took)
                stopper.close()
        for what, several in waits.items():
            figures |= _shares(f"stop_{what}_{where}", sorted(several))
    return figures


async def _stop(way: Atlas, heartbeat: "Heartbeat", stopper: "Stopper", name: str) -> dict[str, float]:
    poll = Http(way.ports[0])
    waiting = asyncio.create_task(_at_its_answer(poll, name))
    # At any moment between two requests, and not always just behind one.
    await asyncio.sleep(WINDOW_MS / 1000 * (0.5 + random.random()))
    began = time.monotonic()
    answered = await stopper.stop(way.rows[name])
    polled, grouped = await waiting, await heartbeat.stopped(name)
    poll.close()
    return {"poll": polled - began, "group": grouped - began, "device": answered - began}


async def _at_its_answer(poll: Http, name: str) -> float:
    status, said = await poll.ask("GET", f"/v1/streams/{name}/stop?wait=25")
    if status != 200 or said["state"] != "stopped":
        raise BenchmarkError(f"Waiting for a stop was answered with {status} {said!r}.")
    return time.monotonic()


class Heartbeat:
    """A writer's grouped requests without text, one after the other, for all its streams that are open."""

    def __init__(self, way: Atlas, offsets: dict[str, int]) -> None:
        self._offsets = offsets
        self._connection = Http(way.ports[0])
        self._stopped: dict[str, asyncio.Future[float]] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._stopped = {name: asyncio.get_running_loop().create_future() for name in self._offsets}
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._connection.close()

    async def stopped(self, name: str) -> float:
        """Return when the writer was told that this stream is stopped."""
        assert self._task is not None
        both: set[asyncio.Future[Any]] = {self._task, self._stopped[name]}
        await asyncio.wait(both, timeout=LIMIT, return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            self._task.result()
        return self._stopped[name].result()

    async def _run(self) -> None:
        while self._offsets:
            names = list(self._offsets)
            entries = [[name, self._offsets[name], ""] for name in names]
            status, said = await self._connection.ask("PATCH", "/v1/streams", {"appends": entries})
            now = time.monotonic()
            if status != 200:
                raise BenchmarkError(f"A writer was answered with {status} {said!r}.")
            for name, (code, *_) in zip(names, said["answers"], strict=True):
                if code == 409:
                    self._stopped[name].set_result(now)
                    del self._offsets[name]
            await asyncio.sleep(WINDOW_MS / 1000)
        await asyncio.Event().wait()


class Stopper:
    """A device that stops streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()
        self._asked = 0

    @classmethod
    async def open(cls, port: int, user: UUID) -> Self:
        made = cls(*await asyncio.open_connection("127.0.0.1", port))
        made._writer.write(UPGRADE)
        await made._reader.readuntil(b"\r\n\r\n")
        made._writer.write(masked(hello(user)))
        await made._frame("live")
        return made

    async def stop(self, row: UUID) -> float:
        """Return when it was told that the stream of this row is stopped."""
        self._asked += 1
        frame = {"t": "stop", "n": self._asked, "kind": "m", "id": row.bytes, "column": "content"}
        self._writer.write(masked(msgpack.packb(frame)))
        answer = await self._frame("stopped")
        if answer["n"] != self._asked or not answer["found"]:
            raise BenchmarkError(f"A stop was answered with {answer}.")
        return time.monotonic()

    def close(self) -> None:
        self._writer.close()

    async def _frame(self, name: str) -> dict[str, Any]:
        async with asyncio.timeout(LIMIT):
            while True:
                for _, payload in frames(self._buffer):
                    frame: dict[str, Any] = msgpack.unpackb(payload)
                    if frame["t"] == name:
                        return frame
                    if frame["t"] == "error":
                        raise BenchmarkError(f"A device was not served ({frame['message']}).")
                self._buffer += await self._reader.read(1 << 16)


def table(result: Result) -> Table:
    """A column for each way, and below it what only ours has."""
    ways = [name for name in WAYS if f"{name}_grouped_server_us" in result.figures]
    table = Table("", *ways, box=None, padding=(0, 1, 0, 0))
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    rows = [name.partition("_") for name in result.figures]
    for name in dict.fromkeys(figure for way, _, figure in rows if way in ways):
        cells = (f"{way}_{name}" for way in ways)
        table.add_row(name, *(say(result.figure(cell)) if cell in result.figures else "" for cell in cells))
    for way, _, figure in rows:
        if way not in ways:
            name = f"{way}_{figure}" if figure else way
            table.add_row(name, say(result.figure(name)))
    return table
