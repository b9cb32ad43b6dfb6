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
    """A device. Its cursor outlives its connections."""

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
        """The mutations of the unanswered push."""
        self.client = uuid4().bytes
        self.cursor: bytes | None = None
        self.prepare()

    def prepare(self) -> None:
        """Prepare the next connection, and encode its hello: a storm should measure the server's work only."""
        self.sock: socket.socket | None = None
        self.buffer = bytearray()
        self.phase = Phase.CONNECTING
        hello = {"t": "hello", "token": self.token, "client_id": self.client, "cursor": self.cursor}
        self.hello = masked(msgpack.packb(hello))
