"""Parts of the server for a Python process of the app. It constructs them there as `app` does in a server."""

import contextlib
from collections.abc import AsyncIterator
from typing import Final

from server.declaration.synced import Synced
from server.feed.history import History
from server.feed.hub import Hub
from server.postgres.pool import Pool
from server.postgres.responses import PostgresResponses
from server.postgres.route import Route
from server.responses.cache import ResponseCache
from server.responses.ports import Shared
from server.url import read

CONNECTIONS: Final = 2
"""Connections to Postgres: one may wait for a lock."""
MEMORY: Final = 64 * 1024 * 1024
"""Bytes."""


@contextlib.asynccontextmanager
async def open_cache(
    database_url: str, redis_url: str | None = None, *, memory: int = MEMORY
) -> AsyncIterator[ResponseCache]:
    """The response cache, for a process of the app that runs asyncio. It shares its responses with all servers and
    other processes that have the same URLs.

        from server.library import open_cache
        from server.responses.question import EVERYBODY, key

        async def answer(question: str) -> str:
            wanted = key(question, model="model-1", tier="core", scope=EVERYBODY)
            return await cache.get_or_compute(wanted, lambda: ask_the_model(question), ttl=3600)

        async with open_cache(database_url, redis_url) as cache:
            print(await answer("What is a feed?"))

    `database_url` has a login that is a member of the role atlas_sync. `memory`: bytes for responses of this process.
    At the end the last hits are counted. Raises ConfigError for a `redis_url` that makes no sense, UnavailableError if
    Postgres is away, UnfitError if this login cannot use the database.
    """
    async with contextlib.AsyncExitStack() as stack:
        pool = Pool(
            Route(database_url, History(Hub(lambda _: None)), pooled=read(database_url).pooled),
            Synced(),
            size=CONNECTIONS,
        )
        stack.callback(pool.terminate)
        await pool.start()
        shared: Shared | None = None
        if redis_url is not None:
            from server.redis.link import Link
            from server.redis.responses import RedisResponses

            link = await stack.enter_async_context(Link(redis_url))
            shared = RedisResponses(link, lambda: pool.history.epoch)
        yield await stack.enter_async_context(ResponseCache(PostgresResponses(pool), shared, memory))
