"""A server's pool, without the server."""

from server.declaration.chat import CHAT
from server.declaration.model import Declaration
from server.declaration.synced import Synced
from server.feed.history import History
from server.feed.hub import Hub
from server.postgres.pool import Pool
from server.postgres.route import Route
from tests.support.cluster import Database


def pool_of_one(database: Database, declaration: Declaration = CHAT) -> Pool:
    """One connection, with the rights of the server."""
    return pool_for(database, Synced(declaration))


def pool_for(database: Database, synced: Synced) -> Pool:
    """The same, for what may be declared anew."""
    return Pool(Route(database.server_url, History(Hub(lambda _: None))), synced, size=1)
