"""What it costs the server to deliver one user's changes to many sockets, compared with a C program that only sends.

Both take turns within one run, at the same rhythm (20 changes per second, then 160 at once), each with its own load
generator of the same kind. The C program, the floor (floor.c), receives every change on a pipe, as the frame that the
server makes of one change, and calls send() for each socket. The server is notified by Postgres, reads and encodes it.

The unit is a delivery: one change on one socket. The server puts changes that arrive while it still writes to the
sockets into one frame. So it can cost less than the floor, whose frames have one change each. At 20 per second that
happens on a busy machine; `cpu_ratio_to_c_per_frame` is the ratio as if it never did.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

from benchmarks import machine
from benchmarks.actors import Devices
from benchmarks.compiling import compiled
from benchmarks.machine import BenchmarkError
from benchmarks.processes import LIMIT, end, folder, launch
from benchmarks.stage import WRITERS, Stage, Written
from protocol.codec import MSGPACK
from protocol.cursor import Cursor, Position, owner_digest
from protocol.frames import Snapshot
from server.feed import encode
from server.feed.change import Batch
from server.outgoing import message

RATE: Final = 20.0
"""Changes per second, as in normal use."""
BURST: Final = 160
"""Changes at once."""
TURNS: Final = 4
"""Turns of each side at each rhythm, so that both run on the same machine in the same state."""
EPOCH: Final = "0" * 16

Write = Callable[[int, float | None], Awaitable[list[Written]]]
"""A number of changes, and their average rate per second at random moments, or None: at once."""


@dataclass(slots=True)
class Cost:
    """The results of all turns of one side at one rhythm."""

    cpu: float = 0.0
    """CPU seconds of the server, or of the floor."""
    client_cpu: float = 0.0
    """CPU seconds of its load generator."""
    seconds: float = 0.0
    """Seconds from the first write to the last arrival, all turns together."""
    sent: int = 0
    """Changes × sockets."""
    lost: int = 0
    """Those of them that did not arrive in time, or not exactly once."""
    frames: int = 0
    """Frames in which the others arrived, counted for each socket."""
    waits: list[float] = field(default_factory=list)
    """Milliseconds from each change to its last arrival, shortest first."""

    @property
    def us(self) -> float:
        return 1e6 * self.cpu / self.sent

    def wait(self, share: int) -> float:
        return self.waits[len(self.waits) * share // 100] if self.waits else 0.0


@dataclass(frozen=True, slots=True)
class Side:
    pid: int
    devices: Devices
    write: Write

    async def turn(self, changes: int, rate: float | None, cost: Cost) -> None:
        count = self.devices.count
        cpu, client_cpu, began = machine.cpu_seconds(self.pid), machine.cpu_seconds(self.devices.pid), time.monotonic()
        written = await self.write(changes, rate)
        frames, tallies = await self.devices.tallies(len(written) * count)
        cost.cpu += machine.cpu_seconds(self.pid) - cpu
        cost.client_cpu += machine.cpu_seconds(self.devices.pid) - client_cpu
        cost.sent += len(written) * count
        cost.frames += frames
        cost.lost += sum(count - tallies.get(message, (0, 0))[0] for _, message, _ in written)
        arrived = [(tallies[message][1], at) for _, message, at in written if message in tallies]
        cost.seconds += max((last / 1e9 for last, _ in arrived), default=began) - began
        cost.waits = sorted([*cost.waits, *((last - at) / 1e6 for last, at in arrived)])


async def fanout(stage: Stage, seconds: float) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        generator = await stage.generator(stack)
        floor = await stack.enter_async_context(_floor(stage))
        c = Side(floor.pid, generator, floor.write)
        ours = Side(stage.server.pid, stage.devices, lambda count, rate: stage.write([0] * count, rate))
        await c.devices.connect(floor.port)
        await ours.devices.connect(stage.server.port)
        for side in (ours, c):
            await side.devices.call("tally")
        await stage.quiet()
        calm, c_calm, burst, c_burst = (Cost() for _ in range(4))
        for _ in range(TURNS):
            for rate, changes, costs in (
                (RATE, max(1, round(RATE * seconds / TURNS)), (calm, c_calm)),
                (None, BURST, (burst, c_burst)),
            ):
                for side, cost in zip((ours, c), costs, strict=True):
                    await side.turn(changes, rate, cost)
    lost, lost_by_c = calm.lost + burst.lost, c_calm.lost + c_burst.lost
    return {
        "sockets": ours.devices.count,
        "seconds": seconds,
        "cpu_ratio_to_c": calm.us / c_calm.us,
        "cpu_ratio_to_c_burst": burst.us / c_burst.us,
        "server_us_per_delivery": calm.us,
        "server_us_per_delivery_burst": burst.us,
        "c_us_per_delivery": c_calm.us,
        "c_us_per_delivery_burst": c_burst.us,
        "cpu_ratio_to_c_per_frame": calm.us / c_calm.us * calm.sent / max(1, calm.frames),
        "changes_per_frame": calm.sent / max(1, calm.frames),
        "changes_per_frame_burst": burst.sent / max(1, burst.frames),
        "p50_ms": calm.wait(50),
        "p99_ms": calm.wait(99),
        "p99_ms_burst": burst.wait(99),
        "burst_seconds": burst.seconds / TURNS,
        "c_p50_ms": c_calm.wait(50),
        "c_p99_ms": c_calm.wait(99),
        "c_p99_ms_burst": c_burst.wait(99),
        "c_burst_seconds": c_burst.seconds / TURNS,
        "client_cpu_percent": 100 * calm.client_cpu / calm.seconds,
        "delivered": calm.sent + burst.sent - lost,
        "lost": lost,
        "lost_by_c": lost_by_c,
    }


class Floor:
    """The C program, and its input."""

    def __init__(self, process: asyncio.subprocess.Process, stage: Stage) -> None:
        self._process = process
        self._text = stage.text
        self._owner = owner_digest(stage.users[0])
        self._conversation = uuid4()
        self._at = Position(time.time_ns() // 1000)
        self.pid = process.pid
        self.port = 0

    async def start(self) -> None:
        cursor = Cursor(EPOCH, self._owner, self._at).encode()
        snapshot = message(Snapshot(as_of=self._at.seq, rows=[], cursor=cursor), MSGPACK)
        self._hand(snapshot + encode.live(EPOCH, self._owner, self._at).wire(MSGPACK))
        assert self._process.stdout is not None
        line = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(LIMIT):
                line = await self._process.stdout.readline()
        if not line:
            raise BenchmarkError("The floor did not come to listen; what it wrote above says why.")
        self.port = int(line)

    async def write(self, changes: int, rate: float | None) -> list[Written]:
        """Send the changes at the moments at which `Stage.write` would write them."""
        left = iter(range(changes))
        written: list[Written] = []

        async def work() -> None:
            due = time.monotonic()
            for _ in left:
                if rate is not None:
                    due += random.expovariate(rate / WRITERS)
                    await asyncio.sleep(due - time.monotonic())
                message, frame = self._frame()
                written.append((0, message, time.monotonic_ns()))
                self._hand(frame)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(WRITERS):
                tasks.create_task(work())
        return written

    def _frame(self) -> tuple[str, bytes]:
        """Return the id of a message, and the `changes` frame with it."""
        message, before = uuid4(), self._at
        now = time.time_ns() // 1000
        self._at = Position(max(before.seq + 1, now))
        row = ("m", self._at.seq, message, self._conversation, "user", self._text(), now, now)
        batch = Batch([row], self._at, more=False)
        return message.hex, encode.changes(EPOCH, self._owner, before, batch).wire(MSGPACK)

    def _hand(self, block: bytes) -> None:
        """Never waits: a slow floor must not delay later changes."""
        assert self._process.stdin is not None
        self._process.stdin.write(len(block).to_bytes(4) + block)


@asynccontextmanager
async def _floor(stage: Stage) -> AsyncIterator[Floor]:
    with folder() as place:
        program = await compiled("floor.c", place)
        pipe = asyncio.subprocess.PIPE
        process = await launch(program, str(stage.devices.count), stdin=pipe, stdout=pipe)
        try:
            floor = Floor(process, stage)
            await floor.start()
            yield floor
        finally:
            await end(process)
