"""The TypeScript client with the streams of a real server, which are written by HTTP."""

import asyncio
from typing import Any

from tests.support.cluster import Database
from tests.support.npm import install, run
from tests.support.people import add_conversation, add_message, add_user
from tests.support.serving import serving, token

SERVICE = "a service token of the tests, at least 32 characters long"
MESSAGES = 5


async def test_answers_grow_on_devices_give_way_to_their_rows_and_are_stopped(database: Database, sql: Any) -> None:
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    rows = [conversation, *[await add_message(sql, conversation, content="") for _ in range(MESSAGES)]]
    await asyncio.to_thread(install)
    async with serving(database, service_token=SERVICE) as server:
        given = {
            "ATLAS_URL": server.url,
            "ATLAS_HTTP": server.http,
            "ATLAS_TOKEN": token(user),
            "ATLAS_SERVICE_TOKEN": SERVICE,
            "ATLAS_ROWS": ",".join(map(str, rows)),
        }
        await asyncio.to_thread(run, "test", "--", "test/streamed.test.ts", **given)
