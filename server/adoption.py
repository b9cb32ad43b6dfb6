"""How the app's own tables become ours: which steps are left, from what the catalog says of them. Pure.

The old `messages`, a plain table, becomes one partition of a new one, the one of everything up to a month that is still
to come. No row is rewritten. What needs long is done beside everybody, what locks anybody takes milliseconds. Nothing
notes how far this has come but the catalog itself: interrupted anywhere, it goes on where it was.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

Facts = Mapping[str, Any]
"""The answer of sql/adopt.sql."""

COLUMNS: Final = {
    "profiles": {"id": "uuid", "subscription_tier": "text", "subscription_status": "text"},
    "conversations": {"id": "uuid", "user_id": "uuid", "title": "text"},
    "messages": {"id": "uuid", "conversation_id": "uuid", "role": "text", "content": "text"},
}
"""What must be there, and of which type. The instants are looked after below."""
INSTANT: Final = "timestamp with time zone"
INSTANTS: Final = ("conversations.created_at", "conversations.updated_at", "messages.created_at")
"""What devices order rows by, and pages go along: never NULL."""
UPDATED: Final = "messages.updated_at"
"""Comes with us, where it is missing."""
FILL: Final = {
    "conversations.created_at": "coalesce(t.updated_at, now())",
    "conversations.updated_at": "coalesce(t.created_at, now())",
    "messages.created_at": "coalesce((SELECT c.created_at FROM public.conversations c "
    "WHERE c.id = t.conversation_id), now())",
}
FILLED_AT_ONCE: Final = 2_000
SPARE: Final = timedelta(days=14)
"""The old table goes on taking messages of now while this runs, and for a while after it."""
LATEST: Final = timedelta(days=400)
"""A message further ahead than this was dated wrongly."""
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
ENABLING: Final = {"D": "DISABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}
CASCADE: Final = "atlas_messages_v1_conversation"
NOTHING_BY_DEFAULT: Final = """
    DO $$ DECLARE who text; BEGIN
        FOR who IN SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
                   FROM pg_class c, aclexplode(c.relacl) a
                   WHERE c.oid = 'public.messages'::regclass AND a.grantee <> c.relowner
        LOOP
            EXECUTE 'REVOKE ALL ON public.messages FROM ' || who;
        END LOOP;
    END $$
"""
"""Default privileges may give a new table's rights to whom the app has taken them away."""


@dataclass(frozen=True, slots=True)
class Step:
    says: str
    locks: str
    statements: tuple[str, ...]
    kind: Literal["brief", "index", "scan", "rows"] = "brief"
    """brief: one transaction of milliseconds. index, scan: one statement by itself, as long as the table is large.
    rows: one statement, repeated until it finds nothing more."""


class NotAdoptableError(Exception):
    """The reason, as a sentence that says what to do."""


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
    return [
        *_columns(facts),
        *_instants(facts, nulls),
        *_bounds(facts, now, newest),
        *_indexes(facts),
        *_cascade(facts),
        *_open_doors(facts),
        _swap(facts, now, newest),
    ]


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
    for index in _of(facts["indexes"], "messages"):
        if index["unique"] and index["name"] not in (*INDEXES, _primary_key(facts)):
            raise NotAdoptableError(
                f"The unique index {index['name']} of public.messages cannot hold over several partitions. Drop it, or "
                "make it an ordinary one, then migrate again."
            )
    for constraint in _of(facts["constraints"], "messages"):
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
                    f"UPDATE public.{table} t SET {name} = {FILL[column]} WHERE ctid = ANY (ARRAY("
                    f"SELECT ctid FROM public.{table} WHERE {name} IS NULL "
                    f"LIMIT {FILLED_AT_ONCE} FOR UPDATE SKIP LOCKED))",
                ),
                "rows",
            )
        if table == "conversations" and not facts["columns"][column]["required"]:
            known = _constraint(facts, table, f"atlas_{name}")
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
    known = _constraint(facts, "messages", "atlas_bounds")
    if known is not None and not _holds(known["def"], now, newest):
        yield Step(
            "drop the constraint on messages' bounds, whose end has come near",
            "ACCESS EXCLUSIVE on messages",
            ("ALTER TABLE public.messages DROP CONSTRAINT atlas_bounds",),
        )
        known = None
    condition = f"created_at IS NOT NULL AND created_at < {_literal(end)}"
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
    ours = _foreign_key(facts, cascades=True)
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
                (_as_before(table, role),),
            )


