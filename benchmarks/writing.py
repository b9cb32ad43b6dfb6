"""What the devices of the load generator write: mutations, their pushes, and the time until each is acknowledged."""

import random
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import msgpack

from benchmarks.device import Device
from benchmarks.websocket import masked


class Writing:
    """Makes mutations for a while. Instants are nanoseconds of CLOCK_MONOTONIC."""

    def __init__(
        self,
        devices: Sequence[Device],
        rate: float | None,
        seconds: float,
        batch: int,
        text: str,
        mutations: int,
        failed: Callable[[Device, str], object],
    ) -> None:
        """Write for `seconds`: `rate` messages per second, each by a random device, or (None) `batch` of them by each
        device as soon as its last push is answered. A push has at most `mutations` of them. Calls `failed` for a device
        whose push fails."""
        self._devices = devices
        self._rate = rate
        self._batch = batch
        self._text = text
        self._mutations = mutations
        self._failed = failed
        self._began = self._due = self._last_ack = time.monotonic_ns()
        self._end = self._began + int(seconds * 1e9)
        self._made = 0
        self._waits: list[int] = []
        if rate is None:
            for device in devices:
                self._write_on(device)

    def result(self) -> dict[str, Any] | None:
        """Return the nanoseconds until the last answer, and from each mutation until its own; None as long as mutations
        are made or unanswered."""
        if time.monotonic_ns() < self._end or self._made > len(self._waits):
            return None
        return {"took": self._last_ack - self._began, "waits": self._waits}

    def make_due(self) -> float | None:
        """Make the mutations that are due. Return the seconds until the next one is, None if none will be."""
        if self._rate is None:
            return None
        now = time.monotonic_ns()
        while self._due <= now and self._due < self._end:
            # Counted from when it was due: a generator that lags must not flatter the server.
            self._make(random.choice(self._devices), self._due)
            self._due += int(random.expovariate(self._rate) * 1e9)
        return (self._due - now) / 1e9 if self._due < self._end else None

    def acknowledged(self, device: Device, results: list[Any], now: int) -> None:
        """The push of `device` was answered; send the next one."""
        for (made, _), (kind, n, *_) in zip(device.unanswered, results, strict=True):
            if n != device.next_n or kind != "applied":
                self._failed(device, f"mutation {device.next_n} was answered with {kind} {n}")
            device.next_n += 1
            self._waits.append(now - made)
            self._last_ack = now
        device.unanswered.clear()
        self._write_on(device)
        if not device.unanswered:
            self._push(device)

    def _write_on(self, device: Device) -> None:
        if self._rate is None:
            now = time.monotonic_ns()
            for _ in range(self._batch if now < self._end else 0):
                self._make(device, now)

    def _make(self, device: Device, at: int) -> None:
        columns = {"conversation_id": device.conversation, "role": "user", "content": self._text}
        mutation = ["+", "m", uuid4().bytes, columns, time.time_ns() // 1000]
        device.outbox.append((at, msgpack.packb(mutation)))
        self._made += 1
        if not device.unanswered and (self._rate is not None or len(device.outbox) == self._batch):
            self._push(device)

    def _push(self, device: Device) -> None:
        if not device.outbox or device.sock is None:
            return
        while device.outbox and len(device.unanswered) < self._mutations:
            device.unanswered.append(device.outbox.popleft())
        count = len(device.unanswered)
        head = msgpack.packb({"t": "push", "n": device.next_n})
        # The map's third entry is added by hand, because the mutations are encoded already.
        payload = b"\x83" + head[1:] + msgpack.packb("mutations") + msgpack.Packer().pack_array_header(count)
        frame = masked(payload + b"".join(mutation for _, mutation in device.unanswered))
        if device.sock.send(frame) != len(frame):
            self._failed(device, "a push did not fit into the socket's buffer")
