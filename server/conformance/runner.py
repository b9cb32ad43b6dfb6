"""Plays scenarios to a client: the server's end of its connections, and the adapter that drives it.

The adapter is a program that speaks JSON lines on its standard input and output (protocol/CLIENT.md).
"""

import asyncio
import json
import tempfile
import time
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from msgspec import to_builtins
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from protocol.codec import CODECS, Codec, FrameError
from protocol.frames import (
    AskPage,
    Delete,
    Error,
    Hello,
    Limits,
    Milliseconds,
    Ping,
    Pong,
    Push,
    Refresh,
    Refreshed,
    Row,
    SchemaFrame,
    Stop,
    Stopped,
    ToClient,
    ToServer,
    Welcome,
)
from server.conformance import steps as do
from server.conformance.steps import LATE, Scenario, Step
from server.declaration.chat import CHAT

USER = UUID(int=0xABC)
KINDS = {kind.tag: kind for kind in CHAT.schema.kinds}
LIMITS = {"frame_bytes": 262_144, "page_rows": 1000, "pages_in_flight": 2, "mutations": 256}
READ_LINE = 64 << 20
"""Bytes of an answer of the adapter: all rows that it holds."""
PAUSE = 0.02
STARTED = 30.0
"""Seconds until an adapter answers its first command at the latest: its program is loaded first."""


class Failed(Exception):  # noqa: N818 (a result, not a fault of ours)
    """The client did not do what the scenario expects. The message is a sentence."""


class LeftOut(Exception):  # noqa: N818 (a result, not a fault of ours)
    """The client does not ask for what the scenario is about."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one scenario. why: What failed, as a sentence; None if nothing did. left_out: It is not for this client."""

    why: str | None = None
    left_out: bool = False


class Socket:
    """The server's end of one connection."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection
        self.codec: Codec = CODECS[str(connection.subprotocol)]

    async def next(self, seconds: float) -> ToServer:
        """The next frame but pings, which are answered. Raises Failed, TimeoutError, ConnectionClosed."""
        async with asyncio.timeout(seconds):
            while True:
                data = await self.connection.recv()
                if isinstance(data, str) is not self.codec.text:
                    raise Failed("It sent a text message for MessagePack, or a binary one for JSON.")
                try:
                    frame = self.codec.decode_to_server(data.encode() if isinstance(data, str) else data)
                except FrameError as error:
                    raise Failed(f"It sent what is no frame: {error}") from None
                if not isinstance(frame, Ping):
                    return frame
                await self.send(Pong())

    async def send(self, frame: ToClient | do.Json) -> None:
        with suppress(ConnectionClosed):
            await self.connection.send(self._encoded(frame))

    async def send_slowly(self, frame: ToClient) -> None:
        data = self._encoded(frame)
        size = max(1, len(data) // 8)
        parts = [data[at : at + size] for at in range(0, len(data), size)]

        async def slowly() -> Any:
            for part in parts:
                yield part
                await asyncio.sleep(PAUSE)

        with suppress(ConnectionClosed):
            await self.connection.send(slowly())

    def _encoded(self, frame: ToClient | do.Json) -> bytes | str:
        data = self.codec.encode(cast(ToClient, frame))
        return data.decode() if self.codec.text else data


class Adapter:
    """The client under test, as a process."""

    def __init__(self, command: Sequence[str], patience: float) -> None:
        self._command, self._patience = command, patience
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        pipe = asyncio.subprocess.PIPE
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=pipe, stdout=pipe, limit=READ_LINE
            )
        except OSError as error:
            raise Failed(f"{self._command[0]} cannot be started ({error.strerror}).") from None

    async def ask(self, do: str, *, within: float | None = None, **fields: Any) -> do.Json:
        """Send a command, and return its answer `within` so many seconds; None: the patience. Raises Failed."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise Failed("The scenario asks a client that was not started.")
        with suppress(ConnectionError):
            process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
            await process.stdin.drain()
        try:
            async with asyncio.timeout(self._patience if within is None else within):
                line = await process.stdout.readline()
        except TimeoutError:
            raise Failed(f"The adapter did not answer «{do}».") from None
        try:
            answer = json.loads(line)
        except ValueError:
            raise Failed(f"The adapter ended, or said no line of JSON, at «{do}».") from None
        if not isinstance(answer, dict) or "error" in answer:
            raise Failed(f"The adapter answered «{do}» with {line.decode().strip()[:200]}")
        return answer

    async def kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None

    async def end(self) -> None:
        """Close its standard input; kill it if it does not end by itself."""
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                await self._process.wait()
        await self.kill()


