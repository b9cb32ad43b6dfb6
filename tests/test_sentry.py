"""Failures are reported to Sentry, without any value of a user."""

import asyncio
import gzip
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import psutil
import pytest
import structlog
from sentry_sdk import Client

from protocol.frames import AskPage, Live
from server import logs, sentry
from server.exceptions import UnfitError
from server.logs import Failure
from server.postgres.errors import unavailable
from tests.support.cluster import Database, temporary_folder
from tests.support.commands import run_command
from tests.support.peer import peer
from tests.support.people import add_conversation, add_message, add_user
from tests.support.serving import SECRET, ServerProcess, token
from tests.support.waiting import LIMIT, eventually

CONTENT = "what-nobody-else-may-read"
PASSWORD = "a-password-of-the-database"

log = structlog.get_logger()


class Sentry:
    """An HTTP server that records reports, in place of Sentry."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.paths: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.bodies.append(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
                outer.paths.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def dsn(self) -> str:
        return f"http://key@127.0.0.1:{self._server.server_address[1]}/1"

    @property
    def everything(self) -> bytes:
        return b"\n".join(self.bodies)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for body in list(self.bodies) for event in _events(body)]

    def named(self, name: str) -> dict[str, Any] | None:
        return next((event for event in self.events if event["tags"]["event"] == name), None)

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _events(envelope: bytes) -> Iterator[dict[str, Any]]:
    lines = envelope.split(b"\n")
    for header, item in zip(lines[1::2], lines[2::2], strict=False):
        assert orjson.loads(header)["type"] == "event", "no sessions, no traces, no profiles, no reports"
        yield orjson.loads(item)


@pytest.fixture
def endpoint() -> Iterator[Sentry]:
    made = Sentry()
    yield made
    made.stop()


@pytest.fixture
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, configuration = root.handlers, root.level, structlog.get_config()
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.configure(**configuration)


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_folder() as path:
        yield path


@pytest.fixture
def server_url(database: Database) -> str:
    """A URL with a password, which this cluster ignores."""
    return database.cluster.postgres.url(database.name, "atlas_server", PASSWORD)


def kinds(event: dict[str, Any]) -> list[str]:
    return [exception["type"] for exception in event["exception"]["values"]]


def says_no_secret(endpoint: Sentry, *more: str) -> bool:
    assert endpoint.bodies
    return not any(secret.encode() in endpoint.everything for secret in (CONTENT, PASSWORD, SECRET, *more))


async def test_an_exception_that_ends_the_server_is_reported_without_its_values(
    database: Database, sql: Any, server_url: str, endpoint: Sentry
) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    # Reading the feed fails in a way that nothing of ours expects, and that quotes the message.
    prelude = (
        "from server.feed import change\n"
        "follow = change.follow\n"
        "change.follow = lambda after, page: [int(entry.row[5]) for entry in page.entries] or follow(after, page)"
    )
    async with ServerProcess(server_url, prelude, SENTRY_DSN=endpoint.dsn) as server:
        async with peer(server.url) as device:
            bearer = token(user)
            await device.greet_with(bearer)
            await device.hear_a(Live)
            await add_message(sql, conversation, CONTENT)
            await device.closed()
        assert server.process is not None
        async with asyncio.timeout(LIMIT):
            assert await server.process.wait() != 0
    event = await eventually(lambda: endpoint.named("the process ends"))
    assert event["level"] == "fatal"
    assert event["release"].startswith("atlas-sync@")
    assert event["server_name"] == "atlas-sync"
    assert kinds(event) == ["ValueError", "ExceptionGroup", "ExceptionGroup"]
    error, *_ = event["exception"]["values"]
    assert "value" not in error
    frames = error["stacktrace"]["frames"]
    assert all(set(frame) <= {"filename", "module", "function", "lineno", "context_line", "in_app"} for frame in frames)
    ours = [frame for frame in frames if frame["in_app"]]
    assert ours[-1]["filename"] == "server/feed/pump.py"
    assert "follow" in ours[-1]["context_line"]
    assert "breadcrumbs" not in event
    assert "request" not in event
    assert set(endpoint.paths) == {"/api/1/envelope/"}
    assert says_no_secret(endpoint, bearer)


async def test_a_failed_request_is_reported_with_its_connection_and_the_server_continues(
    sql: Any, server_url: str, endpoint: Sentry
) -> None:
    user = await add_user(sql)
    await add_conversation(sql, user, CONTENT)
    prelude = (
        "from server.declaration.values import Rows\n"
        "upsert = Rows.upsert\n"
        "Rows.upsert = lambda self, seq, *row: int(row[1][0]) if self.tag == 'c' else upsert(self, seq, *row)"
    )
    async with ServerProcess(server_url, prelude, SENTRY_DSN=endpoint.dsn) as server:
        async with peer(server.url) as device:
            bearer = token(user)
            welcome = await device.greet_with(bearer, window={"conversation": 0})
            await device.hear_a(Live)
            await device.say(AskPage(id=1, kind="conversation"))
            code, _ = await device.closed()
            assert code == 4001
        event = await eventually(lambda: endpoint.named("a request failed"))
        assert event["level"] == "error"
        assert event["tags"] == {"event": "a request failed", "connection": welcome.session}
        assert kinds(event) == ["ValueError"]
        assert says_no_secret(endpoint, bearer)
        assert await server.stop() == 0


async def test_a_worker_that_dies_is_reported_by_its_supervisor(server_url: str, endpoint: Sentry) -> None:
    async with ServerProcess(server_url, SENTRY_DSN=endpoint.dsn, WEB_CONCURRENCY="2") as server:
        assert server.process is not None
        await eventually(lambda: sum(event["event"] == "serving" for event in server.log) == 2)
        victim = psutil.Process(server.process.pid).children()[0]
        victim.kill()
        event = await eventually(lambda: endpoint.named("worker died, starting another"))
        assert event["extra"] == {"pid": victim.pid, "status": -signal.SIGKILL}
        assert await server.stop() == 0
    assert says_no_secret(endpoint)


async def test_an_error_of_ours_that_ends_the_process_is_reported_with_its_message(
    postgres_18: Any, endpoint: Sentry
) -> None:
    empty: Database = await postgres_18.create("template0")
    server = ServerProcess(empty.server_url, SENTRY_DSN=endpoint.dsn)
    async with server:
        assert server.process is not None
        async with asyncio.timeout(LIMIT):
            assert await server.process.wait() == 2
    await empty.drop()
    event = await eventually(lambda: endpoint.named("the process ends"))
    (error,) = event["exception"]["values"]
    assert error["type"] == "UnfitError"
    assert "atlas-sync migrate" in error["value"]


@pytest.fixture
async def unreachable(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A DSN whose server does not answer."""
    if request.param == "refuses":
        yield "http://key@127.0.0.1:1/1"
        return
    # Accepts, and then says nothing for ever.
    held: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
    yield f"http://key@127.0.0.1:{silent.sockets[0].getsockname()[1]}/1"
    assert held, "it was tried"
    for writer in held:
        writer.transport.abort()
    silent.close()
    await silent.wait_closed()


