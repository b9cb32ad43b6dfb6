"""Queries everything that Postgres knows of one message and of its owner's devices, except the message's content."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from server.exceptions import UnavailableError, UnfitError
from server.operations.trace_facts import Change, Client, Deletion, Device, Facts, Feed, Message, Plan
from server.postgres.connection import connect_to_primary, statement
from server.postgres.errors import UNMIGRATED, translated

SECONDS: Final = 30
"""How long a statement may take: only the search of the whole log takes long."""
MARGIN: Final = 5
"""Seconds beyond that limit to wait for Postgres to report that it was exceeded."""


async def ask(url: str, message_id: UUID, user: UUID | None, seconds: float = SECONDS) -> Facts:
    """The facts, all from one snapshot, with the rights of `url`. Writes nothing. Raises UnavailableError, also if a
    statement takes longer than `seconds`, and UnfitError."""
    # No prepared statements, so that this works through a pooler too.
    connection = await connect_to_primary(url, statement_cache_size=0)
    try:
        with translated(), _sentences(seconds, user):
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                await connection.execute(f"SET LOCAL statement_timeout = {int(seconds * 1000)}")
                return await _Queries(connection, seconds + MARGIN).facts(message_id, user)
    finally:
        connection.terminate()


@contextmanager
def _sentences(seconds: float, user: UUID | None) -> Iterator[None]:
    try:
        yield
    except (asyncpg.QueryCanceledError, TimeoutError):
        way_out = "Try again when the database is less busy."
        if user is None:
            way_out = "Without an owner the whole change log is searched: give the owner with --user."
        raise UnavailableError(f"Postgres had no answer within {seconds:g} s. {way_out}") from None
    except UNMIGRATED:
        raise UnfitError("This database lacks a migration that `trace` needs. Run `atlas-sync migrate`.") from None
    except asyncpg.InsufficientPrivilegeError:
        raise UnfitError(
            "This login may not read what `trace` needs. Run `GRANT atlas_sync TO <login>` as an administrator, and "
            "`atlas-sync migrate` if it is a member already."
        ) from None


class _Queries:
    def __init__(self, connection: Any, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout

    async def facts(self, message_id: UUID, user: UUID | None) -> Facts:
        (here,) = await self._fetch("trace_here", message_id)
        copies = await self._messages(message_id, archive=here["has_archive"])
        # Several users may have a message with this id.
        message = next((copy for copy in copies if copy.owner == user), copies[0] if copies else None)
        owners = [owner] if (owner := user or (message.owner if message else None)) else []
        searched_all = message is None and user is None
        if searched_all:
            owners = [_uuid(row["user_id"]) for row in await self._fetch("trace_owners", message_id)]
        owner = owners[0] if owners else None
        known = Facts(
            message_id=message_id,
            asked_user=user,
            now=here["now"],
            log_since=here["log_since"],
            is_conversation=here["is_conversation"],
            searched_all=searched_all,
            message=message,
            copies=len(copies),
            owner=owner,
        )
        if owner is None or known.somebody_elses:
            return known
        return await self._of_owner(known, owner, reads_clients=here["reads_clients"])

    async def _of_owner(self, known: Facts, owner: UUID, *, reads_clients: bool) -> Facts:
        (row,) = await self._fetch("trace_owner", owner)
        changes = await self._fetch("trace_changes", owner, known.message_id)
        deletions = []
        if known.message is None and changes:
            deletions = await self._fetch("trace_deletions", owner, [change["seq"] for change in changes])
        devices = await self._fetch("trace_devices", owner, row["head"])
        clients = await self._fetch("trace_clients", owner) if reads_clients else None
        return replace(
            known,
            plan=Plan(row["tier"], row["status"], row["has_profile"]),
            feed=Feed(row["head"], row["log_head"], row["log_first"], row["before_first"]),
            changes=tuple(Change(c["seq"], c["n"], c["op"], c["place"], c["rows"]) for c in changes),
            changes_total=changes[0]["total"] if changes else 0,
            first_change=changes[0]["first"] if changes else None,
            deletions=tuple(Deletion(_uuid(d["conversation"]), d["seq"], d["certain"]) for d in deletions),
            devices=tuple(_device(device) for device in devices),
            clients=None if clients is None else tuple(_client(client) for client in clients),
        )

    async def _messages(self, message_id: UUID, *, archive: bool) -> list[Message]:
        found = [_message(row, archived=False) for row in await self._fetch("trace_message", message_id)]
        if archive:
            found += [_message(row, archived=True) for row in await self._fetch("trace_archived", message_id)]
        return found

    async def _fetch(self, name: str, *arguments: object) -> list[Any]:
        return list(await self._connection.fetch(statement(name), *arguments, timeout=self._timeout))


def _uuid(value: UUID) -> UUID:
    """asyncpg returns a UUID class of its own, which orjson does not encode."""
    return UUID(int=value.int)


def _message(row: Any, *, archived: bool) -> Message:
    return Message(
        owner=_uuid(row["owner"]) if row["owner"] else None,
        conversation=_uuid(row["conversation_id"]),
        role=row["role"],
        content_bytes=row["content_bytes"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        newer=row["newer"],
        archived=archived,
    )


def _device(row: Any) -> Device:
    return Device(
        client_id=_uuid(row["client_id"]),
        session=row["session"],
        server=row["server"],
        state=row["state"],
        position=row["position"],
        close_code=row["close_code"],
        connected_at=row["connected_at"],
        noted_at=row["noted_at"],
        server_seen_at=row["server_seen_at"],
        resumes=row["resumes"],
    )


def _client(row: Any) -> Client:
    rejected = {int(n): str(code) for n, code in orjson.loads(row["rejected"]).items()}
    return Client(_uuid(row["client_id"]), row["last_mutation"], row["pushed_at"], rejected)