class Stage:
    """One scenario, being played."""

    def __init__(
        self,
        adapter: Adapter,
        store: Path,
        url: str,
        arrived: asyncio.Queue[ServerConnection],
        patience: float,
        extra: str | None,
    ) -> None:
        self._adapter, self._store, self._url, self._arrived = adapter, store, url, arrived
        self._patience, self._extra = patience, extra
        self._socket: Socket | None = None
        self._stop = 0  # the number of the last one
        self._token, self._tokens = "", 0

    async def play(self, step: Step) -> None:
        """Raises Failed, LeftOut."""
        match step:
            case do.Start():
                await self._adapter.start()
                await self._adapter.ask(
                    "connect",
                    within=STARTED,
                    url=self._url,
                    user=str(USER),
                    token=self._new_token(step.user),
                    store=str(self._store),
                    window=step.window or {},
                )
            case do.Token():
                await self._adapter.ask("token", token=self._new_token(step.user))
            case do.Refresh():
                refresh = await self._next(Refresh, "refresh")
                if refresh.token != self._token:
                    raise Failed("It sent another token than the app's last one.")
                if step.extends:
                    await self.socket.send(Refreshed(expires=_now() + 3_600_000_000))
            case do.NoHello():
                await self._no_hello(step)
            case do.Kill():
                await self._adapter.kill()
            case do.Hello():
                await self._greet(step)
            case do.Send():
                await self.socket.send(step.frame)
            case do.Slowly():
                await self.socket.send_slowly(step.frame)
            case do.Close():
                if step.code is None:
                    self.socket.connection.transport.abort()
                else:
                    await self.socket.connection.close(step.code)
            case do.Closes():
                await self._closes(step)
            case do.StaysAway():
                await self._stays_away(step)
            case do.Push():
                self._check_push(step, await self._next(Push, "push"))
            case do.Page():
                self._check_page(step, await self._next(AskPage, "page"))
            case do.Quiet():
                with suppress(TimeoutError, ConnectionClosed):
                    frame = await self.socket.next(step.seconds)
                    raise Failed(f"It sent a {type(frame).__name__} frame, and nothing was expected.")
            case do.Write():
                fields: do.Json = {"op": step.op, "kind": step.kind, "id": str(step.id), "columns": dict(step.columns)}
                await self._adapter.ask("write", **fields)
            case do.Older():
                parent = None if step.parent is None else str(step.parent)
                await self._adapter.ask("older", kind=step.kind, parent=parent)
            case do.Holds():
                await self._until(lambda: self._adapter.ask("rows"), _rows, _expected(step.rows), "It holds")
            case do.Outbox():
                wanted = (step.pending, tuple(sorted(step.rejected)))
                await self._until(
                    self._status, lambda s: (s["pending"], tuple(sorted(s["rejected"]))), wanted, "Its outbox is"
                )
            case do.Shows():
                wanted_rows = _expected_shown(step.rows)
                await self._until(lambda: self._adapter.ask("shown"), _shown, wanted_rows, "It shows")
            case do.AskStop():
                await self._adapter.ask("stop", kind=step.kind, id=str(step.id))
            case do.Stop():
                self._check_stop(step, await self._next(Stop, "stop"))
            case do.AnswerStop():
                await self._answer_stop(step)
            case do.Is():
                await self._until(self._status, lambda s: s["state"], step.state, "Its status is")

    @property
    def socket(self) -> Socket:
        assert self._socket is not None
        return self._socket

    def _status(self) -> Awaitable[do.Json]:
        return self._adapter.ask("status")

    async def _until(
        self, ask: Callable[[], Awaitable[do.Json]], read: Callable[[do.Json], Any], wanted: Any, words: str
    ) -> None:
        end = time.monotonic() + self._patience
        while (found := read(await ask())) != wanted:
            if time.monotonic() > end:
                raise Failed(f"{words} {_short(found)}, and not {_short(wanted)}.")
            await asyncio.sleep(PAUSE)

    async def _greet(self, step: do.Hello) -> None:
        try:
            async with asyncio.timeout(self._patience):
                connection = await self._arrived.get()
            self._socket = Socket(connection)
            hello = await self.socket.next(self._patience)
        except (TimeoutError, ConnectionClosed):
            raise Failed("No hello came.") from None
        if not isinstance(hello, Hello):
            raise Failed(f"Its first frame was a {type(hello).__name__}, and not hello.")
        if self._extra is not None and self._extra not in (hello.extras or []):
            raise LeftOut
        if hello.cursor not in step.cursors:
            raise Failed(f"hello had the cursor {_short(hello.cursor)}, and not {_short(step.cursors[0])}.")
        if not step.greets:
            return
        now = _now() + step.clock_ahead
        resumed = hello.cursor is not None and step.snapshot is None
        await self.socket.send(
            Welcome(
                session="conformance",
                epoch="epoch",
                schema=CHAT.schema.hash,
                tier="studio",
                mode="resumed" if resumed else "snapshot",
                why=None if resumed else step.snapshot or "new",
                time=now,
                expires=now + step.lasts,
                keepalive=Milliseconds(step.keepalive),
                limits=Limits(**{**LIMITS, **dict(step.limits)}),
            )
        )
        if hello.schema is not None and hello.schema != CHAT.schema.hash:
            await self.socket.send(SchemaFrame(hash=CHAT.schema.hash, kinds=CHAT.schema.kinds))

    async def _closes(self, step: do.Closes) -> None:
        try:
            async with asyncio.timeout(self._patience):
                while True:
                    await self.socket.connection.recv()
        except TimeoutError:
            raise Failed("It did not close the connection.") from None
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else None
            if code not in step.codes:
                raise Failed(f"It closed with {code}, and not with {step.codes[0]}.") from None

    async def _no_hello(self, step: do.NoHello) -> None:
        """A connection may come, without one."""
        with suppress(TimeoutError):
            async with asyncio.timeout(step.seconds):
                while True:
                    socket = Socket(await self._arrived.get())
                    with suppress(ConnectionClosed):
                        if isinstance(await socket.next(step.seconds), Hello):
                            raise Failed("It sent the token of another user.")

    def _new_token(self, user: UUID | None) -> str:
        self._tokens += 1
        self._token = _token(user or USER, self._tokens)
        return self._token

    async def _stays_away(self, step: do.StaysAway) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(step.seconds):
                await self._arrived.get()
            raise Failed("It came back, and was told not to.")

    async def _next(self, wanted: type[Any], words: str) -> Any:
        try:
            frame = await self.socket.next(self._patience)
        except TimeoutError:
            raise Failed(f"No {words} came.") from None
        except ConnectionClosed:
            raise Failed(f"The connection ended, and a {words} was expected.") from None
        if not isinstance(frame, wanted):
            raise Failed(f"It sent a {type(frame).__name__} frame, and a {words} was expected.")
        return frame

    def _check_push(self, step: do.Push, push: Push) -> None:
        found: list[tuple[str, UUID | None] | None] = []
        for raw in push.mutations:
            mutation = self.socket.codec.mutation(raw)
            if mutation is None:
                if self.socket.codec.values(raw):
                    raise Failed("It pushed what is no mutation.")
                found.append(None)
                continue
            key = self.socket.codec.uuid_of(self.socket.codec.values(mutation.id)[0])
            found.append((str(type(mutation).__struct_config__.tag), UUID(key) if key else None))
            ahead = step.ahead
            if ahead is not None and not isinstance(mutation, Delete):
                off = abs(mutation.at - _now() - ahead)
                if off > 60_000_000:
                    raise Failed(f"at is {off / 1e6:.0f} s away from the server's clock.")
        if push.n != step.n or tuple(found) != step.mutations:
            wanted = f"{step.n}, {_short(step.mutations)}"
            raise Failed(f"It pushed {push.n}, {_short(tuple(found))}, and not {wanted}.")
        if step.held is not None and push.held != step.held:
            raise Failed(f"held is {push.held}, and not {step.held}.")

    def _check_stop(self, step: do.Stop, stop: Stop) -> None:
        found = stop.kind, self.socket.codec.uuid_of(stop.id), stop.column
        if found[0] != step.tag or found[1] != str(step.id) or found[2] not in (None, "content"):
            raise Failed(f"It stopped {_short(found)}, and not {_short((step.tag, str(step.id)))}.")
        self._stop = stop.n

    async def _answer_stop(self, step: do.AnswerStop) -> None:
        if step.found is not None:
            await self.socket.send(Stopped(n=self._stop, found=step.found))
            return
        fields: do.Json = {"code": "unavailable", "message": "Postgres is away.", "retryable": True, "retry_after": 200}
        await self.socket.send(Error(**fields, answers="stop", id=self._stop))

    def _check_page(self, step: do.Page, page: AskPage) -> None:
        codec = self.socket.codec
        values = codec.values(page.before) if bytes(page.before) not in (b"", b"null", b"\xc0") else []
        before = (codec.value(values[0]), UUID(str(codec.uuid_of(values[1])))) if len(values) == 2 else None
        parent = codec.uuid_of(page.parent) if bytes(page.parent) not in (b"", b"null", b"\xc0") else None
        found = page.kind, None if parent is None else UUID(parent), before
        if found != (step.kind, step.parent, step.before):
            raise Failed(f"It asked for {_short(found)}, and not for {_short((step.kind, step.parent, step.before))}.")


