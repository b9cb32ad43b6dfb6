"""Writers and devices of streams that fail, repeat and return, and know what they were told."""

import asyncio
import contextlib
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import orjson
from websockets.exceptions import InvalidHandshake, WebSocketException

from atlas_sync.replica import Replica
from protocol.codec import JSON, MSGPACK
from protocol.frames import Error, Hello, Live, Stop, Stopped, Streams, StreamText, Welcome
from tests.support.peer import CHAT, Peer, peer
from tests.support.rows import encoded_value
from tests.support.serving import ServerProcess, token

SERVICE: Final = "a service token of the tests, at least 32 characters"
ALPHABET: Final = 'abcdefghijklmnop ,.\nÄßéñ\u0301漢字かな🙂👩‍💻🇩🇪\U0010ffff\ufeff\u2028"\\'
LOST_SECONDS: Final = 0.6
"""A crash of Postgres loses the commits of the last three times wal_writer_delay, of those that wait for no disk."""
LATE: Final = 0.5
"""Seconds after which a device has surely read what was sent before."""
WINDOW: Final = 50
"""Messages of a conversation that a snapshot holds."""
TAIL: Final = 40
"""Characters that a writer chooses at once."""


@dataclass
class Answer:
    """A row whose text is streamed, and all that is known of it. `base`: what its column holds first."""

    message: UUID
    user: UUID
    base: str
    ids: set[str] = field(default_factory=set)
    """Of its streams."""
    tried: list[set[str]] = field(default_factory=list)
    """At each offset the characters that somebody tried to write there."""
    whole: str | None = None
    """The text, once it cannot change any more."""
    acknowledged: list[tuple[float, int, str]] = field(default_factory=list)
    """Loop time of the answer, offset, text."""
    written: list[str] = field(default_factory=list)
    """What the app has written to the row."""
    deleted: bool = False
    crashes: int = 0
    """How often Postgres has crashed since it began."""

    def attempt(self, offset: int, text: str) -> None:
        while len(self.tried) < offset + len(text):
            self.tried.append(set())
        for i, character in enumerate(text, offset):
            self.tried[i].add(character)

    def explains(self, offset: int, text: str) -> bool:
        """Whether somebody has tried to write this there."""
        return offset + len(text) <= len(self.tried) and all(
            character in self.tried[i] for i, character in enumerate(text, offset)
        )

    def crashed(self, at: float) -> None:
        """Postgres was killed: what was acknowledged just before is not promised."""
        self.crashes += 1
        self.acknowledged = [each for each in self.acknowledged if each[0] < at - LOST_SECONDS]

    def promised(self, ago: float = 0.0) -> int:
        """Where what was acknowledged so many seconds ago ends."""
        last = asyncio.get_running_loop().time() - ago
        return max((offset + len(text) for at, offset, text in self.acknowledged if at <= last), default=0)

    def check(self, row: str | None) -> None:
        """At the end: `row` is what its column holds."""
        assert len(self.ids) <= 1, "a second answer"
        if self.deleted:
            assert row is None
            return
        assert row is not None
        if self.whole is None:
            assert not self.ids
            return
        assert self.explains(0, self.whole)
        for _, offset, text in self.acknowledged:
            assert self.whole[offset : offset + len(text)] == text, "an acknowledged append is gone"
        app = self.written[-1] if self.written else self.base
        lags = app in ("", self.base) or (len(app) < len(self.whole) and self.whole.startswith(app))
        assert row == (self.whole if lags and self.whole else app), "the row has another text"


