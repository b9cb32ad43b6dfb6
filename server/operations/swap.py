"""The transaction that makes the old `messages` a partition of a new table, with everything the app has on it. Pure."""

from collections.abc import Iterable
from typing import Final

from server.operations import publications
from server.operations.catalog import (
    CLOSED,
    ENABLING,
    INDEXES,
    OLD,
    Facts,
    Grant,
    Index,
    Policy,
    PolicyElsewhere,
    Step,
    Trigger,
    foreign_keys,
    of,
    parked,
    primary_key,
)

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
"""ALTER DEFAULT PRIVILEGES may grant rights on a new table that the app has revoked on the old one."""


def swap(facts: Facts, end: str) -> Step:
    """The step. `end`, a literal, is the upper bound of the old table as a partition."""
    table = facts.tables["messages"]
    primary = primary_key(facts)
    keys = foreign_keys(facts)
    foreign = [k for k in of(facts.constraints, "messages") if k.kind == "f" and k not in keys]
    granted = of((*facts.grants, *facts.column_grants), "messages")
    indexes = own_indexes(facts)
    statements = [
        "LOCK TABLE public.conversations, public.messages IN ACCESS EXCLUSIVE MODE",
        *publications.remove(facts),
        *(f"DROP TRIGGER {trigger.name} ON public.messages" for trigger in facts.triggers),
        *([] if primary is None else [f"ALTER TABLE public.messages DROP CONSTRAINT {primary.name}"]),
        *(f"ALTER TABLE public.messages DROP CONSTRAINT {k.name}" for k in keys if not k.cascades),
        "ALTER TABLE public.messages ALTER COLUMN created_at SET NOT NULL",
        "ALTER TABLE public.messages ADD CONSTRAINT messages_v1_pkey PRIMARY KEY USING INDEX atlas_messages_v1_pkey",
        "ALTER TABLE public.messages RENAME TO messages_v1",
        *(f"ALTER INDEX public.{index.name} RENAME TO {parked(index.name)}" for index in indexes),
        *close(entry.role for entry in granted),
        f"CREATE TABLE public.messages (LIKE {OLD} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED "
        "INCLUDING STORAGE INCLUDING COMMENTS, PRIMARY KEY (id, created_at)) PARTITION BY RANGE (created_at)",
        "ALTER TABLE public.messages DROP CONSTRAINT atlas_bounds",
        f"ALTER TABLE public.messages OWNER TO {table.owner}",
        NOTHING_BY_DEFAULT,
        *(
            f"ALTER SEQUENCE public.{sequence.name} OWNED BY public.messages.{sequence.column}"
            for sequence in facts.sequences
        ),
        "ALTER TABLE public.messages ADD FOREIGN KEY (conversation_id) REFERENCES public.conversations (id) "
        "ON DELETE CASCADE",
        *(f"ALTER TABLE public.messages ADD CONSTRAINT {k.name} {k.definition}" for k in foreign),
        "CREATE INDEX messages_newest ON public.messages (conversation_id, created_at DESC, id DESC)",
        *(index.definition for index in indexes),
        f"ALTER TABLE public.messages ATTACH PARTITION {OLD} FOR VALUES FROM (MINVALUE) TO ({end})",
        f"ALTER TABLE {OLD} DROP CONSTRAINT atlas_bounds",
        # The index of the old key is gone. Without a replica identity the app's updates fail where they are published.
        *([f"ALTER TABLE {OLD} REPLICA IDENTITY DEFAULT"] if table.identified_by_index else []),
        *(["ALTER TABLE public.messages REPLICA IDENTITY FULL"] if table.identified_by_all else []),
        *(trigger.definition for trigger in facts.triggers),
        *enabling(facts.triggers),
        *map(_policy, facts.policies),
        *(as_before("messages", access.role) for access in of(facts.unsecured, "messages")),
        *(["ALTER TABLE public.messages ENABLE ROW LEVEL SECURITY"] if table.secured else []),
        *(["ALTER TABLE public.messages FORCE ROW LEVEL SECURITY"] if table.forced else []),
        *([] if table.comment is None else [f"COMMENT ON TABLE public.messages IS {_quoted(table.comment)}"]),
        *map(grant, granted),
        *views(facts),
        *publications.set_root(publications.under_the_roots_name(facts)),
        *publications.add(facts),
        *policies_elsewhere(facts),
    ]
    return Step(
        f"put a partitioned table in the place of messages, with the old one as its partition up to {end}",
        "ACCESS EXCLUSIVE on messages and conversations",
        tuple(statements),
    )


