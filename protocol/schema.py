"""What a device knows of the declaration: the kinds of rows, their keys and columns (SPEC.md, section 5)."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from msgspec import Struct

Limit = int | tuple[str, ...]
"""Bytes of UTF-8, or the values that a device may write."""


class Type(StrEnum):
    """The types of columns, as they travel (SPEC.md, 2.4)."""

    TEXT = "text"
    UUID = "uuid"
    BOOL = "bool"
    INT = "int"
    BIGINT = "bigint"
    FLOAT = "float"
    NUMERIC = "numeric"
    INSTANT = "instant"
    DATE = "date"
    JSON = "json"
    ARRAY = "array"
    BYTES = "bytes"


KEY_TYPES: Final = frozenset({Type.UUID, Type.TEXT, Type.INT, Type.BIGINT, Type.INSTANT})
"""Types of the columns of a key. An instant is never the whole key."""


class Column(NamedTuple):
    """A column of a row. `type` ends with `?` where the column may be nil."""

    name: str
    type: str

    @property
    def of(self) -> Type:
        return Type(self.type.removesuffix("?"))

    @property
    def nullable(self) -> bool:
        return self.type.endswith("?")


class Devices(Struct, frozen=True, omit_defaults=True):
    """What devices may write of a kind. The names are those of columns on the wire."""

    insert: tuple[str, ...] | None = None
    """None: devices do not insert."""
    update: tuple[str, ...] = ()
    delete: bool = False
    created: str | None = None
    """Takes the instant of an insert."""
    updated: str | None = None
    """Takes the instant of an insert, and of an update unless it is later already."""
    touches: str | None = None
    """The column of the parent that an insert raises to its instant."""


class Kind(Struct, frozen=True, omit_defaults=True):
    """One kind of rows."""

    name: str
    tag: str
    key: tuple[Type, ...]
    columns: tuple[Column, ...]
    parent: str | None = None
    """The kind to whose rows these belong. The first column is then its key."""
    newest: str | None = None
    """The column that orders lists and pages. None: the key alone does."""
    window: int | None = None
    """How many rows a snapshot has: of the list, or of each parent. None: all."""
    dated: str | None = None
    """The column that is the other half of the key in mutations of an existing row."""
    devices: Devices | None = None
    """None: devices only read."""
    limits: Mapping[str, Limit] = {}


class Schema(Struct, frozen=True):
    """All kinds, each after its parent. `hash` is that of the declaration, and names the schema."""

    hash: str
    kinds: tuple[Kind, ...]
