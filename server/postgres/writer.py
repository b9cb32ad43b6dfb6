"""Writes groups of pushes: the write path's `Writer`, one statement a group."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
import structlog

from protocol.codec import digest
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
from server.postgres.errors import StatementError
from server.postgres.pool import Pool
from server.write.ports import Cause, WriteError
from server.write.push import Outcome, OwnedPush, Rejection

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
    Rejection: lambda rejection: ("!", None, None, None, rejection.code, None, None),
}

ENDED: Final = ("08", "57P01", "57P02", "57P03", "57P05")
"""SQLSTATEs of a connection that ended, or of a Postgres that ends."""
STATES: Final = ("0A", "25", "40", "42", "53", "55", "57", "58", "F0", "XX")
"""Classes of which nothing is the mutation's fault: locks, resources, a trigger that names what is not there. Whatever
else is raised, by a constraint or the app, is."""
FORBIDDEN: Final = "42501"
"""insufficient_privilege: a trigger or a policy of the app says no."""


class PostgresWriter:
    """`Writer` on a pool of connections. Devices may write messages of these `roles`."""

    def __init__(self, pool: Pool, roles: Iterable[str]) -> None:
        self._pool = pool
        self._roles = sorted(roles)

    async def write(self, pushes: Sequence[OwnedPush], seconds: float) -> list[Outcome]:
        try:
            mutations = [_columns(mutation) for push in pushes for mutation in push.mutations]
            columns = list(zip(*mutations, strict=True)) or [()] * 7
            arguments = (
                [push.user for push in pushes],
                [push.client_id for push in pushes],
                [push.session for push in pushes],
                [push.claims_client_id for push in pushes],
                [push.first for push in pushes],
                [len(push.mutations) for push in pushes],
                *columns,
                self._roles,
                [push.generation for push in pushes],
                [push.held for push in pushes],
                [_digest(mutation) for push in pushes for mutation in push.mutations],
            )
            return [_outcome(record) for record in await self._pool.fetch("push", *arguments, seconds=seconds)]
        except StatementError as error:
            raise WriteError(*_diagnosis(error.__cause__)) from error
        except UnavailableError:
            raise
        except Exception as error:  # whatever a mutation can bring about must not end the writing of all others
            log.error("a push failed unexpectedly", exc_info=error)
            raise WriteError(Cause.END, type(error).__name__) from error


def _diagnosis(error: BaseException | None) -> tuple[Cause, str]:
    """Why a statement failed, and what may be logged of it: SQLSTATE and constraint, which quote no row."""
    if isinstance(error, asyncpg.PostgresError):
        state = str(error.sqlstate)
        trouble = f"{state} {error.constraint_name or ''}".rstrip()
        if isinstance(error, asyncpg.QueryCanceledError):
            return Cause.TIME, trouble
        if state.startswith(ENDED):
            return Cause.END, trouble
        return (Cause.STATE if state.startswith(STATES) and state != FORBIDDEN else Cause.RULE), trouble
    trouble = type(error).__name__
    if isinstance(error, TimeoutError):
        return Cause.TIME, trouble
    return Cause.RULE if isinstance(error, asyncpg.DataError) else Cause.END, trouble


def _columns(mutation: Mutation | Rejection) -> Columns:
    return COLUMNS[type(mutation)](mutation)


def _digest(mutation: Mutation | Rejection) -> int:
    """0 for what is none."""
    said = mutation.mutation if isinstance(mutation, Rejection) else mutation
    try:
        return 0 if said is None else digest(said)
    except (ValueError, OverflowError):
        return 0  # half of a surrogate pair or an integer beyond 64 bits, which are never applied


def _outcome(record: Any) -> Outcome:
    rejected = record["rejected"]
    return Outcome(
        before=record["before"],
        after=record["after"],
        seq=record["seq"],
        rejected={int(n): code for n, code in orjson.loads(rejected).items()} if rejected != "{}" else {},
        error=record["refusal"],
    )