async def play(scenario: Scenario, command: Sequence[str], patience: float = LATE) -> Outcome:
    """Play one scenario to a client. A step may take `patience` seconds."""
    arrived: asyncio.Queue[ServerConnection] = asyncio.Queue()

    async def handle(connection: ServerConnection) -> None:
        arrived.put_nowait(connection)
        await connection.wait_closed()

    async with AsyncExitStack() as stack:
        store = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="atlas-conform-")))
        names = [Subprotocol(name) for name in CODECS]
        server = await stack.enter_async_context(
            serve(handle, "127.0.0.1", 0, subprotocols=names, compression=None, close_timeout=1, ping_interval=None)
        )
        adapter = Adapter(command, patience)
        stack.push_async_callback(adapter.end)
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/sync"
        stage = Stage(adapter, store, url, arrived, patience, scenario.extra)
        for number, step in enumerate(scenario.steps, 1):
            try:
                await stage.play(step)
            except Failed as failed:
                return Outcome(f"step {number}, {type(step).__name__}: {failed}")
            except LeftOut:
                return Outcome(left_out=True)
        return Outcome()


async def play_all(
    scenarios: Sequence[Scenario], command: Sequence[str], jobs: int, told: Callable[[Scenario, Outcome], None]
) -> list[Outcome]:
    """Play scenarios, some at a time; `told` is called with each outcome, in order."""
    free = asyncio.Semaphore(jobs)

    async def one(scenario: Scenario) -> Outcome:
        async with free:
            return await play(scenario, command)

    async with asyncio.TaskGroup() as tasks:
        playing = [(scenario, tasks.create_task(one(scenario))) for scenario in scenarios]
        for scenario, task in playing:
            told(scenario, await task)
    return [task.result() for _, task in playing]


