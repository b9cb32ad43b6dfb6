"""Applies groups of pushes: the `Writer` of the write path, with one statement per group."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple
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
from server.exceptions import UnavailableError
from server.postgres.errors import StatementError
from server.postgres.pool import Pool
from server.write.ports import Cause, WriteError
from server.write.push import Outcome, OwnedPush, Rejection

log = structlog.get_logger()


class Arguments(NamedTuple):
    """One mutation: an element of each of these arrays of sync.push, in this order."""

    kind: str
    row_id: UUID | None = None
    parent: UUID | None = None
    role: str | None = None
    body: str | None = None
    """The content or title; of a rejected mutation the code of its rejection."""
    at: int | None = None
    row_at: int | None = None


ARGUMENTS: Final[dict[type, Callable[[Any], Arguments]]] = {
    CreateMessage: lambda m: Arguments("+m", m.id, parent=m.conversation_id, role=m.role, body=m.content, at=m.at),
    EditMessage: lambda m: Arguments("~m", m.id, body=m.content, at=m.at, row_at=m.created_at),
    DeleteMessage: lambda m: Arguments("-m", m.id, row_at=m.created_at),
    CreateConversation: lambda c: Arguments("+c", c.id, body=c.title, at=c.at),
    RenameConversation: lambda c: Arguments("~c", c.id, body=c.title, at=c.at),
    DeleteConversation: lambda c: Arguments("-c", c.id),
    Rejection: lambda rejection: Arguments("!", body=rejection.code),
}

ENDED: Final = ("08", "57P01", "57P02", "57P03", "57P05")
"""SQLSTATEs of a lost connection, and of a Postgres that shuts down or starts."""
STATES: Final = ("0A", "25", "40", "42", "53", "55", "57", "58", "F0", "XX")
"""SQLSTATE classes of errors that no mutation causes: locks, resources, a trigger that names a missing object. Every
other error, raised by a constraint or the app, is the mutation's fault."""
FORBIDDEN: Final = "42501"
"""insufficient_privilege: a trigger or a policy of the app forbids the mutation."""


class PostgresWriter:
    """`Writer` on a pool of connections. Devices may write messages of these `roles`."""

    def __init__(self, pool: Pool, roles: Iterable[str]) -> None:
        self._pool = pool
        self._roles = sorted(roles)

    async def write(self, pushes: Sequence[OwnedPush], seconds: float) -> list[Outcome]:
        try:
            mutations = [ARGUMENTS[type(mutation)](mutation) for push in pushes for mutation in push.mutations]
            # In the order of sql/push.sql.
            arguments = (
                [push.user for push in pushes],
                [push.client_id for push in pushes],
                [push.session for push in pushes],
                [push.claims_client_id for push in pushes],
                [push.first for push in pushes],
                [len(push.mutations) for push in pushes],
                *(zip(*mutations, strict=True) if mutations else [()] * len(Arguments._fields)),
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
        except Exception as error:  # one mutation, whatever it causes, must not stop the writes of other devices
            log.error("a push failed unexpectedly", exc_info=error)
            raise WriteError(Cause.END, type(error).__name__) from error


def _diagnosis(error: BaseException | None) -> tuple[Cause, str]:
    """Why a statement failed, and the text that may be logged: SQLSTATE and constraint, which contain no row."""
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


def _digest(mutation: Mutation | Rejection) -> int:
    """The mutation's digest, 0 where there is none."""
    pushed = mutation.mutation if isinstance(mutation, Rejection) else mutation
    try:
        return 0 if pushed is None else digest(pushed)
    except (ValueError, OverflowError):
        return 0  # it contains half of a surrogate pair or an integer beyond 64 bits, and is never applied


def _outcome(record: Any) -> Outcome:
    rejected = record["rejected"]
    return Outcome(
        before=record["before"],
        after=record["after"],
        seq=record["seq"],
        rejected={int(n): code for n, code in orjson.loads(rejected).items()} if rejected != "{}" else {},
        error=record["refusal"],
    )
