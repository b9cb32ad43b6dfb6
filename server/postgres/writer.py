"""Applies groups of pushes: the `Writer` of the write path, with one statement per group."""

from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import orjson
import structlog

from protocol.frames import Instant
from server.declaration.synced import Synced
from server.exceptions import UnavailableError
from server.postgres.errors import StatementError
from server.postgres.pool import Pool, array
from server.write.ports import Cause, WriteError
from server.write.push import Change, Outcome, OwnedPush, Rejection

log = structlog.get_logger()


Arguments = tuple[str, str, str | None, str | None, str | None, Instant | None]
"""One mutation: its tag and op as they are in an array literal, both halves of the key, the columns (of a rejected
mutation the code of its rejection), the instant."""
NO_ARGUMENTS: Final[list[tuple[str, ...]]] = [()] * 6


def _arguments(mutation: Change | Rejection) -> Arguments:
    if isinstance(mutation, Rejection):
        return "NULL", "!", None, None, mutation.code, None
    key = mutation.key
    return mutation.tag, mutation.op, key[0], key[1] if len(key) > 1 else None, mutation.patch, mutation.at


ENDED: Final = ("08", "57P01", "57P02", "57P03", "57P05")
"""SQLSTATEs of a lost connection, and of a Postgres that shuts down or starts."""
STATES: Final = ("0A", "25", "40", "42", "53", "55", "57", "58", "F0", "XX")
"""SQLSTATE classes of errors that no mutation causes: locks, resources, a trigger that names a missing object. Every
other error, raised by a constraint or the app, is the mutation's fault."""
FORBIDDEN: Final = "42501"
"""insufficient_privilege: a trigger or a policy of the app forbids the mutation."""


class PostgresWriter:
    """`Writer` on a pool of connections."""

    def __init__(self, pool: Pool, synced: Synced) -> None:
        self._pool = pool
        self._synced = synced

    async def write(self, pushes: Sequence[OwnedPush], seconds: float) -> list[Outcome]:
        try:
            mutations = [_arguments(mutation) for push in pushes for mutation in push.mutations]
            tags, ops, *others = zip(*mutations, strict=True) if mutations else NO_ARGUMENTS
            # In the order of sql/push.sql. asyncpg looks through each array: literals, where nothing needs quotes.
            arguments = (
                [push.user for push in pushes],
                [push.client_id for push in pushes],
                array([push.session for push in pushes]),
                array(["t" if push.claims_client_id else "f" for push in pushes]),
                array([str(push.first) for push in pushes]),
                array([str(len(push.mutations)) for push in pushes]),
                array(tags),
                array(ops),
                *others,
                array([str(push.generation or "NULL") for push in pushes]),
                array([str(push.held or "NULL") for push in pushes]),
                array([str(_digest(mutation)) for push in pushes for mutation in push.mutations]),
                self._synced.declaration.digest,
            )
            return [_outcome(record) for record in await self._pool.fetch("push", *arguments, seconds=seconds)]
        except StatementError as error:
            cause = error.__cause__
            if isinstance(cause, asyncpg.ObjectNotInPrerequisiteStateError):
                self._synced.on_mismatch()
            raise WriteError(*_diagnosis(cause), self._where(cause)) from error
        except UnavailableError:
            raise
        except Exception as error:  # one mutation, whatever it causes, must not stop the writes of other devices
            log.error("a push failed unexpectedly", exc_info=error)
            raise WriteError(Cause.END, type(error).__name__) from error

    def _where(self, error: BaseException | None) -> str:
        """The column and the constraint that Postgres names, as they follow the code of a `Rejection`."""
        if not isinstance(error, asyncpg.IntegrityConstraintViolationError):
            return ""
        named = (error.schema_name, error.table_name)
        kind = next((kind for kind in self._synced.declaration.kinds if kind.table == named), None)
        columns = () if kind is None else kind.columns
        column = next((each.name for each in columns if each.field.name == error.column_name), "")
        return f":{column}:{error.constraint_name or ''}".rstrip(":")


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


def _digest(mutation: Change | Rejection) -> int:
    """The mutation's digest, 0 where there is none."""
    change = mutation.change if isinstance(mutation, Rejection) else mutation
    try:
        return 0 if change is None else change.digest
    except orjson.JSONEncodeError:
        # An instant beyond 64 bits, or a text that is no Unicode: rejected, without keeping its push from an answer.
        return 0


def _outcome(record: Any) -> Outcome:
    rejected = record["rejected"]
    return Outcome(
        before=record["before"],
        after=record["after"],
        seq=record["seq"],
        rejected={int(n): code for n, code in orjson.loads(rejected).items()} if rejected != "{}" else {},
        error=record["refusal"],
    )
