"""Queries everything that Postgres knows of one row and of its owner's devices, except the row's content."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from protocol.schema import Type
from server.declaration.model import Declaration, Kind
from server.declaration.sql import tracing
from server.declaration.sql.pieces import literal, table
from server.exceptions import ConfigError, UnavailableError, UnfitError
from server.operations.trace_facts import Change, Client, Deletion, Device, Facts, Feed, Plan, Row, Stream
from server.postgres.connection import LOCAL_PATH, connect_to_primary, statement
from server.postgres.declared import declared
from server.postgres.errors import UNMIGRATED, translated

SECONDS: Final = 30
"""How long a statement may take: only the search of the whole log takes long."""
MARGIN: Final = 5
"""Seconds beyond that limit to wait for Postgres to report that it was exceeded."""


async def ask(url: str, key: str, user: UUID | None, kind: str | None = None, seconds: float = SECONDS) -> Facts:
    """The facts, all from one snapshot, with the rights of `url`. Writes nothing.

    `key`: both halves of a key of two columns are separated by a comma. `kind`: a kind's name; None: `message`, or the
    only one. Raises UnavailableError, also if a statement takes longer than `seconds`; UnfitError; ConfigError for a
    key that is none of the kind, and for an unknown kind.
    """
    # No prepared statements, so that this works through a pooler too.
    connection = await connect_to_primary(url, statement_cache_size=0)
    try:
        with translated(), _sentences(seconds, user):
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                await connection.execute(f"SET LOCAL statement_timeout = {int(seconds * 1000)}; {LOCAL_PATH}")
                declaration = await declared(connection)
                if declaration is None:
                    raise UnfitError("Nothing is declared to be synced in this database. Run `atlas-sync migrate`.")
                traced = _kind(declaration, kind)
                return await _Queries(connection, declaration, traced, _texts(traced, key), seconds + MARGIN).facts(
                    user
                )
    finally:
        connection.terminate()


def _kind(declaration: Declaration, name: str | None) -> Kind:
    chosen = name or ("message" if "message" in declaration.kind or len(declaration.kinds) != 1 else None)
    kind = declaration.kinds[0] if chosen is None else declaration.kind.get(chosen)
    if kind is None:
        raise ConfigError(f"--kind must be one of {', '.join(declaration.kind)}.")
    return kind


def _texts(kind: Kind, key: str) -> list[str]:
    """The halves of a key, as the log has them."""
    texts = key.split(",", 1) if len(kind.key) == 2 else [key]
    try:
        if len(texts) != len(kind.key):
            raise ValueError
        return [_CHECKS[field.of](text) for field, text in zip(kind.key, texts, strict=True)]
    except ValueError:
        wanted = ",".join(f"{field.name}: {field.of}" for field in kind.key)
        raise ConfigError(f"This is no key of kind {kind.name} ({wanted}).") from None


_CHECKS: Final[dict[Type, Callable[[str], str]]] = {
    Type.UUID: lambda text: str(UUID(text)),
    Type.INT: lambda text: str(int(text)),
    Type.BIGINT: lambda text: str(int(text)),
    Type.TEXT: str,
    Type.INSTANT: str,
}


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
    def __init__(self, connection: Any, declaration: Declaration, kind: Kind, key: list[str], timeout: float) -> None:
        self._connection = connection
        self._declaration = declaration
        self._kind = kind
        self._parent = declaration.parent_of(kind)
        self._key = key
        self._timeout = timeout

    async def facts(self, user: UUID | None) -> Facts:
        (here,) = await self._fetch("trace_here")
        copies = await self._rows()
        # Several users may have a row with this key.
        row = next((copy for copy in copies if copy.owner == user), copies[0] if copies else None)
        owners = [owner] if (owner := user or (row.owner if row else None)) else []
        searched_all = row is None and user is None
        if searched_all:
            owners = [_uuid(found["user_id"]) for found in await self._about("trace_owners", "l", self._key)]
        owner = owners[0] if owners else None
        known = Facts(
            key=",".join(self._key),
            kind=self._kind.name,
            table=table(self._kind.table).removeprefix("public."),
            parent_kind=None if self._parent is None else self._parent.name,
            window=self._kind.window,
            asked_user=user,
            now=here["now"],
            log_since=here["log_since"],
            is_parent=row is None and await self._is_parent(),
            searched_all=searched_all,
            row=row,
            touch=None if row is None else tracing.touch(self._kind, self._key, archived=row.archived),
            copies=len(copies),
            owner=owner,
        )
        if owner is None or known.somebody_elses:
            return known
        return await self._of_owner(known, owner, reads_clients=here["reads_clients"])

    async def _of_owner(self, known: Facts, owner: UUID, *, reads_clients: bool) -> Facts:
        (row,) = await self._run(tracing.plan(self._declaration), owner)
        changes = await self._about("trace_changes", "l", self._key, owner)
        deletions = []
        if known.row is None and changes and self._parent is not None:
            seqs = [change["seq"] for change in changes]
            text = statement("trace_deletions").replace("{tag}", literal(self._parent.tag))
            deletions = await self._run(text, owner, seqs)
        streams = await self._fetch("trace_streams", self._kind.tag, self._key) if self._kind.streams else []
        devices = await self._fetch("trace_devices", owner, row["head"])
        clients = await self._fetch("trace_clients", owner) if reads_clients else None
        gate = self._declaration.gate
        syncs = gate is None or (row["tier"] is not None and gate.admits(row["tier"]))
        return replace(
            known,
            plan=Plan(row["tier"], row["status"], gate is None or row["tier"] is not None, syncs),
            feed=Feed(row["head"], row["log_head"], row["log_first"], row["before_first"]),
            changes=tuple(Change(c["seq"], c["n"], c["op"], c["place"], c["rows"]) for c in changes),
            changes_total=changes[0]["total"] if changes else 0,
            first_change=changes[0]["first"] if changes else None,
            deletions=tuple(Deletion(d["parent"], d["seq"], d["certain"]) for d in deletions),
            streams=tuple(Stream(*stream) for stream in streams),
            devices=tuple(_device(device) for device in devices),
            clients=None if clients is None else tuple(_client(client) for client in clients),
        )

    async def _rows(self) -> list[Row]:
        found = []
        for archived in (False, True) if self._kind.archive is not None else (False,):
            text = tracing.row(self._declaration, self._kind, archived=archived)
            found += [_row(row, archived=archived) for row in await self._run(text, *self._key)]
        return found

    async def _is_parent(self) -> bool:
        parent = self._parent
        if parent is None or len(self._key) > 1 or parent.key[0].of is not self._kind.key[0].of:
            return False
        ((exists,),) = await self._run(tracing.exists(parent), *self._key)
        return bool(exists)

    async def _about(self, name: str, alias: str, key: list[str], *arguments: object) -> list[Any]:
        """Run a statement about the log's entries of the row. The texts of its key come behind the other arguments."""
        condition = tracing.entry(self._kind, alias, len(arguments) + 1)
        return await self._run(statement(name).replace("{entry}", condition), *arguments, key)

    async def _fetch(self, name: str, *arguments: object) -> list[Any]:
        return await self._run(statement(name), *arguments)

    async def _run(self, text: str, *arguments: object) -> list[Any]:
        return list(await self._connection.fetch(text, *arguments, timeout=self._timeout))


def _uuid(value: UUID) -> UUID:
    """asyncpg returns a UUID class of its own, which orjson does not encode."""
    return UUID(int=value.int)


def _row(row: Any, *, archived: bool) -> Row:
    return Row(
        owner=_uuid(row["owner"]) if row["owner"] else None,
        parent=row["parent"],
        role=row["role"],
        bytes=row["bytes"],
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
