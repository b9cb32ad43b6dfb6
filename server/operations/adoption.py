"""How the app's own tables become ours: which steps are left, from what the catalog says of them. Pure.

The old `messages`, a plain table, becomes one partition of a new one, the one of everything up to a month that is still
to come. No row is rewritten. What needs long is done beside everybody, what locks anybody takes milliseconds. Nothing
notes how far this has come but the catalog itself: interrupted anywhere, it goes on where it was.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from server.operations.adoptable import NotAdoptableError, check
from server.operations.catalog import (
    CASCADE,
    INDEXES,
    INSTANTS,
    UPDATED,
    Facts,
    Step,
    bound,
    constraint,
    foreign_key,
    literal,
)
from server.operations.swap import as_before, swap

FILL: Final = {
    "conversations.created_at": "coalesce(t.updated_at, now())",
    "conversations.updated_at": "coalesce(t.created_at, now())",
    "messages.created_at": "coalesce((SELECT c.created_at FROM public.conversations c "
    "WHERE c.id = t.conversation_id), now())",
}
FILLED_AT_ONCE: Final = 2_000
SPARE: Final = timedelta(days=92)
"""The old table goes on taking messages of now while this runs, and for a while after it."""
LATEST: Final = timedelta(days=400)
"""A message further ahead than this was dated wrongly."""


def is_needed(facts: Facts) -> bool:
    """`messages` is there, and is no partitioned table yet."""
    return bool((facts["tables"] or {}).get("messages", {}).get("kind") == "r")


def plan(facts: Facts, newest: datetime | None, nulls: Sequence[str]) -> list[Step]:
    """The steps that are left, in order. Raises NotAdoptableError.

    `newest` is the latest created_at of a message, `nulls` the columns of INSTANTS that hold some.
    """
    if not is_needed(facts):
        return []
    check(facts)
    now = datetime.fromtimestamp(facts["now"], UTC)
    known = constraint(facts, "messages", "atlas_bounds")
    end = literal(horizon(now, newest)) if known is None else bound(known["def"])
    return [
        *_columns(facts),
        *_instants(facts, nulls),
        *_bounds(facts, now, newest),
        *_indexes(facts),
        *_cascade(facts),
        *_open_doors(facts),
        swap(facts, end),
    ]


def _columns(facts: Facts) -> Iterator[Step]:
    if UPDATED not in facts["columns"]:
        yield Step(
            "add messages.updated_at, NULL in the rows there are (which reads as created_at)",
            "ACCESS EXCLUSIVE on messages",
            (
                "ALTER TABLE public.messages ADD COLUMN updated_at timestamptz",
                "ALTER TABLE public.messages ALTER COLUMN updated_at SET DEFAULT now()",
            ),
        )
    for column in INSTANTS:
        if facts["columns"][column]["default"] is None:
            table, name = column.split(".")
            yield Step(
                f"give {column} the default now()",
                f"ACCESS EXCLUSIVE on {table}",
                (f"ALTER TABLE public.{table} ALTER COLUMN {name} SET DEFAULT now()",),
            )


def _instants(facts: Facts, nulls: Sequence[str]) -> Iterator[Step]:
    for column in INSTANTS:
        table, name = column.split(".")
        if column in nulls:
            yield Step(
                f"fill {column} where it is NULL",
                f"the rows themselves, {FILLED_AT_ONCE} at a time",
                (
                    f"WITH found AS (SELECT ctid AS place FROM public.{table} WHERE {name} IS NULL AND ctid > $1 "
                    f"LIMIT {FILLED_AT_ONCE} FOR UPDATE SKIP LOCKED), "
                    f"filled AS (UPDATE public.{table} t SET {name} = {FILL[column]} "
                    f"WHERE ctid = ANY (ARRAY(SELECT place FROM found)) RETURNING t.{name} IS NULL AS in_vain) "
                    f"SELECT max(place), pg_relation_size('public.{table}') / current_setting('block_size')::int, "
                    "(SELECT bool_or(in_vain) FROM filled) FROM found",
                ),
                "rows",
            )
        if table == "conversations" and not facts["columns"][column]["required"]:
            known = constraint(facts, table, f"atlas_{name}")
            yield from _checked(known, table, f"atlas_{name}", f"{name} IS NOT NULL", f"that {column} is never NULL")
            yield Step(
                f"make {column} NOT NULL, which that proves",
                f"ACCESS EXCLUSIVE on {table}",
                (
                    f"ALTER TABLE public.{table} ALTER COLUMN {name} SET NOT NULL",
                    f"ALTER TABLE public.{table} DROP CONSTRAINT atlas_{name}",
                ),
            )


def _bounds(facts: Facts, now: datetime, newest: datetime | None) -> Iterator[Step]:
    end = horizon(now, newest)
    known = constraint(facts, "messages", "atlas_bounds")
    if known is not None and not _holds(known["def"], now, newest):
        yield Step(
            "drop the constraint on messages' bounds, whose end has come near",
            "ACCESS EXCLUSIVE on messages",
            ("ALTER TABLE public.messages DROP CONSTRAINT atlas_bounds",),
        )
        known = None
    condition = f"created_at IS NOT NULL AND created_at < {literal(end)}"
    yield from _checked(known, "messages", "atlas_bounds", condition, "what the old table holds")


def _checked(known: Mapping[str, Any] | None, table: str, name: str, condition: str, says: str) -> Iterator[Step]:
    if known is None:
        yield Step(
            f"note as a constraint {says}: {condition}",
            f"ACCESS EXCLUSIVE on {table}",
            (f"ALTER TABLE public.{table} ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID",),
        )
    if known is None or not known["validated"]:
        yield Step(
            f"validate {name}: read {table}",
            f"SHARE UPDATE EXCLUSIVE on {table}, beside readers and writers",
            (f"ALTER TABLE public.{table} VALIDATE CONSTRAINT {name}",),
            "scan",
        )


def _indexes(facts: Facts) -> Iterator[Step]:
    there = {index["name"]: index for index in facts["indexes"] or ()}
    for name, statement in INDEXES.items():
        table = "conversations" if name == "conversations_newest" else "messages"
        locks = f"SHARE UPDATE EXCLUSIVE on {table}, beside readers and writers"
        if name in there and not there[name]["valid"]:
            yield Step(f"drop what is left of {name}", locks, (f"DROP INDEX CONCURRENTLY public.{name}",), "index")
        if name not in there or not there[name]["valid"]:
            yield Step(f"build the index {name}", locks, (statement,), "index")


def _cascade(facts: Facts) -> Iterator[Step]:
    """Deleting a conversation deletes its messages."""
    ours = foreign_key(facts, cascades=True)
    if ours is None:
        yield Step(
            "add a foreign key from messages to conversations, ON DELETE CASCADE",
            "SHARE ROW EXCLUSIVE on messages and conversations",
            (
                f"ALTER TABLE public.messages ADD CONSTRAINT {CASCADE} FOREIGN KEY (conversation_id) "
                "REFERENCES public.conversations (id) ON DELETE CASCADE NOT VALID",
            ),
        )
    if ours is None or not ours["validated"]:
        name = CASCADE if ours is None else ours["name"]
        yield Step(
            "validate it: read messages",
            "SHARE UPDATE EXCLUSIVE on messages, ROW SHARE on conversations, beside readers and writers",
            (f"ALTER TABLE public.messages VALIDATE CONSTRAINT {name}",),
            "scan",
        )


def _open_doors(facts: Facts) -> Iterator[Step]:
    """Row level security comes with us; whoever of the app reached all rows goes on doing so."""
    there = {(entry["tab"], entry["role"]) for entry in facts["kept_open"] or ()}
    for entry in facts["unsecured"] or ():
        table, role = entry["tab"], entry["role"]
        if table != "messages" and (table, role) not in there:
            yield Step(
                f"let {role} go on reaching all rows of {table}, when they are secured",
                f"ACCESS EXCLUSIVE on {table}",
                (as_before(table, role),),
            )


def horizon(now: datetime, newest: datetime | None) -> datetime:
    """The first of a month: the old table holds what is older. Raises NotAdoptableError."""
    latest = max(now, newest or now)
    if latest > now + LATEST:
        raise NotAdoptableError(
            f"The newest message is of {latest:%Y-%m-%d}, which is yet to come. Correct created_at of what is dated "
            "wrongly, then migrate again."
        )
    month = (latest + SPARE).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (month + timedelta(days=32)).replace(day=1)


def _holds(definition: str, now: datetime, newest: datetime | None) -> bool:
    end = datetime.fromisoformat(bound(definition).strip("'"))
    return end > max(now + timedelta(days=1), newest or now)