def own_indexes(facts: Facts) -> list[Index]:
    """Those of messages that adoption did not make, and no constraint has."""
    return [index for index in of(facts.indexes, "messages") if not index.constraint and index.name not in INDEXES]


def close(roles: Iterable[str]) -> list[str]:
    """Statements by which nobody but its owner reaches rows through the old table. Its own policies, which undo
    leaves to it again, would hold for roles that are granted rights on all tables later."""
    return [
        *(f"REVOKE ALL ON {OLD} FROM {role} CASCADE" for role in dict.fromkeys(roles)),
        f"ALTER TABLE {OLD} ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY {CLOSED} ON {OLD} AS RESTRICTIVE USING (false)",
    ]


def enabling(triggers: Iterable[Trigger]) -> list[str]:
    """Statements for triggers of messages that are not simply enabled, after they were created again."""
    return [
        f"ALTER TABLE public.messages {ENABLING[trigger.enabled]} TRIGGER {trigger.name}"
        for trigger in triggers
        if trigger.enabled != "O"
    ]


def as_before(table: str, role: str) -> str:
    """A policy that lets a role access all rows of a table that has row level security now."""
    name = '"atlas_as_before_' + role.strip('"').replace('"', "")[:40] + '"'
    # A right of PUBLIC is not opened to end users: they access their own rows only.
    who = "current_user NOT IN ('anon', 'authenticated')" if role == "PUBLIC" else "true"
    return f"CREATE POLICY {name} ON public.{table} TO {role} USING ({who}) WITH CHECK ({who})"


def views(facts: Facts) -> list[str]:
    """Statements that create the app's views of messages again, of the table that has that name now."""
    return [
        f"CREATE OR REPLACE VIEW {view.name} {f'WITH ({view.options})' if view.options else ''} AS {view.definition}"
        for view in facts.views
        if not view.name.startswith("sync.")
    ]


def policies_elsewhere(facts: Facts) -> list[str]:
    """Statements that bind policies of other tables to the table that is named messages now."""
    return [f"ALTER POLICY {policy.name} ON {policy.table}{_conditions(policy)}" for policy in facts.policies_elsewhere]


def grant(entry: Grant) -> str:
    """The statement that grants a right again."""
    return f"GRANT {_right(entry)} TO {entry.role}{' WITH GRANT OPTION' if entry.option else ''}"


def revoke(entry: Grant) -> str:
    """The statement that takes the right back."""
    return f"REVOKE {_right(entry)} FROM {entry.role}"


def _right(entry: Grant) -> str:
    column = f" ({entry.column})" if entry.column else ""
    return f"{entry.privilege}{column} ON public.{entry.table}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _policy(policy: Policy) -> str:
    commands = {"r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE", "*": "ALL"}
    kind = "PERMISSIVE" if policy.permissive else "RESTRICTIVE"
    return (
        f"CREATE POLICY {policy.name} ON public.messages AS {kind} FOR {commands[policy.command]} "
        f"TO {policy.roles}{_conditions(policy)}"
    )


def _conditions(policy: Policy | PolicyElsewhere) -> str:
    using = f" USING ({policy.using})" if policy.using else ""
    return using + (f" WITH CHECK ({policy.check})" if policy.check else "")
