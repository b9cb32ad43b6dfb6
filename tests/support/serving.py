"""The real server: in the test's own loop, which is quick, or as a process, which can be killed."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import orjson
import uvicorn.server
from starlette.routing import BaseRoute

from server.app import App
from server.config import ServeSettings, load
from server.edge.auth import mint
from server.edge.listen import bind
from tests.support.cluster import STREAMER_LOGIN, Database
from tests.support.forked import Forked
from tests.support.waiting import LIMIT

SECRET = "a secret of the tests, at least 32 characters long"
AUDIENCE = "authenticated"


def token(user: UUID, *, lifetime: float = 3_600, secret: str = SECRET) -> str:
    now = time.time()
    return mint(user, secret, audience=AUDIENCE, issuer="tests", lifetime=int(lifetime), now=now)


def settings(database_url: str, **given: Any) -> ServeSettings:
    here = {"database_url": database_url, "jwt_secret": SECRET, "host": "127.0.0.1", "port": 0}
    return load(ServeSettings, **{**here, "doorbells": doorbells(database_url), **given})


def doorbells(database_url: str) -> str:
    """Where a server with this URL learns of changes."""
    return "wal" if STREAMER_LOGIN in database_url else "listen"


class _Quick:
    """asyncio, but that uvicorn looks for the end of a server every 10 ms instead of every 100 ms: 0.2 s a server."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def sleep(delay: float) -> None:
        await asyncio.sleep(delay / 10)


vars(uvicorn.server)["asyncio"] = _Quick()


class Running:
    """A server in this process."""

    def __init__(self, app: App, port: int) -> None:
        self.app = app
        self.port = port

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/sync"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def serving(
    database: Database | str, port: int = 0, routes: Sequence[BaseRoute] = (), **given: Any
) -> AsyncIterator[Running]:
    """The server of `database`, in this loop. An exception of it fails the test. `routes` are served too."""
    url = database if isinstance(database, str) else database.server_url
    config = settings(url, **{"sweep": 1.0, "drain": 1.0, **given})
    sock = bind(config.host, port, shared=False, write_deadline=config.write_deadline)
    app = App(config, routes)
    ready = asyncio.Event()
    running = Running(app, sock.getsockname()[1])
    task = asyncio.create_task(app.run(sock, ready.set))
    waiting = asyncio.create_task(ready.wait())
    try:
        async with asyncio.timeout(LIMIT):
            await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield running
    finally:
        waiting.cancel()
        app.stop()
        async with asyncio.timeout(LIMIT):
            await task


class Service:
    """A server in this process that can be stopped and started again on its port."""

    def __init__(self, database_url: str, **given: Any) -> None:
        self._database_url = database_url
        self._given = given
        self._serving = contextlib.AsyncExitStack()
        self._port = 0

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._port}/sync"

    async def start(self) -> None:
        running = await self._serving.enter_async_context(serving(self._database_url, self._port, **self._given))
        self._port = running.port

    async def stop(self) -> None:
        await self._serving.aclose()

    async def __aenter__(self) -> "Service":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


class ServerProcess:
    """`atlas-sync serve` as a process, which can be killed. `prelude` is Python code that runs before any import."""

    def __init__(self, database_url: str, prelude: str = "", **environment: str) -> None:
        # A test may need a constant of the server to be shorter.
        self._program = ["-c", f"{prelude}\nfrom server.cli import main\nmain()"] if prelude else ["-m", "server"]
        self._imports = bool(prelude) or "PYTHONPATH" in environment
        self._environment = {
            **os.environ,
            "DATABASE_URL": database_url,
            "ATLAS_JWT_SECRET": SECRET,
            "ATLAS_HOST": "127.0.0.1",
            "PORT": "0",
            "ATLAS_SWEEP_SECONDS": "1",
            "ATLAS_DOORBELLS": doorbells(database_url),
            "ATLAS_DRAIN_SECONDS": "2",
            **environment,
        }
        self.process: asyncio.subprocess.Process | Forked | None = None
        self.log: list[dict[str, Any]] = []
        self.port = 0
        self._reader: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/sync"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start, on the same port as before if there was a before, and wait until it serves."""
        self._ready.clear()
        environment = {**self._environment, "PORT": str(self.port)} if self.port else self._environment
        if self._imports:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, *self._program, "serve", env=environment, stderr=asyncio.subprocess.PIPE
            )
        else:
            self.process = await Forked.start("serve", environment=environment)
        self._reader = asyncio.create_task(self._read())
        async with asyncio.timeout(3 * LIMIT):  # a start takes a second of a core, where an import is part of it
            await self._ready.wait()

    async def _read(self) -> None:
        assert self.process is not None
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            try:
                event = orjson.loads(line)
            except orjson.JSONDecodeError:
                event = {"event": line.decode()}
            self.log.append(event)
            if event.get("event") == "serving":
                self.port = event["port"]
                self._ready.set()
        self._ready.set()

    async def kill(self) -> None:
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """Ask it to end; returns its exit status."""
        return await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        assert self._reader is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(LIMIT):
            status = await self.process.wait()
            await self._reader
        return status

    async def __aenter__(self) -> "ServerProcess":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
