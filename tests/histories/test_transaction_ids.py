"""A dump that is restored into a younger cluster: transaction ids that the old one gave are given again."""

from typing import Any

from tests.support.diary import diarist, living, settled
from tests.support.histories import Machines
from tests.support.people import add_message
from tests.support.pushing import administrator
from tests.support.serving import Service

OLDER = 20_000
"""Transactions that the old cluster has seen more."""


async def burn(sql: Any, until: int) -> None:
    """The next transaction gets this id."""
    # A transaction each: an id is taken when it is asked for.
    await sql.execute(
        f"DO $$ BEGIN WHILE pg_current_xact_id()::text::bigint < {until - 1} LOOP COMMIT; END LOOP; END $$"
    )


async def test_a_device_gets_the_change_of_a_transaction_whose_id_its_last_one_had_in_the_old_cluster(
    site: Machines,
) -> None:
    old = site.primary()
    async with administrator(old.database) as sql:
        device = await diarist(sql, "")
        await burn(sql, OLDER + await sql.fetchval("SELECT pg_current_xact_id()::text::bigint"))
        async with sql.transaction():
            await add_message(sql, device.conversation, f"{device.user} is told in the old cluster")
            given = await sql.fetchval("SELECT pg_current_xact_id()::text::bigint")
    young = site.empty()
    await young.restore(old.dump())
    async with Service(young.database.server_url, sweep=0.2) as service, administrator(young.database) as sql:
        device.url = service.url
        async with living(device):
            await settled(sql, device)
            await burn(sql, given)
            async with sql.transaction():
                await add_message(sql, device.conversation, f"{device.user} is told in the young cluster")
                again = await sql.fetchval("SELECT pg_current_xact_id()::text::bigint")
            assert again == given, "not a test: another transaction took the id"
            await settled(sql, device)
            device.say(3)
            await settled(sql, device)
