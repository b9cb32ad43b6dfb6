"""The only place that constructs: what a server process consists of, and the order in which it starts and stops."""

import asyncio
import contextlib
import gc
import os
import random
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Final

import structlog
import uvicorn
from starlette.routing import BaseRoute
from websockets.typing import Origin

from server import fetch, metrics
from server.backoff import backoff
from server.clock import Clock
from server.config import ServeSettings
from server.edge import http
from server.edge.auth import KeySet, Verifier
from server.edge.desk import Desk, Terms
from server.edge.socket import SyncSocket
from server.edge.wheel import Wheel
from server.errors import ConfigError, UnavailableError
from server.feed.history import SPLIT, History
from server.feed.hub import Hub, Lane
from server.feed.pages import Pages
from server.feed.pump import Pump
from server.feed.roster import Roster
from server.feed.snapshot import Snapshots
from server.feed.sweep import Sweep
from server.postgres.listener import ListenDoorbells
from server.postgres.lookout import Lookout
from server.postgres.pool import Pool
from server.postgres.route import Route
from server.postgres.shortage import Shortage
from server.postgres.store import PostgresStore
from server.postgres.vitals import Vitals
from server.postgres.writer import PostgresWriter
from server.write import isolation, rules
from server.write.allowance import Allowance
from server.write.batcher import Batcher

log = structlog.get_logger()

BACKLOG: Final = 4_096
"""Connections that wait to be accepted: a storm arrives in one moment."""
GOODBYES_PER_SECOND: Final = 500
"""Sockets closed a second while draining, or more if the drain time demands it."""
LAST_WORDS: Final = 2.0
"""Seconds to note who left because of the shutdown."""
_WOKE: Final = metrics.DOORBELLS.labels("woke")
_IGNORED: Final = metrics.DOORBELLS.labels("ignored")


def reserve(host: str, port: int, *, shared: bool, setting: str = "PORT") -> socket.socket:
    """A socket that has the port and does not listen. `shared`: several processes have one each on the same port.
    `setting` is where the port comes from.

    Raises ConfigError.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"{setting}: {host}:{port} cannot be listened on ({error.strerror}). Choose another."
        ) from None
    return sock


def bind(host: str, port: int, *, shared: bool, write_deadline: float) -> socket.socket:
    """A socket for `App.run`, which listens once it can answer. Raises ConfigError."""
    sock = reserve(host, port, shared=shared)
    # asyncio's own loop forgets it where the listening socket is given to it, and an `ack` would wait 40 ms for the
    # peer's acknowledgement of the `changes` before it.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # The accepted sockets inherit it: the second net beneath the write deadline, and what finds a dead peer.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(write_deadline * 1000))
    sock.setblocking(False)
    return sock


class Server(uvicorn.Server):
    """uvicorn, with our goodbye, and without its signal handlers: those belong to whoever runs the loop."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], drain: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._ready = ready
        self._drain = drain

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await self._drain()
        await super().shutdown(sockets)


