"""What a transaction of the stream means for feeds: their entries, with the rows, as a reading of the log has them.

Pure. Whatever may differ from what a reading would find is left to a reading.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, Final, NamedTuple

import structlog

from protocol.frames import Key, Row
from protocol.schema import Type
from server.declaration.model import Field, Kind
from server.declaration.sql.pieces import by_uuid
from server.declaration.sql.publication import ENTRY
from server.declaration.synced import Synced
from server.declaration.values import Rows
from server.feed.change import Entry, in_log_order
from server.feed.ports import CONTENT_BYTES, Moved
from server.postgres import binary
from server.postgres.wal.pgoutput import UNKNOWN, Changed, Committed, Relation, Value

log = structlog.get_logger()

DECODERS: Final[dict[str, tuple[int, binary.Decode]]] = {
    "boolean": (16, binary.boolean),
    "bytea": (17, bytes),
    "name": (19, binary.text),
    "bigint": (20, binary.integer),
    "smallint": (21, binary.integer),
    "integer": (23, binary.integer),
    "text": (25, binary.text),
    "json": (114, binary.text),
    "real": (700, binary.real),
    "double precision": (701, binary.float8),
    "bpchar": (1042, binary.blank_padded),
    "character varying": (1043, binary.text),
    "date": (1082, binary.date),
    "timestamp without time zone": (1114, binary.instant),
    "timestamp with time zone": (1184, binary.instant),
    "numeric": (1700, binary.numeric),
    "uuid": (2950, binary.uuid),
    "jsonb": (3802, binary.jsonb),
    "boolean[]": (1000, binary.array),
    "smallint[]": (1005, binary.array),
    "integer[]": (1007, binary.array),
    "text[]": (1009, binary.array),
    "character varying[]": (1015, binary.array),
    "bigint[]": (1016, binary.array),
    "numeric[]": (1231, binary.array),
    "uuid[]": (2951, binary.array),
}
"""By a field's type: its OID, and how its values are decoded. A row with a value of another type is read, but for
enumerations and citext."""
DELETION: Final = b"d"


class _Unsure(Exception):  # noqa: N818 (a reason to read, within this file)
    """A reading may find something else."""


class Table(NamedTuple):
    """How rows of a kind are decoded from a relation."""

    tag: str
    key: tuple["Column", ...]
    owner: int | None
    """Where the owner is, unless it is the parent's."""
    dated: int | None
    """Where the instant is by which the table is partitioned: the log has it, too."""
    columns: tuple["Column", ...]
    """The synced ones."""


class Column(NamedTuple):
    """Where a column is, how it is decoded, and where the one is that counts instead of NULL."""

    place: int
    decode: binary.Decode
    instead: int | None = None


class Decoding:
    """Decodes by the declaration in force."""

    def __init__(self, synced: Synced) -> None:
        self._synced = synced
        self._tables: dict[Relation, Table | None] = {}
        self._picks: dict[Relation, Callable[[list[Value]], tuple[Any, ...]] | None] = {}
        """How the columns of ENTRY are taken from a row."""
        self.declared = synced.declaration.digest
        """The digest of the declaration by which the transactions of the stream are recorded from here on."""
        self._gate = ""
        self._uuids: set[str] = set()
        self._children: set[str] = set()
        self._parents: set[str] = set()
        """Kinds with a parent, and kinds that are parents, by tag."""
        self._surprised = False
        self.forget()

    def forget(self) -> None:
        """Another declaration is in force in this process."""
        declaration = self._synced.declaration
        self._tables.clear()
        self._gate = "" if declaration.gate is None else declaration.kind[declaration.gate.kind].tag
        self._uuids = {kind.tag for kind in declaration.kinds if by_uuid(kind)}
        self._children = {kind.tag for kind in declaration.kinds if kind.parent is not None}
        self._parents = {kind.tag for kind in declaration.kinds if declaration.children_of(kind)}

    def moves(self, committed: Committed) -> Iterator[Moved]:
        """The feeds that the transaction moved."""
        if committed.declared is not None:
            self.declared = committed.declared.decode()
        for user, (seq, prev) in committed.moved.items():
            yield Moved(str(binary.uuid(user)), binary.integer(seq), binary.integer(prev), _nothing)
        feeds: dict[Any, list[tuple[Any, ...]]] = {}
        for changed in committed.log:
            pick = self._pick(changed.relation)
            if pick is None:
                return  # the publication lacks a column: the sweep finds what moved
            entry = pick(changed.values)
            feeds.setdefault(entry[0], []).append(entry)
        find = Finder(self._table, self._uuids, committed.rows)
        for user, entries in feeds.items():
            _, seq, _, prev, *_ = entries[0]
            build = partial(self._entries, user, entries, find)
            yield Moved(str(binary.uuid(user)), binary.integer(seq), binary.integer(prev), build)

    def _pick(self, relation: Relation) -> Callable[[list[Value]], tuple[Any, ...]] | None:
        try:
            return self._picks[relation]
        except KeyError:
            found = set(ENTRY) <= set(relation.columns)
            pick = itemgetter(*map(relation.columns.index, ENTRY)) if found else None
            self._picks[relation] = pick
            return pick

    def _entries(self, user: bytes, of_user: list[tuple[Any, ...]], find: "Finder") -> list[Entry] | None:
        if self.declared != self._synced.declaration.digest:
            return None
        before = find.bytes
        try:
            entries = [self._entry(user, values, find) for values in of_user]
        except _Unsure:
            return None
        except Exception as error:  # a row that this version does not understand stops no server: a reading decides
            if not self._surprised:
                log.warning("a transaction cannot be decoded, its rows are read", error=type(error).__name__)
            self._surprised = True
            return None
        if len(entries) == 1:
            return entries
        if find.bytes - before > CONTENT_BYTES:
            return None  # a reading sends it in several batches
        deleted = {(entry.kind, entry.row_id) for entry in entries if entry.deletion}
        if any(not entry.deletion and (entry.kind, entry.row_id) in deleted for entry in entries):
            return None  # the stream does not tell which of the two came last
        if any(entry.deletion and entry.kind in self._parents for entry in entries) and any(
            not entry.deletion and entry.kind in self._children for entry in entries
        ):
            return None  # the parent may have gone to another user, and the row have changed after that
        seq = entries[0].seq
        if any(entry.seq != seq for entry in entries):
            return None
        return in_log_order(entries)

    def _entry(self, user: bytes, values: tuple[Any, ...], find: "Finder") -> Entry:
        """Raises _Unsure."""
        _, seq, n, prev, mark, prev_mark, kind, op, row_id, row_at, row_key = values
        tag = kind.decode()
        made: Rows | None = self._synced.rows.get(tag)
        if made is None or tag == self._gate:
            raise _Unsure  # only a reading tells whether its user syncs
        key: Key
        name: object
        if tag in self._uuids:
            key, name = binary.uuid(row_id), row_id
        else:
            texts = binary.texts(row_key)
            key, name = made.key(texts), tuple(texts)
        at_seq = binary.integer(seq)
        deletion = op == DELETION
        row: Row = made.deletion(at_seq, key) if deletion else made.upsert(at_seq, key, find(user, tag, name, row_at))
        marks = binary.integer_or_zero(mark), binary.integer_or_zero(prev_mark)
        return Entry(at_seq, binary.integer(n), binary.integer(prev), None, tag, key, row, *marks, deletion)

    def _table(self, relation: Relation) -> Table | None:
        try:
            return self._tables[relation]
        except KeyError:
            named = (relation.schema, relation.name)
            kinds = (kind for kind in self._synced.declaration.kinds if tuple(kind.table) == named)
            kind = next(kinds, None)
            found = self._tables[relation] = None if kind is None else table(kind, relation)
            return found


