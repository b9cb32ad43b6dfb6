"""A dump that is restored into a younger cluster: transaction ids that the old one gave are given again."""

from typing import Any
from uuid import UUID

from tests.support.cluster import administrator
from tests.support.diary import diarist, living, settled
from tests.support.histories import Machines
from tests.support.serving import Service

OLDER = 20_000
"""Transactions that the old cluster has seen more."""


async def write_as(sql: Any, transaction: int, conversation: UUID, content: str) -> None:
    """Add a message in the transaction of this id, after those before it, which do nothing."""
    # In one statement, so that nobody else takes the id meanwhile; one that is asked for is taken.
    await sql.execute(
        f"""DO $$ BEGIN
            WHILE pg_current_xact_id()::text::bigint < {transaction} LOOP COMMIT; END LOOP;
            IF pg_current_xact_id()::text::bigint > {transaction} THEN RAISE 'not a test: the id is taken'; END IF;
            INSERT INTO messages (conversation_id, role, content) VALUES ('{conversation}', 'user', '{content}');
        END $$"""
    )


async def test_a_device_gets_the_change_of_a_transaction_whose_id_its_last_one_had_in_the_old_cluster(
    site: Machines,
) -> None:
    old = site.primary()
    async with administrator(old.database) as sql:
        device = await diarist(sql, "")
        transaction = OLDER + await sql.fetchval("SELECT pg_current_xact_id()::text::bigint")
        await write_as(sql, transaction, device.conversation, f"{device.user} is told in the old cluster")
    young = site.empty()
    await young.restore(old.dump())
    async with Service(young.database.server_url, sweep=0.2) as service, administrator(young.database) as sql:
        device.url = service.url
        async with living(device):
            await settled(sql, device)
            await write_as(sql, transaction, device.conversation, f"{device.user} is told in the young cluster")
            await settled(sql, device)
            device.say(3)
            await settled(sql, device)
