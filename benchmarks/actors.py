"""The processes of a benchmark: the real server, and the load generator."""

import asyncio
import os
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

import orjson
import psutil

from benchmarks import machine
from benchmarks.machine import BenchmarkError
from benchmarks.processes import LIMIT, end, eventually, spawn
from server.postgres.publication import Doorbells

SECRET: Final = "a secret of the benchmarks, longer than 32 characters"
ARRIVAL: Final = 20.0
"""Seconds after the last commit until a change that has not arrived counts as lost."""
FEWEST: Final = 20_000.0
"""Messages per second that arrive at least, where their number determines the time."""
SHARE: Final = 15_000
"""Sockets of one process of the server or of the load generator; more sockets get more processes. A hard limit of
20,000 open files is common, and the kernel distributes connections at random."""
SLOWEST: Final = 100.0
"""Devices per second that become live at least: a tenth of what one busy core does."""
AT_ONCE: Final = 500
"""Devices that connect at the same time where that is not measured: well below the server's backlog."""

Arrived = tuple[int, str, int]
"""Number of the device, id of the message, instant of the read. User u has the devices from u·per_user on."""
Tallied = tuple[int, int]
"""How many devices received a message exactly once, and the instant at which the last of them read it."""


class Server:
    """`python -m server serve` with its default settings, as one process or as several. `doorbells` is its setting of
    that name."""

    def __init__(
        self, database_url: str, sockets_per_user: int, processes: int = 1, doorbells: Doorbells = Doorbells.LISTEN
    ) -> None:
        foreign = ("ATLAS_", "WEB_CONCURRENCY")  # settings of the calling environment
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(foreign)},
            "DATABASE_URL": database_url,
            "ATLAS_JWT_SECRET": SECRET,
            "ATLAS_HOST": "127.0.0.1",
            "ATLAS_SOCKETS_PER_USER": str(sockets_per_user),
            "ATLAS_DOORBELLS": doorbells,
            "WEB_CONCURRENCY": str(processes),
        }
        self.processes = processes
        self._process: asyncio.subprocess.Process | None = None
        self._drain: asyncio.Task[bytes] | None = None
        self.port = self.pid = 0
        self.logged = 0
        """Bytes of its log after `serving`, known once it is killed."""

    async def start(self, module: str = "server", **settings: str) -> int:
        """Start the server, on the port of the last start. Return the instant at which its last process logged
        `serving`. `module` is run instead of the server and behaves like it."""
        environment = {**self._environment, "PORT": str(self.port), **settings}
        pipe = asyncio.subprocess.PIPE
        self._process = await spawn(module, "serve", env=environment, stdin=subprocess.DEVNULL, stderr=pipe)
        log = self._process.stderr
        assert log is not None
        last, serving = b"nothing", 0
        with suppress(TimeoutError):
            async with asyncio.timeout(LIMIT):
                async for last in log:
                    serving += b'"serving"' in last
                    if serving == self.processes:
                        now = time.monotonic_ns()
                        self.port, self.pid = orjson.loads(last)["port"], self._process.pid
                        # The rest of its log is discarded: a full pipe would stop the server.
                        self._drain = asyncio.create_task(log.read())
                        return now
        raise BenchmarkError(f"The server did not come to serve; the last it said: {last.decode().strip()}.")

    async def stop(self) -> None:
        """Ask it to end, and wait until it did."""
        assert self._process is not None
        self._process.terminate()
        async with asyncio.timeout(LIMIT):
            await self._process.wait()

    async def kill(self) -> None:
        if self._process is not None:
            await end(self._process)
        if self._drain is not None:
            self.logged = len(await self._drain)

    def cpu_seconds(self) -> float:
        """The sum over all its processes."""
        return machine.cpu_seconds(self.pid, family=True)

    def resident_bytes(self) -> int:
        return sum(map(machine.resident_bytes, self._pids()))

    def open_files(self) -> int:
        return sum(map(machine.open_files, self._pids()))

    def _pids(self) -> list[int]:
        return [self.pid, *(child.pid for child in psutil.Process(self.pid).children())]


