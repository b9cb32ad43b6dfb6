"""The steps of adoption depend on the catalog and on nothing else."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from server.exceptions import UnfitError
from server.operations.adoptable import check
from server.operations.adoption_plan import LATEST, SPARE, horizon, is_needed, plan
from server.operations.catalog import Access, Column, Constraint, Facts, Index, Table, View

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TEXT, UUID, INSTANT = "text", "uuid", "timestamp with time zone"


def column(kind: str, default: str | None = None, *, required: bool = False) -> Column:
    return Column(type=kind, required=required, default=default)


def constraint(name: str, kind: str, definition: str, **more: Any) -> Constraint:
    about = {"table": "messages", "validated": True, "columns": ("id",), **more}
    return Constraint(name=name, kind=kind, definition=definition, **about)


def index(name: str, table: str = "messages", *, valid: bool = True, unique: bool = False) -> Index:
    definition = f"CREATE INDEX {name} ON public.{table} USING btree (id)"
    return Index(table=table, name=name, definition=definition, valid=valid, unique=unique, constraint=False)


TABLE = Table(kind="r", owner="app", mine=True, secured=False, forced=False)
FACTS = Facts(
    now=NOW.timestamp(),
    tables=dict.fromkeys(("profiles", "conversations", "messages"), TABLE),
    columns={
        **{f"profiles.{name}": column(TEXT) for name in ("subscription_tier", "subscription_status")},
        **{f"{name}.id": column(UUID, required=True) for name in ("profiles", "conversations", "messages")},
        "conversations.user_id": column(UUID),
        "conversations.title": column(TEXT),
        **{f"conversations.{name}": column(INSTANT) for name in ("created_at", "updated_at")},
        "messages.conversation_id": column(UUID),
        **{f"messages.{name}": column(TEXT) for name in ("role", "content")},
        "messages.created_at": column(INSTANT),
    },
    constraints=(
        constraint("messages_pkey", "p", "PRIMARY KEY (id)"),
        constraint("conversation", "f", "FOREIGN KEY (conversation_id) …", columns=("conversation_id",)),
    ),
    indexes=(index("messages_pkey", unique=True), index("by_time")),
    auth=False,
)
"""Of the app's tables as it made them."""


def with_columns(facts: Facts = FACTS, /, **columns: Column) -> Facts:
    """Columns by `table__column`."""
    more = {name.replace("__", "."): column for name, column in columns.items()}
    return replace(facts, columns=facts.columns | more)


def with_table(name: str, **changes: Any) -> Facts:
    return replace(FACTS, tables=FACTS.tables | {name: replace(TABLE, **changes)})


def bounded(end: datetime, *, validated: bool = True) -> Facts:
    """The same, with the constraint of an earlier try."""
    definition = f"CHECK (((created_at IS NOT NULL) AND (created_at < '{end:%Y-%m-%d %H:%M:%S}+00'::timestamp…)))"
    known = constraint("atlas_bounds", "c", definition, validated=validated)
    return replace(FACTS, constraints=(*FACTS.constraints, known))


def said(found: Facts, newest: datetime | None = None, nulls: tuple[str, ...] = ()) -> list[str]:
    return [step.says for step in plan(found, newest, nulls)]


def about_bounds(found: Facts, newest: datetime | None = None) -> list[str]:
    return [says.split()[0] for says in said(found, newest) if "bounds" in says or "old table holds" in says]


def test_an_empty_database_and_a_partitioned_table_need_nothing() -> None:
    for found in (Facts(now=NOW.timestamp()), with_table("messages", kind="p")):
        assert not is_needed(found)
        assert plan(found, None, ()) == []


def test_the_last_step_is_the_only_one_that_locks_both_tables_against_everybody() -> None:
    planned = plan(FACTS, None, ())
    assert [step.locks for step in planned if "ACCESS EXCLUSIVE on messages and conversations" in step.locks] == [
        planned[-1].locks
    ]
    assert all(step.kind == "brief" for step in planned if "ACCESS EXCLUSIVE" in step.locks)


