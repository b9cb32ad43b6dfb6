"""The rows, mutations and pages of a schema on the wire (SPEC.md, 5, 7.7 and 8.3), in one encoding."""

from collections.abc import Callable, Mapping
from typing import Any

from atlas_sync.checks import ProtocolError, array, named, seq, text
from atlas_sync.codec import Codec, as_carried
from atlas_sync.mutation import Delete, Insert, Mutation, Update, split
from atlas_sync.rows import Deleted, Key, Row
from atlas_sync.schema import KEY_TYPES, Kind, Schema

Reader = Callable[[list[Any]], Row | Deleted]


class Wire:
    """Reads and writes what travels, by the server's schema.

    `theirs` is the server's schema. `ours` is the one that the app was built with, None if it takes the server's. They
    are mapped by names: columns that only the server has are left out, those that only we have are None. A column of
    another type is another column, a kind of another key or parent another kind.
    """

    def __init__(self, codec: Codec, theirs: Schema, ours: Schema | None = None) -> None:
        self._codec = codec
        self._theirs = {kind.name: kind for kind in theirs if _is_known(kind, theirs, ours)}
        self._ours = {kind.name: kind for kind in ours or theirs}
        self._places = {kind.tag: (kind, self._key_reader(kind)) for kind in self._theirs.values()}
        self._readers: dict[str, Reader] = {}
        for kind in self._theirs.values():
            self._readers[kind.tag] = self._row_reader(kind, self._ours[kind.name] if ours is not None else kind)
            self._readers["-" + kind.tag] = self._deletion_reader(kind)

    def rows(self, value: Any) -> tuple[Row | Deleted, ...]:
        """A check. Rows of kinds that we do not know, and further columns, are left out."""
        rows = []
        for each in array(value):
            if not array(each):
                raise ProtocolError("an array without its kind")
            if (read := self._readers.get(text(each[0]))) is not None:
                rows.append(read(each))
        return tuple(rows)

    def windows(self, asked: Mapping[str, int]) -> dict[str, int | None]:
        """How many rows of each kind a snapshot has at most, if `asked` was asked for; None for all."""
        return {name: asked.get(name, kind.window) for name, kind in self._theirs.items()}

    def size(self, mutation: Mutation) -> int:
        """The mutation's size in a push, in bytes, with the separator after it."""
        return self._codec.size(self.mutation(mutation)) + 1

    def mutation(self, mutation: Mutation) -> tuple[object, ...]:
        """The mutation as an array of the protocol; empty if the server has no such kind, so that it rejects it."""
        kind = self._theirs.get(mutation.kind)
        if kind is None:
            return ()
        if isinstance(mutation, Insert):
            return ("+", kind.tag, self._key(kind, mutation.id), self._columns(kind, mutation), mutation.at)
        key, instant = split(mutation.id, kind)
        target = self._key(kind, key)
        if kind.dated is not None and instant is not None:
            target = (*target, instant) if isinstance(target, tuple) else (target, instant)
        if isinstance(mutation, Delete):
            return ("-", kind.tag, target)
        return ("~", kind.tag, target, self._columns(kind, mutation), mutation.at)

    def place(self, tag: str, column: str, key: Any) -> tuple[str, Key] | None:
        """A check: the kind's name and the key of a row that has this column; None if we do not know them."""
        if (found := self._places.get(tag)) is None:
            return None
        theirs, read = found
        ours, served = self._ours[theirs.name].column(column), theirs.column(column)
        if ours is None or served is None or (ours.type, served.type) != ("text", "text"):
            return None
        return theirs.name, read(key)

    def stop(self, kind_name: str, key: Key, column: str | None) -> dict[str, object] | None:
        """The fields of a `stop` frame; None if the server has no such kind."""
        if (kind := self._theirs.get(kind_name)) is None:
            return None
        fields: dict[str, object] = {"kind": kind.tag, "id": self._key(kind, key)}
        return fields if column is None else {**fields, "column": column}

    def page(self, kind_name: str, parent: Key | None, before: tuple[Any, Key] | None) -> dict[str, object]:
        """The fields of a `page` frame."""
        kind = self._theirs.get(kind_name) or self._ours[kind_name]
        fields: dict[str, object] = {"kind": kind_name}
        if parent is not None:
            fields["parent"] = as_carried(kind.columns[0].type, parent)
        if before is not None:
            newest = None if kind.newest is None else kind.column(kind.newest)
            order = None if newest is None else as_carried(newest.type, before[0])
            fields["before"] = (order, self._key(kind, before[1]))
        return fields

    def _key(self, kind: Kind, key: Any) -> Any:
        if isinstance(key, tuple) and len(key) == len(kind.key):
            return tuple(as_carried(of, part) for of, part in zip(kind.key, key, strict=True))
        return as_carried(kind.key[0], key)

    def _columns(self, kind: Kind, mutation: Insert | Update) -> dict[str, object]:
        ours = self._ours.get(mutation.kind)
        carried = {}
        for name, value in mutation.columns.items():
            column = kind.column(name) or (None if ours is None else ours.column(name))
            carried[name] = value if column is None else as_carried(column.type, value, nullable=column.nullable)
        return carried

    def _key_reader(self, kind: Kind) -> Callable[[Any], Key]:
        checks = [self._codec.types[of] for of in kind.key]
        if len(checks) == 1:
            return checks[0]
        first, second = checks

        def pair(value: Any) -> Key:
            if len(array(value)) != 2:
                raise ProtocolError("not two columns")
            return first(value[0]), second(value[1])

        return pair

    def _deletion_reader(self, kind: Kind) -> Reader:
        key = self._key_reader(kind)

        def read(columns: list[Any]) -> Deleted:
            if len(columns) < 3:
                raise ProtocolError("too few columns")
            return Deleted(kind.name, seq(columns[1]), named(f"{kind.name}.id", key, columns[2]))

        return read

    def _row_reader(self, theirs: Kind, ours: Kind) -> Reader:
        key = self._key_reader(theirs)
        missing: dict[str, Any] = {}
        checks: list[tuple[int, str, bool, Callable[[Any], Any]]] = []
        positions = {column.name: (n, column) for n, column in enumerate(theirs.columns, 3)}
        for mine in ours.columns:
            n, column = positions.get(mine.name, (0, mine))
            if n and column.type in self._codec.types and _alike(column.type, mine.type):
                checks.append((n, column.name, column.nullable, self._codec.types[column.type]))
            elif ours is not theirs:
                missing[mine.name] = None
        width = 3 + len(theirs.columns)

        def read(columns: list[Any]) -> Row:
            if len(columns) < width:
                raise ProtocolError(f"{theirs.name}: too few columns")
            values = missing.copy()
            for n, name, nullable, check in checks:
                value = columns[n]
                try:
                    values[name] = None if value is None and nullable else check(value)
                except ProtocolError as error:
                    raise ProtocolError(f"{theirs.name}.{name}: {error}") from error
            return Row(theirs.name, seq(columns[1]), named(f"{theirs.name}.id", key, columns[2]), values)

        return read


def _is_known(kind: Kind, theirs: Schema, ours: Schema | None) -> bool:
    """Whether the server's kind is one that we know, with a key that we know, below the same kinds."""
    if not KEY_TYPES.issuperset(kind.key):
        return False
    if ours is None:
        return True
    own = ours.get(kind.name)
    if own is None or len(own.key) != len(kind.key) or ours.above(own.name) != theirs.above(kind.name):
        return False
    return all(map(_alike, kind.key, own.key))


def _alike(theirs: str, ours: str) -> bool:
    """Whether values of both types are the same in Python."""
    return theirs == ours or {theirs, ours} == {"int", "bigint"}
