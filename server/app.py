"""Constructs a server process: its parts, and the order in which they start and stop. Nothing else constructs them."""

import asyncio
import contextlib
import gc
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
from starlette.routing import BaseRoute
from websockets.typing import Origin

from protocol import errors
from server import fetch, metrics
from server.clock import Clock
from server.config import ServeSettings
from server.declaration.synced import Synced
from server.edge import http
from server.edge import usage as edge_usage
from server.edge.auth import KeySet, Verifier
from server.edge.connection import Connection, Services, Timing
from server.edge.listen import bind, reserve
from server.edge.registry import Registry
from server.edge.responses import Responses
from server.edge.server import Server
from server.edge.service import ServiceTokens
from server.edge.streams import StreamsEndpoint
from server.edge.timers import TimerWheel
from server.exceptions import ConfigError, UnavailableError, UnfitError
from server.feed.cached import CachedRows
from server.feed.confirmation import Confirmation
from server.feed.history import DECLARED, History, come_back_apart
from server.feed.hub import Hub, Lane
from server.feed.limited import COLLECTED_AT_ONCE, LOOKED_UP_AT_ONCE, CollectedRows, LimitedRows
from server.feed.pages import Pages
from server.feed.ports import Doorbells, Moved
from server.feed.presence import Presence
from server.feed.progress import CaughtUp, Progress
from server.feed.pump import Pump
from server.feed.readers import Readers, Readiness
from server.feed.replicas import Replicas
from server.feed.snapshot import Snapshots
from server.feed.sweep import Sweep
from server.gauges import Gauges
from server.postgres.express import PostgresExpress
from server.postgres.inspector import Inspector
from server.postgres.listener import ListenDoorbells
from server.postgres.pool import Pool
from server.postgres.replicas import PostgresReplica, ReplicaWatch
from server.postgres.responses import PostgresResponses
from server.postgres.route import Route
from server.postgres.store import PostgresStore
from server.postgres.streams import PostgresStreams, StreamNotices
from server.postgres.usage import PostgresUsage
from server.postgres.vitals import Vitals
from server.postgres.wal import relay
from server.postgres.wal.doorbells import WalDoorbells
from server.postgres.writer import PostgresWriter
from server.rate_limit import TokenBuckets
from server.responses.cache import ResponseCache
from server.responses.ports import Shared
from server.retry import Retry
from server.streams.streams import Streams
from server.usage.events import sync_completed
from server.usage.recorder import Recorder
from server.write import isolation
from server.write.batcher import Batcher
from server.write.intake import Intake

if TYPE_CHECKING:
    from server.redis.link import Link

log = structlog.get_logger()

STREAM_CONNECTIONS: Final = 2
"""Connections of streams, so that no device waits for them: one appends, the other reads."""
RESPONSE_CONNECTIONS: Final = 2
"""Connections of the response cache, so that no device waits for it. One may wait for a lock."""
LAST_RECORDING: Final = 2.0
"""Seconds to record which devices the shutdown disconnected, and as many for the last events of usage."""

Work = dict[str, Coroutine[Any, Any, None]]
"""What goes on in the background until the shutdown, by names of tasks."""


