"""The load generator: thousands of devices in one process, cheap enough not to distort what is measured.

A bare loop over a selector instead of asyncio, because the devices of a storm must not wait for the generator. Commands
arrive as JSON lines on standard input. It answers each at once with one line, and ends with its input.
"""

import errno
import gc
import heapq
import os
import selectors
import socket
import struct
import sys
import time
from collections import deque
from typing import Any, Final
from uuid import UUID

import msgpack
import orjson

from benchmarks.device import Device, Phase
from benchmarks.websocket import HEADER, UPGRADE, frames
from benchmarks.writing import Writing
from server.edge.auth import mint

PORTS: Final = 14_000
"""Sockets per source address. Linux has 28,232 ports for an address. Once half of them are used, it searches all of
that half for each further connection, which took 2.5 ms."""
RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of 0 s: an abrupt close, as when a phone loses its network; and no port stays in TIME_WAIT."""


class Tally:
    """The arrivals of a message at many devices, counted instead of listed."""

    __slots__ = ("last", "times")

    def __init__(self, devices: int) -> None:
        self.times = bytearray(devices)
        """Arrivals at each device."""
        self.last = 0
        """Instant of the last read."""


Batch = tuple[bytes, bytes, list[Tally]]
"""A `changes` frame: from, to, messages."""


class Devices:
    """All devices, and what arrived at them. Every public method except `run` is a command and returns its answer."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._devices: list[Device] = []
        self._waiting: deque[Device] = deque()
        self._at_once = self._under_way = self._live = self._port = 0
        self._began = self._last_live = 0
        self._arrivals: list[tuple[int, str, int]] = []
        self._tallies: dict[str, Tally] | None = None
        """None while arrivals are listed."""
        self._tallied = self._frames = 0
        """Messages and frames, each counted for each device."""
        self._bytes = self._heard = self._rows = 0
        """Bytes, frames and rows received since the last `traffic`, except while messages are tallied."""
        self._batches: dict[bytes, Batch] = {}
        """Decoded `changes`, by payload and by whole frame: all devices get the same bytes, so each is decoded once."""
        self._trouble: str | None = None
        self._writing: Writing | None = None
        self._mutations = 1
        """Most mutations of one push."""
        self._coming_back: list[tuple[int, int]] | None = None
        """When which device connects again. None while a device that is sent away is in trouble."""
        self._lives: list[int] = []
        """Instants at which devices that came back became live."""

    def prepare(
        self, users: list[str], conversations: list[str], per_user: int, secret: str, first: int, count: int
    ) -> None:
        """Make `count` devices, from the number `first` on: other processes may have the others."""
        now = time.time()
        user, token = -1, ""
        for number in range(first, first + count):
            if number // per_user != user:
                user = number // per_user
                token = mint(
                    UUID(users[user]), secret, audience="authenticated", issuer="benchmarks", lifetime=86_400, now=now
                )
            self._devices.append(Device(number, token, UUID(conversations[user]).bytes))
        gc.freeze()

    def connect(self, port: int, at_once: int, only: list[int] | None) -> None:
        """Begin to connect every device, or `only` these, `at_once` of them at a time; `state` reports the progress."""
        self._port, self._at_once, self._under_way, self._live = port, at_once, 0, 0
        first = self._devices[0].number
        self._waiting.extend(self._devices if only is None else [self._devices[number - first] for number in only])
        self._began = time.monotonic_ns()
        self._begin_more()

    def disconnect(self) -> None:
        for device in self._devices:
            self._drop(device)
            device.prepare()
        self._live = 0

    def state(self) -> dict[str, Any]:
        """`began` and `last_live` are the instants of the first connect and of the last device's `live`."""
        return {
            "live": self._live,
            "arrived": len(self._arrivals) + self._tallied,
            "began": self._began,
            "last_live": self._last_live,
            "trouble": self._trouble,
        }

    def cursors(self) -> list[str | None]:
        """Return the cursor of each device, in hexadecimal."""
        return [device.cursor.hex() if device.cursor is not None else None for device in self._devices]

    def place(self, number: int, cursor: str) -> None:
        """Set the cursor with which a disconnected device comes back."""
        device = self._devices[number - self._devices[0].number]
        device.cursor = bytes.fromhex(cursor)
        device.prepare()

    def arrivals(self) -> list[tuple[int, str, int]]:
        """Return the messages that arrived in `changes` since the last call: device, message id, instant of the
        read."""
        arrivals, self._arrivals = self._arrivals, []
        return arrivals

    def tally(self) -> None:
        """From now on count the messages in `changes`: to list them costs more than to read them."""
        self._tallies = {}

    def tallies(self) -> dict[str, Any]:
        """Return the number of frames since the last call, and each message in them: its id, how many devices got it
        exactly once, instant of the last read."""
        assert self._tallies is not None
        messages = [(message, tally.times.count(1), tally.last) for message, tally in self._tallies.items()]
        answer = {"frames": self._frames, "messages": messages}
        self._tallied = self._frames = 0
        self._tallies.clear()
        self._batches.clear()
        return answer

    def come_back(self) -> None:
        """From now on a device whose position is lost comes back without a cursor, after the delay that it is told."""
        self._coming_back, self._at_once = [], len(self._devices)

    def returned(self) -> int:
        """Return the number of devices that came back and are live."""
        return len(self._lives)

    def lives(self) -> list[int]:
        return self._lives

    def traffic(self) -> dict[str, int]:
        """Return what all devices together have received since the last call: bytes, with the headers of HTTP and
        WebSocket, frames, and the rows in them."""
        answer = {"bytes": self._bytes, "frames": self._heard, "rows": self._rows}
        self._bytes = self._heard = self._rows = 0
        return answer

    def push(self, rate: float | None, seconds: float, batch: int, text: str) -> None:
        """Begin to write; see Writing."""
        self._writing = Writing(self._devices, rate, seconds, batch, text, self._mutations, self._failed)

    def pushed(self) -> dict[str, Any] | None:
        """Return Writing's result once, None before and afterwards."""
        result = self._writing.result() if self._writing is not None else None
        if result is not None:
            self._writing = None
        return result

    def run(self) -> None:
        told = bytearray()
        self._selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select(self._due()):
                if key.data is not None:
                    self._ready(key.data)
                    continue
                data = os.read(sys.stdin.fileno(), 1 << 20)
                if not data:
                    return
                told += data
                while (end := told.find(b"\n")) >= 0:
                    name, given = orjson.loads(told[:end])
                    del told[: end + 1]
                    sys.stdout.buffer.write(orjson.dumps(getattr(self, name)(**given)) + b"\n")
                    sys.stdout.buffer.flush()

    def _due(self) -> float | None:
        """Do what is due. Return the seconds until something else is, None if nothing will be."""
        due = self._writing.make_due() if self._writing is not None else None
        if self._coming_back:
            now = time.monotonic_ns()
            while self._coming_back and self._coming_back[0][0] <= now:
                _, number = heapq.heappop(self._coming_back)
                self._waiting.append(self._devices[number - self._devices[0].number])
            self._begin_more()
            if self._coming_back:
                left = (self._coming_back[0][0] - now) / 1e9
                due = left if due is None else min(due, left)
        return due

    def _begin_more(self) -> None:
        while self._waiting and self._under_way < self._at_once:
            self._under_way += 1
            device = self._waiting.popleft()
            sock = device.sock = socket.socket()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._selector.register(sock, selectors.EVENT_WRITE, device)
            if device.number >= PORTS:
                if sys.platform == "linux":
                    # Choose the port when connecting: chosen now, it would be unavailable to all other addresses.
                    sock.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind((f"127.0.0.{1 + device.number // PORTS}", 0))
            code = sock.connect_ex(("127.0.0.1", self._port))
            if code not in (0, errno.EINPROGRESS):
                self._failed(device, os.strerror(code))

    def _ready(self, device: Device) -> None:
        sock = device.sock
        if sock is None:  # dropped by an earlier event of the same round
            return
        try:
            if device.phase is Phase.CONNECTING:
                sock.send(UPGRADE)
                device.phase = Phase.UPGRADING
                self._selector.modify(sock, selectors.EVENT_READ, device)
                return
            data = sock.recv(1 << 18)
        except OSError as error:
            self._failed(device, error.strerror or str(error))
            return
        now = time.monotonic_ns()
        if not data:
            self._failed(device, "the server closed the connection")
            return
        begins = not device.buffer
        if self._batches and begins and (batch := self._batches.get(data)) is not None:
            self._count(device, batch, now)
            return
        device.buffer += data
        self._bytes += len(data)
        if device.phase is Phase.UPGRADING:
            self._greet(device, sock)
            return
        for opcode, payload in frames(device.buffer):
            if device.sock is not sock:  # it was sent away
                return
            if opcode != 2:
                self._failed(device, f"a WebSocket frame with opcode {opcode} came")
                return
            self._heard += 1
            batch = self._batches.get(payload)
            if batch is None:
                frame = msgpack.unpackb(payload)
                if self._tallies is None or frame["t"] != "changes":
                    self._frame(device, frame, now)
                    continue
                batch = self._batches[payload] = self._batch(self._tallies, frame)
            if begins and not device.buffer and len(data) - len(payload) <= HEADER:
                self._batches[data] = batch
            self._count(device, batch, now)

    def _batch(self, tallies: dict[str, Tally], frame: dict[str, Any]) -> Batch:
        messages = [row[2].hex() for row in frame["rows"] if row[0] == "m"]
        for message in messages:
            if message not in tallies:
                tallies[message] = Tally(len(self._devices))
        return frame["from"], frame["to"], [tallies[message] for message in messages]

    def _count(self, device: Device, batch: Batch, now: int) -> None:
        begin, end, tallies = batch
        if begin != device.cursor:
            self._failed(device, "a batch did not begin at the device's cursor")
        device.cursor = end
        for tally in tallies:
            tally.times[device.number] += 1
            tally.last = now
        self._tallied += len(tallies)
        self._frames += 1

    def _greet(self, device: Device, sock: socket.socket) -> None:
        head, end, rest = device.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        if not head.startswith(b"HTTP/1.1 101"):
            self._failed(device, f"the upgrade was answered with {head.splitlines()[0].decode()!r}")
            return
        device.buffer = rest
        device.phase = Phase.GREETED
        sock.send(device.hello)

    def _frame(self, device: Device, frame: dict[str, Any], now: int) -> None:
        self._rows += len(frame.get("rows", ()))
        match frame["t"]:
            case "changes":
                if frame["from"] != device.cursor:
                    self._failed(device, "a batch did not begin at the device's cursor")
                device.cursor = frame["to"]
                # A new message may come with its conversation; there are no deletions here.
                self._arrivals += [(device.number, row[2].hex(), now) for row in frame["rows"] if row[0] == "m"]
            case "snapshot":
                device.cursor = frame.get("cursor")
            case "live":
                if frame["cursor"] != device.cursor:
                    self._failed(device, "`live` did not name the device's cursor")
                elif device.phase is not Phase.LIVE:
                    device.phase = Phase.LIVE
                    self._live += 1
                    self._under_way -= 1
                    self._last_live = now
                    if self._coming_back is not None:
                        self._lives.append(now)
                    self._begin_more()
            case "ack":
                if self._writing is not None:
                    self._writing.acknowledged(device, frame["results"], now)
            case "welcome":
                self._mutations = frame["limits"]["mutations"]
                if device.cursor is not None and frame["mode"] != "resumed":
                    self._failed(device, f"a cursor was answered with a snapshot ({frame['why']})")
            case "error" if frame["code"] == "position_lost" and self._coming_back is not None:
                self._live -= device.phase is Phase.LIVE
                self._drop(device)
                device.cursor = None
                device.prepare()
                heapq.heappush(self._coming_back, (now + frame["retry_after"] * 1_000_000, device.number))
            case "error" if frame["code"] != "unavailable" or frame["answers"] == "push":
                self._failed(device, frame["message"])

    def _failed(self, device: Device, why: str) -> None:
        self._trouble = self._trouble or f"device {device.number}: {why}"
        self._live -= device.phase is Phase.LIVE
        self._drop(device)

    def _drop(self, device: Device) -> None:
        if device.sock is not None:
            self._selector.unregister(device.sock)
            device.sock.close()
            device.sock = None


if __name__ == "__main__":
    Devices().run()
