"""Mutations as the server hands them to Postgres."""

from protocol.codec import MSGPACK
from server.declaration.chat import CHAT
from server.write import rules
from server.write.push import Change
from tests.support.device import now
from tests.support.rows import Mutation, encoded


def checked(mutation: Mutation) -> Change:
    """Of the chat schema, and acceptable."""
    change = rules.check(MSGPACK.mutation(encoded(mutation)), rules.forms(CHAT), MSGPACK, now())
    assert isinstance(change, Change), change
    return change