class App:
    """One server process. `run` serves until `stop`. `routes` are served over HTTP, beside the process's own."""

    def __init__(self, settings: ServeSettings, routes: Sequence[BaseRoute] = ()) -> None:
        self._settings = settings
        self._routes = routes
        self._server: Server | None = None
        self._stopping = False

    def stop(self) -> None:
        """Begin the orderly shutdown; `run` returns when it is complete."""
        self._stopping = True
        if self._server is not None:
            self._server.should_exit = True

    async def run(self, sock: socket.socket, ready: Callable[[], None] = lambda: None) -> None:
        """Serve on `sock`, and close it at the end. `ready` is called once connections are answered.

        Waits for a Postgres that is away. Raises UnfitError for a database that cannot serve, and ConfigError if
        ATLAS_METRICS_PORT cannot be bound, or REDIS_URL makes no sense.
        """
        settings = self._settings
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(sock.close)
            sockets = [sock, *_metrics_sockets(settings, stack)]
            hub = Hub(lambda lane: reads.pump.wake(lane), lambda user, seq: reads.pump.look_again(user, seq))
            history, clock, synced = History(hub), Clock(), Synced()
            synced.on_use.append(partial(_declare_to_devices, hub, synced))
            redis = None if settings.redis_url is None else redis_link(settings.redis_url)
            postgres = _Postgres(settings, history, clock, synced, lambda moved: reads.move(moved))
            stack.callback(postgres.terminate)
            if not await self._connected(postgres):
                return
            if redis is not None:
                await stack.enter_async_context(redis)
            name = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(3)}"
            streams = _streams(settings, name, postgres, synced)
            responses = await _responses(settings, postgres, redis, stack)
            backend = _Backend(settings, clock, postgres, synced, responses, streams)
            reads = _ReadPath(settings, name, hub, history, synced, postgres, redis, backend.usage)
            batcher = _batcher(settings, postgres.writes, synced)
            history.alarm.on_ring.append(batcher.postgres_is_back)
            services = Services(
                verifier=await stack.enter_async_context(_verifier(settings, clock)),
                readers=reads.readers,
                intake=_intake(settings, batcher, clock, synced),
                synced=synced,
                registry=Registry(),
                timers=TimerWheel(),
                clock=clock,
                timing=Timing(settings.keepalive, settings.write_deadline),
                streams=streams,
            )
            vitals = Vitals(postgres.pool, None if backend.usage is None else backend.usage.store)
            gauges = Gauges((postgres.pool, postgres.writes), reads.pump, reads.snapshots, vitals)
            server = self._server = self._http(services, gauges, backend, ready)
            server.should_exit = self._stopping
            _collect_rarely()
            async with asyncio.TaskGroup() as tasks:
                work = {
                    **reads.work(),
                    "batcher": batcher.run(),
                    "gauges": gauges.run(),
                    "timers": services.timers.run(),
                    **postgres.work(reads),
                    **backend.work(),
                }
                background = [tasks.create_task(each, name=name) for name, each in work.items()]
                metrics.PROCESSES.set(1)
                await server.serve(sockets=sockets)
                metrics.PROCESSES.set(0)
                for task in background:
                    task.cancel()
                services.registry.cancel()
                await asyncio.wait(background)
                await reads.record_departures()
                if backend.usage is not None:
                    await backend.usage.close()
                metrics.flush()

    async def _connected(self, postgres: "_Postgres") -> bool:
        """Wait for Postgres. False if `stop` was called meanwhile."""
        retry = Retry("postgres cannot be reached, trying again")
        while not self._stopping:
            try:
                await postgres.connect()
            except UnavailableError as error:
                await retry.pause(error)
            else:
                return True
        return False

    def _http(self, services: Services, gauges: Gauges, backend: "_Backend", ready: Callable[[], None]) -> Server:
        settings = self._settings

        def readiness() -> Readiness:
            return Readiness(False, "shutting down") if self._stopping else services.readers.readiness()

        async def drain() -> None:
            if backend.responses is not None:
                backend.responses.close()
            if services.streams is not None:
                services.streams.close()
            await services.registry.drain(settings.drain)

        return Server(
            http.application(
                readiness,
                http.Metrics(gauges.exposition, settings.metrics_port, settings.metrics_token),
                [*backend.routes(), *self._routes],
                origins := _origins(settings.allowed_origins),
            ),
            http.bounded_http(
                services.timers,
                origins,
                lambda codec: Connection(services, codec).websocket,
                backend.tokens,
            ),
            ready,
            drain,
        )


