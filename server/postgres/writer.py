"""Writes groups of pushes: the write path's `Writer`, one statement a group."""

from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

import asyncpg
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
        try:
            return await self._write(pushes, careful=False)
        except UnavailableError as error:
            cause = error.__cause__
            if not isinstance(cause, asyncpg.PostgresError) or isinstance(cause, asyncpg.PostgresConnectionError):
                raise  # Postgres is away; it said nothing about what we wrote
            log.info("a group failed, each mutation is tried by itself", error=str(error), pushes=len(pushes))
        try:
            return await self._write(pushes, careful=True)
        except UnavailableError as error:
            if not isinstance(error.__cause__, asyncpg.LockNotAvailableError):
                raise
        # Somebody has the row of one of these clients: another server that hangs, or an administrator.
        return [await self._write_alone(push) for push in pushes]

    async def _write_alone(self, push: Push) -> Outcome:
        try:
            (outcome,) = await self._write([push], careful=True)
        except UnavailableError as error:
            if not isinstance(error.__cause__, asyncpg.LockNotAvailableError):
                raise
            return Outcome(push.first - 1, push.first - 1, 0, {}, None, asyncpg.LockNotAvailableError.sqlstate)
        return outcome

    async def _write(self, pushes: Sequence[Push], *, careful: bool) -> list[Outcome]:
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
        return [_outcome(record) for record in await self._pool.fetch("push", *arguments, careful)]


def _columns(mutation: Mutation | Refusal) -> Columns:
    return COLUMNS[type(mutation)](mutation)


def _outcome(record: Any) -> Outcome:
    rejected = record["rejected"]
    return Outcome(
        before=record["before"],
        after=record["after"],
        seq=record["seq"],
        rejected={int(n): code for n, code in orjson.loads(rejected).items()} if rejected != "{}" else {},
        refusal=record["refusal"],
        trouble=record["trouble"],
    )