def _now() -> int:
    return time.time_ns() // 1000


def _token(user: UUID, number: int) -> str:
    """A token that nobody signed: the runner does not verify it, and clients read `sub` and `exp`."""
    claims = {"sub": str(user), "exp": int(time.time()) + 3600, "aud": "authenticated", "jti": str(number)}
    parts = [urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({"alg": "HS256"}, claims)]
    return ".".join([*parts, "c2lnbmF0dXJl"])


def _expected(rows: Sequence[Row]) -> do.Json:
    return {name: columns for name, (columns, _) in _expected_shown([(row, None) for row in rows]).items()}


def _expected_shown(rows: Sequence[tuple[Row, str | None]]) -> do.Json:
    found = {}
    for (tag, _, key, *values), state in rows:
        kind = KINDS[tag]
        columns = {column.name: to_builtins(value) for column, value in zip(kind.columns, values, strict=True)}
        found[f"{kind.name} {key}"] = columns, state
    return found


def _rows(answer: do.Json) -> do.Json:
    return {f"{kind} {key}": columns for kind, key, columns in answer["rows"]}


def _shown(answer: do.Json) -> do.Json:
    return {f"{kind} {key}": (columns, state) for kind, key, columns, state in answer["rows"]}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 400 else f"{text[:400]}…"
