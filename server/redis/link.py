"""Commands to Redis, bounded in time. A Redis that is away costs one wait and one line in the log."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Self

import redis.asyncio
import structlog
from redis.asyncio.retry import Retry as NoRetry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as CannotConnect
from redis.exceptions import TimeoutError as TooSlow

from server import metrics
from server.exceptions import CacheError, ConfigError
from server.retry import Retry

log = structlog.get_logger()

PATIENCE: Final = 0.05
"""Seconds for one command, connecting included. Postgres answers a page in less."""
LATE: Final = 0.005
"""Seconds by which that time ends late only if this process was busy. Then the answer may have been here already: of 20
stalls of 60 ms, 7 ended a command so."""
FIRST_SECONDS: Final = 1.0
"""Seconds for the first connection of a process, before it serves."""
CONNECTIONS: Final = 16
"""Connections of a process. A command beyond these waits for one, within its time."""
REFUSES_LOGIN: Final = "Redis refuses the user or the password of REDIS_URL, or needs one. Correct REDIS_URL."
REFUSED_SECONDS: Final = 600.0
"""Seconds between two lines in the log about commands that Redis refuses."""
EVICT: Final = "Set maxmemory, and maxmemory-policy to allkeys-lru: it then forgets what was not used for longest."
UNREADABLE: Final = (
    "REDIS_URL cannot be read. Write redis://user:password@host:6379/0, with the special characters of user and "
    "password percent-encoded."
)
AWAY: Final = "Redis does not answer. Check REDIS_URL, and that Redis runs and is reachable from here."


class Link:
    """Sends commands to the Redis (or Valkey) at `url`.

    After a failure no command is sent until Redis answers a PING of the link's own: callers are told at once. A command
    that this process was too busy to wait for is no such failure.
    """

    def __init__(self, url: str) -> None:
        """Raises ConfigError for a URL that redis-py does not understand."""
        try:
            self._pool = redis.asyncio.BlockingConnectionPool.from_url(
                url,
                max_connections=CONNECTIONS,
                timeout=None,
                socket_timeout=None,  # PATIENCE bounds the whole command, and cancels it
                socket_connect_timeout=None,
                retry=NoRetry(NoBackoff(), 0),
            )
            self._pool.connection_kwargs.update(decode_responses=False, encoding="utf-8")  # whatever the URL says
            # Looks at the URL's parameters, and connects nowhere.
            self._pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py's
        except ValueError:
            raise ConfigError(UNREADABLE) from None  # redis-py's message may quote a part of the password
        except (TypeError, RedisError) as error:
            raise ConfigError(f"REDIS_URL has a parameter that redis-py does not take: {error}.") from None
        self._send: Callable[..., Awaitable[Any]] = redis.asyncio.Redis.from_pool(self._pool).execute_command
        self._probing: asyncio.Task[None] | None = None
        self._refused_at = -REFUSED_SECONDS
        self._why_away = AWAY
        metrics.REDIS_UP.set(1)

    @property
    def up(self) -> bool:
        """Whether the last command, or the last PING after a failure, was answered."""
        return self._probing is None

    async def command(self, name: str, *arguments: str | bytes | int, patience: float = PATIENCE) -> Any:
        """Redis' answer to one command, as redis-py converts it; texts as bytes. After `patience` seconds it counts as
        away.

        Raises CacheError if Redis is away or refuses the command, for example because its memory is full.
        """
        if not self.up:
            raise CacheError(self._why_away)
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(patience):
                return await self._send(name, *arguments)
        except (TimeoutError, TooSlow, CannotConnect, OSError) as error:
            metrics.REDIS_FAILURES.labels("away").inc()
            if not isinstance(error, TimeoutError) or time.perf_counter() - begun < patience + LATE:
                self._lost(error)
            raise CacheError(AWAY) from error
        except RedisError as error:
            metrics.REDIS_FAILURES.labels("refused").inc()
            self._refused(name, error)
            raise CacheError(f"Redis refuses {name}: {error}") from error
        finally:
            metrics.REDIS_SECONDS.labels(name.lower()).observe(time.perf_counter() - begun)

    async def examine(self) -> tuple[bool, str]:
        """Whether this Redis is fit to keep answers, and a sentence for the operator."""
        try:
            begun = time.perf_counter()
            memory = await self.command("INFO", "memory", patience=FIRST_SECONDS)
            took = 1_000 * (time.perf_counter() - begun)
        except CacheError as error:
            return False, str(error)
        bound, policy = int(memory.get("maxmemory", 0)), memory.get("maxmemory_policy", "noeviction")
        if not bound or not policy.startswith("allkeys"):
            return False, f"It answers, with maxmemory {bound} and {policy}. {EVICT}"
        return True, f"it answers in {took:.1f} ms; {bound >> 20} MiB, {policy}"

    def _lost(self, error: BaseException) -> None:
        if self._probing is None:
            self._why_away = REFUSES_LOGIN if isinstance(error, AuthenticationError) else AWAY
            log.warning("redis is away, going on without it", error=str(error) or "no answer in time")
            metrics.REDIS_UP.set(0)
            self._probing = asyncio.create_task(self._probe(), name="redis-probe")

    def _refused(self, name: str, error: RedisError) -> None:
        if time.monotonic() - self._refused_at >= REFUSED_SECONDS:
            self._refused_at = time.monotonic()
            log.warning("redis refuses a command, going on without it", command=name, error=str(error))

    async def _probe(self) -> None:
        retry = Retry(None)
        while True:
            try:
                # Connections that were open when Redis went away may hang.
                await self._pool.disconnect(inuse_connections=False)
                async with asyncio.timeout(PATIENCE):
                    await self._send("PING")
            except (TimeoutError, RedisError, OSError) as error:
                await retry.pause(error)
            else:
                break
        log.info("redis is back")
        metrics.REDIS_UP.set(1)
        self._probing = None

    async def __aenter__(self) -> Self:
        with contextlib.suppress(CacheError):
            await self.command("PING", patience=FIRST_SECONDS)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])
        await self._pool.disconnect()
