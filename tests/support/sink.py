"""A socket for the read path, without a network."""

from protocol.codec import MSGPACK, Codec
from protocol.cursor import Position
from protocol.frames import Error, Instant
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
        self.errors: list[Error] = []
        """Those that it was closed with included."""

    def welcome(self, tier: str | None, why: Why | None) -> Instant:
        self.welcomes.append((tier, why))
        return len(self.welcomes)

    def send(self, wire: bytes) -> None:
        self.sent.append(wire)

    def send_error(self, error: Error) -> None:
        self.errors.append(error)

    def close(self, error: Error) -> None:
        self.errors.append(error)
        self.gone = True

    async def wait_writable(self) -> None: ...