def _as_before(table: str, role: str) -> str:
    name = '"atlas_as_before_' + role.strip('"').replace('"', "")[:40] + '"'
    # What everybody may is not opened to end users: theirs is what is their own.
    who = "current_user NOT IN ('anon', 'authenticated')" if role == "PUBLIC" else "true"
    return f"CREATE POLICY {name} ON public.{table} TO {role} USING ({who}) WITH CHECK ({who})"


def _swap(facts: Facts, now: datetime, newest: datetime | None) -> Step:
    """The one transaction in which the old table becomes a partition of the new one."""
    table = facts["tables"]["messages"]
    known = _constraint(facts, "messages", "atlas_bounds")
    end = _literal(horizon(now, newest)) if known is None else _bound(known["def"])
    foreign = [k for k in _of(facts["constraints"], "messages") if k["kind"] == "f"]
    keys = [k for k in foreign if k["columns"] == ["conversation_id"]]
    statements = ["LOCK TABLE public.conversations, public.messages IN ACCESS EXCLUSIVE MODE"]
    triggers = facts["triggers"] or ()
    statements += [f"DROP TRIGGER {trigger['name']} ON public.messages" for trigger in triggers]
    if (primary := _primary_key(facts)) is not None:
        statements.append(f"ALTER TABLE public.messages DROP CONSTRAINT {primary}")
    statements += [f"ALTER TABLE public.messages DROP CONSTRAINT {k['name']}" for k in keys if not k["cascades"]]
    statements += [
        "ALTER TABLE public.messages ALTER COLUMN created_at SET NOT NULL",
        "ALTER TABLE public.messages ADD CONSTRAINT messages_v1_pkey PRIMARY KEY USING INDEX atlas_messages_v1_pkey",
        "ALTER TABLE public.messages RENAME TO messages_v1",
        "ALTER TABLE public.messages_v1 SET SCHEMA sync",
        f"CREATE TABLE public.messages (LIKE {OLD} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED "
        "INCLUDING STORAGE INCLUDING COMMENTS, PRIMARY KEY (id, created_at)) PARTITION BY RANGE (created_at)",
        "ALTER TABLE public.messages DROP CONSTRAINT atlas_bounds",
        f"ALTER TABLE public.messages OWNER TO {table['owner']}",
        NOTHING_BY_DEFAULT,
        *(
            statement
            for sequence in facts["sequences"] or ()
            for statement in (
                f"ALTER SEQUENCE sync.{sequence['name']} OWNED BY NONE",
                f"ALTER SEQUENCE sync.{sequence['name']} SET SCHEMA public",
                f"ALTER SEQUENCE public.{sequence['name']} OWNED BY public.messages.{sequence['column']}",
            )
        ),
        "ALTER TABLE public.messages ADD FOREIGN KEY (conversation_id) REFERENCES public.conversations (id) "
        "ON DELETE CASCADE",
        *(f"ALTER TABLE public.messages ADD CONSTRAINT {k['name']} {k['def']}" for k in foreign if k not in keys),
        "CREATE INDEX messages_newest ON public.messages (conversation_id, created_at DESC, id DESC)",
    ]
    statements += [
        index["def"]
        for index in _of(facts["indexes"], "messages")
        if not index["constraint"] and index["name"] not in INDEXES
    ]
    statements += [
        f"ALTER TABLE public.messages ATTACH PARTITION {OLD} FOR VALUES FROM (MINVALUE) TO ({end})",
        f"ALTER TABLE {OLD} DROP CONSTRAINT atlas_bounds",
    ]
    if table["told_by_key"]:
        # That of the old key is gone, and without any the app's updates fail where they are published.
        statements.append(f"ALTER TABLE {OLD} REPLICA IDENTITY DEFAULT")
    statements += [trigger["def"] for trigger in triggers]
    statements += [
        f"ALTER TABLE public.messages {ENABLING[trigger['enabled']]} TRIGGER {trigger['name']}"
        for trigger in triggers
        if trigger["enabled"] != "O"
    ]
    statements += [_policy(policy) for policy in facts["policies"] or ()]
    statements += [
        _as_before("messages", entry["role"]) for entry in facts["unsecured"] or () if entry["tab"] == "messages"
    ]
    if table["secured"]:
        statements.append("ALTER TABLE public.messages ENABLE ROW LEVEL SECURITY")
    if table["forced"]:
        statements.append("ALTER TABLE public.messages FORCE ROW LEVEL SECURITY")
    if table["comment"] is not None:
        statements.append(f"COMMENT ON TABLE public.messages IS {_quoted(table['comment'])}")
    statements += [grant(entry) for entry in _grants(facts) if entry["tab"] == "messages"]
    statements += views(facts)
    statements += [
        f"ALTER PUBLICATION {publication['name']} ADD TABLE public.messages"
        + (f" ({publication['columns']})" if publication["columns"] else "")
        + (f" WHERE ({publication['where']})" if publication["where"] else "")
        for publication in facts["publications"] or ()
        if publication["mine"]
    ]
    statements += policies_elsewhere(facts)
    return Step(
        f"put a partitioned table in the place of messages, with the old one as its partition up to {end}",
        "ACCESS EXCLUSIVE on messages and conversations",
        tuple(statements),
    )


