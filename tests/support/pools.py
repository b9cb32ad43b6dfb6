"""A server's pool, without the server."""

from server.declaration.chat import CHAT
from server.declaration.synced import Synced
from server.feed.history import History
from server.feed.hub import Hub
from server.postgres.pool import Pool
from server.postgres.route import Route
from tests.support.cluster import Database


def pool_of_one(database: Database) -> Pool:
    """One connection, with the rights of the server, to a database with the chat schema."""
    return Pool(Route(database.server_url, History(Hub(lambda _: None))), Synced(CHAT), size=1)
