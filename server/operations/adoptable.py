"""Whether the app's tables can be adopted as they are, and if not, what to change first. Pure."""

from collections.abc import Iterable, Iterator
from typing import Final

from server.exceptions import UnfitError
from server.operations import publications
from server.operations.catalog import INDEXES, INSTANTS, UPDATED, Column, Facts, of, primary_key

COLUMNS: Final = {
    "profiles": {"id": "uuid", "subscription_tier": "text", "subscription_status": "text"},
    "conversations": {"id": "uuid", "user_id": "uuid", "title": "text"},
    "messages": {"id": "uuid", "conversation_id": "uuid", "role": "text", "content": "text"},
}
"""Columns that must exist, and their types. Those of INSTANTS must exist too."""
INSTANT: Final = "timestamp with time zone"


def check(facts: Facts) -> None:
    """Raises UnfitError for whatever adoption would lose or break."""
    if found := list(obstacles(facts)):
        raise UnfitError("\n".join(found))


def obstacles(facts: Facts) -> Iterator[str]:
    """Whatever adoption would lose or break: a sentence each, which says what to do."""
    yield from _tables(facts)
    yield from _columns(facts)
    yield from _indexes(facts)
    yield from _constraints(facts)
    yield from _dependents(facts)


def _tables(facts: Facts) -> Iterator[str]:
    for name in COLUMNS:
        table = facts.tables.get(name)
        if table is None:
            yield f"public.{name} is missing beside public.messages. Create it, then migrate again."
            continue
        if table.kind != "r":
            yield (f"public.{name} is not a table. Make it one, then migrate again.")
        if not table.mine:
            yield (f"public.{name} belongs to {table.owner}. Migrate with that login (ATLAS_ADMIN_URL).")
        if table.forced and not facts.sees_all:
            yield (
                f"public.{name} has FORCE ROW LEVEL SECURITY, which may hide rows from this login. Run ALTER TABLE "
                f"public.{name} NO FORCE ROW LEVEL SECURITY, then migrate again."
            )


def _columns(facts: Facts) -> Iterator[str]:
    wanted = {f"{table}.{name}": kind for table, columns in COLUMNS.items() for name, kind in columns.items()}
    for column, kind in (wanted | dict.fromkeys(INSTANTS, INSTANT)).items():
        if column.partition(".")[0] not in facts.tables:
            continue
        if (found := facts.columns.get(column)) is None:
            yield f"The app's tables lack the column {column}. Add it, then migrate again."
            continue
        yield from _type(column, found, kind)
    if (found := facts.columns.get(UPDATED)) is not None:
        yield from _type(UPDATED, found, INSTANT)
    for column, found in facts.columns.items():
        if column.startswith("messages.") and found.identity:
            yield (
                f"{column} is an identity column, which partitions cannot have. Drop its identity, give it the default "
                "nextval(…) of a sequence, then migrate again."
            )


def _type(column: str, found: Column, kind: str) -> Iterator[str]:
    if found.type not in (kind, "character varying" if kind == "text" else kind):
        yield (f"{column} is {found.type}, and must be {kind}. Convert it, then migrate again.")


def _indexes(facts: Facts) -> Iterator[str]:
    primary = primary_key(facts)
    known = INDEXES.keys() | ({primary.name} if primary is not None else set())
    for index in of(facts.indexes, "messages"):
        if not index.valid and index.name not in INDEXES:
            yield (
                f"The index {index.name} of public.messages is invalid, and would be built again under a lock on the "
                "table. REINDEX it, or drop it, then migrate again."
            )
        if index.unique and index.name not in known:
            yield (
                f"The unique index {index.name} of public.messages cannot span several partitions. Drop it, or "
                "make it an ordinary one, then migrate again."
            )


def _constraints(facts: Facts) -> Iterator[str]:
    for constraint in of(facts.constraints, "messages"):
        name = constraint.name
        if constraint.kind == "c" and not constraint.inherited:
            yield (
                f"The constraint {name} of public.messages is NO INHERIT, so partitions would not have it. Make it an "
                "ordinary one, then migrate again."
            )
        if constraint.kind == "x":
            yield (f"The exclusion constraint {name} cannot span several partitions. Drop it first.")
        if not constraint.validated and not name.startswith("atlas_"):
            yield (f"The constraint {name} of public.messages is NOT VALID. Validate it, or drop it, first.")


def _dependents(facts: Facts) -> Iterator[str]:
    if facts.referenced_by:
        yield (
            f"Foreign keys refer to public.messages (id), which is no key of a partitioned table: "
            f"{_list(facts.referenced_by)}. Leave out `partition` and `archive` in the declaration, which "
            "`atlas-sync init` drafts: then they stay, and nothing is partitioned. Or drop them; afterwards they may "
            "refer to (id, created_at)."
        )
    if facts.functions:
        yield (
            f"Functions are bound to public.messages by their bodies: {_list(facts.functions)}. Write the bodies as "
            "strings (AS $$…$$ instead of BEGIN ATOMIC), then migrate again."
        )
    if facts.row_functions:
        yield (
            f"Functions take or return rows of public.messages: {_list(facts.row_functions)}. Drop them, migrate, "
            "create them again."
        )
    if facts.rules:
        yield (
            f"public.messages has rules: {_list(facts.rules)}. Drop them, or make them triggers, then migrate again."
        )
    if facts.key_views:
        yield (
            f"Views depend on id being the primary key of public.messages: {_list(facts.key_views)}. Name every "
            "column in their GROUP BY, then migrate again."
        )
    for view in facts.views:
        if view.kind != "v":
            yield (f"{view.name} is a materialized view of public.messages. Drop it, migrate, create it again.")
        if not view.mine:
            yield (
                f"{view.name} is a view of public.messages, and belongs to {view.owner}. Make this login a member of "
                f"{view.owner}, then migrate again."
            )
    yield from publications.obstacles(facts)
    for trigger in facts.triggers:
        if trigger.transitions and trigger.row:
            yield (
                f"The trigger {trigger.name} of public.messages has transition tables for each row, which "
                "partitions cannot have. Make it FOR EACH STATEMENT, then migrate again."
            )


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
