"""What the catalog says of the app's tables, and what a step on them is. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

Facts = Mapping[str, Any]
"""The answer of sql/adopt.sql."""

INSTANTS: Final = ("conversations.created_at", "conversations.updated_at", "messages.created_at")
"""What devices order rows by, and pages go along: never NULL."""
UPDATED: Final = "messages.updated_at"
"""Comes with us, where it is missing."""
OLD: Final = "sync.messages_v1"
"""What becomes of the old table."""

INDEXES: Final = {
    "atlas_messages_v1_pkey": "CREATE UNIQUE INDEX CONCURRENTLY atlas_messages_v1_pkey "
    "ON public.messages (id, created_at)",
    "atlas_messages_v1_newest": "CREATE INDEX CONCURRENTLY atlas_messages_v1_newest "
    "ON public.messages (conversation_id, created_at DESC, id DESC)",
    "conversations_newest": "CREATE INDEX CONCURRENTLY conversations_newest "
    "ON public.conversations (user_id, updated_at DESC, id DESC)",
}
CASCADE: Final = "atlas_messages_v1_conversation"
ENABLING: Final = {"D": "DISABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}


@dataclass(frozen=True, slots=True)
class Step:
    says: str
    locks: str
    statements: tuple[str, ...]
    kind: Literal["brief", "index", "scan", "rows"] = "brief"
    """brief: one transaction of milliseconds. index, scan: one statement by itself, as long as the table is large.
    rows: one statement, repeated until it finds nothing more behind the place $1; it tells where it came to, of how
    many blocks, and whether a row is as it was nevertheless."""


def bound(definition: str) -> str:
    """The end in a constraint on the bounds, as Postgres prints it."""
    return "'" + definition.rpartition("< '")[2].partition("'")[0] + "'"


def literal(moment: datetime) -> str:
    return f"'{moment:%Y-%m-%d %H:%M:%S}+00'"


def of(entries: Sequence[Mapping[str, Any]] | None, table: str) -> list[Mapping[str, Any]]:
    return [entry for entry in entries or () if entry["tab"] == table]


def constraint(facts: Facts, table: str, name: str) -> Mapping[str, Any] | None:
    return next((k for k in of(facts["constraints"], table) if k["name"] == name), None)


def primary_key(facts: Facts) -> str | None:
    return next((k["name"] for k in of(facts["constraints"], "messages") if k["kind"] == "p"), None)


def foreign_key(facts: Facts, *, cascades: bool) -> Mapping[str, Any] | None:
    return next(
        (
            k
            for k in of(facts["constraints"], "messages")
            if k["kind"] == "f" and k["columns"] == ["conversation_id"] and k["cascades"] is cascades
        ),
        None,
    )
