"""A server's pool, without the server; and statements that are given up early."""

import contextlib
from collections.abc import Iterator
from unittest.mock import patch

from server.declaration.chat import CHAT
from server.declaration.model import Declaration
from server.declaration.synced import Synced
from server.feed.history import History
from server.feed.hub import Hub
from server.postgres import connection, pool
from server.postgres.pool import Pool
from server.postgres.route import Route
from tests.support.cluster import Database


def pool_of_one(database: Database, declaration: Declaration = CHAT) -> Pool:
    """One connection, with the rights of the server."""
    return pool_for(database, Synced(declaration))


def pool_for(database: Database, synced: Synced) -> Pool:
    """The same, for what may be declared anew."""
    return Pool(Route(database.server_url, History(Hub(lambda _: None))), synced, size=1)


@contextlib.contextmanager
def statements_given_up_early() -> Iterator[None]:
    """For a connection that is open already, and silent: whoever gets it next gives it up within a second."""
    with (
        patch.object(pool, "STATEMENT_SECONDS", 0.5),
        patch.object(connection, "STATEMENT_SECONDS", 0.5),
        patch.object(connection, "GRACE_SECONDS", 0.1),
    ):
        yield