class _Postgres:
    """The connections to Postgres: two pools, that of live readers, that of doorbells, and the inspector's own."""

    def __init__(
        self,
        settings: ServeSettings,
        history: History,
        clock: Clock,
        synced: Synced,
        offer: Callable[[Moved], object],
    ) -> None:
        pooled = settings.listen_url not in (None, settings.database_url)
        route = Route(settings.database_url, history, pooled=pooled)
        # A pool of their own, so that a write that hangs delays no reader.
        writing = min(1 + isolation.CONNECTIONS, settings.pool_size // 2)
        reading = settings.pool_size - writing
        # A pooler in transaction mode keeps no prepared statement.
        self.express = PostgresExpress(route, synced) if reading > 1 and not pooled else None
        self.pool = Pool(route, synced, size=reading - (self.express is not None))
        self.writes = Pool(route, synced, size=writing)
        self.inspector = Inspector(route, clock, synced, settings.sweep)
        self.replicas = [
            PostgresReplica(number, url, history, synced, reading)
            for number, url in enumerate(settings.replica_urls or (), 1)
        ]
        self.replica_watch = ReplicaWatch(self.replicas, self.pool)
        self.responses = Pool(route, synced, size=RESPONSE_CONNECTIONS)
        self.streams = Pool(route, synced, size=STREAM_CONNECTIONS)
        # A connection that goes back to a pooler does not become one that can LISTEN.
        direct = Route(settings.listen_url, history, spare=route.spare) if pooled and settings.listen_url else route
        self.direct = direct
        self._listen = ListenDoorbells(direct)
        self._wal: WalDoorbells | None = None
        if settings.doorbells != "listen":
            together = os.environ.get(relay.FOLDER)
            folder = None if together is None else Path(together)
            self._wal = WalDoorbells(direct, self.pool, synced, self._listen, offer, folder)
        self._wal_required = settings.doorbells == "wal"

    @property
    def doorbells(self) -> Doorbells:
        return self._wal or self._listen

    async def connect(self) -> None:
        """Raises UnavailableError, and UnfitError for a database that cannot serve."""
        await self.inspector.inspect()  # first: of several hosts, the one with the newest history counts
        await self.pool.start()
        await self._listen.check()
        if self._wal is not None and (obstacles := await self._wal.obstacles()):
            if self._wal_required:
                raise UnfitError(f"ATLAS_DOORBELLS is wal. {' '.join(obstacles)}")
            log.info("changes are not streamed, listening instead", why=" ".join(obstacles))
            self._wal = None

    def work(self, reads: "_ReadPath") -> Work:
        return {
            "inspector": self.inspector.run(),
            "doorbells": self.doorbells.run(reads.readers.ring, reads.sweep.doorbells_up, reads.sweep.doorbells_down),
            **({} if self.express is None else {"express": self.express.run()}),
            **({"replicas": self.replica_watch.run()} if self.replicas else {}),
        }

    def terminate(self) -> None:
        for replica in self.replicas:
            replica.terminate()
        self.responses.terminate()
        self.streams.terminate()
        self.writes.terminate()
        self.pool.terminate()


class _ReadPath:
    """The parts that read feeds, snapshots and pages for the connected devices."""

    def __init__(
        self,
        settings: ServeSettings,
        name: str,
        hub: Hub,
        history: History,
        synced: Synced,
        postgres: _Postgres,
        redis: "Link | None",
        usage: "_Usage | None",
    ) -> None:
        self.hub = hub
        store = PostgresStore(postgres.pool, synced)
        self.confirmation = Confirmation(hub, history, store)
        relief = Replicas(store, postgres.replicas, synced, self.confirmation.want) if postgres.replicas else None
        source = store if relief is None else relief
        collected = CollectedRows(source)
        if redis is None:
            self.snapshots = Snapshots(hub, history, collected, synced, COLLECTED_AT_ONCE)
            pages = Pages(source, synced)
        else:
            from server.redis.answers import RedisAnswers

            cache = RedisAnswers(redis)
            pieces = CachedRows(collected, cache, history, hub, synced)
            paged = CachedRows(LimitedRows(source), cache, history, hub, synced)
            self.snapshots = Snapshots(hub, history, pieces, synced, COLLECTED_AT_ONCE)
            pages = Pages(paged, synced, LOOKED_UP_AT_ONCE)
        self.pump = Pump(
            hub,
            history,
            store,
            self.snapshots,
            synced,
            {lane: asyncio.Event() for lane in Lane},
            relief,
            postgres.express,
            keep_trail=redis is not None,
        )
        self.sweep = Sweep(hub, history, store, settings.sweep)
        self.presence = Presence(hub, store, name, lambda: history.inspection_error)
        self.readers = Readers(
            hub,
            history,
            self.snapshots,
            pages,
            self.presence,
            hellos=TokenBuckets(settings.hellos / 60, settings.hellos),
            sockets_per_user=settings.sockets_per_user,
            count=(lambda: None) if usage is None else usage.count,
        )

    def move(self, moved: Moved) -> None:
        """A transaction moved a feed."""
        self.hub.expected.note(moved.user, moved.seq)
        self.readers.ring(moved.user, moved.seq, carried=self.pump.carry(moved))

    def work(self) -> Work:
        return {
            "pump": self.pump.run(),
            "snapshots": self.snapshots.run(),
            "confirmation": self.confirmation.run(),
            "sweep": self.sweep.run(),
            "presence": self.presence.run(),
        }

    async def record_departures(self) -> None:
        """Record which devices the shutdown disconnected, if Postgres answers in time."""
        with contextlib.suppress(UnavailableError, TimeoutError):
            async with asyncio.timeout(LAST_RECORDING):
                await self.presence.record()


class _Backend:
    """What the app's backend uses over HTTP: usage, cached responses and streams. Each is None unless it is on."""

    def __init__(
        self,
        settings: ServeSettings,
        clock: Clock,
        postgres: _Postgres,
        synced: Synced,
        responses: ResponseCache | None,
        streams: Streams | None,
    ) -> None:
        self.tokens = ServiceTokens(settings.service_tokens)
        self.usage = _Usage(postgres.writes, clock, synced) if settings.usage else None
        self.responses = responses
        self._streams = streams
        self._clock = clock
        self._usage_days = settings.usage_days

    def routes(self) -> list[BaseRoute]:
        routes: list[BaseRoute] = []
        if self.usage is not None and self.tokens:
            routes.append(edge_usage.route(self.tokens, self.usage.recorder, self._clock.seconds, self._usage_days))
        if self.responses is not None:
            routes.append(Responses(self.responses).route(self.tokens))
        if self._streams is not None:
            routes += StreamsEndpoint(self._streams).routes(self.tokens)
        return routes

    def work(self) -> Work:
        return {
            **({} if self.usage is None else {"usage": self.usage.recorder.run()}),
            **({} if self._streams is None else {"streams": self._streams.run()}),
        }


class _Usage:
    """Records usage: events of the app's backend, and one for each device that caught up."""

    def __init__(self, pool: Pool, clock: Clock, synced: Synced) -> None:
        self._clock = clock
        self._synced = synced
        self.store = PostgresUsage(pool)
        self.recorder = Recorder(self.store)

    def count(self) -> Progress:
        return Progress(time.monotonic, self._caught_up)

    def _caught_up(self, device: CaughtUp) -> None:
        self.recorder.note(
            sync_completed(
                device.user,
                tier=device.tier,
                outcome=device.why or "resumed",
                milliseconds=device.seconds * 1000,
                rows=self._by_kind(device.rows),
                size=device.size,
                at=self._clock.now(),
            )
        )

    def _by_kind(self, rows: Mapping[str, int]) -> dict[str, int]:
        """What was counted by tags, by the kinds' names."""
        counts: dict[str, int] = {}
        for tag, count in rows.items():
            kind = self._synced.declaration.tagged.get(tag)
            name = "deletion" if tag.startswith("-") else tag if kind is None else kind.name
            counts[name] = counts.get(name, 0) + count
        return counts

    async def close(self) -> None:
        """Write the events that are left, if Postgres answers in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_RECORDING):
                await self.recorder.close()


def _streams(settings: ServeSettings, name: str, postgres: _Postgres, synced: Synced) -> Streams | None:
    """Streams, if the app's backend can have any."""
    if settings.service_tokens:
        return Streams(PostgresStreams(postgres.streams, name), StreamNotices(postgres.direct, name), synced)

    def say_if_declared() -> None:
        if synced.declaration.streams:
            log.info("nothing is streamed, because ATLAS_SERVICE_TOKEN is not set")

    say_if_declared()
    synced.on_use.append(say_if_declared)
    return None


async def _responses(
    settings: ServeSettings, postgres: _Postgres, redis: "Link | None", stack: contextlib.AsyncExitStack
) -> ResponseCache | None:
    """The response cache, if it is on. It ends with `stack`."""
    if not settings.responses:
        return None
    shared: Shared | None = None
    if redis is not None:
        from server.redis.responses import RedisResponses

        shared = RedisResponses(redis, lambda: postgres.responses.history.epoch)
    store = PostgresResponses(postgres.responses)
    return await stack.enter_async_context(ResponseCache(store, shared, settings.responses_mib * 1024 * 1024))


def _metrics_sockets(settings: ServeSettings, stack: contextlib.AsyncExitStack) -> list[socket.socket]:
    """The socket of ATLAS_METRICS_PORT, if it is set. Raises ConfigError."""
    if (port := settings.metrics_port) is None:
        return []
    sock = reserve(settings.metrics_host, port, shared=metrics.shared(), setting="ATLAS_METRICS_PORT")
    stack.callback(sock.close)
    sock.setblocking(False)
    return [sock]


def redis_link(url: str) -> "Link":
    """The link to Redis. Raises ConfigError if it cannot be made."""
    try:
        from server.redis.link import Link
    except ModuleNotFoundError:
        raise ConfigError("REDIS_URL is set, and redis-py is not installed: pip install 'atlas-sync[redis]'") from None
    return Link(url)


@contextlib.asynccontextmanager
async def _verifier(settings: ServeSettings, clock: Clock) -> AsyncIterator[Verifier]:
    async with contextlib.AsyncExitStack() as stack:
        keys = None
        if settings.jwks_url is not None:
            client = await stack.enter_async_context(fetch.client())
            keys = await stack.enter_async_context(contextlib.aclosing(KeySet(settings.jwks_url, client)))
        yield Verifier(
            secrets=settings.jwt_secrets,
            keys=keys,
            audience=settings.jwt_audience,
            issuer=settings.jwt_issuer,
            now=clock.seconds,
        )


def _batcher(settings: ServeSettings, pool: Pool, synced: Synced) -> Batcher:
    buckets = TokenBuckets(settings.push_rate, settings.push_burst)
    return Batcher(PostgresWriter(pool, synced), buckets, settings.push_batch)


def _intake(settings: ServeSettings, batcher: Batcher, clock: Clock, synced: Synced) -> Intake:
    return Intake(batcher, clock, synced, mutations=min(settings.push_batch, settings.push_burst))


def _declare_to_devices(hub: Hub, synced: Synced) -> None:
    """Another declaration is in force: the devices come back, and receive its schema."""
    metrics.name_kinds({kind.tag: kind.name for kind in synced.declaration.kinds})
    devices = hub.count
    for reader in hub.readers():
        reader.sink.close(errors.GOING_AWAY.frame(DECLARED, retry_after=come_back_apart(devices)))


def _origins(allowed: list[str] | None) -> list[Origin | None] | None:
    # Clients that are no browsers send no Origin.
    return None if allowed is None else [None, *map(Origin, allowed)]


def _collect_rarely() -> None:
    """Make full garbage collections rare: each walks all objects, those of 100,000 connections included."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def run(settings: ServeSettings, *, shared: bool = False) -> None:
    """Serve in this process until SIGTERM or SIGINT; as one of several (`shared`) also until the supervisor is gone."""
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
            loop.add_reader(sys.stdin, orphaned)  # nothing is ever written to it: readable means closed
        await app.run(sock, lambda: log.info("serving", host=settings.host, port=port))

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main())


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop; None (asyncio's own) where uvloop does not exist."""
    try:
        import uvloop
    except ImportError:  # Windows
        return None
    return uvloop.new_event_loop
