"""A device for any schema, written from SPEC.md alone: the product's clients have no part in it.

It learns the schema from the server, holds rows as plain values, comes back after every end of its connection, reads
pages and pushes mutations. It never gives a mutation another number. `check` raises what it saw that SPEC.md forbids.
"""

import asyncio
import contextlib
import random
import time
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from tests.support.any_rows import Rows
from tests.support.any_values import Id, Kind, Wire, kinds
from tests.support.serving import token
from tests.support.waiting import LIMIT

PASSING: Final = {"unavailable", "slow_down", "going_away", "replaced"}
"""Errors that faults cause. A connection that is replaced is an earlier one of this device."""
PUSH_BYTES: Final = 150_000
"""Of one push; a frame has at most 262,144."""


class GoneError(Exception):
    """The connection ended before the page arrived."""


class Page(NamedTuple):
    keys: list[Id]
    """In the order in which they came."""
    before: Any
    """Where the next page begins; None if this one has no rows."""
    more: bool


class AnyDevice:
    """One installation of a user. `forbidden`: what no frame may contain. `window`: see `hello`."""

    def __init__(
        self,
        url: str,
        user: UUID,
        wire: Wire,
        rng: random.Random,
        *,
        window: dict[str, int] | None = None,
        forbidden: tuple[bytes, ...] = (),
    ) -> None:
        self.user = user
        self.client_id = uuid4()
        self.wire = wire
        self.rows = Rows({})
        self.results: dict[int, str] = {}
        """By number: `applied`, or the code of the rejection."""
        self.outbox: dict[int, Any] = {}
        """The mutations that it holds, by number."""
        self.position = 0
        self.live = False
        self.connections = 0
        self.whys: list[str] = []
        """Why it got snapshots."""
        self._url = url
        self._rng = rng
        self._window = window
        self.narrow = window is not None
        """Whether it asked for less than the declaration's windows."""
        self._forbidden = forbidden
        self._hash = ""
        self._cursor: bytes | None = None
        self._socket: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._made = 0
        self._acked: dict[int, int] = {}
        """The seqs of mutations with a result of this connection."""
        self._answered: set[int] = set()
        """The numbers with a result of this connection."""
        self._pushing: range | None = None
        self._not_before = 0.0
        self._welcomed = False
        self._replaces = False
        self._seq = 0
        """The seq of the last row of the feed."""
        self._pages: dict[int, tuple[Kind, asyncio.Future[Page]]] = {}
        self._asked = 0

    # --- its life

    def start(self) -> None:
        self._task = asyncio.create_task(self._live())

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def cut(self) -> None:
        """Break the connection, whatever it is doing."""
        if self._socket is not None:
            self._socket.transport.abort()

    def check(self) -> None:
        """Raises what this device saw that is forbidden."""
        assert self._task is not None
        if self._task.done():
            self._task.result()

    @property
    def settled(self) -> bool:
        """Everything that it wrote has its result and came back."""
        return self.live and not self.outbox

    async def _live(self) -> None:
        while True:
            self.connections += 1
            code = 1006
            with contextlib.suppress(OSError, InvalidHandshake, EOFError, TimeoutError):
                async with connect(
                    self._url,
                    subprotocols=[Subprotocol(self.wire.subprotocol)],
                    compression=None,
                    max_size=None,
                    ping_interval=None,
                    close_timeout=0.1,
                    proxy=None,
                ) as socket:
                    self._socket = socket
                    try:
                        await self._converse(socket)
                    except ConnectionClosed as end:
                        code = 1006 if end.rcvd is None else end.rcvd.code
                    finally:
                        self._ended()
            assert code not in range(4300, 4400) or code == 4302, f"closed with {code}"
            if code // 100 == 42:
                self._cursor = None
            await asyncio.sleep(self._rng.random() * 0.2)

    def _ended(self) -> None:
        self._socket = None
        self.live = self._welcomed = False
        self._pushing = None
        for _, answer in self._pages.values():
            answer.cancel()
        self._pages.clear()
        self.rows.forget_deletions()

    async def _converse(self, socket: ClientConnection) -> None:
        self._acked.clear()
        self._answered.clear()
        await self._say(
            t="hello",
            token=token(self.user),
            client_id=self.wire.sent("uuid", self.client_id),
            cursor=self.wire.sent_opaque(self._cursor),
            window=self._window,
            generation=time.time_ns() // 1000,
            schema=self._hash,
        )
        async for message in socket:
            data = message.encode() if isinstance(message, str) else message
            for words in self._forbidden:
                assert words not in data, f"{self.user} was sent {words!r}"
            await self._hear(self.wire.decode(message))
            await self._push()

    async def _say(self, **frame: Any) -> None:
        assert self._socket is not None
        await self._socket.send(self.wire.encode({name: each for name, each in frame.items() if each is not None}))

    # --- what it hears

    async def _hear(self, frame: dict[str, Any]) -> None:
        match frame["t"]:
            case "welcome":
                assert frame["schema"] == self._hash or not self._hash, "nobody declares another schema here"
                self._welcomed = True
                self._replaces = frame["mode"] == "snapshot"
                if self._replaces:
                    self._cursor = None
                    self.whys.append(frame["why"])
            case "schema":
                assert not self._hash, "it has this schema"
                self._hash = frame["hash"]
                self.rows = Rows(kinds(frame))
            case "snapshot":
                self._hear_snapshot(frame)
            case "changes":
                self._hear_changes(frame)
            case "live":
                assert self.wire.opaque(frame["cursor"]) == self._cursor, "a hole before live"
                self.live = True
                self._reach(frame["seq"])
            case "page":
                self._hear_page(frame)
            case "ack":
                self._hear_ack(frame["results"])
            case "error":
                self._hear_error(frame)
            case "pong":
                pass
            case other:
                raise AssertionError(f"a frame {other}")

    def _hear_snapshot(self, frame: dict[str, Any]) -> None:
        assert self._cursor is None
        if self._replaces:
            self.rows.clear()
            self._replaces = False
            self._seq = 0
        assert all(row[1] == frame["as_of"] for row in frame["rows"])
        self.rows.apply(self.wire, frame["rows"])
        if frame.get("cursor") is not None:
            self._cursor = self.wire.opaque(frame["cursor"])

    def _hear_changes(self, frame: dict[str, Any]) -> None:
        assert self.wire.opaque(frame["from"]) == self._cursor, "a hole"
        for row in frame["rows"]:
            assert row[1] >= self._seq, "the feed goes back"
            self._seq = row[1]
        self.rows.apply(self.wire, frame["rows"])
        self._cursor = self.wire.opaque(frame["to"])
        assert frame.get("partial", False) == (frame.get("seq") is None)
        if frame.get("seq") is not None:
            assert frame["seq"] >= self._seq
            self._reach(frame["seq"])

    def _reach(self, seq: int) -> None:
        assert seq >= self.position, "the position goes back"
        self.position = seq
        self._retire()

    def _retire(self) -> None:
        for n in [n for n, seq in self._acked.items() if seq <= self.position]:
            self.outbox.pop(n, None)
            del self._acked[n]

    # --- pages

    async def page(self, kind: Kind, parent: Id = None, before: Any = None, limit: int | None = None) -> Page:
        """Ask for a page, and apply it. Raises GoneError."""
        if self._socket is None or not self._welcomed or self._cursor is None:
            raise GoneError
        number = self._asked = self._asked + 1
        answer: asyncio.Future[Page] = asyncio.get_running_loop().create_future()
        self._pages[number] = kind, answer
        above = None if kind.parent is None else self.wire.sent_key(self.rows.kinds[kind.parent], parent)
        with contextlib.suppress(ConnectionClosed):  # which cancels the answer
            await self._say(t="page", id=number, kind=kind.name, parent=above, before=before, limit=limit)
        async with asyncio.timeout(LIMIT):
            await asyncio.wait([answer])
        if answer.cancelled():
            raise GoneError
        return answer.result()

    async def pages(self, kind: Kind, parent: Id = None) -> list[Id]:
        """All pages of a list, joined: from the newest row to the oldest. Raises GoneError."""
        joined: list[Id] = []
        before: Any = None
        while True:
            page = await self.page(kind, parent, before, self._rng.choice((1, 3, 20, 100, None)))
            joined += page.keys
            if not page.more:
                return joined
            assert page.keys, "more is promised, and there is nothing to go on from"
            before = page.before

    def _hear_page(self, frame: dict[str, Any]) -> None:
        kind, answer = self._pages.pop(frame["id"])
        rows = frame["rows"]
        assert all(row[0] == kind.tag and row[1] == frame["as_of"] for row in rows)
        self.rows.apply(self.wire, rows)
        if not self._pages:
            self.rows.forget_deletions()
        before = None
        if rows:
            before = [None if kind.order is None else rows[-1][3 + kind.order], rows[-1][2]]
        if not answer.done():
            answer.set_result(Page([self.wire.key(kind, row[2]) for row in rows], before, frame["more"]))

    # --- writes

    def add(self, *mutation: Any) -> int:
        """Put a mutation, as it travels, into the outbox. Returns its number."""
        self._made += 1
        self.outbox[self._made] = mutation
        return self._made

    async def push(self) -> None:
        """Push what it holds, if it is connected and nothing prevents it."""
        with contextlib.suppress(ConnectionClosed):
            await self._push()

    async def _push(self) -> None:
        left = sorted(self.outbox.keys() - self._answered)
        if not left or not self._welcomed or self._pushing is not None or time.monotonic() < self._not_before:
            return
        first, size = left[0], 0
        mutations: list[Any] = []
        for n in range(first, min(left[-1] + 1, first + self._rng.randrange(1, 40))):
            size += len(self.wire.encode({"": self.outbox.get(n, [])}))
            if mutations and size > PUSH_BYTES:
                break
            mutations.append(self.outbox.get(n, []))
        self._pushing = range(first, first + len(mutations))
        await self._say(t="push", n=first, mutations=mutations, held=min(self.outbox))

    def _hear_ack(self, results: list[Any]) -> None:
        assert self._pushing is not None
        assert [result[1] for result in results] == list(self._pushing)
        self._pushing = None
        for what, n, *rest in results:
            if n not in self.outbox:
                continue  # an empty array stood in its place
            self._answered.add(n)
            said = rest[0] if what == "rejected" else "applied"
            assert self.results.setdefault(n, said) == said, f"{n} is {said} after {self.results[n]}"
            if what == "rejected":
                del self.outbox[n]
            else:
                assert what in ("applied", "repeated")
                self._acked[n] = rest[0]
        self._retire()

    def _hear_error(self, frame: dict[str, Any]) -> None:
        assert frame["code"] in PASSING, frame
        if frame.get("answers") == "push":
            assert self._pushing is not None
            assert frame["id"] == self._pushing[0]
            self._pushing = None
            self._not_before = time.monotonic() + frame.get("retry_after", 100) / 1000