@pytest.mark.parametrize("unreachable", ["refuses", "is silent"], indirect=True)
async def test_an_unreachable_sentry_delays_neither_the_server_nor_its_end(
    sql: Any, server_url: str, unreachable: str
) -> None:
    user = await add_user(sql)
    async with ServerProcess(server_url, SENTRY_DSN=unreachable, WEB_CONCURRENCY="2") as server:
        assert server.process is not None
        await eventually(lambda: sum(event["event"] == "serving" for event in server.log) == 2)
        workers = psutil.Process(server.process.pid).children()
        workers[0].kill()
        await eventually(lambda: any(event["event"].startswith("worker died") for event in server.log))
        async with peer(server.url) as device:
            await device.greet(user)
            await device.hear_a(Live)
        assert await server.stop() == 0


async def test_without_a_dsn_sentry_sdk_is_not_imported(server_url: str, folder: Path) -> None:
    (folder / "sentry_sdk.py").write_text("raise AssertionError('imported')")
    async with ServerProcess(server_url, PYTHONPATH=f"{folder}{os.pathsep}{Path.cwd()}") as server:
        assert await server.stop() == 0


@pytest.mark.parametrize(
    ("package", "dsn", "advice"),
    [
        ("raise ImportError", "http://key@127.0.0.1:1/1", "pip install 'atlas-sync[sentry]'"),
        (None, "http://a-secret-key.example.com", "Copy it from your Sentry project's settings"),
    ],
)
async def test_an_unusable_dsn_ends_the_start_with_one_sentence(
    folder: Path, package: str | None, dsn: str, advice: str
) -> None:
    if package is not None:
        (folder / "sentry_sdk.py").write_text(package)
    status, _, said = await run_command(
        "serve",
        DATABASE_URL="postgresql://127.0.0.1:1/nowhere",
        ATLAS_JWT_SECRET=SECRET,
        SENTRY_DSN=dsn,
        PYTHONPATH=f"{folder}{os.pathsep}{Path.cwd()}",
    )
    assert status == 2
    assert said.startswith("atlas-sync: SENTRY_DSN ")
    assert advice in said
    assert said.count("\n") == 1
    assert dsn not in said


