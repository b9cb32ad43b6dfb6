"""The database of streams in memory, strict about what it is asked, with the faults that a test wants."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from server.declaration.chat import CHAT
from server.declaration.model import Declaration
from server.declaration.synced import Synced
from server.exceptions import UnavailableError
from server.streams.ports import ANYWHERE, Found, Opened, Part, Place, Settled, State
from server.streams.streams import Streams

USER = UUID(int=1)
OTHER = UUID(int=2)


def place(number: int = 1) -> Place:
    return Place("m", (str(UUID(int=number)),), "content")


@dataclass
class Kept:
    """A stream in the database."""

    user: UUID
    place: Place
    parts: list[tuple[int, str]] = field(default_factory=list)
    state: State = State.OPEN
    settled: bool = False
    stopping: bool = False

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.parts)

    def append(self, text: str) -> None:
        self.parts.append((len(self.text), text))


class FakeStore:
    """`StreamStore`. `away`: every call fails. `holding`: appends wait until it is set."""

    def __init__(self) -> None:
        self.kept: dict[UUID, Kept] = {}
        self.away = False
        self.failing = 0
        """How many appends fail next."""
        self.going = asyncio.Event()
        self.going.set()
        self.appends: list[list[Part]] = []
        self.reads: list[list[tuple[UUID, int]]] = []
        self.touched: list[set[UUID]] = []
        self.silent: list[bool] = []
        self.settling: list[Settled] = []
        """What the next look at the rows finds."""
        self.without_row: set[UUID] = set()
        self.rotations = 0

    def add(self, text: str = "", user: UUID = USER, number: int = 1) -> UUID:
        """A stream that another process has opened."""
        id_ = uuid4()
        self.kept[id_] = Kept(user, place(number))
        if text:
            self.kept[id_].append(text)
        return id_

    def _called(self) -> None:
        if self.away:
            raise UnavailableError("Postgres is away.")

    async def open(self, id_: UUID, user: UUID, place: Place, most: int, *, restart: bool) -> Opened:
        self._called()
        there = next((each for each, kept in self.kept.items() if kept.place == place), None)
        if there is not None and not restart:
            kept = self.kept[there]
            return Opened(there, False, kept.state, 7, kept.text)
        if there is not None:
            del self.kept[there]
        self.kept[id_] = Kept(user, place)
        return Opened(id_, True, State.OPEN, 7, "")

    async def append(self, parts: Sequence[Part]) -> set[UUID]:
        assert parts
        assert len({part.id for part in parts}) == len(parts), "a stream twice"
        assert all(part.text for part in parts)
        self.appends.append(list(parts))
        await self.going.wait()
        self._called()
        if self.failing:
            self.failing -= 1
            raise UnavailableError("Postgres is away.")
        done = set()
        for id_, at, text in parts:
            kept = self.kept.get(id_)
            if kept is not None and kept.state is State.OPEN and at == len(kept.text):
                kept.append(text)
                done.add(id_)
        return done

    async def read(self, wants: Sequence[tuple[UUID, int]]) -> list[Found]:
        assert len({id_ for id_, _ in wants}) == len(wants), "a stream twice"
        self.reads.append(list(wants))
        await asyncio.sleep(0)
        self._called()
        return [self._found(id_, at) for id_, at in wants if id_ in self.kept]

    async def unsettled(self) -> list[Found]:
        self._called()
        return [self._found(id_, ANYWHERE) for id_, kept in self.kept.items() if not kept.settled]

    def _found(self, id_: UUID, asked: int) -> Found:
        kept = self.kept[id_]
        parts = [(at, text) for at, text in kept.parts if at >= asked]
        at, text = (parts[0][0], "".join(text for _, text in parts)) if parts else (None, None)
        return Found(id_, str(kept.user), kept.place, 7, kept.state, kept.settled, kept.stopping, at, text)

    async def end(self, id_: UUID, state: State, expected: int | None, *, write: bool) -> tuple[State, int] | None:
        self._called()
        kept = self.kept.get(id_)
        if kept is None:
            return None
        if kept.state is State.OPEN and expected in (None, len(kept.text)):
            kept.state = state
        return kept.state, len(kept.text)

    async def stop(self, ids: Sequence[UUID]) -> set[UUID]:
        self._called()
        open_ = {id_ for id_ in ids if id_ in self.kept and self.kept[id_].state is State.OPEN}
        for id_ in open_:
            self.kept[id_].stopping = True
        return open_

    async def touch(self, ids: Sequence[UUID]) -> None:
        self._called()
        self.touched.append(set(ids))

    async def lost(self, ids: Sequence[UUID]) -> set[UUID]:
        self._called()
        return self.without_row & set(ids)

    async def settle(self, *, silent: bool) -> list[Settled]:
        self._called()
        self.silent.append(silent)
        found, self.settling = self.settling, []
        return found

    async def rotate(self) -> None:
        self._called()
        self.rotations += 1


class FakeNotices:
    """`Notices` that a test sends."""

    def __init__(self) -> None:
        self._heard: Callable[[float, list[UUID]], object] = lambda _, __: None
        self.up: Callable[[], None] = lambda: None
        self.down: Callable[[], None] = lambda: None

    async def run(
        self, heard: Callable[[float, list[UUID]], object], up: Callable[[], None], down: Callable[[], None]
    ) -> None:
        self._heard, self.up, self.down = heard, up, down
        up()
        await asyncio.Event().wait()

    def ring(self, ids: Iterable[UUID]) -> None:
        self._heard(time.time(), list(ids))


class Process:
    """A process, on a database that others use too."""

    def __init__(self, store: FakeStore, declaration: Declaration = CHAT) -> None:
        self.store = store
        self.notices = FakeNotices()
        synced = Synced()
        self.streams = Streams(store, self.notices, synced)
        synced.use(declaration)

    def elsewhere(self, id_: UUID, text: str = "", state: State = State.OPEN) -> None:
        """Another process appends, or ends the stream."""
        kept = self.store.kept[id_]
        if text:
            kept.append(text)
        kept.state = state
        self.notices.ring([id_])


@contextlib.asynccontextmanager
async def process(store: FakeStore, declaration: Declaration = CHAT) -> AsyncIterator[Process]:
    made = Process(store, declaration)
    running = asyncio.create_task(made.streams.run())
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.wait([running])
