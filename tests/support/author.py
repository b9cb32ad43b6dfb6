"""An author writes on a device, connected or not. In the end every text was applied once, or was rejected."""

import asyncio
import random
from typing import Any, Final
from uuid import UUID, uuid4

from atlas_sync.chat import (
    create_conversation,
    create_message,
    delete_conversation,
    delete_message,
    edit_message,
    rename_conversation,
)
from atlas_sync.mutation import Mutation, Rejected
from atlas_sync.view import build_view
from tests.support.client_device import ClientDevice
from tests.support.cluster import SERVER_LOGINS

TRAIL: Final = f"""
    CREATE TABLE trail (n bigint GENERATED ALWAYS AS IDENTITY, said text);
    CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF session_user IN {SERVER_LOGINS} AND (TG_OP = 'INSERT'
                OR to_jsonb(OLD) ->> TG_ARGV[0] IS DISTINCT FROM to_jsonb(NEW) ->> TG_ARGV[0]) THEN
            INSERT INTO trail (said) VALUES (to_jsonb(NEW) ->> TG_ARGV[0]);
        END IF;
        RETURN NULL;
    END
    $$;
    CREATE TRIGGER follow AFTER INSERT OR UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION follow('title');
    CREATE TRIGGER follow AFTER INSERT OR UPDATE ON messages FOR EACH ROW EXECUTE FUNCTION follow('content');
"""
"""Every text that the server wrote, in order. Later changes of the rows by others leave it as it is."""
AN_HOUR: Final = 3_600_000_000
"""Microseconds. No server takes a mutation of the future, and its device does not know that it is one."""
PAUSE: Final = 0.015
"""Seconds between two mutations, on average."""
ACCEPTABLE: Final = {"unknown_row", "unknown_parent", "bad_time"}
"""Codes of rejections that may happen: others delete rows that a device writes to, and some mutations are invalid."""


def acceptable(rejected: Rejected) -> bool:
    # A conversation may go between the look at it and the check of the foreign key, also when it is tried alone.
    gone = rejected.code == "refused" and "messages_conversation_id_fkey" in rejected.message
    return gone or rejected.code in ACCEPTABLE


class Author:
    """Writes every text once, so that it can be found again. `strangers` are conversations of other users."""

    def __init__(self, device: ClientDevice, strangers: list[UUID], rng: random.Random) -> None:
        self._device = device
        self._strangers = strangers
        self._rng = rng
        self._said: dict[int, str | None] = {}
        """The text of each number; None for a deletion."""

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            mutation, said = self._next()
            self._said[self._device.outbox.add(mutation).n] = said
            await asyncio.sleep(self._rng.expovariate(1 / PAUSE))

    @property
    def done(self) -> bool:
        """Every mutation has a result, and every applied one came back through the feed."""
        return self._device.outbox.entries == self._device.outbox.quarantine

    def check(self, trail: list[str]) -> None:
        """Each mutation was applied once or rejected, never both, and in the order of writing."""
        results = self._device.results
        assert results.keys() == self._said.keys(), "not everything has a result"
        rejected = {n for n, result in results.items() if isinstance(result, Rejected)}
        assert not {n for n, result in results.items() if isinstance(result, Rejected) and not acceptable(result)}
        expected = [said for n, said in self._said.items() if said is not None and n not in rejected]
        mine = set(self._said.values())
        assert [said for said in trail if said in mine] == expected
        assert {entry.n for entry in self._device.outbox.quarantine} == rejected

    @property
    def written(self) -> int:
        return len(self._said)

    def _next(self) -> tuple[Mutation, str | None]:
        rng, shown = self._rng, build_view(self._device.replica, self._device.outbox.entries)
        said = f"{self._device.user} says {len(self._said)} on {self._device.client_id}"
        at = self._device.now()
        choice = rng.random()
        conversation: Any = rng.choice([*shown.rows["conversation"], uuid4()])
        messages = list(shown.rows["message"].values())
        message: Any = rng.choice(messages).row if messages else None
        if choice < 0.1:
            return create_conversation(uuid4(), said, at), said
        if choice < 0.6 or message is None:
            return create_message(uuid4(), conversation, "user", said, at), said
        if choice < 0.72:
            return edit_message(message.id, message.created_at, said, at), said
        if choice < 0.8:
            return rename_conversation(conversation, said, at), said
        if choice < 0.86:
            return delete_message(message.id, message.created_at), None
        if choice < 0.88:
            return delete_conversation(conversation), None
        if choice < 0.92:
            return create_message(uuid4(), conversation, "user", said, at + AN_HOUR), said
        if choice < 0.96:
            return create_message(uuid4(), rng.choice(self._strangers), "user", said, at), said
        return rename_conversation(rng.choice(self._strangers), said, at), said


async def trail(sql: Any) -> list[str]:
    return [row["said"] for row in await sql.fetch("SELECT said FROM trail ORDER BY n")]
