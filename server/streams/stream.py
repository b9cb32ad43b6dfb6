"""One stream, as a process knows it; and all of them."""

from asyncio import Event
from collections.abc import Iterator
from uuid import UUID

from protocol.frames import Seq
from server.exceptions import UnavailableError
from server.streams.ports import Found, Place, State
from server.streams.text import Text


class Group:
    """Appends that are written together: for each stream where its part begins, and the part in pieces."""

    __slots__ = ("_finished", "error", "lost", "parts")

    def __init__(self) -> None:
        self.parts: dict[UUID, tuple[int, list[str]]] = {}
        self.lost: set[UUID] = set()
        """Streams to which nothing was appended."""
        self.error: UnavailableError | None = None
        """Set if it is not known whether anything was written."""
        self._finished = Event()

    @property
    def finished(self) -> bool:
        return self._finished.is_set()

    def finish(self) -> None:
        """It is written, or was not."""
        self._finished.set()

    async def written(self) -> None:
        """Wait until it is finished."""
        await self._finished.wait()


class Stream:
    """A stream that is not settled."""

    __slots__ = (
        "ended_at",
        "ending",
        "former",
        "group",
        "held",
        "id",
        "place",
        "since",
        "state",
        "text",
        "touched",
        "user",
        "uses",
    )

    def __init__(self, id_: UUID, user: str, place: Place, since: Seq, state: State = State.OPEN) -> None:
        self.id = id_
        self.user = user
        self.place = place
        self.since = since
        self.state = state
        self.text: Text | None = None
        """None: it is not known here, or the database may have another one."""
        self.former: Text | None = None
        """What devices were sent, while it is not known whether the database has that."""
        self.group: Group | None = None
        """The last appends of this process that are not written yet."""
        self.ending: Event | None = None
        """An end that is under way: it is set when that is known."""
        self.held = False
        """This process appended last, as far as it knows."""
        self.uses = 0
        """How many appends are under way here."""
        self.touched = 0.0
        """Loop time of the last sign of life of its writer here."""
        self.ended_at: float | None = None
        """Loop time when this process learned of a stop that its writer does not know yet."""

    @property
    def open(self) -> bool:
        return self.state is State.OPEN

    def doubt(self) -> None:
        """The database may have another text."""
        if self.text is not None:
            self.former, self.text = self.text, None


class Known:
    """The unsettled streams."""

    def __init__(self) -> None:
        self._streams: dict[UUID, Stream] = {}
        self._by_user: dict[str, dict[UUID, Stream]] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[Stream]:
        return iter(list(self._streams.values()))

    def get(self, id_: UUID) -> Stream | None:
        return self._streams.get(id_)

    def of(self, user: str) -> list[Stream]:
        """The user's streams."""
        return list(self._by_user.get(user, {}).values())

    def note(self, found: Found) -> Stream:
        """The stream that was found. Its state is not taken yet."""
        stream = self._streams.get(found.id)
        if stream is None:
            stream = self.add(Stream(found.id, found.user, found.place, found.since))
        return stream

    def add(self, stream: Stream) -> Stream:
        self._streams[stream.id] = stream
        self._by_user.setdefault(stream.user, {})[stream.id] = stream
        return stream

    def remove(self, id_: UUID) -> Stream | None:
        """Forget a stream."""
        stream = self._streams.pop(id_, None)
        if stream is not None:
            mine = self._by_user[stream.user]
            del mine[id_]
            if not mine:
                del self._by_user[stream.user]
        return stream