class Finder:
    """Finds the last state of a row in a transaction."""

    def __init__(
        self, table: Callable[[Relation], Table | None], uuids: Collection[str], changed: Sequence[Changed]
    ) -> None:
        self._table = table
        self._uuids = uuids
        self._changed = changed
        self._found: dict[tuple[str, object], tuple[Table, list[Value], int]] | None = None
        self.bytes = 0
        """The size of all rows that it found."""

    def __call__(self, user: bytes, tag: str, name: object, row_at: bytes | None) -> list[Any]:
        """The values of its columns. Raises _Unsure."""
        if self._found is None:
            self._found = {}
            for changed in self._changed:
                if (table := self._table(changed.relation)) is not None:
                    values = changed.values
                    row = table.tag, _name(table, values, by_uuid=table.tag in self._uuids)
                    self._found[row] = table, values, changed.size
        if (tag, name) not in self._found:
            raise _Unsure
        table, values, size = self._found[tag, name]
        self.bytes += size
        if table.owner is not None and values[table.owner] != user:
            raise _Unsure
        if table.dated is not None and values[table.dated] != row_at:
            raise _Unsure
        return _decoded(values, table.columns)


def table(kind: Kind, relation: Relation) -> Table | None:
    """How rows of the kind are decoded; None: they have to be read."""
    owner = kind.owner
    if any(column.above for column in kind.columns) or (owner is not None and owner.of is not Type.UUID):
        return None
    if any(field.of is Type.INSTANT for field in kind.key):
        return None  # the log has it in microseconds, cut to what a device can hold
    instead = [column.instead for column in kind.columns]
    needed = [*kind.key, *(column.field for column in kind.columns), *(each for each in instead if each is not None)]
    if owner is not None:
        needed.append(owner)
    found = {each.name: _decoder(relation, each) for each in needed}
    decoders = {name: decode for name, decode in found.items() if decode is not None}
    if len(decoders) < len(found):
        return None

    def at(field: Field) -> int:
        return relation.columns.index(field.name)

    return Table(
        kind.tag,
        tuple(Column(at(field), decoders[field.name]) for field in kind.key),
        None if owner is None else at(owner),
        None if kind.dated is None else at(kind.dated),
        tuple(
            Column(
                at(column.field),
                decoders[column.field.name],
                None if column.instead is None else at(column.instead),
            )
            for column in kind.columns
        ),
    )


def _decoder(relation: Relation, field: Field) -> binary.Decode | None:
    """How the column's values are decoded; None: they cannot be."""
    if field.name not in relation.columns:
        return None
    place = relation.columns.index(field.name)
    oid, decode = DECODERS.get(field.type, (None, binary.text))
    if oid is not None:
        return decode if relation.types[place] == oid else None
    # An enumeration, or citext.
    return decode if field.of is Type.TEXT and relation.names[place] == field.type else None


def _name(table: Table, values: list[Value], *, by_uuid: bool) -> object:
    """The key of a row as the log has it. Raises _Unsure."""
    if by_uuid:
        return values[table.key[0].place]
    return tuple(map(str, _decoded(values, table.key)))


def _decoded(values: list[Value], columns: Sequence[Column]) -> list[Any]:
    """Raises _Unsure."""
    found = []
    try:
        for place, decode, instead in columns:
            value = values[place]
            if value is None and instead is not None:
                value = values[instead]
            if value is UNKNOWN:
                raise _Unsure
            found.append(None if value is None else decode(value))
    except ValueError:
        raise _Unsure from None
    return found


def _nothing() -> None:
    """The transaction is too large."""