def test_a_long_step_is_one_statement() -> None:
    found = plan(FACTS, None, ("messages.created_at",))
    assert {step.kind for step in found} == {"brief", "index", "scan", "rows"}
    assert all(len(step.statements) == 1 for step in found if step.kind != "brief")


def test_a_step_that_is_done_is_not_planned_again() -> None:
    whole = said(FACTS)
    names = ("atlas_messages_v1_pkey", "atlas_messages_v1_newest")
    done = column(INSTANT, "now()")
    found = with_columns(
        bounded(NOW + timedelta(days=40)),
        messages__updated_at=done,
        messages__created_at=done,
        conversations__created_at=replace(done, required=True),
        conversations__updated_at=replace(done, required=True),
    )
    cascade = constraint(
        "atlas_messages_v1_conversation", "f", "FOREIGN KEY …", columns=("conversation_id",), cascades=True
    )
    found = replace(
        found,
        indexes=(
            *found.indexes,
            *(index(name, unique=name.endswith("pkey")) for name in names),
            index("conversations_newest", "conversations"),
        ),
        constraints=(*found.constraints, cascade),
    )
    assert len(whole) > 15
    assert [says.split(",")[0] for says in said(found)] == ["put a partitioned table in the place of messages"]


def test_an_invalid_index_is_dropped_and_built_again() -> None:
    found = replace(FACTS, indexes=(*FACTS.indexes, index("atlas_messages_v1_newest", valid=False)))
    about = [says for says in said(found) if "atlas_messages_v1_newest" in says]
    assert about == ["drop the unfinished index atlas_messages_v1_newest", "build the index atlas_messages_v1_newest"]


def test_a_bound_is_renewed_only_when_its_end_is_near() -> None:
    far = bounded(NOW + timedelta(days=2))
    assert about_bounds(far) == []
    assert about_bounds(bounded(NOW + timedelta(days=2), validated=False)) == ["validate"]
    assert about_bounds(bounded(NOW + timedelta(hours=23))) == ["drop", "add", "validate"]
    assert about_bounds(far, NOW + timedelta(days=3)) == ["drop", "add", "validate"]


@pytest.mark.parametrize("newest", [None, NOW - timedelta(days=900), NOW + timedelta(days=1), NOW + LATEST])
def test_the_old_table_ends_with_a_month_beyond_every_message_with_days_to_spare(newest: datetime | None) -> None:
    end = horizon(NOW, newest)
    assert (end.day, end.hour, end.minute, end.second, end.microsecond) == (1, 0, 0, 0, 0)
    assert end > max(NOW, newest or NOW) + SPARE


def test_a_message_with_a_wrong_date_does_not_extend_the_old_table_without_end() -> None:
    with pytest.raises(UnfitError, match="Correct created_at"):
        horizon(NOW, NOW + LATEST + timedelta(seconds=1))


def test_a_varchar_column_is_accepted_as_text() -> None:
    check(with_columns(messages__role=column("character varying")))


OTHERS = View(name="recent", kind="v", definition="SELECT", owner="reports", mine=False)
NAIVE = column("timestamp without time zone")


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (with_columns(messages__updated_at=NAIVE), "messages.updated_at is timestamp without time zone, and must be"),
        (replace(FACTS, views=(OTHERS,)), "recent is a view of public.messages, and belongs to reports"),
        (with_table("conversations", mine=False), "public.conversations belongs to app. Migrate with that login"),
    ],
    ids=["a naive timestamp", "another role's view", "another role's table"],
)
def test_an_obstacle_stops_adoption_before_anything_is_done(found: Facts, says: str) -> None:
    with pytest.raises(UnfitError, match=says):
        plan(found, None, ())


def test_a_role_that_accessed_all_rows_keeps_that_whatever_its_name_is() -> None:
    role = '"The App"'
    found = replace(
        FACTS,
        unsecured=(Access("profiles", role), Access("messages", role)),
        kept_open=(Access("profiles", role),),
    )
    planned = plan(found, None, ())
    assert not any("all rows of profiles" in step.says for step in planned)
    assert any('ON public.messages TO "The App" USING (true)' in each for each in planned[-1].statements)