class Devices:
    """The load generator: one process, or several that share the devices; see `benchmarks.devices`."""

    def __init__(self, processes: list[asyncio.subprocess.Process], count: int) -> None:
        self._processes = processes
        self.pid = processes[0].pid
        self.count = count
        self.connected = 0
        """Devices of the last `connect`."""

    async def prepare(self, users: list[str], conversations: list[str], per_user: int) -> None:
        share = -(-self.count // len(self._processes))
        common = {"users": users, "conversations": conversations, "per_user": per_user, "secret": SECRET}
        given = [
            {**common, "first": first, "count": min(share, self.count - first)} for first in range(0, self.count, share)
        ]
        await self._call("prepare", given)

    async def call(self, command: str, **given: Any) -> Any:
        """Return the answer of the only process, to a command that several cannot share."""
        if len(self._processes) > 1:
            raise BenchmarkError(f"More than {SHARE:,} devices can only be connected, and `{command}` asks for more.")
        (answer,) = await self._call(command, [given])
        return answer

    async def call_all(self, command: str, **given: Any) -> list[Any]:
        return await self._call(command, [given] * len(self._processes))

    async def _call(self, command: str, given: list[dict[str, Any]]) -> list[Any]:
        for process, mine in zip(self._processes, given, strict=True):
            assert process.stdin is not None
            process.stdin.write(orjson.dumps([command, mine]) + b"\n")
        answers = []
        for process in self._processes:
            assert process.stdout is not None
            line = await process.stdout.readline()
            if not line:
                raise BenchmarkError("The load generator ended; what it wrote above says why.")
            answers.append(orjson.loads(line))
        return answers

    def cpu_seconds(self) -> float:
        return sum(machine.cpu_seconds(process.pid) for process in self._processes)

    async def state(self) -> dict[str, Any]:
        """Return the state of all processes together. Raises BenchmarkError if a device was disconnected or got a wrong
        frame."""
        states = await self.call_all("state")
        for state in states:
            if state["trouble"]:
                raise BenchmarkError(f"A device was not served ({state['trouble']}).")
        together: dict[str, Callable[[Iterable[int]], int]] = {
            "live": sum,
            "arrived": sum,
            "began": min,
            "last_live": max,
        }
        return {key: merge(state[key] for state in states) for key, merge in together.items()}

    async def connect(self, port: int, at_once: int = AT_ONCE, only: list[int] | None = None) -> dict[str, Any]:
        """Connect all devices, or `only` these. Return the state as soon as all are live."""
        self.connected = self.count if only is None else len(only)
        await self.call_all("connect", port=port, at_once=-(-at_once // len(self._processes)), only=only)

        async def all_live() -> bool:
            return bool((await self.state())["live"] == self.connected)

        limit = LIMIT + self.connected / SLOWEST
        await eventually(f"all of {self.connected:,} devices live", all_live, limit)
        return await self.state()

    async def arrivals(self, expected: int) -> list[Arrived]:
        """Return the arrivals as soon as there are `expected`, or those that came in time: the caller counts the
        lost."""
        await self._arrived(expected)
        arrivals = await self.call_all("arrivals")
        return [(device, message, at) for some in arrivals for device, message, at in some]

    async def tallies(self, expected: int) -> tuple[int, dict[str, Tallied]]:
        """The same for devices that `tally`: the number of frames, and the arrivals by message."""
        await self._arrived(expected)
        said = await self.call("tallies")
        return said["frames"], {message: (devices, at) for message, devices, at in said["messages"]}

    async def _arrived(self, expected: int) -> None:
        async def all_arrived() -> bool:
            return bool((await self.state())["arrived"] >= expected)

        with suppress(BenchmarkError):
            await eventually("all arrived", all_arrived, ARRIVAL + expected / FEWEST)
        await self.state()  # raises if a device is in trouble, which is worse than a loss
