"""Postgres crashes while answers are written: what its disk lost is sent again."""

import asyncio
from functools import partial
from typing import Any

from atlas_sync import Stream
from tests.integration.test_stream_writer import device_of, words
from tests.integration.test_streams import SERVICE, placeholder
from tests.support.cluster import administrator
from tests.support.histories import Machines
from tests.support.people import add_user
from tests.support.serving import serving
from tests.support.waiting import eventually


async def test_a_writer_whose_postgres_crashes_goes_on_and_the_row_has_all_of_it(site: Machines) -> None:
    machine, said = site.primary(), words(100)
    async with administrator(machine.database) as sql:
        user = await add_user(sql)
        message = await placeholder(sql, user)

    async def stored() -> Any:
        async with administrator(machine.database) as sql:
            return await sql.fetchval("SELECT content FROM messages WHERE id = $1", message)

    async with serving(machine.database, service_token=SERVICE) as server, device_of(server.url, user) as phone:
        async with Stream(server.http, SERVICE, user, "message", message, "content") as out:
            for n, word in enumerate(said):
                await out.write(word)
                await asyncio.sleep(0.005)
                if n == 50:
                    await eventually(lambda: phone.text(message))
                    machine.postgres.stop(immediate=True)
                    machine.postgres.start()
            await out.finish(write=True)
        whole = "".join(said)
        assert out.text == whole
        await eventually(partial(phone.settled, message, whole))
        assert await stored() == whole
