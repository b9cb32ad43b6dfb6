"""Whether the app's tables can become ours as they are, and if not, what has to be mended first. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from server.operations.catalog import INDEXES, INSTANTS, UPDATED, Facts, of, primary_key

COLUMNS: Final = {
    "profiles": {"id": "uuid", "subscription_tier": "text", "subscription_status": "text"},
    "conversations": {"id": "uuid", "user_id": "uuid", "title": "text"},
    "messages": {"id": "uuid", "conversation_id": "uuid", "role": "text", "content": "text"},
}
"""What must be there, and of which type. The instants are looked after below."""
INSTANT: Final = "timestamp with time zone"


class NotAdoptableError(Exception):
    """The reason, as a sentence that says what to do."""


def check(facts: Facts) -> None:
    """Raises NotAdoptableError for what this cannot do right."""
    tables = facts["tables"]
    for table, columns in COLUMNS.items():
        if table not in tables:
            raise NotAdoptableError(
                f"public.{table} is missing, beside a public.messages. Create it, then migrate again."
            )
        if tables[table]["kind"] != "r":
            raise NotAdoptableError(f"public.{table} is not a table. Make it one, then migrate again.")
        if not tables[table]["mine"]:
            owner = tables[table]["owner"]
            raise NotAdoptableError(f"public.{table} belongs to {owner}. Migrate with that login (ATLAS_ADMIN_URL).")
        if tables[table]["forced"] and not facts["sees_all"]:
            raise NotAdoptableError(
                f"public.{table} has FORCE ROW LEVEL SECURITY, so this login would not see all that it is to keep. Run "
                f"ALTER TABLE public.{table} NO FORCE ROW LEVEL SECURITY, then migrate again."
            )
        wanted = {f"{table}.{column}": kind for column, kind in columns.items()}
        wanted |= {column: INSTANT for column in INSTANTS if column.startswith(f"{table}.")}
        for column, kind in wanted.items():
            found = facts["columns"].get(column)
            if found is None:
                raise NotAdoptableError(f"The app's tables lack these columns: {column}. Add it, then migrate again.")
            _has_type(column, found, kind)
    if (found := facts["columns"].get(UPDATED)) is not None:
        _has_type(UPDATED, found, INSTANT)
    for column, found in facts["columns"].items():
        if column.startswith("messages.") and found["identity"]:
            raise NotAdoptableError(
                f"{column} is an identity column, which partitions cannot have. Drop its identity, give it the default "
                "nextval(…) of a sequence, then migrate again."
            )
    if facts["referenced_by"]:
        raise NotAdoptableError(
            f"Foreign keys lead to public.messages, whose id is no key of its own in a partitioned table: "
            f"{', '.join(facts['referenced_by'])}. Drop them, or let them lead to (id, created_at) afterwards."
        )
    for index in of(facts["indexes"], "messages"):
        if not index["valid"] and index["name"] not in INDEXES:
            raise NotAdoptableError(
                f"The index {index['name']} of public.messages is invalid, and would be built while everybody waits. "
                "REINDEX it, or drop it, then migrate again."
            )
        if index["unique"] and index["name"] not in (*INDEXES, primary_key(facts)):
            raise NotAdoptableError(
                f"The unique index {index['name']} of public.messages cannot hold over several partitions. Drop it, or "
                "make it an ordinary one, then migrate again."
            )
    for constraint in of(facts["constraints"], "messages"):
        name = constraint["name"]
        if constraint["kind"] == "c" and not constraint["inherited"]:
            raise NotAdoptableError(
                f"The constraint {name} of public.messages is NO INHERIT, and could not hold in partitions. Make it an "
                "ordinary one, then migrate again."
            )
        if constraint["kind"] == "x":
            raise NotAdoptableError(
                f"The exclusion constraint {name} cannot hold over several partitions. Drop it first."
            )
        if not constraint["validated"] and not name.startswith("atlas_"):
            raise NotAdoptableError(
                f"The constraint {name} of public.messages is NOT VALID. Validate it, or drop it, first."
            )
    if facts["functions"]:
        raise NotAdoptableError(
            f"Functions are bound to public.messages by their bodies: {', '.join(facts['functions'])}. Write them as "
            "texts (AS $$…$$ instead of BEGIN ATOMIC), then migrate again."
        )
    if facts["row_functions"]:
        raise NotAdoptableError(
            f"Functions take or return rows of public.messages: {', '.join(facts['row_functions'])}. Drop them, "
            "migrate, make them again."
        )
    if facts["rules"]:
        raise NotAdoptableError(
            f"public.messages has rules: {', '.join(facts['rules'])}. Drop them, or make them triggers, then migrate "
            "again."
        )
    if facts["key_views"]:
        raise NotAdoptableError(
            f"Views rely on id being the primary key of public.messages: {', '.join(facts['key_views'])}. Name every "
            "column in their GROUP BY, then migrate again."
        )
    for view in facts["views"] or ():
        if view["kind"] != "v":
            raise NotAdoptableError(
                f"{view['name']} is a materialized view of public.messages. Drop it, migrate, make it again."
            )
        if not view["mine"]:
            raise NotAdoptableError(
                f"{view['name']} looks into public.messages, and belongs to {view['owner']}. Make this login a member "
                f"of {view['owner']}, then migrate again."
            )
    for publication in facts["publications"] or ():
        if (publication["columns"] or publication["where"]) and publication["mine"] and not publication["root"]:
            raise NotAdoptableError(
                f"The publication {publication['name']} publishes only a part of public.messages, which of partitions "
                "it cannot. Set its publish_via_partition_root = true, then migrate again."
            )
    for trigger in facts["triggers"] or ():
        if trigger["transitions"] and trigger["row"]:
            raise NotAdoptableError(
                f"The trigger {trigger['name']} of public.messages has transition tables for each row, which "
                "partitions cannot have. Make it FOR EACH STATEMENT, then migrate again."
            )


def _has_type(column: str, found: Mapping[str, Any], kind: str) -> None:
    if found["type"] not in (kind, "character varying" if kind == "text" else kind):
        raise NotAdoptableError(f"{column} is {found['type']}, and must be {kind}. Convert it, then migrate again.")