class App:
    """One server process. `run` serves until `stop`. `routes` are HTTP's, beside its own."""

    def __init__(self, settings: ServeSettings, routes: Sequence[BaseRoute] = ()) -> None:
        self._settings = settings
        self._routes = routes
        self._server: uvicorn.Server | None = None
        self._stopping = False

    def stop(self) -> None:
        """Begin the orderly shutdown; `run` returns when it is done."""
        self._stopping = True
        if self._server is not None:
            self._server.should_exit = True

    async def run(self, sock: socket.socket, ready: Callable[[], None] = lambda: None) -> None:
        """Serve on `sock`, which this closes. `ready` is called once connections are answered.

        Waits for a Postgres that is away. Raises UnfitError for a database that cannot serve.
        """
        settings = self._settings
        wakes = {lane: asyncio.Event() for lane in Lane}
        hub = Hub(lambda lane: wakes[lane].set())
        history = History(hub)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(sock.close)
            pooled = settings.listen_url not in (None, settings.database_url)
            route = Route(settings.database_url, history, pooled=pooled)
            # Apart, so that a write that hangs is in no reader's way.
            writing = min(1 + isolation.CONNECTIONS, settings.pool_size // 2)
            pool, writes = Pool(route, size=settings.pool_size - writing), Pool(route, size=writing)
            stack.callback(pool.terminate)
            stack.callback(writes.terminate)
            socks = [sock]
            if (port := settings.metrics_port) is not None:
                socks.append(
                    reserve(settings.metrics_host, port, shared=metrics.shared(), setting="ATLAS_METRICS_PORT")
                )
                stack.callback(socks[1].close)
                socks[1].setblocking(False)
            clock = Clock()
            lookout = Lookout(route, clock, settings.sweep)
            # What a pooler is given back is none that may listen.
            shortage = Shortage() if pooled else route.shortage
            doorbells = ListenDoorbells(
                Route(settings.listen_url or settings.database_url, history, spare=route.spare, shortage=shortage)
            )
            if not await self._reach(lookout, pool, doorbells):
                return
            store = PostgresStore(pool)
            snapshots = Snapshots(hub, history, store)
            sweep = Sweep(hub, history, store, settings.sweep)
            allowance = Allowance(settings.push_rate, settings.push_burst)
            batcher = Batcher(PostgresWriter(writes, settings.push_roles), allowance, settings.push_batch)
            roster = Roster(hub, store, f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(3)}")
            wheel = Wheel()
            vitals = Vitals(pool)

            async def figures() -> bytes:
                await vitals.read()
                metrics.flush()
                return await asyncio.to_thread(metrics.expose)

            desk = Desk(
                terms=Terms(
                    keepalive=settings.keepalive,
                    write_deadline=settings.write_deadline,
                    sockets_per_user=settings.sockets_per_user,
                    mutations=min(settings.push_batch, settings.push_burst),
                    writes=rules.Limits(settings.title_bytes, settings.content_bytes, settings.push_roles),
                    origins=_origins(settings.allowed_origins),
                ),
                verifier=await stack.enter_async_context(_verifier(settings, clock)),
                hub=hub,
                history=history,
                snapshots=snapshots,
                pages=Pages(store),
                batcher=batcher,
                roster=roster,
                wheel=wheel,
                clock=clock,
                hellos=Allowance(settings.hellos / 60, settings.hellos),
            )
            server = self._server = Server(
                uvicorn.Config(
                    http.application(
                        lambda: self._readiness(hub, history),
                        http.Figures(figures, settings.metrics_port, settings.metrics_token),
                        self._routes,
                    ),
                    backlog=BACKLOG,
                    http=http.bounded_http(wheel, desk.terms.origins, partial(SyncSocket, desk)),
                    ws="websockets-sansio",  # never made: bounded_http makes ours
                    lifespan="off",
                    log_config=None,
                    access_log=False,
                    server_header=False,
                    headers=[("X-Content-Type-Options", "nosniff")],
                    timeout_graceful_shutdown=1,
                ),
                ready,
                partial(_drain, desk, settings.drain),
            )
            server.should_exit = self._stopping
            # Collections that walk everything, 100,000 connections included, should be rare.
            gc.collect()
            gc.freeze()
            gc.set_threshold(10_000, 20, 50)
            pump = Pump(hub, history, store, snapshots, wakes)
            async with asyncio.TaskGroup() as tasks:
                background = [
                    tasks.create_task(work, name=name)
                    for name, work in {
                        "pump": pump.run(),
                        "gauges": _gauge((pool, writes), pump, snapshots),
                        "snapshots": snapshots.run(),
                        "batcher": batcher.run(),
                        "lookout": lookout.run(),
                        "sweep": sweep.run(),
                        "roster": roster.run(),
                        "doorbells": doorbells.run(partial(_ring, hub), sweep.doorbells_up, sweep.doorbells_down),
                        "wheel": wheel.run(),
                    }.items()
                ]
                metrics.PROCESSES.set(1)
                await server.serve(sockets=socks)
                metrics.PROCESSES.set(0)
                for task in (*background, *desk.tasks):
                    task.cancel()
                await asyncio.wait(background)
                with contextlib.suppress(UnavailableError, TimeoutError):
                    async with asyncio.timeout(LAST_WORDS):
                        await roster.note()
                metrics.flush()

    def _readiness(self, hub: Hub, history: History) -> http.Readiness:
        if self._stopping:
            return http.Readiness(False, "shutting down")
        if history.blind is not None:
            return http.Readiness(False, history.blind)
        if not hub.doorbells_work:
            return http.Readiness(False, history.unseen or "Postgres cannot be reached, or LISTEN does not deliver")
        # What is open already may go on serving where nothing new can be opened.
        return http.Readiness(True, history.unseen or (SPLIT if history.split else "ready"))

    async def _reach(self, lookout: Lookout, pool: Pool, doorbells: ListenDoorbells) -> bool:
        """Wait for Postgres. False if told to stop meanwhile."""
        failures = 0
        while not self._stopping:
            try:
                await lookout.look()  # first: of several hosts, the one with the newest history counts
                await pool.start()
                await doorbells.check()
            except UnavailableError as error:
                log.warning("postgres cannot be reached, trying again", error=str(error))
                failures += 1
                await asyncio.sleep(backoff(failures, longest=5.0))
            else:
                return True
        return False


async def _gauge(pools: Sequence[Pool], pump: Pump, snapshots: Snapshots) -> None:
    """Look every second at what nobody tells, and settle what was told. Runs until cancelled."""
    behind = {lane: metrics.BEHIND.labels(lane.name.lower()) for lane in Lane}
    while True:
        for lane, gauge in behind.items():
            gauge.set(pump.behind(lane))
        metrics.SNAPSHOTS_WAITING.set(snapshots.waiting)
        metrics.POOL_IN_USE.set(sum(pool.in_use for pool in pools))
        metrics.flush()
        await asyncio.sleep(1)


def _ring(hub: Hub, user: str, seq: int) -> None:
    (_WOKE if hub.ring(user, seq) else _IGNORED).inc()


async def _drain(desk: Desk, seconds: float) -> None:
    """Tell every client to come back, a few at a time and each with its own delay, then wait for them to go."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    if not (sockets := list(desk.sockets)):
        return
    spread = min(seconds * 0.7, len(sockets) / GOODBYES_PER_SECOND)
    for count, sock in enumerate(sockets, 1):
        sock.goodbye(retry_after=random.uniform(0.1, max(1.0, spread)))
        due = begun + spread * count / len(sockets)
        if due > loop.time() + 0.01:
            await asyncio.sleep(due - loop.time())
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(begun + seconds):
            await desk.empty.wait()
    for sock in list(desk.sockets):
        sock.abort()


@contextlib.asynccontextmanager
async def _verifier(settings: ServeSettings, clock: Clock) -> AsyncIterator[Verifier]:
    async with contextlib.AsyncExitStack() as stack:
        keys = None
        if settings.jwks_url is not None:
            client = await stack.enter_async_context(fetch.client())
            keys = await stack.enter_async_context(contextlib.aclosing(KeySet(settings.jwks_url, client)))
        yield Verifier(
            secret=settings.jwt_secret,
            keys=keys,
            audience=settings.jwt_audience,
            issuer=settings.jwt_issuer,
            now=clock.seconds,
        )


def _origins(allowed: list[str] | None) -> list[Origin | None] | None:
    # A client that is no browser sends no Origin.
    return None if allowed is None else [None, *map(Origin, allowed)]


def run(settings: ServeSettings, *, shared: bool = False) -> None:
    """Serve in this process until SIGTERM or SIGINT; one of several (`shared`) also until its supervisor is gone."""
    sock = bind(settings.host, settings.port, shared=shared, write_deadline=settings.write_deadline)
    port = sock.getsockname()[1]
    app = App(settings)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, app.stop)

        def orphaned() -> None:
            loop.remove_reader(sys.stdin)
            log.error("the supervisor is gone, stopping")
            app.stop()

        if shared:
            loop.add_reader(sys.stdin, orphaned)  # nothing is ever written to it: readable means ended
        await app.run(sock, lambda: log.info("serving", host=settings.host, port=port))

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main())


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # Windows
        return None
    return uvloop.new_event_loop
