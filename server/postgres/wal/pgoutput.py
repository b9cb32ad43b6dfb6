"""Transactions from the messages of pgoutput, version 1 of its protocol, with binary values. Sans-I/O.

The layouts are those of the manual (Logical Replication Message Formats).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from msgspec import Struct

from server.declaration.sql.pieces import quoted
from server.postgres.wire import COUNT, LENGTH

MOST_BYTES: Final = 1 << 20
"""Bytes of rows that are kept of one transaction. Of a larger one only the doorbells ring."""
MOST_ENTRIES: Final = 2_000
"""Entries of the log that are kept of one transaction, for the same reason."""

BEGIN: Final = ord("B")
TYPE: Final = ord("Y")
RELATION: Final = ord("R")
INSERT: Final = ord("I")
UPDATE: Final = ord("U")
COMMIT: Final = ord("C")
NEW_ROW: Final = ord("N")
IS_NULL: Final = ord("n")
IS_BINARY: Final = ord("b")
IS_TEXT: Final = ord("t")


class Unknown(Enum):
    """A value that the stream does not have in binary: one of a type without such a format, or one that an UPDATE left
    as it is and that is stored apart from its row (TOAST)."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN
Value = bytes | None | Unknown


class Relation(Struct, frozen=True, cache_hash=True):
    """A table as the stream has it, at this moment."""

    schema: str
    name: str
    columns: tuple[str, ...]
    types: tuple[int, ...]
    """The OIDs of the columns' types."""
    names: tuple[str | None, ...]
    """The types' names in SQL, of types that are not Postgres' own."""


class Changed:
    """A row after its INSERT or UPDATE."""

    __slots__ = ("_data", "_values", "relation")

    def __init__(self, relation: Relation, data: bytes) -> None:
        """`data`: the row (TupleData)."""
        self.relation = relation
        self._data = data
        self._values: list[Value] | None = None

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self._data)

    @property
    def values(self) -> list[Value]:
        # Most rows of a database are for users who are not connected, and nobody asks for these.
        if self._values is None:
            self._values = _values(self._data, 0)
        return self._values


@dataclass(slots=True)
class Committed:
    """One transaction that changed a feed or the declaration."""

    log: list[Changed] = field(default_factory=list)
    """Its entries of sync.log, in their order."""
    moved: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)
    """Instead of `log`, if it has too many: the seq and prev of each feed, by user."""
    rows: list[Changed] = field(default_factory=list)
    """The rows of other tables, in the order of their changes. Empty if they are too large."""
    declared: bytes | None = None
    """The digest of the declaration, if it changed."""


class Transactions:
    """Collects the changes of a transaction until its end."""

    def __init__(self) -> None:
        self._types: dict[int, str] = {}
        self._relations: dict[int, Relation] = {}
        self._now = Committed()
        self._bytes = 0

    def receive(self, data: bytes, at: int, end: int) -> Committed | None:
        """Take the message in these bytes. Returns the transaction that it ends, if that one matters. Raises ValueError
        for a message that is not understood."""
        kind = data[at]
        if kind == INSERT:
            self._row(self._relations[LENGTH.unpack_from(data, at + 1)[0]], data, at + 6, end)
        elif kind == UPDATE:
            relation = self._relations[LENGTH.unpack_from(data, at + 1)[0]]
            at += 5
            if data[at] != NEW_ROW:  # the former key or row comes first
                at = _skip(data, at + 1)
            self._row(relation, data, at + 1, end)
        elif kind == COMMIT:
            return self._commit()
        elif kind == RELATION:
            number, relation = _relation(data, at + 1, self._types)
            self._relations[number] = relation
        elif kind == TYPE:
            number, name = _type(data, at + 1)
            self._types[number] = name
        return None

    def skip(self, size: int) -> None:
        """The stream has a change of so many bytes, which was not kept."""
        self._bytes += size
        self._now.rows.clear()

    def _commit(self) -> Committed | None:
        ended, self._now, self._bytes = self._now, Committed(), 0
        return ended if ended.log or ended.moved or ended.declared is not None else None

    def _row(self, relation: Relation, data: bytes, at: int, end: int) -> None:
        now = self._now
        if relation.schema == "sync":
            changed = Changed(relation, data[at:end])
            if relation.name == "log":
                self._entry(changed)
            elif relation.name == "declaration":
                now.declared = _of(changed, "digest")
                return
        self._bytes += end - at
        if self._bytes > MOST_BYTES:
            now.rows.clear()
        elif relation.schema != "sync" or relation.name != "log":
            now.rows.append(Changed(relation, data[at:end]))

    def _entry(self, changed: Changed) -> None:
        now = self._now
        if len(now.log) == MOST_ENTRIES:
            for each in now.log:
                self._move(each)
            now.log.clear()
        if now.moved:
            self._move(changed)
        else:
            now.log.append(changed)

    def _move(self, entry: Changed) -> None:
        user, seq, prev = (_of(entry, name) for name in ("user_id", "seq", "prev"))
        if user is not None and seq is not None and prev is not None:
            self._now.moved[user] = seq, prev


def _of(changed: Changed, name: str) -> bytes | None:
    """A column; None if the stream does not have it."""
    if name not in changed.relation.columns:
        return None
    value = changed.values[changed.relation.columns.index(name)]
    return None if value is UNKNOWN else value


def _values(data: bytes, at: int) -> list[Value]:
    """The values of a row (TupleData)."""
    (count,) = COUNT.unpack_from(data, at)
    at += 2
    found: list[Value] = []
    for _ in range(count):
        kind = data[at]
        if kind == IS_BINARY:
            begin = at + 5
            at = begin + LENGTH.unpack_from(data, at + 1)[0]
            found.append(data[begin:at])
        elif kind == IS_NULL:
            found.append(None)
            at += 1
        else:
            found.append(UNKNOWN)
            at += 1 if kind != IS_TEXT else 5 + LENGTH.unpack_from(data, at + 1)[0]
    return found


def _skip(data: bytes, at: int) -> int:
    """Where a row ends that begins at `at`."""
    (count,) = COUNT.unpack_from(data, at)
    at += 2
    for _ in range(count):
        kind = data[at]
        at += 1
        if kind in (IS_BINARY, IS_TEXT):
            at += 4 + LENGTH.unpack_from(data, at)[0]
    return at


def _type(data: bytes, at: int) -> tuple[int, str]:
    """The OID of a type, and its name. Of a domain it is the name of the type beneath."""
    (oid,) = LENGTH.unpack_from(data, at)
    schema, at = _string(data, at + 4)
    name, _ = _string(data, at)
    return oid, f"{quoted(schema)}.{quoted(name)}" if schema else quoted(name)


def _relation(data: bytes, at: int, named: Mapping[int, str]) -> tuple[int, Relation]:
    """The number of a relation, and what it is. `named`: names of types, by their OIDs."""
    (number,) = LENGTH.unpack_from(data, at)
    schema, at = _string(data, at + 4)
    name, at = _string(data, at)
    (count,) = COUNT.unpack_from(data, at + 1)  # after the replica identity
    at += 3
    columns, types = [], []
    for _ in range(count):
        column, at = _string(data, at + 1)  # after the flags
        columns.append(column)
        types.append(LENGTH.unpack_from(data, at)[0])
        at += 8  # the type, and its modifier
    names = tuple(named.get(oid) for oid in types)
    return number, Relation(schema or "pg_catalog", name, tuple(columns), tuple(types), names)


def _string(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(0, at)
    return data[at:end].decode(), end + 1
