"""How the app's own tables are adopted: the steps that are left, computed from the catalog. Pure.

The old `messages`, a plain table, becomes one partition of a new one. That partition holds everything up to a month in
the future. No row is rewritten. Steps that take long run beside readers and writers; steps that block them take
milliseconds. The catalog itself is the only record of progress, so an interrupted adoption continues where it stopped.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from server.exceptions import UnfitError
from server.operations.adoptable import check
from server.operations.catalog import (
    CASCADE,
    INDEXES,
    INSTANTS,
    UPDATED,
    Constraint,
    Facts,
    Step,
    bound,
    constraint,
    foreign_keys,
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
"""How far beyond the newest message the old table's bound lies at least: it takes new messages meanwhile, and after."""
LATEST: Final = timedelta(days=400)
"""A message dated further ahead than this is taken for an error."""


def is_needed(facts: Facts) -> bool:
    """`messages` exists and is not a partitioned table yet."""
    messages = facts.tables.get("messages")
    return messages is not None and messages.kind == "r"


def plan(facts: Facts, newest: datetime | None, nulls: Sequence[str]) -> list[Step]:
    """The steps that are left, in order. Raises UnfitError.

    `newest` is the latest created_at of a message. `nulls` are the columns of INSTANTS that contain NULLs.
    """
    if not is_needed(facts):
        return []
    check(facts)
    now = datetime.fromtimestamp(facts.now, UTC)
    known = constraint(facts, "messages", "atlas_bounds")
    end = literal(horizon(now, newest)) if known is None else bound(known.definition)
    return [
        *_columns(facts),
        *_instants(facts, nulls),
        *_bounds(facts, now, newest),
        *_indexes(facts),
        *_cascade(facts),
        *_keep_access(facts),
        swap(facts, end),
    ]


def _columns(facts: Facts) -> Iterator[Step]:
    if UPDATED not in facts.columns:
        yield Step(
            "add messages.updated_at, NULL in existing rows (which reads as created_at)",
            "ACCESS EXCLUSIVE on messages",
            (
                "ALTER TABLE public.messages ADD COLUMN updated_at timestamptz",
                "ALTER TABLE public.messages ALTER COLUMN updated_at SET DEFAULT now()",
            ),
        )
    for column in INSTANTS:
        if facts.columns[column].default is None:
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
        if table == "conversations" and not facts.columns[column].required:
            known = constraint(facts, table, f"atlas_{name}")
            yield from _checked(known, table, f"atlas_{name}", f"{name} IS NOT NULL", f"that {column} is never NULL")
            yield Step(
                f"make {column} NOT NULL, as that constraint proves",
                f"ACCESS EXCLUSIVE on {table}",
                (
                    f"ALTER TABLE public.{table} ALTER COLUMN {name} SET NOT NULL",
                    f"ALTER TABLE public.{table} DROP CONSTRAINT atlas_{name}",
                ),
            )


def _bounds(facts: Facts, now: datetime, newest: datetime | None) -> Iterator[Step]:
    end = horizon(now, newest)
    known = constraint(facts, "messages", "atlas_bounds")
    if known is not None and not _holds(known.definition, now, newest):
        yield Step(
            "drop the constraint on messages' bounds, because its end is near",
            "ACCESS EXCLUSIVE on messages",
            ("ALTER TABLE public.messages DROP CONSTRAINT atlas_bounds",),
        )
        known = None
    condition = f"created_at IS NOT NULL AND created_at < {literal(end)}"
    yield from _checked(known, "messages", "atlas_bounds", condition, "what the old table holds")


def _checked(known: Constraint | None, table: str, name: str, condition: str, says: str) -> Iterator[Step]:
    """Add a constraint and validate it, unless that is done."""
    if known is None:
        yield Step(
            f"add the constraint {says}: {condition}",
            f"ACCESS EXCLUSIVE on {table}",
            (f"ALTER TABLE public.{table} ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID",),
        )
    if known is None or not known.validated:
        yield Step(
            f"validate {name}: read {table}",
            f"SHARE UPDATE EXCLUSIVE on {table}, beside readers and writers",
            (f"ALTER TABLE public.{table} VALIDATE CONSTRAINT {name}",),
            "scan",
        )


def _indexes(facts: Facts) -> Iterator[Step]:
    existing = {index.name: index for index in facts.indexes}
    for name, statement in INDEXES.items():
        table = "conversations" if name == "conversations_newest" else "messages"
        locks = f"SHARE UPDATE EXCLUSIVE on {table}, beside readers and writers"
        if name in existing and not existing[name].valid:
            yield Step(f"drop the unfinished index {name}", locks, (f"DROP INDEX CONCURRENTLY public.{name}",), "index")
        if name not in existing or not existing[name].valid:
            yield Step(f"build the index {name}", locks, (statement,), "index")


def _cascade(facts: Facts) -> Iterator[Step]:
    """Deleting a conversation deletes its messages."""
    known = next((key for key in foreign_keys(facts) if key.cascades), None)
    if known is None:
        yield Step(
            "add a foreign key from messages to conversations, ON DELETE CASCADE",
            "SHARE ROW EXCLUSIVE on messages and conversations",
            (
                f"ALTER TABLE public.messages ADD CONSTRAINT {CASCADE} FOREIGN KEY (conversation_id) "
                "REFERENCES public.conversations (id) ON DELETE CASCADE NOT VALID",
            ),
        )
    if known is None or not known.validated:
        name = CASCADE if known is None else known.name
        yield Step(
            "validate the foreign key: read messages",
            "SHARE UPDATE EXCLUSIVE on messages, ROW SHARE on conversations, beside readers and writers",
            (f"ALTER TABLE public.messages VALIDATE CONSTRAINT {name}",),
            "scan",
        )


def _keep_access(facts: Facts) -> Iterator[Step]:
    """Adoption enables row level security. Roles of the app that could access all rows keep that by a policy."""
    done = {(access.table, access.role) for access in facts.kept_open}
    for access in facts.unsecured:
        table, role = access.table, access.role
        if table != "messages" and (table, role) not in done:
            yield Step(
                f"let {role} keep access to all rows of {table} under row level security",
                f"ACCESS EXCLUSIVE on {table}",
                (as_before(table, role),),
            )


def horizon(now: datetime, newest: datetime | None) -> datetime:
    """The upper bound of the old table: the first of a month. Raises UnfitError."""
    latest = max(now, newest or now)
    if latest > now + LATEST:
        raise UnfitError(
            f"The newest message is dated {latest:%Y-%m-%d}, in the far future. Correct created_at where it is wrong, "
            "then migrate again."
        )
    month = (latest + SPARE).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (month + timedelta(days=32)).replace(day=1)


def _holds(definition: str, now: datetime, newest: datetime | None) -> bool:
    end = datetime.fromisoformat(bound(definition).strip("'"))
    return end > max(now + timedelta(days=1), newest or now)