async def refused_by_postgres(sql: Any) -> Exception:
    """An error whose DETAIL quotes a row."""
    await sql.execute("CREATE TABLE once (content text PRIMARY KEY)")
    await sql.execute("INSERT INTO once VALUES ($1)", CONTENT)
    with pytest.raises(asyncpg.UniqueViolationError, match=CONTENT) as caught:
        await sql.execute("INSERT INTO once VALUES ($1)", CONTENT)
    refused: Exception = caught.value
    return refused


@pytest.mark.usefixtures("logging_restored")
async def test_logged_errors_are_reported_with_type_and_place_and_never_with_values(
    sql: Any, endpoint: Sentry, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = await refused_by_postgres(sql)
    bearer = token(UUID(int=7))

    def fails(text: str) -> None:
        held = {"token": bearer, "text": text}
        raise KeyError(held["text"]) from refused

    def told(say: Callable[[Exception], object]) -> None:
        try:
            fails(CONTENT)
        except KeyError as error:
            say(error)

    library = logging.getLogger("a.library")
    with sentry.reporting(endpoint.dsn) as report:
        logs.configure(report=report)
        user = str(UUID(int=7))
        told(lambda error: log.error("first", exc_info=error, user=user, connection="c/1", text=CONTENT, count=3))
        told(lambda _: log.exception("second", user=bearer))
        told(lambda _: library.exception("third %s", CONTENT))
        told(lambda error: library.error(f"{error!r} went wrong", exc_info=True))  # as libraries do
        told(lambda error: log.critical("fifth", exc_info=ExceptionGroup(CONTENT, [error, UnfitError("Do this.")])))
        log.error("sixth", exc_info=unavailable(refused))
        log.error("seventh")
        log.warning("too little", text=CONTENT)
    logs.configure()
    (fourth,) = [line for line in capsys.readouterr().err.splitlines() if "a.library logged an error in" in line]
    assert CONTENT not in fourth

    events = endpoint.events
    names = [event["tags"]["event"] for event in events]
    assert names == [
        "first",
        "second",
        "third %s",
        "a.library logged an error in test_sentry.<lambda>",
        "fifth",
        "sixth",
        "seventh",
    ]
    assert says_no_secret(endpoint, bearer)
    first, second, third, _, fifth, sixth, seventh = events
    assert first["tags"] == {"event": "first", "user": str(UUID(int=7)), "connection": "c/1"}
    assert first["extra"] == {"count": 3}
    assert kinds(first) == ["UniqueViolationError", "KeyError"]
    assert first["exception"]["values"][1]["stacktrace"]["frames"][-1]["function"].endswith("fails")
    assert "user" not in second["tags"], "what is no id is not told as one"
    assert third["logger"] == "a.library"
    assert fifth["level"] == "fatal"
    assert kinds(fifth) == ["UniqueViolationError", "UnfitError", "KeyError", "ExceptionGroup"]
    assert fifth["exception"]["values"][1]["value"] == "Do this."
    assert "exception" not in seventh
    assert kinds(sixth) == ["UnavailableError"]
    assert sixth["exception"]["values"][0]["value"].startswith("UniqueViolationError: ")


def test_a_message_of_ours_is_reported_without_what_it_quotes() -> None:
    try:
        try:
            raise ValueError(f"refused: {CONTENT}")
        except ValueError as cause:
            raise UnfitError(f"Postgres refuses this ({cause}). Check it.") from cause
    except UnfitError as caught:
        error = caught
    event = sentry.describe(Failure("an event", "error", "server", {}, error))
    assert CONTENT not in str(event)
    assert event["exception"]["values"][-1]["value"] == "Postgres refuses this (…). Check it."


def test_a_storm_of_failures_is_reported_in_part_with_the_number_left_out(endpoint: Sentry) -> None:
    time = [0.0]
    client = Client(dsn=endpoint.dsn, default_integrations=False, auto_enabling_integrations=False)
    reporter = sentry.Reporter(client, lambda: time[0])
    for _ in range(sentry.BURST + 40):
        reporter.report(Failure("the same again", "error", "server", {}, None))
    time[0] += sentry.REFILL_SECONDS
    reporter.report(Failure("the last", "error", "server", {}, None))
    reporter.close()
    assert len(endpoint.events) == sentry.BURST + 1
    last = endpoint.named("the last")
    assert last is not None
    assert last["extra"] == {"held_back": 40}


def test_a_circular_chain_of_exceptions_is_reported_once() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    event = sentry.describe(Failure("an event", "error", "server", {}, first))
    assert kinds(event) == ["ValueError", "ValueError"]
