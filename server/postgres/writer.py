"""Writes groups of pushes: the write path's `Writer`, one statement a group."""

from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

import orjson
import structlog

from protocol.frames import (
    CreateConversation,
    CreateMessage,
    DeleteConversation,
    DeleteMessage,
    EditMessage,
    Mutation,
    RenameConversation,
)
from server.errors import UnavailableError
from server.postgres.pool import Pool
from server.write.mutation import Outcome, Push, Refusal

log = structlog.get_logger()

Columns = tuple[str, UUID | None, UUID | None, str | None, str | None, int | None, int | None]
"""kind, id, conversation, role, text, at, created_at: the arguments of sync.apply."""

COLUMNS: Final[dict[type, Callable[[Any], Columns]]] = {
    CreateMessage: lambda m: ("+m", m.id, m.conversation_id, m.role, m.content, m.at, None),
    EditMessage: lambda m: ("~m", m.id, None, None, m.content, m.at, m.created_at),
    DeleteMessage: lambda m: ("-m", m.id, None, None, None, None, m.created_at),
    CreateConversation: lambda c: ("+c", c.id, None, None, c.title, c.at, None),
    RenameConversation: lambda c: ("~c", c.id, None, None, c.title, c.at, None),
    DeleteConversation: lambda c: ("-c", c.id, None, None, None, None, None),
    Refusal: lambda refusal: ("!", None, None, None, refusal.code, None, None),
}


class PostgresWriter:
    """`Writer` on a pool of connections."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def write(self, pushes: Sequence[Push]) -> list[Outcome]:
        mutations = [_columns(mutation) for push in pushes for mutation in push.mutations]
        columns = list(zip(*mutations, strict=True)) or [()] * 7
        arguments = (
            [push.user for push in pushes],
            [push.client_id for push in pushes],
            [push.session for push in pushes],
            [push.takes for push in pushes],
            [push.first for push in pushes],
            [len(push.mutations) for push in pushes],
            *columns,
        )
        try:
            records = await self._pool.fetch("push", *arguments, False)
        except UnavailableError as error:
            # Either Postgres is away, which the second try will meet too, or one mutation failed all of them.
            log.info("a group failed, each mutation is tried by itself", error=str(error), pushes=len(pushes))
            records = await self._pool.fetch("push", *arguments, True)
        return [_outcome(record) for record in records]


def _columns(mutation: Mutation | Refusal) -> Columns:
    return COLUMNS[type(mutation)](mutation)


def _outcome(record: Any) -> Outcome:
    rejected = record["rejected"]
    return Outcome(
        before=record["before"],
        after=record["after"],
        seq=record["seq"],
        rejected={int(n): code for n, code in orjson.loads(rejected).items()} if rejected != "{}" else {},
        replaced=record["replaced"],
        trouble=record["trouble"],
    )
