"""The kinds of rows that a server syncs, their keys and columns (SPEC.md, 5.6)."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, TypeVar

from atlas_sync.checks import Fields, ProtocolError, array, flag, named, natural, text
from atlas_sync.rows import Key, Row

T = TypeVar("T")

KEY_TYPES: Final = frozenset({"uuid", "text", "int", "bigint", "instant"})

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TAG = re.compile(r"[a-zA-Z0-9]")
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TYPE = re.compile(r"[a-z0-9_]+\??")


@dataclass(frozen=True, slots=True)
class Column:
    """A column. `type` is a name of SPEC 2.4, or one that this version does not know; `nullable`: it may be nil."""

    name: str
    type: str
    nullable: bool = False


@dataclass(frozen=True, slots=True)
class Devices:
    """What devices may write of a kind.

    insert: The columns of an insert, besides the parent's key; None: devices do not insert. update: The columns of an
    update. created, updated: The columns that take the mutation's `at`. touches: The column of the parent that an
    insert raises to its `at`.
    """

    insert: tuple[str, ...] | None = None
    update: tuple[str, ...] = ()
    delete: bool = False
    created: str | None = None
    updated: str | None = None
    touches: str | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of rows.

    name, tag: What it is called; the tag is for the wire. key: The types of its one or two columns. parent: The
    kind to whose rows these belong. The first column is then its key, and if that kind has a parent, the second
    column is the key of the parent's parent. newest: The column that orders lists; None: the key alone. window: The
    rows that a new device gets, of the list or of each parent; None: all. dated: The column whose instant is a part
    of the id in mutations of an existing row. devices: None if devices only read. limits: For each column bytes of
    UTF-8, or the values that a device may write.
    """

    name: str
    tag: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    parent: str | None = None
    newest: str | None = None
    window: int | None = None
    dated: str | None = None
    devices: Devices | None = None
    limits: Mapping[str, int | tuple[str, ...]] = field(default_factory=dict)

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)

    def parent_of(self, row: Row) -> Any:
        """The key of the row's parent; None for a kind without parent."""
        return row.values.get(self.columns[0].name) if self.parent is not None else None

    def place(self, row: Row) -> tuple[Any, Key]:
        """Where the row is in its list: `before` of a page of the rows after it."""
        return (None if self.newest is None else row.values[self.newest], row.id)

    def target(self, row: Row) -> Any:
        """The id of the row in an Update or Delete: its key, with its instant for a dated kind."""
        return row.id if self.dated is None else (row.id, row.values[self.dated])

    def rank(self, row: Row) -> tuple[Any, ...]:
        """Sorts rows of one list: the newest has the greatest rank."""
        return self.order(self.place(row))

    def order(self, place: tuple[Any, Key]) -> tuple[Any, ...]:
        """Sorts places of one list as `rank` sorts rows."""
        newest, key = place
        return (_rank(newest), *(_rank(part) for part in (key if isinstance(key, tuple) else (key,))))


@dataclass(frozen=True, slots=True)
class Schema:
    """All kinds that a server syncs, each after its parent. `hash` names the schema; the server makes it."""

    hash: str
    kinds: tuple[Kind, ...]

    def __iter__(self) -> Iterator[Kind]:
        return iter(self.kinds)

    def __contains__(self, name: object) -> bool:
        return any(kind.name == name for kind in self.kinds)

    def __getitem__(self, name: str) -> Kind:
        """The kind of this name. Raises KeyError."""
        if (kind := self.get(name)) is None:
            raise KeyError(name)
        return kind

    def get(self, name: str) -> Kind | None:
        return next((kind for kind in self.kinds if kind.name == name), None)

    def above(self, name: str) -> tuple[tuple[str, str], ...]:
        """The kinds above a kind, the parent first, each with the column that holds its key."""
        kind, found = self[name], list[tuple[str, str]]()
        for column in kind.columns[:2]:
            if kind.parent is not None:
                found.append((kind.parent, column.name))
                kind = self[kind.parent]
        return tuple(found)

    def below(self, name: str) -> tuple[tuple[str, str], ...]:
        """The kinds below a kind, each with the column that holds the key of the row above."""
        return tuple(
            (kind.name, column) for kind in self.kinds for above, column in self.above(kind.name) if above == name
        )

    @staticmethod
    def parse(value: Any) -> "Schema":
        """Read the fields of a `schema` frame. Raises ProtocolError, which says where."""
        fields = Fields(value)
        kinds = fields.read("kinds", lambda each: tuple(_numbered(each, _kind)))
        _unique("kinds: two have the name", (kind.name for kind in kinds))
        _unique("kinds: two have the tag", (kind.tag for kind in kinds))
        for n, kind in enumerate(kinds):
            _fits(kind, kinds[:n])
        return Schema(fields.read("hash", text), kinds)

    def plain(self) -> dict[str, Any]:
        """The schema as `parse` reads it, in the types of JSON."""
        return {"hash": self.hash, "kinds": [_plain(kind) for kind in self.kinds]}

    @staticmethod
    @cache
    def chat() -> "Schema":
        """The chat schema: profiles, conversations and messages."""
        return Schema.parse(_CHAT)