def views(facts: Facts) -> list[str]:
    """The views of messages anew, of whichever table has that name then."""
    return [
        f"CREATE OR REPLACE VIEW {view['name']} {f'WITH ({options})' if (options := view['options']) else ''} "
        f"AS {view['def']}"
        for view in facts["views"] or ()
        if not view["name"].startswith("sync.")
    ]


def policies_elsewhere(facts: Facts) -> list[str]:
    """Policies of other tables that look into messages, anew."""
    return [
        f"ALTER POLICY {policy['name']} ON {policy['tab']}{_conditions(policy)}"
        for policy in facts["policies_elsewhere"] or ()
    ]


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
    end = datetime.fromisoformat(_bound(definition).strip("'"))
    return end > max(now + timedelta(days=1), newest or now)


def _bound(definition: str) -> str:
    """The end in a constraint on the bounds, as Postgres prints it."""
    return "'" + definition.rpartition("< '")[2].partition("'")[0] + "'"


def _literal(moment: datetime) -> str:
    return f"'{moment:%Y-%m-%d %H:%M:%S}+00'"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _policy(policy: Mapping[str, Any]) -> str:
    commands = {"r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE", "*": "ALL"}
    kind = "PERMISSIVE" if policy["permissive"] else "RESTRICTIVE"
    return (
        f"CREATE POLICY {policy['name']} ON public.messages AS {kind} FOR {commands[policy['command']]} "
        f"TO {policy['roles']}{_conditions(policy)}"
    )


def _conditions(policy: Mapping[str, Any]) -> str:
    using = f" USING ({policy['using']})" if policy["using"] else ""
    return using + (f" WITH CHECK ({policy['check']})" if policy["check"] else "")


def _grants(facts: Facts) -> list[Mapping[str, Any]]:
    return [*(facts["grants"] or ()), *(facts["column_grants"] or ())]


def grant(entry: Mapping[str, Any]) -> str:
    """The statement that gives a right as it was found."""
    column = f" ({entry['column']})" if entry["column"] else ""
    option = " WITH GRANT OPTION" if entry["option"] else ""
    return f"GRANT {entry['what']}{column} ON public.{entry['tab']} TO {entry['to']}{option}"


def _of(entries: Sequence[Mapping[str, Any]] | None, table: str) -> list[Mapping[str, Any]]:
    return [entry for entry in entries or () if entry["tab"] == table]


def _constraint(facts: Facts, table: str, name: str) -> Mapping[str, Any] | None:
    return next((k for k in _of(facts["constraints"], table) if k["name"] == name), None)


def _primary_key(facts: Facts) -> str | None:
    return next((k["name"] for k in _of(facts["constraints"], "messages") if k["kind"] == "p"), None)


def _foreign_key(facts: Facts, *, cascades: bool) -> Mapping[str, Any] | None:
    return next(
        (
            k
            for k in _of(facts["constraints"], "messages")
            if k["kind"] == "f" and k["columns"] == ["conversation_id"] and k["cascades"] is cascades
        ),
        None,
    )
