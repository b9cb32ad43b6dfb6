"""Undo restores what the first migration recorded, and plans its steps from the catalog alone."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from server.exceptions import UnfitError
from server.operations.catalog import Column, Constraint, Facts, Grant, Index, Table, Trigger, View
from server.operations.undo_plan import Installed, OurPolicy, Partition, plan

TABLE = Table(kind="r", owner="app", mine=True, secured=False, forced=False)
INSTANT = Column(type="timestamp with time zone", required=False)
OWN_KEY = Constraint(
    table="messages",
    name="conversation",
    kind="f",
    definition="FOREIGN KEY …",
    validated=True,
    columns=("conversation_id",),
)
ORIGINAL = Facts(
    now=0.0,
    tables=dict.fromkeys(("profiles", "conversations", "messages"), TABLE),
    columns={"messages.created_at": INSTANT, "conversations.created_at": replace(INSTANT, default="now()")},
    constraints=(
        Constraint(table="messages", name="messages_pkey", kind="p", definition="PRIMARY KEY (id)", validated=True),
        OWN_KEY,
    ),
    grants=(Grant(table="profiles", privilege="SELECT", role="authenticated", option=False),),
    usage=("authenticated",),
    auth=False,
)
ADOPTED = Installed(
    adopted=True,
    original=ORIGINAL,
    columns=("id", '"Tags"'),
    partitions=(
        Partition("messages", "public.messages_v1", 9, "…"),
        Partition("messages", "public.messages_default", 2, "…"),
    ),
    guards=("atlas_sync_refuse_truncate",),
    policies=(OurPolicy("atlas_own_messages", "public.messages"), OurPolicy("atlas_own_profile", "public.profiles")),
    usage=("authenticated", "atlas_sync"),
)
NOW = replace(ORIGINAL, tables={**ORIGINAL.tables, "messages": replace(TABLE, kind="p")})


def planned(installed: Installed = ADOPTED, facts: Facts = NOW) -> list[str]:
    return [step.says.split(":")[0].split(",")[0] for step in plan(installed, facts)]


def last(installed: Installed = ADOPTED, facts: Facts = NOW) -> tuple[str, ...]:
    return plan(installed, facts)[-1].statements


@pytest.mark.parametrize(
    ("done", "left"),
    [
        ({}, ["build the old primary key", "add the old foreign key", "validate the foreign key"]),
        (
            {"indexes": {"atlas_undo_pkey": False}, "keys": {"conversation": False}},
            ["drop the unfinished index atlas_undo_pkey", "build the old primary key", "validate the foreign key"],
        ),
        ({"indexes": {"atlas_undo_pkey": True}, "keys": {"conversation": True}}, []),
    ],
    ids=["nothing is done", "half is done", "all is done"],
)
def test_only_steps_that_are_left_come_before_the_last_one(done: dict[str, Any], left: list[str]) -> None:
    assert planned(replace(ADOPTED, **done)) == [*left, "put the old messages back"]


def test_a_foreign_key_that_cascades_is_kept_and_another_one_replaces_ours() -> None:
    ours = "ALTER TABLE public.messages DROP CONSTRAINT atlas_messages_v1_conversation"
    assert ours in last()
    cascading = replace(ORIGINAL, constraints=(ORIGINAL.constraints[0], replace(OWN_KEY, cascades=True)))
    kept = replace(ADOPTED, original=cascading)
    assert ours not in last(kept)
    assert planned(kept) == ["build the old primary key", "put the old messages back"]


def test_a_foreign_key_that_was_recorded_without_its_schema_refers_to_the_apps_table() -> None:
    """A version whose search path included public recorded it so."""
    recorded = replace(OWN_KEY, definition="FOREIGN KEY (conversation_id) REFERENCES conversations(id)")
    original = replace(ORIGINAL, constraints=(ORIGINAL.constraints[0], recorded))
    (add,) = [step for step in plan(replace(ADOPTED, original=original), NOW) if step.says == "add the old foreign key"]
    assert add.statements[0].endswith(
        "ADD CONSTRAINT conversation FOREIGN KEY (conversation_id) REFERENCES public.conversations(id) NOT VALID"
    )


def test_defaults_and_rights_and_columns_that_migrations_added_are_taken_back_and_no_others() -> None:
    granted = (
        *ORIGINAL.grants,
        Grant(table="profiles", privilege="UPDATE", role="authenticated", option=True, column='"Name"'),
        Grant(table="conversations", privilege="SELECT", role="somebody", option=False),
        Grant(table="messages", privilege="SELECT", role="atlas_sync", option=False),
    )
    statements = last(facts=replace(NOW, grants=granted))
    assert [each for each in statements if each.startswith(("REVOKE", "DROP POLICY"))] == [
        "DROP POLICY IF EXISTS atlas_sync_closed ON public.messages",
        "DROP POLICY atlas_own_profile ON public.profiles",
        'REVOKE UPDATE ("Name") ON public.profiles FROM authenticated',
        "REVOKE USAGE ON SCHEMA public FROM atlas_sync",
    ]
    assert [each for each in statements if " ALTER COLUMN " in each or " COLUMN updated_at" in each] == [
        "ALTER TABLE public.conversations ALTER COLUMN created_at DROP NOT NULL",
        "ALTER TABLE public.messages ALTER COLUMN created_at DROP NOT NULL",
        "ALTER TABLE public.messages ALTER COLUMN created_at DROP DEFAULT",
        "ALTER TABLE public.messages DROP COLUMN updated_at",
    ]
    assert any("DROP FUNCTION auth.uid()" in each for each in statements)
    used = replace(ADOPTED, original=replace(ORIGINAL, auth=True, indexes=()))
    assert not any("auth.uid" in each for each in last(used))


def test_triggers_of_the_app_come_back_and_ours_do_not() -> None:
    def trigger(name: str, *, enabled: str = "O", ours: bool = False) -> Trigger:
        definition = f"CREATE TRIGGER {name} …"
        return Trigger(name=name, definition=definition, enabled=enabled, transitions=False, row=True, ours=ours)

    statements = last(facts=replace(NOW, triggers=(trigger("theirs", enabled="D"), trigger("renamed", ours=True))))
    assert [each for each in statements if "TRIGGER" in each] == [
        "DROP TRIGGER atlas_sync_refuse_truncate ON public.messages_v1",
        "CREATE TRIGGER theirs …",
        "ALTER TABLE public.messages DISABLE TRIGGER theirs",
    ]


def test_tables_that_a_migration_created_stay_with_their_archived_partitions() -> None:
    partitions = (
        Partition("messages", "public.messages_2026_11", 1, "FOR VALUES …"),
        Partition("messages_archive", "theirs", 1, "FOR VALUES …"),
    )
    created = Installed(adopted=False, original=Facts(now=0.0), partitions=partitions)
    (step,) = plan(created, NOW)
    assert [each for each in step.statements if each.startswith("ALTER TABLE")] == [
        "ALTER TABLE public.messages_archive DETACH PARTITION theirs",
        "ALTER TABLE public.messages ATTACH PARTITION theirs FOR VALUES …",
    ]
    assert "DROP SCHEMA sync CASCADE" in step.statements
    # An early version did not record what the tables were like before it.
    assert plan(replace(created, original=None), NOW) == [step]


def test_an_object_that_depends_on_the_partitioned_table_stops_the_undo() -> None:
    with pytest.raises(UnfitError, match=r"depend on public.messages: notes, shout\. Drop them"):
        plan(ADOPTED, replace(NOW, referenced_by=("notes",), row_functions=("shout",)))
    counts = View(name="counts", kind="m", definition="SELECT count(*) FROM public.messages")
    with pytest.raises(UnfitError, match=r"depend on public.messages: counts\. Drop them"):
        plan(ADOPTED, replace(NOW, views=(counts,)))


def test_what_an_early_version_recorded_can_still_be_read() -> None:
    """It recorded NULLs, which sql/undo.sql leaves out, and did not ask for everything."""
    recorded = """{
        "now": 1.5, "auth": true, "usage": ["app"],
        "tables": {"messages": {"kind": "r", "owner": "app", "mine": true, "secured": false, "forced": false}},
        "columns": {"messages.id": {"type": "uuid", "required": true}},
        "constraints": [{"tab": "messages", "name": "messages_pkey", "kind": "p", "def": "PRIMARY KEY (id)",
                         "validated": true, "cascades": false, "columns": ["id"]}],
        "indexes": [{"tab": "messages", "name": "by_time", "def": "CREATE …", "valid": true, "unique": false,
                     "constraint": false}],
        "grants": [{"tab": "messages", "what": "SELECT", "to": "app", "option": false}],
        "views": [{"name": "recent", "kind": "v", "def": "SELECT", "options": ""}],
        "publications": [{"name": "changes", "mine": true}]
    }"""
    facts = msgspec.json.decode(recorded, type=Facts)
    assert not facts.tables["messages"].identified_by_index
    assert facts.columns["messages.id"].default is None
    assert facts.constraints[0].columns == ("id",)
    assert facts.indexes == (
        Index(table="messages", name="by_time", definition="CREATE …", valid=True, unique=False, constraint=False),
    )
    assert facts.grants[0].column is None
