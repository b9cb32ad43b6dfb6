"""One device of the load generator."""

import socket
from collections import deque
from enum import IntEnum
from uuid import uuid4

import msgpack

from benchmarks.websocket import masked

Made = tuple[int, bytes]
"""A mutation: when it was made (nanoseconds of CLOCK_MONOTONIC), and its encoding."""


class Phase(IntEnum):
    CONNECTING = 0
    UPGRADING = 1
    GREETED = 2
    LIVE = 3


class Device:
    """One device: its cursor outlives its connections."""

    __slots__ = (
        "buffer",
        "client",
        "conversation",
        "cursor",
        "hello",
        "next_n",
        "number",
        "outbox",
        "phase",
        "sock",
        "token",
        "unanswered",
    )

    def __init__(self, number: int, token: str, conversation: bytes) -> None:
        self.number = number
        self.token = token
        self.conversation = conversation
        self.next_n = 1
        self.outbox: deque[Made] = deque()
        self.unanswered: list[Made] = []
        """The mutations of the push under way."""
        self.client = uuid4().bytes
        self.cursor: bytes | None = None
        self.prepare()

    def prepare(self) -> None:
        """Make the next connection's first frame ahead of time: a storm should be the server's work, not ours."""
        self.sock: socket.socket | None = None
        self.buffer = bytearray()
        self.phase = Phase.CONNECTING
        hello = {"t": "hello", "token": self.token, "client_id": self.client, "cursor": self.cursor}
        self.hello = masked(msgpack.packb(hello))
