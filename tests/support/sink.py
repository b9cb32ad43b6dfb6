"""A socket for the read path, without a network."""

from protocol.codec import MSGPACK, Codec
from protocol.cursor import Position
from protocol.frames import Error, Instant, ToClient
from server.feed.resume import Why


class FakeSink:
    """Keeps what it is told. A test fills and drains it by hand."""

    codec: Codec = MSGPACK

    def __init__(self, session: str = "a session") -> None:
        self.session = session
        self.full = False
        self.gone = False
        self.at = Position(0)
        """Where a test says that its device is."""
        self.welcomes: list[tuple[str | None, Why | None]] = []
        self.sent: list[bytes] = []
        """Messages."""
        self.writes = 0
        """Calls that sent some of them, or a welcome."""
        self.errors: list[Error] = []
        """Those that it was closed with included."""
        self.proofs: list[int] = []
        """Each time that it is to be proved that its device has everything: how many messages were sent before."""

    def welcome(self, tier: str | None, why: Why | None, wire: bytes) -> Instant:
        self.welcomes.append((tier, why))
        self.send(wire)
        return len(self.welcomes)

    def send(self, wire: bytes) -> None:
        self.writes += 1
        self.sent += messages(wire)

    def send_error(self, error: Error) -> None:
        self.errors.append(error)

    def close(self, error: Error) -> None:
        self.errors.append(error)
        self.gone = True

    def frame(self, message: bytes) -> ToClient:
        """What a message says."""
        return self.codec.decode_to_client(message[2 if message[1] < 126 else 4 if message[1] == 126 else 10 :])

    def prove(self) -> None:
        self.proofs.append(len(self.sent))

    async def wait_writable(self) -> None: ...


def messages(wire: bytes) -> list[bytes]:
    """The WebSocket messages of a server, whole and with their headers, that these bytes consist of."""
    found = []
    while wire:
        length, begin = wire[1], 2
        if length >= 126:
            begin = 4 if length == 126 else 10
            length = int.from_bytes(wire[2:begin])
        found.append(wire[: begin + length])
        wire = wire[begin + length :]
    return found
