"""The rows of the protocol as values (SPEC.md, section 5)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

Scalar = UUID | str | int
Key = Scalar | tuple[Scalar, Scalar]
"""What identifies a row within its kind: the value of its key, or both values if the key has two columns."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a kind. Do not change its values.

    kind: The kind's name.
    id: Its key.
    values: Its columns by their names; nil is None. A column can be read as an attribute too: `row.title`. Columns
        named `kind`, `seq`, `id` or `values` are in `values` only.

    A value has the type of its column: text, date: str. uuid: UUID. bool: bool. int, bigint: int. float: float.
    numeric: Decimal. instant: int, microseconds since 1970-01-01 UTC. json: what the JSON says. array: list. bytes:
    bytes.
    """

    kind: str
    seq: int
    id: Key
    values: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self.values:
            raise AttributeError(f"{self.kind} has no column {name}", name=name, obj=self)
        return self.values[name]


@dataclass(frozen=True, slots=True)
class Deleted:
    """The row of this kind and id was deleted."""

    kind: str
    seq: int
    id: Key