_CHAT: Final = {
    "hash": "e07f4ea49422a391",
    "kinds": [
        {"name": "profile", "tag": "p", "key": ["uuid"], "columns": [["tier", "text"], ["status", "text?"]]},
        {
            "name": "conversation",
            "tag": "c",
            "key": ["uuid"],
            "columns": [["title", "text?"], ["created_at", "instant"], ["updated_at", "instant"]],
            "newest": "updated_at",
            "window": 50,
            "devices": {
                "insert": ["title"],
                "update": ["title"],
                "delete": True,
                "created": "created_at",
                "updated": "updated_at",
            },
            "limits": {"title": 1000},
        },
        {
            "name": "message",
            "tag": "m",
            "key": ["uuid"],
            "columns": [
                ["conversation_id", "uuid"],
                ["role", "text"],
                ["content", "text"],
                ["created_at", "instant"],
                ["updated_at", "instant"],
            ],
            "parent": "conversation",
            "newest": "created_at",
            "window": 50,
            "dated": "created_at",
            "devices": {
                "insert": ["role", "content"],
                "update": ["content"],
                "delete": True,
                "created": "created_at",
                "updated": "updated_at",
                "touches": "updated_at",
            },
            "limits": {"content": 100_000, "role": ["user"]},
        },
    ],
}


# ---- Reading -------------------------------------------------------------------------------------------------------


def _kind(value: Any) -> Kind:
    fields = Fields(value)
    kind = Kind(
        name=fields.read("name", _matching(_NAME)),
        tag=fields.read("tag", _matching(_TAG)),
        key=fields.read("key", lambda each: tuple(_numbered(each, _matching(_TYPE)))),
        columns=fields.read("columns", lambda each: tuple(_numbered(each, _column))),
        parent=fields.maybe("parent", text),
        newest=fields.maybe("newest", text),
        window=fields.maybe("window", natural),
        dated=fields.maybe("dated", text),
        devices=fields.maybe("devices", _devices),
        limits=fields.maybe("limits", _limits) or {},
    )
    if len(kind.key) not in (1, 2):
        raise ProtocolError("key: not one or two columns")
    _unique("columns: two have the name", (column.name for column in kind.columns))
    for field_name, column in (("newest", kind.newest), ("dated", kind.dated)):
        if column is not None and kind.column(column) is None:
            raise ProtocolError(f"{field_name}: not a column of this kind")
    return kind


def _column(value: Any) -> Column:
    if len(array(value)) < 2:
        raise ProtocolError("not a name and a type")
    of = _matching(_TYPE)(value[1])
    return Column(_matching(_COLUMN)(value[0]), of.removesuffix("?"), of.endswith("?"))


def _devices(value: Any) -> Devices:
    fields = Fields(value)
    return Devices(
        insert=fields.maybe("insert", _texts),
        update=fields.maybe("update", _texts) or (),
        delete=fields.maybe("delete", flag) or False,
        created=fields.maybe("created", text),
        updated=fields.maybe("updated", text),
        touches=fields.maybe("touches", text),
    )


def _limits(value: Any) -> dict[str, int | tuple[str, ...]]:
    if not isinstance(value, dict):
        raise ProtocolError("not a map")
    return {text(name): _texts(limit) if isinstance(limit, list) else natural(limit) for name, limit in value.items()}


def _fits(kind: Kind, earlier: tuple[Kind, ...]) -> None:
    """Raise ProtocolError if a kind contradicts those before it."""
    parent = None
    if kind.parent is not None:
        parent = next((each for each in earlier if each.name == kind.parent), None)
        if parent is None:
            raise ProtocolError(f"{kind.name}.parent: no kind before this one")
        if len(parent.key) != 1 or not kind.columns or kind.columns[0].type != parent.key[0]:
            raise ProtocolError(f"{kind.name}: its first column is not its parent's key")
        if parent.parent is not None and (len(kind.columns) < 2 or kind.columns[1].type != parent.columns[0].type):
            raise ProtocolError(f"{kind.name}: its second column is not the key of its parent's parent")
    if kind.devices is None:
        return
    written = (*(kind.devices.insert or ()), *kind.devices.update, kind.devices.created, kind.devices.updated)
    if any(name is not None and kind.column(name) is None for name in written):
        raise ProtocolError(f"{kind.name}.devices: not a column of this kind")
    if kind.devices.touches is not None and (parent is None or parent.column(kind.devices.touches) is None):
        raise ProtocolError(f"{kind.name}.devices.touches: not a column of its parent")


def _numbered(value: Any, check: Callable[[Any], T]) -> list[T]:
    return [named(f"[{n}]", check, each) for n, each in enumerate(array(value))]


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_numbered(value, text))


def _matching(pattern: re.Pattern[str]) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not pattern.fullmatch(text(value)):
            raise ProtocolError(f"not of the form {pattern.pattern}")
        return str(value)

    return check


def _unique(words: str, names: Iterator[str]) -> None:
    seen = set[str]()
    for name in names:
        if name in seen:
            raise ProtocolError(f"{words} {name}")
        seen.add(name)


# ---- Writing -------------------------------------------------------------------------------------------------------


def _plain(kind: Kind) -> dict[str, Any]:
    devices = kind.devices and {
        "insert": kind.devices.insert,
        "update": kind.devices.update,
        "delete": kind.devices.delete,
        "created": kind.devices.created,
        "updated": kind.devices.updated,
        "touches": kind.devices.touches,
    }
    return {
        "name": kind.name,
        "tag": kind.tag,
        "key": list(kind.key),
        "columns": [[column.name, column.type + "?" * column.nullable] for column in kind.columns],
        "parent": kind.parent,
        "newest": kind.newest,
        "window": kind.window,
        "dated": kind.dated,
        "devices": devices
        and {name: list(value) if isinstance(value, tuple) else value for name, value in devices.items()},
        "limits": {name: list(limit) if isinstance(limit, tuple) else limit for name, limit in kind.limits.items()},
    }


def _rank(value: Any) -> tuple[Any, ...]:
    """As the server sorts: nil before everything, not-a-number after it, texts by their bytes."""
    if value is None:
        return (0,)
    if value != value:
        return (2,)
    return (1, value.encode(errors="surrogatepass") if isinstance(value, str) else value)
