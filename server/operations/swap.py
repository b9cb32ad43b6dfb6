"""The transaction in which the old `messages` becomes a partition of a new one, with what the app has on it. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from server.operations.catalog import ENABLING, INDEXES, OLD, Facts, Step, of, primary_key

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


def swap(facts: Facts, end: str) -> Step:
    """The step. `end`, a literal, is from when on messages belong into other partitions."""
    table = facts["tables"]["messages"]
    foreign = [k for k in of(facts["constraints"], "messages") if k["kind"] == "f"]
    keys = [k for k in foreign if k["columns"] == ["conversation_id"]]
    statements = ["LOCK TABLE public.conversations, public.messages IN ACCESS EXCLUSIVE MODE"]
    triggers = facts["triggers"] or ()
    statements += [f"DROP TRIGGER {trigger['name']} ON public.messages" for trigger in triggers]
    if (primary := primary_key(facts)) is not None:
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
        for index in of(facts["indexes"], "messages")
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
        as_before("messages", entry["role"]) for entry in facts["unsecured"] or () if entry["tab"] == "messages"
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


def as_before(table: str, role: str) -> str:
    """The policy by which a role goes on reaching all rows of a table that is secured now."""
    name = '"atlas_as_before_' + role.strip('"').replace('"', "")[:40] + '"'
    # What everybody may is not opened to end users: theirs is what is their own.
    who = "current_user NOT IN ('anon', 'authenticated')" if role == "PUBLIC" else "true"
    return f"CREATE POLICY {name} ON public.{table} TO {role} USING ({who}) WITH CHECK ({who})"


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