class App:
    """The app's own SQL, which goes on when Postgres returns."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def execute(self, statement: str, *arguments: object) -> None:
        while True:
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                sql = await asyncpg.connect(self._url, command_timeout=10)
                try:
                    await sql.execute(statement, *arguments)
                    return
                finally:
                    sql.terminate()
            await asyncio.sleep(0.05)


class GoneError(Exception):
    """The stream or its row is not there any more."""


class Job:
    """A job of the app's backend that writes an answer: over HTTP, to one of the servers at random."""

    def __init__(self, servers: list[ServerProcess], app: App, answer: Answer, rng: random.Random) -> None:
        self._servers = servers
        self._app = app
        self._answer = answer
        self._rng = rng
        self._stream = ""

    async def run(self, *, only: bool) -> bool:
        """Write, and perhaps die. `only`: no other job is at work. Returns whether the stream has ended."""
        try:
            return await self._write(only)
        except GoneError:
            assert self._answer.deleted, "a stream is gone"
            return True

    async def _write(self, only: bool) -> bool:
        rng, answer = self._rng, self._answer
        body = {"user": str(answer.user), "kind": "message", "id": str(answer.message), "column": "content"}
        status, opened = await self._ask("POST", "", body)
        assert status in (200, 201), opened
        self._stream = opened["stream"]
        answer.ids.add(self._stream)
        text = opened["text"]
        assert opened["offset"] == len(text)
        assert answer.explains(0, text)
        if opened["state"] != "open":
            return await self._ended()
        length = len(text) + rng.choice([0, 20, 100, 300])
        large = rng.random() < 0.1
        tail = ""
        while len(text) < length:
            tail = tail or self._say(TAIL)
            part = tail[: rng.choice([0, 1, 3, 7, TAIL])]
            if large and rng.random() < 0.2:
                part = tail + self._say(1) * 10_000
            if part and text and rng.random() < 0.2:  # it repeats something
                back = rng.randrange(1, min(len(text), 9) + 1)
                part, offset = text[-back:] + part, len(text) - back
            else:
                offset = len(text)
            answer.attempt(offset, part)
            promised, crashes = answer.promised(), answer.crashes
            status, said = await self._ask("PATCH", f"/{self._stream}", {"offset": offset, "text": part})
            if status == 409 and said["state"] != "open":
                return await self._ended()
            if status == 409:
                # Another job writes, or Postgres has lost something. This one goes on with what there is.
                assert said["offset"] >= min(promised, answer.promised())
                text = await self._read()
                tail = ""
                if rng.random() < 0.3:
                    return False
                continue
            assert status == 200, said
            assert said["offset"] >= offset + len(part)
            if answer.crashes == crashes:
                answer.acknowledged.append((asyncio.get_running_loop().time(), offset, part))
            tail = tail[max(0, offset + len(part) - len(text)) :]
            text = text[:offset] + part
            if only and rng.random() < 0.02:
                await self._update(text)  # a checkpoint
            if rng.random() < 0.04:
                return False  # dies
            await asyncio.sleep(rng.choice([0, 0.005, 0.02, 0.05]))
        return await self._finish(text, only)

    def _say(self, length: int) -> str:
        return "".join(self._rng.choices(ALPHABET, k=length))

    async def _finish(self, text: str, only: bool) -> bool:
        rng, answer = self._rng, self._answer
        how = rng.choice(["between", "after", "edit", "write", "write", "never"]) if only else "write"
        if how == "between":
            await self._update(text)
        given = {**({"offset": len(text)} if rng.random() < 0.7 else {}), **({"write": True} if how == "write" else {})}
        state = rng.choice(["done", "done", "done", "failed", "stop"])
        status, said = await self._ask("POST", f"/{self._stream}/{state}", given)
        if status == 409 and said["state"] == "open":
            return False
        assert status in (200, 409), said
        await self._ended()
        if how == "after" and answer.whole:
            await self._update(answer.whole)
        elif how == "edit":
            await self._update(self._say(20) + "edited")
        return True

    async def _ended(self) -> bool:
        """The text cannot change any more."""
        text = await self._read()
        if self._answer.whole is None:
            self._answer.whole = text
        assert self._answer.whole == text, "a text has changed after its end"
        return True

    async def _read(self) -> str:
        status, said = await self._ask("GET", f"/{self._stream}", None)
        assert status == 200, said
        assert said["offset"] == len(said["text"])
        return str(said["text"])

    async def _update(self, text: str) -> None:
        self._answer.written.append(text)
        await self._app.execute("UPDATE messages SET content = $2 WHERE id = $1", self._answer.message, text)

    async def _ask(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Ask one of the servers, until one answers and the answer is not lost. Raises GoneError."""
        while True:
            requests = [self._send(method, path, body) for _ in range(2 if self._rng.random() < 0.05 else 1)]
            patience = self._rng.random() * 0.02 if self._rng.random() < 0.05 else 12
            try:
                async with asyncio.timeout(patience):
                    responses = await asyncio.gather(*requests)
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                await asyncio.sleep(0.02)
                continue
            status, said = self._rng.choice(responses)
            if status in (429, 503):
                await asyncio.sleep(0.05)
            elif status == 404:
                raise GoneError
            else:
                return status, orjson.loads(said)

    async def _send(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        port = self._rng.choice(self._servers).port
        content = b"" if body is None else orjson.dumps(body)
        head = (
            f"{method} /v1/streams{path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {SERVICE}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(head.encode() + content)
            answer = await reader.readuntil(b"\r\n\r\n")
            lines = answer.decode().lower().split("\r\n")
            (length,) = (int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
            return int(lines[0].split()[1]), await reader.readexactly(length)
        finally:
            writer.transport.abort()


@dataclass
class Held:
    """A stream that a device holds (SPEC.md 13)."""

    answer: Answer
    since: int
    text: str = ""
    state: str = "open"
    base: str | None = None
    seen: bool = False
    listed: bool = True
    over: bool = False

    def shown(self, row: Any) -> str | None:
        """What is shown in the column, by 13.4. None: nothing."""
        if row is None:
            return None
        value = row.values["content"]
        if not self.seen:
            self.seen, self.base = True, value if row.seq <= self.since else None
        lags = row.seq <= self.since or value in ("", self.base)
        checkpoint = len(value) < len(self.text) and self.text.startswith(value)
        same = value == self.text and self.state == "open"
        if self.over or (self.state != "open" and not self.text) or not (lags or checkpoint or same):
            self.over = True
            return str(value)
        return self.text


class StreamDevice:
    """A device that asks for streams, connects to one of the servers at random, drops, stalls, reloads, and stops."""

    def __init__(
        self, servers: list[ServerProcess], user: UUID, answers: dict[UUID, Answer], rng: random.Random
    ) -> None:
        self._servers = servers
        self._user = user
        self._answers = answers
        self._rng = rng
        self._client = uuid4()
        self._replica = Replica(CHAT)
        self._cursor: bytes | None = None
        self._held: dict[UUID, Held] = {}
        self._wire: dict[UUID, str] = {}
        """What this connection has sent of each stream."""
        self._showed: dict[UUID, str] = {}
        self._n = 0
        self._live = False
        self._listed = False
        self.calm = False
        """Set: it only follows."""
        self.crashes = 0
        """How often Postgres has crashed."""
        self.ends: list[tuple[Answer, str]] = []
        """The texts with which streams have ended here."""
        self.cuts: list[tuple[Answer, str, str, int]] = []
        """What was shown, or held, what took its place, and how much was promised then."""
        self.counts: dict[str, int] = {"frames": 0, "cuts": 0, "stops": 0, "connections": 0, "stalls": 0}

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            with contextlib.suppress(OSError, WebSocketException, InvalidHandshake, TimeoutError):
                await self._connect()
            self._live = False
            if not self.calm and self._rng.random() < 0.2:
                self._reload()
            await asyncio.sleep(self._rng.random() * 0.1)

    def _reload(self) -> None:
        """It lost all that it had."""
        self._replica, self._cursor = Replica(CHAT), None
        self._held.clear()
        self._showed.clear()

    async def _connect(self) -> None:
        server = self._rng.choice(self._servers)
        codec = self._rng.choice([MSGPACK, JSON])
        small = socket.socket()
        small.setblocking(False)
        if not self.calm:  # so that a device that stalls is soon seen to
            small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        try:
            await asyncio.get_running_loop().sock_connect(small, ("127.0.0.1", server.port))
        except BaseException:
            small.close()
            raise
        async with peer(server.url, codec=codec, sock=small, max_queue=1) as device:
            self.counts["connections"] += 1
            self._wire.clear()
            self._listed = False
            crashes = self.crashes
            device.replica, device.cursor = self._replica, self._cursor
            try:
                hello = Hello(token=token(self._user), client_id=self._client, cursor=self._cursor, extras=["streams"])
                await device.say(hello)
                stalls = self.counts["stalls"]
                while True:
                    frame = await device.hear()
                    self.counts["frames"] += 1
                    self._take(frame, calm=crashes == self.crashes and stalls == self.counts["stalls"])
                    if not self.calm:
                        await self._act(device)
            finally:
                self._cursor = device.cursor

    async def _act(self, device: Peer) -> None:
        chance = self._rng.random()
        if chance < 0.004:
            device.socket.transport.abort()
        elif chance < 0.008:
            self.counts["stalls"] += 1
            await asyncio.sleep(self._rng.random())
        elif chance < 0.014:
            open_ = [held for held in self._held.values() if held.state == "open" and held.listed]
            if open_:
                answer = self._rng.choice(open_).answer
                self._n += 1
                column = self._rng.choice([None, "content"])
                id_ = encoded_value(answer.message, device.codec)
                await device.say(Stop(n=self._n, kind="m", id=id_, column=column))

    def _take(self, frame: Any, *, calm: bool) -> None:
        """`calm`: Postgres did not crash during this connection, and it did not stall."""
        if isinstance(frame, Streams):
            self._listed = True
            for id_, held in self._held.items():
                held.listed = id_ in frame.open
            for id_ in [id_ for id_, held in self._held.items() if held.over and not held.listed]:
                del self._held[id_]
        elif isinstance(frame, StreamText):
            first = frame.stream not in self._wire
            message = self._grow(frame, calm=calm)
            if first:
                self._showed.pop(message, None)
        elif isinstance(frame, Live):
            self._live = True
            self._held = {id_: held for id_, held in self._held.items() if held.listed}
        elif isinstance(frame, Stopped):
            self.counts["stops"] += frame.found
        elif isinstance(frame, Error):
            assert frame.code in ("unavailable", "going_away", "slow_down"), frame
        elif isinstance(frame, Welcome):
            self._live = False
        self._look(calm=calm)

    def _grow(self, frame: StreamText, *, calm: bool) -> UUID:
        message = UUID(bytes=frame.id) if isinstance(frame.id, bytes) else UUID(frame.id)
        answer = self._answers[message]
        assert answer.user == self._user, "somebody else's text"
        assert answer.explains(frame.offset, frame.text), "nobody has written this"
        before = self._wire.get(frame.stream)
        if before is None:
            assert frame.offset == 0, "the first frame has not the whole text"
            before = ""
        assert frame.offset <= len(before), "a gap"
        after = self._wire[frame.stream] = before[: frame.offset] + frame.text
        if not after.startswith(before):
            self.counts["cuts"] += 1
            if calm:
                self.cuts.append((answer, before, after, answer.promised(LATE)))
        held = self._held.get(frame.stream)
        if held is None:
            held = self._held[frame.stream] = Held(answer, frame.since)
        held.text, held.state, held.listed = after, frame.state, True
        if frame.state != "open" and calm:
            self.ends.append((answer, after))
        return message

    def _look(self, *, calm: bool) -> None:
        """Decide what is shown."""
        for id_, held in self._held.items():
            answer = held.answer
            shown = held.shown(self._replica.rows["message"].get(answer.message))
            before = self._showed.pop(answer.message, None)
            if shown is None:
                continue
            self._showed[answer.message] = shown
            if before and before != answer.base and not shown.startswith(before) and calm and id_ in self._wire:
                self.cuts.append((answer, before, shown, answer.promised(LATE)))

    def lacks(self, rows: dict[UUID, str]) -> str:
        """Why it does not show these texts, as far as its window reaches, or is not live, or knows of a stream that is
        not settled. Empty if nothing is lacking."""
        have = {id_: row.values["content"] for id_, row in self._replica.rows["message"].items()}
        for held in self._held.values():
            shown = held.shown(self._replica.rows["message"].get(held.answer.message))
            if shown is not None:
                have[held.answer.message] = shown
        if not self._live or not self._listed:
            return f"live: {self._live}, listed: {self._listed}"
        if listed := [id_ for id_, held in self._held.items() if held.listed]:
            return f"not settled: {listed}"
        if wrong := [id_ for id_, text in have.items() if rows.get(UUID(str(id_))) != text]:
            return f"other texts: {wrong}"
        return f"{len(have)} of {len(rows)} rows" if len(have) < min(len(rows), WINDOW) else ""

    def check(self) -> None:
        """At the end."""
        for answer, text in self.ends:
            assert answer.whole in (None, text) or answer.deleted, "a device saw another end"
        for answer, before, after, promised in self.cuts:
            if answer.whole is not None and not answer.deleted and not answer.written:
                right = min(common(before, answer.whole), promised)
                assert common(after, answer.whole) >= right, "a text that was promised was taken back"


def common(one: str, other: str) -> int:
    """How many characters they begin with are the same."""
    return next(_different(one, other), min(len(one), len(other)))


def _different(one: str, other: str) -> Iterator[int]:
    return (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
