"""P1: what was committed reaches every connected device of its owner, whoever wrote it."""

from typing import Any

import pytest

from protocol.codec import JSON, MSGPACK
from protocol.frames import Changes, Live
from tests.support.cluster import BOTH_DOORBELLS, Database
from tests.support.peer import peer
from tests.support.people import add_conversation, add_message, add_user
from tests.support.rows import Message
from tests.support.serving import serving

pytestmark = [pytest.mark.shared_database, BOTH_DOORBELLS]


async def test_a_committed_row_reaches_every_device_of_its_owner_in_either_encoding(
    database: Database, sql: Any
) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    async with serving(database) as server, peer(server.url, MSGPACK) as one, peer(server.url, JSON) as other:
        for device in (one, other):
            await device.greet(user)
            await device.hear_a(Live)
        message = await add_message(sql, conversation, "good morning")
        for device in (one, other):
            changes = await device.hear_a(Changes)
            (row,) = changes.rows
            assert isinstance(row, Message)
            assert (row.id, row.conversation_id, row.content) == (message, conversation, "good morning")
